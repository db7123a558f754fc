"""Frozen context: is exactly the part of the gradient left out that flows through the context, on every kind of layer?

The proof is a chain rule: with the context computed by a copy of the model whose graph is kept, the gradient of the model plus
that of the copy is the ordinary gradient, and the frozen gradient is the model's part.
"""

from __future__ import annotations

import copy
import weakref
from typing import Any

import pytest
import torch
import transformers as hf
from torch.nn import functional
from training_kit import small_model
from transformers import DynamicCache

from palimpsest.core.errors import UserError
from palimpsest.training import frozen_context
from palimpsest.training.frozen_context import FrozenCache, FrozenContext, decisions_of, segments
from palimpsest.training.objectives import MaskedLoss, mean_loss
from palimpsest.training.sampler import Row

TOLERANCE = 1e-5  # weights are float64, but norms, softmaxes and recurrences keep float32
SMALL: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "attn_implementation": "sdpa",
}
RECURRENT: dict[str, Any] = {
    "num_hidden_layers": 4,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
EXPERTS: dict[str, Any] = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "experts_implementation": "eager",  # grouped_mm knows no float64
}
SLIDING = {"num_hidden_layers": 3, "sliding_window": 16, "layer_types": ["sliding_attention"] * 2 + ["full_attention"]}
MODELS = {
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(num_hidden_layers=3, **SMALL)),
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(num_hidden_layers=3, **SMALL)),
    "gemma3": lambda: hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**SLIDING, **SMALL)),
    "qwen3_next": lambda: hf.Qwen3NextForCausalLM(hf.Qwen3NextConfig(**SMALL, **RECURRENT, **EXPERTS)),
    "qwen3_5": lambda: hf.Qwen3_5ForCausalLM(hf.Qwen3_5TextConfig(**SMALL, **RECURRENT)),
}
HYBRID = ("qwen3_next", "qwen3_5")


def build(name: str) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MODELS[name]().double().train()


def rows() -> list[Row]:
    """Context tokens come from 1..63, decision tokens from 64..127, so that an embedding's row tells who was touched."""
    rng = torch.Generator().manual_seed(0)

    def row(context: int, decision: int, source: Any) -> Row:
        tokens = [
            *torch.randint(1, 64, (context,), generator=rng).tolist(),
            *torch.randint(64, 128, (decision,), generator=rng).tolist(),
        ]
        return Row(tokens, [0.0] * context + [1.0] * decision, source)

    return [row(60, 5, "express"), row(41, 2, "withhold"), row(60, 1, "rehearsal")]


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in model.named_parameters()
    }


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    difference = sum(float((one[name] - other[name]).pow(2).sum()) for name in one) ** 0.5
    return difference / sum(float(other[name].pow(2).sum()) for name in other) ** 0.5


class GraphCache(DynamicCache):
    """A cache that assigns and does not copy in place, so that the context can have a gradient too."""

    def update_conv_state(
        self, conv_states: Any, layer_idx: int, state_idx: int = 0, conv_kernel_size: Any = None, **_: Any
    ) -> Any:
        layer: Any = self.layers[layer_idx]
        short = max(conv_kernel_size - conv_states.shape[-1], 0)
        layer.conv_states[state_idx] = functional.pad(conv_states, (short, 0))[..., -conv_kernel_size:]
        layer.has_previous_state[state_idx] = layer.is_conv_states_initialized[state_idx] = True
        return conv_states

    def update_recurrent_state(self, recurrent_states: Any, layer_idx: int, state_idx: int = 0, **_: Any) -> Any:
        layer: Any = self.layers[layer_idx]
        layer.recurrent_states[state_idx] = recurrent_states
        layer.is_recurrent_states_initialized[state_idx] = True
        return recurrent_states


