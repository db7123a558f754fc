"""APOLLO: what does a step cost beside AdamW and apollo-torch, and how near is it to its own projection?

The matrices of a Llama with 1M or 100M weights, float32, with gradients of a fixed seed. ``seconds`` is the median of steps
after the first two; ``held`` is the state with the projections (which ours keeps outside of it, so that a checkpoint
doesn't hold them). Every contender's process also times the bare product R = P G of the same matrices, which is the least
that any implementation of the paper does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from statistics import median
from typing import Any

import side_by_side

MODELS = {"1M": (128, 352, 5), "10M": (384, 1024, 6), "100M": (768, 2048, 14)}
"""Hidden size, size inside the MLP, layers."""
RANKS = {"rank 16": 16, "rank 64": 64, "rank 256": 256, "Mini": 1}
STEPS = {"1M": 60, "10M": 16, "100M": 8}
SHARED = ("1M", "100M")
BYTES_PER_MEBIBYTE = 2**20
UNITS = {"seconds": "s", "held": "MiB held"}


def shapes_of(model: str) -> list[tuple[int, int]]:
    hidden, inside, layers = MODELS[model]
    return layers * [*(4 * [(hidden, hidden)]), *(2 * [(inside, hidden)]), (hidden, inside)]


def measure(who: str, model: str, way: str) -> dict[str, float]:
    if who == "training step":
        return share_of_a_step(model, way)
    import torch

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(shape, generator=generator) * 0.02) for shape in shapes_of(model)]
    for weight in weights:
        weight.grad = torch.randn(weight.shape, generator=generator) * 1e-3
    optimizer = optimizer_of(who, weights, way)
    first = timed(optimizer.step)
    optimizer.step()
    seconds = median(timed(optimizer.step) for _ in range(STEPS[model]))
    floor = product(weights, RANKS[way], STEPS[model]) if way in RANKS else seconds
    inside = {id(tensor): tensor for state in optimizer.state.values() for tensor in tensors_in(state.values())}
    beside = [one[1] for one in getattr(optimizer, "_projections", {}).values()]
    return {
        "seconds": seconds,
        "first": first,
        "product": floor,
        "over": seconds / floor,
        "over_all": seconds / (floor + passing(sum(weight.numel() for weight in weights))),
        "state": mebibytes(inside.values()),
        "held": mebibytes([*inside.values(), *beside]),
    }


def passing(weights: int) -> float:
    """Return the seconds in which a gradient and weights are read, and weights written, at this machine's rate."""
    return 3 * 4 * weights / side_by_side.memory_rate(max(1, 4 * weights // 2**20))


def optimizer_of(who: str, weights: list[Any], way: str) -> Any:
    import torch

    if who == "AdamW (fused)":
        return torch.optim.AdamW(weights, lr=1e-5, weight_decay=0.0, fused=True)
    kind = "tensor" if way == "Mini" else "channel"
    if who == "ours":
        from palimpsest.training.apollo import Apollo

        named = [(f"layer.{place}", weight) for place, weight in enumerate(weights)]
        return Apollo(named, lr=1e-5, rank=RANKS[way], scale_type=kind)
    from apollo_torch import APOLLOAdamW

    told = {"rank": RANKS[way], "proj": "random", "scale_type": kind, "scale": 128 if way == "Mini" else 1}
    return APOLLOAdamW([{"params": weights, "update_proj_gap": 200, "proj_type": "std", **told}], lr=1e-5, weight_decay=0.0)


def product(weights: list[Any], rank: int, times: int) -> float:
    """Return the CPU seconds of R = P G, in the faster of both orders of each matrix."""
    import torch

    drawn = {short: torch.randn(rank, short) for short in {min(weight.shape) for weight in weights}}
    gradients = [(drawn[min(weight.shape)], weight.grad) for weight in weights]

    def left() -> None:
        for projection, gradient in gradients:
            _ = projection @ (gradient if gradient.shape[0] < gradient.shape[1] else gradient.mT)

    def right() -> None:
        for projection, gradient in gradients:
            _ = (gradient.mT if gradient.shape[0] < gradient.shape[1] else gradient) @ projection.mT

    left(), right()
    return min(median(timed(order) for _ in range(times)) for order in (left, right))


def share_of_a_step(model: str, way: str) -> dict[str, float]:
    """Return the optimizer's part of a step on two rows of 256 tokens; embeddings are left out of all."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from palimpsest.training.apollo import Apollo, parameter_groups

    torch.set_num_threads(1)
    hidden, inside, layers = MODELS[model]
    sizes = {"hidden_size": hidden, "intermediate_size": inside, "num_hidden_layers": layers, "num_attention_heads": 4}
    subject: Any = LlamaForCausalLM(LlamaConfig(vocab_size=1024, tie_word_embeddings=True, **sizes)).train()
    told = {"rank": RANKS[way], "scale_type": "tensor" if way == "Mini" else "channel"} if way in RANKS else {"apollo": False}
    groups = [{**group, **told} for group in parameter_groups(subject)]
    optimizer = Apollo([{**group, "apollo": group["apollo"] and way in RANKS} for group in groups], lr=1e-5)
    tokens = torch.randint(1, 1024, (2, 256), generator=torch.Generator().manual_seed(0))
    passes, steps = [], []
    for _ in range(4):
        passes.append(timed(lambda: subject(input_ids=tokens, labels=tokens).loss.backward()))
        steps.append(timed(optimizer.step))
        optimizer.zero_grad()
    return {"seconds": median(passes[1:]), "step": median(steps[1:])}


def timed(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def tensors_in(values: Iterable[Any]) -> Iterable[Any]:
    """Give the tensors in a state, those that an object there holds too."""
    import torch

    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif hasattr(value, "__dict__"):
            yield from tensors_in(vars(value).values())


def mebibytes(tensors: Iterable[Any]) -> float:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / BYTES_PER_MEBIBYTE


def plan(bench: side_by_side.Bench) -> None:
    bench.remark(
        "apollo-torch as its README says (`APOLLOAdamW`, proj random, proj_type std, gap 200); the floor is the bare product "
        "R = P G, in the faster order of its factors, measured in our process after the steps. "
        "An update has also to read gradient and weights and to write weights; the next column has that in its floor."
    )
    growth: dict[str, list[tuple[float, float]]] = {}
    for model in MODELS:
        weights = sum(rows * columns for rows, columns in shapes_of(model))
        adam = [bench.apart({"who": "AdamW (fused)", "model": model, "way": "-"})["seconds"] for _ in range(bench.repeats)]
        growth.setdefault("AdamW (fused)", []).append((weights, median(adam)))
        for way in RANKS:
            if model == "10M" or (RANKS[way] > MODELS[model][0]):
                turns = [bench.apart({"who": "ours", "model": model, "way": way})] if RANKS[way] <= MODELS[model][0] else []
            else:
                turns = race(bench, model, way, median(adam))
            if turns:
                growth.setdefault(f"ours, {way}", []).append((weights, median(turn["seconds"] for turn in turns)))
    bench.growth("One step", "weights", growth)
    for model in SHARED:
        for way in ("AdamW", "Mini", "rank 16", "rank 64"):
            found = bench.apart({"who": "training step", "model": model, "way": way})
            share = found["step"] / (found["seconds"] + found["step"])
            told = {"forward and backward (s)": f"{found['seconds']:.3g}", "step (s)": f"{found['step']:.3g}"}
            bench.row("Share of a training step on 512 tokens", {"": f"{model}, {way}", **told, "share": f"{share:.1%}"})


def race(bench: side_by_side.Bench, model: str, way: str, adam: float) -> list[dict[str, float]]:
    whos = ("ours", "AdamW (fused)", "apollo-torch")
    contenders = {who: {"who": who, "model": model, "way": way} for who in whos}
    turns = bench.race("One step", f"{model}, {way}", contenders, numbers=UNITS, goals={"seconds": ("apollo-torch", 1.0)})
    ours = turns["ours"]
    over, over_all = ([turn[name] for turn in ours] for name in ("over", "over_all"))
    row = {
        "": f"{model}, {way}",
        "product alone (s)": f"{median(turn['product'] for turn in ours):.3g}",
        "ours / product": f"{median(over):.2f}x ({min(over):.2f} to {max(over):.2f})",
        "ours / product and weights": f"{median(over_all):.2f}x ({min(over_all):.2f} to {max(over_all):.2f})",
        "ours / AdamW": f"{median(turn['seconds'] for turn in ours) / adam:.2f}x",
        "state in a checkpoint (MiB)": f"{ours[0]['state']:.3g}",
        "first step, with drawing (s)": f"{median(turn['first'] for turn in ours):.3g}",
    }
    bench.row("Distance from the floor", row)
    return ours


if __name__ == "__main__":
    side_by_side.main(__doc__, measure, plan)
