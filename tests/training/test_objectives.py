"""Objectives: is the batched loss the loss that a person would write down?"""

import numpy as np
import pytest
import torch
from torch.nn import functional
from training_kit import small_model, some_rows

from palimpsest.data.mixture import SOURCES
from palimpsest.training.objectives import MaskedLoss, collate
from palimpsest.training.sampler import Row


def written_down(model, rows: list[Row]) -> torch.Tensor:
    """The definition, one row and one token at a time, nothing padded."""
    sums = torch.zeros(len(SOURCES))
    for row in rows:
        logits = model(input_ids=torch.tensor([list(row.tokens)])).logits[0]
        losses = functional.cross_entropy(logits[:-1], torch.tensor(row.tokens[1:]), reduction="none")
        line = torch.zeros(len(SOURCES))
        line[SOURCES.index(row.source)] = 1.0
        sums = sums + line * (losses * torch.tensor(row.weights[1:])).sum()
    return sums


@pytest.mark.parametrize("slices", [True, False])
@pytest.mark.parametrize("early", [True, False])
def test_loss_and_gradient_are_those_of_the_definition(model, slices: bool, early: bool) -> None:
    rows = some_rows(4, 3, 2)
    if early:
        rows.append(Row((5, 6, 7), (1.0, 0.25, 0.0), "rehearsal"))  # learns from its first prediction on
    objective = MaskedLoss()
    objective.prepare(model)
    assert objective.slices
    objective.slices = slices
    sums = objective(model, collate(rows))
    sums.sum().backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    wanted = written_down(model, rows)
    wanted.sum().backward()
    torch.testing.assert_close(sums, wanted)
    for gradient, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-6)


def test_padding_changes_nothing_on_other_architectures() -> None:
    from transformers import AutoModelForCausalLM, Gemma3TextConfig, GPT2Config, Qwen3NextConfig

    sizes = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2}
    hybrid = {
        "linear_num_value_heads": 2,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 8,
        "shared_expert_intermediate_size": 8,
    }
    configs = [
        GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=32, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0),
        Gemma3TextConfig(**sizes, num_hidden_layers=2, head_dim=8, sliding_window=4, layer_types=["sliding_attention"] * 2),
        Qwen3NextConfig(**sizes, num_hidden_layers=4, head_dim=8, **hybrid),
    ]
    rows = some_rows(3, 2, 2)
    for config in configs:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
        objective = MaskedLoss()
        objective.prepare(model)
        with torch.no_grad():
            torch.testing.assert_close(objective(model, collate(rows)), written_down(model, rows), rtol=2e-5, atol=2e-5)


def test_only_what_learns_is_looked_at(model) -> None:
    rows = [
        Row(tuple(range(1, 21)), (0.0,) * 18 + (1.0, 1.0), "express"),
        Row(tuple(range(1, 11)), (0.0,) * 9 + (1.0,), "withhold"),
    ]
    batch = collate(rows)
    assert batch.start == 8  # the earliest prediction: position 8 of the shorter row predicts its token 9
    assert len(batch.places) == 3
    assert batch.targets.tolist() == [19, 20, 10]
    assert np.array_equal(batch.weights.numpy(), [[1, 1, 0], [0, 0, 1], [0, 0, 0]])


def test_a_first_token_never_learns() -> None:
    batch = collate([Row((7, 8), (1.0, 1.0), "express")])
    assert batch.targets.tolist() == [8]


def test_model_is_small() -> None:
    assert sum(parameter.numel() for parameter in small_model().parameters()) < 10_000
