"""Low rank: by how much does APOLLO scale each gradient, and what does it remember for that?

Adam's moments of R = P G. The gradient is turned so that its shorter side comes first; so the low-rank side is always (rank,
longer side), whatever the matrix.

What a step of a small model costs is its calls and not its arithmetic. Small matrices of one shape therefore step as one
bundle, and their moments are parts of one tensor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, Replicate
from torch.optim.adamw import adamw

from palimpsest.core.seeds import seed_of
from palimpsest.ranks import sharded_like

HALF = (torch.bfloat16, torch.float16)
Named = Sequence[tuple[str, nn.Parameter]]
_TOGETHER = 2**23
"""Elements in the gradients of one bundle; it bounds what a step needs beside the state (twice the low-rank sides)."""


class Bundle:
    """Matrices of one shape that step together, and the moments of their low-rank sides.

    Args:
        named: parameters that have a gradient, by name.
        states: what the optimizer remembers of each; gets (or has) ``step``, ``exp_avg`` and ``exp_avg_sq``, which are parts of
            one tensor where there are several.
    """

    def __init__(self, named: Named, states: Sequence[dict[str, Any]]) -> None:
        self.named, self.states = named, states
        self.steps = self._together("step", torch.zeros((), dtype=torch.float32))
        self.moment: torch.Tensor | None = None
        self.square: torch.Tensor | None = None
        self._parts = [state.get("exp_avg") for state in states]

    @property
    def step(self) -> int:
        """How many steps were taken."""
        return int(self.steps.reshape(-1)[0])

    def holds(self) -> bool:
        """Whether the states still have the very tensors that this bundle works on."""
        return all(state.get("exp_avg") is part for state, part in zip(self.states, self._parts, strict=True))

    def factors(
        self, gradients: Sequence[torch.Tensor], projections: Sequence[torch.Tensor], group: dict[str, Any]
    ) -> Sequence[torch.Tensor]:
        """Take gradients into the moments, and return alpha s of each, of a shape that multiplies the gradient."""
        low = _projected(gradients, projections)
        if self.moment is None or self.square is None:
            self.moment, self.square = self._together("exp_avg", low), self._together("exp_avg_sq", low)
            self._parts = [state["exp_avg"] for state in self.states]
        direction = torch.zeros_like(low)
        step = self.steps.reshape(-1)[0].to(low.device, copy=True)
        # Adam's own kernel, from 0 with a learning rate of 1, goes by -N: one pass for what takes ten otherwise.
        adam_step([direction], [low], [self.moment], [self.square], [step], group, lr=1.0)
        self.steps += 1
        over = (-2,) if group["scale_type"] == "channel" else (-2, -1)
        length = low.square_().sum(dim=over, keepdim=True)  # on a CPU vector_norm over rows takes 30 times as long
        ratio = (direction.square_().sum(dim=over, keepdim=True) / length).sqrt_()
        ratio = torch.where(length > 0, ratio, torch.zeros_like(ratio))  # where the gradient is 0, so is the update
        scale = short_side(gradients[0]) / rank_of(gradients[0], group) if group["scale"] is None else group["scale"]
        ratio = (ratio * math.sqrt(scale)).to(gradients[0].dtype)
        each = ratio.unbind(0) if len(gradients) > 1 else (ratio,)
        return each if _is_wide(gradients[0]) else [one.mT for one in each]

    def _together(self, key: str, like: torch.Tensor) -> torch.Tensor:
        """Return one tensor that holds an entry of all states, and let them have its parts."""
        if len(self.states) == 1:
            (state,) = self.states
            state[key] = sharded_like(state[key], like) if key in state else torch.zeros_like(like)
            return state[key]
        like = like if like.ndim == 0 else like[0]
        held = torch.stack([state[key] if key in state else torch.zeros_like(like) for state in self.states])
        for state, part in zip(self.states, held.unbind(0), strict=True):
            state[key] = part
        return held


def bundled(named: Named, states: Mapping[Any, dict[str, Any]]) -> list[Bundle]:
    """Return matrices as bundles: each alone, but for small ones of one shape, which step together."""
    alike: dict[Any, list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in named:
        alone = parameter.ndim > 2 or isinstance(parameter, DTensor)
        step = float(states[parameter].get("step", 0.0))
        kind = name if alone else (parameter.shape, parameter.dtype, parameter.device, step)
        alike.setdefault(kind, []).append((name, parameter))
    chunks: list[Named] = []
    for some in alike.values():
        each = max(1, _TOGETHER // some[0][1].numel())
        chunks += [some[start : start + each] for start in range(0, len(some), each)]
    return [Bundle(chunk, [states[parameter] for _, parameter in chunk]) for chunk in chunks]


def adam_step(
    weights: Sequence[torch.Tensor],
    gradients: Sequence[torch.Tensor],
    moments: Sequence[torch.Tensor],
    squares: Sequence[torch.Tensor],
    steps: Sequence[torch.Tensor],
    group: dict[str, Any],
    lr: float,
    weight_decay: float = 0.0,
) -> None:
    """AdamW (Loshchilov and Hutter 2019) with torch's own kernels, in place, ``steps`` too."""
    adamw(
        [_local(one) for one in weights],
        [_local(one) for one in gradients],
        [_local(one) for one in moments],
        [_local(one) for one in squares],
        [],
        list(steps),
        fused=weights[0].device.type in ("cpu", "cuda"),
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=lr,
        weight_decay=weight_decay,
        eps=group["eps"],
        maximize=False,
    )


def projection(shape: tuple[int, ...], seed: int, name: str, number: int) -> torch.Tensor:
    """Return the random projection of one parameter, entries N(0, 1/rank), on the CPU.

    Args:
        shape: (..., rank, shorter side).
        seed: of the run.
        name: of the parameter.
        number: how often it was drawn anew (step // gap).
    """
    generator = torch.Generator().manual_seed(seed_of(seed, "apollo", name, number) % 2**63)
    return torch.randn(shape, generator=generator) / math.sqrt(shape[-2])


def short_side(matrix: torch.Tensor) -> int:
    return min(matrix.shape[-2:])


def rank_of(matrix: torch.Tensor, group: dict[str, Any]) -> int:
    return max(1, short_side(matrix) // 4) if group["rank"] is None else group["rank"]


def _projected(gradients: Sequence[torch.Tensor], projections: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return R, (..., rank, longer side), with a first dimension for the matrices where there are several."""
    turned = [gradient if _is_wide(gradient) else gradient.mT for gradient in gradients]
    if len(turned) > 1:
        low = turned[0].new_empty(len(turned), projections[0].shape[0], turned[0].shape[1])
        for into, drawn, gradient in zip(low.unbind(0), projections, turned, strict=True):
            torch.mm(drawn, gradient, out=into)
    else:
        low = projections[0] @ turned[0]
    if isinstance(low, DTensor):  # a sum over shards is not yet one number
        low = low.redistribute(placements=[Replicate() if each.is_partial() else each for each in low.placements])
    return low.float() if low.dtype in HALF else low


def _is_wide(matrix: torch.Tensor) -> bool:
    return matrix.shape[-2] < matrix.shape[-1]


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
