"""Ranks: what does each process of a distributed run do, so that all together do what one would?

Every rank knows all rows of a step and takes its own passes. All take the same kinds of passes in the same order, because the
layers of a sharded model are gathered together: a rank that has no row of a kind runs somebody else's with weight 0.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, distribute_tensor

from palimpsest.training.objectives import Objective, Prepared
from palimpsest.training.sampler import Row


def count() -> int:
    """Return the number of processes that train together, as the launcher set it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def own() -> int:
    """Return this process's number among them, from 0."""
    return int(os.environ.get("RANK", "0"))


def wait() -> None:
    """Wait until all ranks are here (accelerate connects them when training begins)."""
    if count() > 1 and dist.is_initialized():
        dist.barrier()


def summed(numbers: torch.Tensor) -> torch.Tensor:
    """Return the sum over ranks."""
    if count() > 1:
        dist.all_reduce(numbers)
    return numbers


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor that may be sharded as one; every rank has to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def copy_into(target: torch.Tensor, source: torch.Tensor) -> None:
    """Copy a whole tensor into one that may be sharded."""
    if isinstance(target, DTensor):
        source = distribute_tensor(source.to(target.device), target.device_mesh, target.placements)
    target.copy_(source)


def sharded_like(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return a whole tensor in the shards of another one of its shape."""
    if isinstance(like, DTensor) and not isinstance(tensor, DTensor):
        return distribute_tensor(tensor, like.device_mesh, like.placements)
    return tensor


def passes(objective: Objective, chunks: Sequence[Sequence[Row]]) -> tuple[list[Prepared], torch.Tensor]:
    """Return what this rank runs in one step, and the loss weight of each source over all ranks.

    Args:
        objective: turns rows into parts.
        chunks: the rows of each forward pass, of all ranks; chunk number i is done by rank i modulo the number of ranks.
    """
    ranks, rank = count(), own()
    mine: list[Prepared] = []
    weights: Any = 0.0
    for first in range(0, len(chunks), ranks):
        everybody = [objective.parts(chunk) for chunk in chunks[first : first + ranks]]
        weights = weights + sum(part.weights.sum(dim=1, dtype=torch.float64) for parts in everybody for part in parts.values())
        for kind in sorted({kind for parts in everybody for kind in parts}):
            theirs = next(parts[kind] for parts in everybody if kind in parts)
            has_own = rank < len(everybody) and kind in everybody[rank]
            mine.append(everybody[rank][kind] if has_own else theirs.silent())
    return mine, weights