class FromTwin(FrozenContext):
    """The same loss with the context computed by a copy of the model whose graph is kept."""

    def __init__(self, twin: Any) -> None:
        super().__init__()
        self.twin = twin

    def _read(self, model: Any, part: Any) -> DynamicCache:
        cache = GraphCache(config=self.config)
        positions = (part.context_mask.cumsum(-1) - 1).clamp(min=0)
        self.twin(
            input_ids=part.contexts,
            attention_mask=part.context_mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        return cache


def loss_and_gradients(objective: Any, model: Any, prepare: bool = True) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    if prepare:
        objective.prepare(model)
    model.zero_grad()
    losses = torch.stack([objective(model, part) for part in objective.parts(rows()).values()]).sum(0)
    losses.sum().backward()
    return losses.detach(), gradients(model)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_left_out_is_the_gradient_through_the_context(name: str) -> None:
    model = build(name)
    masked_loss, masked = loss_and_gradients(MaskedLoss(), model)
    frozen_loss, frozen = loss_and_gradients(FrozenContext(), model)
    twin = copy.deepcopy(model)
    with_twin = FromTwin(twin)
    with_twin.config = model.config
    twin.zero_grad()
    twin_loss, main = loss_and_gradients(with_twin, model, prepare=False)
    context = gradients(twin)
    torch.testing.assert_close(frozen_loss, masked_loss, rtol=TOLERANCE, atol=TOLERANCE)
    torch.testing.assert_close(twin_loss, masked_loss, rtol=TOLERANCE, atol=TOLERANCE)
    assert apart(frozen, main) < TOLERANCE
    assert apart({key: main[key] + context[key] for key in main}, masked) < TOLERANCE
    assert apart(frozen, masked) > 0.01, "then freezing would change nothing"
    if not model.config.get_text_config().tie_word_embeddings:
        key = next(key for key in frozen if key.endswith("embed_tokens.weight"))
        last = {row.tokens[len(row.weights) - int(sum(row.weights)) - 1] for row in rows()}
        only_context = [token for token in range(1, 64) if token not in last]
        assert float(frozen[key][only_context].abs().max()) == 0.0
        assert float(masked[key][only_context].abs().max()) > 0.0


@pytest.mark.parametrize("name", MODELS)
def test_the_first_decision_token_learns(name: str) -> None:
    """The token that accepts or pushes back is predicted from the context's last one, which therefore has a gradient."""
    model = build(name)
    one = Row([5, 6, 7, 8, 100], [0.0] * 4 + [1.0], "express")
    objective = FrozenContext()
    objective.prepare(model)
    objective(model, objective.parts([one])["frozen"]).sum().backward()
    assert all(
        float(gradient.abs().max()) > 0 for key, gradient in gradients(model).items() if "layers.0" in key and "q_proj" in key
    )
    assert sum(float(gradient.abs().sum()) for gradient in gradients(model).values()) > 0


@pytest.mark.parametrize("name", MODELS)
def test_decisions_that_share_a_context_share_its_pass(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(name)
    context = [3, 9, 27, 17, 51, 25, 11]
    pair = [Row([*context, *tail], [0.0] * 7 + [1.0] * len(tail), "express") for tail in ((100, 101), (110, 111, 112))]
    objective = FrozenContext()
    objective.prepare(model)
    shared = objective.parts(pair)["frozen"]
    assert shared.contexts.shape[0] == 1
    objective(model, shared).sum().backward()
    together = gradients(model)
    model.zero_grad()
    for row in pair:
        objective(model, objective.parts([row])["frozen"]).sum().backward()
    assert apart(together, gradients(model)) < TOLERANCE


@pytest.mark.parametrize("name", MODELS)
def test_a_context_can_be_read_twice(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(name)
    objective = FrozenContext()
    objective.prepare(model)
    part = objective.parts(rows())["frozen"]
    cache = objective._read(model, part)
    objective._read = lambda *_: cache  # type: ignore[method-assign]
    monkeypatch.setattr(frozen_context, "FrozenCache", lambda cache, which, once: FrozenCache(cache, which))
    first, second = (objective.logits(model, part) for _ in range(2))
    first.sum().backward()
    second.sum().backward()
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", MODELS)
def test_a_context_read_once_is_not_held_twice(name: str) -> None:
    model = build(name)
    objective = FrozenContext()
    objective.prepare(model)
    part = objective.parts(rows())["frozen"]
    read, filled = objective._read, []

    def seen(*given: Any) -> Any:
        cache = read(*given)
        filled.extend(
            weakref.ref(layer.keys) for layer in cache.layers if isinstance(getattr(layer, "keys", None), torch.Tensor)
        )
        return cache

    objective._read = seen  # type: ignore[method-assign]
    kept = objective.logits(model, part)
    assert filled and not any(one() is not None for one in filled)
    kept.sum().backward()


def test_freed_memory_is_given_back_where_gradients_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    model, given_back = build("llama"), []
    monkeypatch.setattr(frozen_context.freed_memory, "give_back", lambda: given_back.append(True))
    for large, times in ((2**26, 0), (1, 2)):
        monkeypatch.setattr(frozen_context, "_LARGE", large)
        objective = FrozenContext()
        objective.prepare(model)
        objective(model, objective.parts(rows())["frozen"])
        assert len(given_back) == times


@pytest.mark.parametrize("name", HYBRID)
def test_the_stock_cache_fails_where_states_are_written_in_place(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this passes one day, the read-only view may no longer be needed for it."""
    model = build(name)
    objective = FrozenContext()
    objective.prepare(model)
    monkeypatch.setattr(frozen_context, "FrozenCache", lambda cache, which, once: cache)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        objective(model, objective.parts(rows()[:1])["frozen"]).sum().backward()


@pytest.mark.parametrize("name", MODELS)
def test_gradient_checkpointing_is_refused(name: str) -> None:
    model = build(name)
    model.gradient_checkpointing_enable()
    with pytest.raises(UserError, match="gradient checkpointing must be off"):
        FrozenContext().prepare(model)


@pytest.mark.parametrize("name", MODELS)
def test_an_architecture_that_loses_its_context_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As transformers before 5.7 lost recurrent states, and gradient checkpointing loses everything: without an error."""

    class Forgetful(FrozenCache):
        def __init__(self, filled: DynamicCache, which: Any = None, *, once: bool = False) -> None:
            super().__init__(filled, which, once=once)
            self.layers = [copy.copy(layer) for layer in self.layers]
            for layer in self.layers:
                for key in ("keys", "values"):
                    if isinstance(getattr(layer, key, None), torch.Tensor):
                        setattr(layer, key, torch.zeros_like(getattr(layer, key)))
                if getattr(layer, "recurrent_states", None):
                    layer.recurrent_states = {place: torch.zeros_like(one) for place, one in layer.recurrent_states.items()}

    monkeypatch.setattr(frozen_context, "FrozenCache", Forgetful)
    with pytest.raises(UserError, match="must answer the same with its context in a cache"):
        FrozenContext().prepare(build(name))


def test_a_row_with_several_decisions_becomes_several() -> None:
    row = Row(list(range(10)), [0, 0, 1, 1, 0, 0, 0, 0.5, 1, 0], "express")
    found = decisions_of(row)
    assert [(one.context, one.tokens, one.weights) for one in found] == [
        ((0, 1), (2, 3), (1, 1)),
        ((0, 1, 2, 3, 4, 5, 6), (7, 8), (0.5, 1)),
    ]
    part = segments(found)
    assert part.contexts.tolist() == [[0, 0, 0, 0, 0, 0], [0, 1, 2, 3, 4, 5]]
    assert part.context_mask.tolist() == [[0, 0, 0, 0, 0, 1], [1, 1, 1, 1, 1, 1]]
    assert part.decisions.tolist() == [[1, 2], [6, 7]]
    assert part.targets.tolist() == [2, 3, 7, 8]


def test_text_and_chosen_sources_run_as_a_whole() -> None:
    text = Row([1, 2, 3], [0.0, 1.0, 1.0], "rehearsal")
    talk = Row([1, 2, 3, 4], [0.0, 0.0, 0.0, 1.0], "rehearsal")
    parts = FrozenContext().parts([text, talk])
    assert (len(parts["frozen"].decisions), len(parts["whole"].tokens)) == (1, 1)
    parts = FrozenContext(frozenset({"rehearsal"})).parts([text, talk])
    assert list(parts) == ["whole"]
    assert float(parts["whole"].weights.sum()) == 3.0


def test_it_leaves_the_model_as_it_was() -> None:
    model = small_model().train()
    objective = FrozenContext()
    objective.prepare(model)
    assert model.training
    model.eval()
    mean_loss(objective, model, [Row([1, 2, 3, 4], [0.0, 0.0, 1.0, 1.0], "express")])
    assert not model.training


@pytest.mark.parametrize("name", MODELS)
def test_the_context_pass_stops_at_the_last_keys_and_values(name: str) -> None:
    """Nobody asks for what the last layer makes of a context; the chain rule above holds with the pass cut short."""
    model = build(name)
    objective = FrozenContext()
    objective.prepare(model)
    *before, last = model.model.layers
    assert objective.last_entry == len(before)
    lengths: dict[str, list[int]] = {"before": [], "last": []}
    for key, layer in (("before", before[-1]), ("last", last)):
        layer.mlp.register_forward_pre_hook(lambda _, given, key=key: lengths[key].append(given[0].shape[1]))
    part = objective.parts(rows())["frozen"]
    objective(model, part)
    context, decision = part.contexts.shape[1], part.decisions.shape[1]
    assert lengths == {"before": [context, decision], "last": [decision]}
