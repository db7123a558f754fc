"""Passes: what does each process of a distributed run do in a step, so that all together do what one would?

Every rank knows all rows of a step and takes its own passes. All take the same kinds of passes in the same order, because the
layers of a sharded model are gathered together: a rank that has no row of a kind runs somebody else's with weight 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from palimpsest.core.launch import count, own
from palimpsest.training.objectives import Objective, Prepared
from palimpsest.training.sampler import Row


def own_passes(objective: Objective, chunks: Sequence[Sequence[Row]]) -> tuple[list[Prepared], torch.Tensor]:
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
