"""APOLLO: is the step the one of the paper, for any matrix, and does nothing but the seed decide it?"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from training_kit import small_model

from palimpsest.training import checkpoint, low_rank
from palimpsest.training.apollo import Apollo, parameter_groups
from palimpsest.training.low_rank import projection


def weights(*shape: int, seed: int = 0) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))


def gradient(shape: tuple[int, ...], step: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1000 + step)) * (1 + 0.3 * step)


def written_out(start: np.ndarray, name: str, steps: int, **given: Any) -> np.ndarray:
    """Algorithm 1, line by line, in float64; the shorter side is projected."""
    told = {"rank": 4, "gap": 2, "gamma": 1.01, "tensor": False, "decay": 0.0, "lr": 0.01} | given
    weight, (rows, columns) = start.astype(np.float64), start.shape
    left = rows < columns
    short, b1, b2 = min(rows, columns), 0.9, 0.999
    moment: Any = 0.0
    square: Any = 0.0
    before = None
    for step in range(steps):
        grad = gradient(start.shape, step).numpy().astype(np.float64)
        matrix = projection((told["rank"], short), 0, name, step // told["gap"]).numpy().astype(np.float64)
        low = matrix @ grad if left else grad @ matrix.T
        moment, square = b1 * moment + (1 - b1) * low, b2 * square + (1 - b2) * low**2
        direction = moment / (1 - b1 ** (step + 1)) / (np.sqrt(square / (1 - b2 ** (step + 1))) + 1e-8)
        axis = None if told["tensor"] else 0 if left else 1
        factor = np.sqrt((direction**2).sum(axis, keepdims=True)) / np.sqrt((low**2).sum(axis, keepdims=True))
        update = math.sqrt(short / told["rank"]) * grad * factor
        norm = np.linalg.norm(update)
        if told["gamma"] and before is not None and norm > told["gamma"] * before:
            update, norm = update * told["gamma"] * before / norm, told["gamma"] * before
        before = norm
        weight = weight - told["lr"] * (update + told["decay"] * weight)
    return weight


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (16, 16)])
@pytest.mark.parametrize("gamma", [1.01, None])
@pytest.mark.parametrize("mini", [False, True])
def test_the_step_is_that_of_the_paper(shape: tuple[int, int], gamma: float | None, mini: bool) -> None:
    weight = weights(*shape)
    start = weight.detach().numpy().copy()
    rank = 1 if mini else 4
    kind = "tensor" if mini else "channel"
    optimizer = Apollo(
        [("layer.weight", weight)], lr=0.01, rank=rank, scale_type=kind, update_proj_gap=2, norm_limit=gamma, weight_decay=0.1
    )
    for step in range(5):
        weight.grad = gradient(shape, step)
        optimizer.step()
    wanted = written_out(start, "layer.weight", 5, rank=rank, gamma=gamma, tensor=mini, decay=0.1)
    np.testing.assert_allclose(weight.detach().numpy(), wanted, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("rank", [1, 4, 16, 64, 256])
def test_a_projection_loses_the_root_of_its_share(rank: int) -> None:
    """The paper's theorem: a factor is sqrt(r / shorter side) of that of full rank, in expectation."""
    rows, columns = 256, 512
    weight = weights(rows, columns)
    optimizer = Apollo([("w", weight)], lr=1.0, rank=rank, scale=1.0, update_proj_gap=10_000)
    moment, square = torch.zeros(rows, columns), torch.zeros(rows, columns)
    ratios = []
    for step in range(12):
        grad = torch.randn(rows, columns, generator=torch.Generator().manual_seed(step))
        weight.data.zero_()
        weight.grad = grad
        optimizer.step()
        found = weight.detach().norm(dim=0) / grad.norm(dim=0)
        moment, square = 0.9 * moment + 0.1 * grad, 0.999 * square + 0.001 * grad**2
        direction = moment / (1 - 0.9 ** (step + 1)) / ((square / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
        if step > 5:
            ratios.append(found / (direction.norm(dim=0) / grad.norm(dim=0)))
    # one projection serves all channels at rank 1, so its own length (chi with one degree) stays in the ratio
    assert float(torch.cat(ratios).median()) == pytest.approx(math.sqrt(rank / 256), rel=0.35 if rank == 1 else 0.12)


def test_the_default_scale_makes_up_for_it() -> None:
    """So that a learning rate means what it means for AdamW: the update is about as long, whatever the rank."""
    lengths = {}
    for rank in (8, 16, 64):  # the mean square of 1 / |R| grows like r / (r - 2), so that a very small rank is longer
        weight = weights(64, 128)
        start = weight.detach().clone()
        optimizer = Apollo([("w", weight)], lr=1.0, rank=rank)
        weight.grad = gradient((64, 128), 0)
        optimizer.step()
        lengths[rank] = float((weight.detach() - start).norm())
    adam = math.sqrt(64 * 128)  # in its first step every element moves by the learning rate
    assert all(length == pytest.approx(adam, rel=0.25) for length in lengths.values()), lengths


def test_after_a_small_gradient_the_limiter_lets_the_update_grow_by_a_hundredth_a_step() -> None:
    weight = weights(8, 8)
    optimizer = Apollo([("w", weight)], lr=0.0, rank=8, norm_limit=1.01, betas=(0.0, 0.0), update_proj_gap=1_000)
    norms = []
    grad = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    for step in range(240):
        # with betas of 0 a factor depends on the projected gradient's length alone, so U has the length of a constant
        optimizer.param_groups[0]["scale"] = 0.01 if step == 0 else 1.0
        weight.grad = grad
        optimizer.step()
        norms.append(float(optimizer.state[weight]["update_norm"]))
    growth = [after / before for before, after in zip(norms, norms[1:], strict=False)]
    grown = next(index for index, norm in enumerate(norms) if norm >= 9.999 * norms[0])
    assert grown == 232  # ln 10 / ln 1.01, as in methods/systems.md 2.2
    assert max(growth) == pytest.approx(1.01, rel=1e-5)
    assert float(optimizer.limits[0]) == pytest.approx(1.0, abs=1e-3)


def test_a_gradient_of_zero_limits_nothing() -> None:
    weight = weights(4, 8)
    optimizer = Apollo([("w", weight)], lr=0.1, rank=2, norm_limit=1.01)
    for step in range(3):
        before = weight.detach().clone()
        weight.grad = torch.zeros(4, 8) if step < 2 else gradient((4, 8), step)
        optimizer.step()
        assert torch.equal(before, weight) == (step < 2)


@pytest.mark.parametrize(("rank", "kind"), [(4, "channel"), (1, "tensor")])
@pytest.mark.parametrize("gamma", [1.01, None])
def test_state_is_as_small_as_the_paper_says(rank: int, kind: Any, gamma: float | None) -> None:
    short, long = 12, 40
    for shape in ((short, long), (long, short)):
        weight = weights(*shape)
        optimizer = Apollo([("w", weight)], rank=rank, scale_type=kind, norm_limit=gamma)
        weight.grad = gradient(shape, 0)
        optimizer.step()
        tensors = list(optimizer.state[weight].values())
        assert all(isinstance(tensor, torch.Tensor) for tensor in tensors)
        assert sum(tensor.numel() for tensor in tensors) == 2 * long * rank + 1 + (gamma is not None)


def test_experts_are_matrices_of_their_own() -> None:
    stack = weights(3, 6, 10)
    start = stack.detach().clone()
    optimizer = Apollo([("experts", stack)], lr=0.1, rank=2, norm_limit=1.01)
    grads = [gradient((3, 6, 10), step) for step in range(3)]
    for grad in grads:
        stack.grad = grad.clone()
        optimizer.step()
    for expert in range(3):
        alone = nn.Parameter(start[expert].clone())
        single = Apollo([("one", alone)], lr=0.1, rank=2, norm_limit=1.01)
        drawn = projection((3, 2, 6), 0, "experts", 0)[expert]
        single._projections["one"] = (0, drawn)
        for grad in grads:
            alone.grad = grad[expert].clone()
            single.step()
        torch.testing.assert_close(alone.detach(), stack.detach()[expert])


def train_some(shapes: list[tuple[int, int]], has_gradient: Any, **given: Any) -> list[nn.Parameter]:
    """Take four steps; in each, only the matrices that ``has_gradient(step, place)`` names have one."""
    parameters = [weights(*shape, seed=place) for place, shape in enumerate(shapes)]
    optimizer = Apollo([(f"layer.{place}", one) for place, one in enumerate(parameters)], lr=0.1, rank=2, **given)
    for step in range(4):
        for place, parameter in enumerate(parameters):
            parameter.grad = gradient(shapes[place], 10 * place + step) if has_gradient(step, place) else None
        optimizer.step()
    return parameters


@pytest.mark.parametrize("given", [{}, {"scale_type": "tensor"}, {"norm_limit": 1.01, "update_proj_gap": 2}])
@pytest.mark.parametrize("always", [True, False])
def test_matrices_that_step_together_step_as_each_alone(
    given: dict[str, Any], always: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a matrix has no gradient now and then, so that other ones are together."""
    shapes = [(6, 10), (10, 6), (6, 10), (6, 6), (6, 10), (10, 6)]
    together = train_some(shapes, lambda step, place: always or (step + place) % 3 > 0, **given)
    monkeypatch.setattr(low_rank, "_TOGETHER", 1)
    alone = train_some(shapes, lambda step, place: always or (step + place) % 3 > 0, **given)
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other)


def test_names_and_not_places_decide() -> None:
    first, second = weights(6, 10, seed=1), weights(10, 6, seed=2)
    one, other = nn.Parameter(first.detach().clone()), nn.Parameter(second.detach().clone())
    forth = Apollo([("a", first), ("b", second)], lr=0.1)
    back = Apollo([("b", other), ("a", one)], lr=0.1)
    for step in range(3):
        for parameter in (first, one):
            parameter.grad = gradient((6, 10), step)
        for parameter in (second, other):
            parameter.grad = gradient((10, 6), step)
        forth.step()
        back.step()
    assert torch.equal(first, one)
    assert torch.equal(second, other)


def test_projections_are_redrawn_and_moments_kept() -> None:
    drawn = [projection((4, 9), 0, "w", number) for number in (0, 1)]
    assert not torch.equal(*drawn)
    assert float(torch.stack([projection((4, 500), 0, "w", n) for n in range(20)]).var()) == pytest.approx(0.25, rel=0.05)
    weight = weights(9, 20)
    optimizer = Apollo([("w", weight)], rank=4, update_proj_gap=2)
    for step in range(3):
        weight.grad = gradient((9, 20), step)
        optimizer.step()
        kept = optimizer.state[weight]["exp_avg"].clone()
    assert optimizer._projections["w"][0] == 1
    assert float(kept.abs().sum()) > 0


def run(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        for index, parameter in enumerate(model.parameters()):
            generator = torch.Generator().manual_seed(1000 * step + index)
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resumed_it_goes_on_to_the_last_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    model, resumed = (small_model().to(dtype) for _ in range(2))
    optimizer = Apollo(parameter_groups(model, weight_decay=0.1, rank=2, update_proj_gap=2, norm_limit=1.01), lr=1e-2)
    run(model, optimizer, range(3))
    checkpoint.save_optimizer(optimizer, tmp_path)
    checkpoint.save_model(model, tmp_path / "model.safetensors")
    checkpoint.load_model(resumed, tmp_path / "model.safetensors")
    again = Apollo(parameter_groups(resumed, weight_decay=0.1, rank=2, update_proj_gap=2, norm_limit=1.01), lr=1e-2)
    checkpoint.load_optimizer(again, tmp_path)
    run(model, optimizer, range(3, 6))
    run(resumed, again, range(3, 6))
    assert (
        max(float((a - b).detach().abs().max()) for a, b in zip(model.parameters(), resumed.parameters(), strict=True)) == 0.0
    )


def test_master_weights_keep_what_half_precision_swallows() -> None:
    """At a learning rate of 1e-5 hardly any bfloat16 weight moves in ten steps without them."""
    moved = {}
    for master in (True, False):
        weight = nn.Parameter(torch.randn(64, 128, generator=torch.Generator().manual_seed(0)).bfloat16())
        start = weight.detach().clone()
        optimizer = Apollo([("w", weight)], lr=1e-5, rank=16, master_weights=master)
        for step in range(10):
            weight.grad = gradient((64, 128), step).bfloat16()
            optimizer.step()
        kept = optimizer.state[weight].get("master", weight.detach())
        moved[master] = float((kept.float() != start.float()).float().mean())
        assert torch.equal(weight.detach(), kept.bfloat16())
    assert moved[True] > 0.99
    assert moved[False] < 0.10


def test_the_rest_gets_adamw() -> None:
    model, reference = small_model(), small_model()
    optimizer = Apollo(parameter_groups(model, rank=2), lr=1e-2)
    names = {name for group in optimizer.param_groups if not group["apollo"] for name in group["param_names"]}
    assert names == {name for name, parameter in model.named_parameters() if parameter.ndim < 2 or "embed_tokens" in name}
    adam = torch.optim.AdamW(reference.parameters(), lr=1e-2, weight_decay=0.0, fused=True)
    run(model, optimizer, range(3))
    run(reference, adam, range(3))
    for (name, one), other in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert torch.equal(one, other) == (name in names), name


def test_groups_of_a_hybrid_with_experts() -> None:
    from transformers import Qwen3NextConfig, Qwen3NextForCausalLM

    config = Qwen3NextConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        linear_num_value_heads=4,
        linear_num_key_heads=2,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        shared_expert_intermediate_size=32,
    )
    groups = parameter_groups(Qwen3NextForCausalLM(config))
    chosen = {name: parameter for group in groups if group["apollo"] for name, parameter in group["params"]}
    left = {name for group in groups if not group["apollo"] for name, _ in group["params"]}
    assert any(parameter.ndim == 3 for parameter in chosen.values())
    assert {"model.embed_tokens.weight", "lm_head.weight"} <= left
    assert all(any(part in name for name in left) for part in ("conv1d", "A_log", "dt_bias", "norm"))
    assert all(any(part in name for name in chosen) for part in ("in_proj", "q_proj", "experts"))


def test_watched_it_says_how_far_everything_moved() -> None:
    model = small_model()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = Apollo(parameter_groups(model, rank=2, weight_decay=0.1, norm_limit=1.01), lr=1e-2)
    run(model, optimizer, range(1))
    assert not optimizer.moved
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer.watched = True
    run(model, optimizer, range(1, 2))
    for name, parameter in model.named_parameters():
        assert float(optimizer.moved[name].update) == pytest.approx(float((parameter.detach() - before[name]).norm()), rel=1e-3)
        assert float(optimizer.moved[name].weight) == pytest.approx(float(before[name].norm()), rel=1e-5)
        assert (optimizer.moved[name].limited is None) == (parameter.ndim < 2 or "embed" in name)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"rank": 7}, "rank is 7, larger than the shorter side of a matrix: w is 6 x 10"),
        ({"rank": 0}, "rank must be at least 1"),
        ({"norm_limit": 0.9}, "norm_limit must be at least 1"),
        ({"scale": -1.0}, "scale must be over 0"),
        ({"update_proj_gap": 0}, "update_proj_gap must be at least 1"),
        ({"scale_type": "row"}, "scale_type must be 'channel' or 'tensor', found 'row'"),
        ({"betas": (1.0, 0.9)}, "betas must be"),
    ],
)
def test_what_can_not_be_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Apollo([("w", weights(6, 10))], **given)


def test_parameters_without_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"give model.named_parameters\(\)"):
        Apollo([weights(6, 10)])


def test_gates_of_few_heads_are_not_apollos() -> None:
    """Over one projected row a factor has no finite spread: a gate's weights once moved by 35 times their own norm."""
    model = nn.ModuleDict({"gate": nn.Linear(64, 2, bias=False), "wide": nn.Linear(64, 12, bias=False)})
    groups = parameter_groups(model)
    assert [[name for name, _ in group["params"]] for group in groups] == [["wide.weight"], ["gate.weight"]]
    assert [group["apollo"] for group in groups] == [True, False]
    assert [len(group["params"]) for group in parameter_groups(model, rank=1)] == [2]  # who gives a rank means it


def test_steps_of_three_rows_stay_near_adams() -> None:
    """The longest step of many, in units of AdamW's: bounded with three rows, and not with one."""
    longest = {}
    for short in (2, 12):
        found = []
        for seed in range(40):
            weight = nn.Parameter(torch.zeros(short, 64))
            optimizer = Apollo([("weight", weight)], lr=1.0, seed=seed)
            weight.grad = torch.randn(short, 64, generator=torch.Generator().manual_seed(seed))
            optimizer.step()
            found.append(weight.detach().norm().item() / math.sqrt(short * 64))
        longest[short] = max(found)
    assert longest[12] < 5 and longest[2] > 4 * longest[12], longest


@pytest.mark.parametrize("given", [{"rank": 2, "norm_limit": 1.01}, {"rank": 1, "scale_type": "tensor"}])
def test_in_the_trainer_a_run_goes_on_to_the_last_bit(given: dict[str, Any], tmp_path: Path) -> None:
    """Which loads an optimizer with ``weights_only=True``: nothing but tensors and numbers may be in its state."""
    from transformers import Trainer, TrainingArguments

    rows = [{"input_ids": torch.arange(place, place + 8), "labels": torch.arange(place, place + 8)} for place in range(8)]

    def trainer() -> Trainer:
        model = small_model()
        told: dict[str, Any] = {"max_steps": 4, "save_steps": 2, "per_device_train_batch_size": 2, "report_to": []}
        arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, disable_tqdm=True, **told)
        optimizer = Apollo(
            parameter_groups(model, rank=given["rank"]), lr=1e-2, **{k: v for k, v in given.items() if k != "rank"}
        )
        return Trainer(model=model, args=arguments, train_dataset=rows, optimizers=(optimizer, None))  # type: ignore[arg-type]

    undisturbed, going_on = trainer(), trainer()
    undisturbed.train()
    going_on.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert undisturbed.model is not None and going_on.model is not None
    for one, other in zip(undisturbed.model.parameters(), going_on.model.parameters(), strict=True):
        assert torch.equal(one, other)
