"""Margins: does a change reach beyond what still counts as unchanged, to one side?"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from palimpsest.core.stats.means import mean_difference
from palimpsest.core.stats.rates import rate_difference


def beyond_margin(
    before: ArrayLike, after: ArrayLike, clusters: ArrayLike, *, margin: float, side: Literal[-1, 1]
) -> float | None:
    """Return the one-sided p-value of "the change does not go beyond the margin to this side"; ``None`` if it can't be had.

    It is the inversion of the interval that ``mean_difference`` gives, or ``rate_difference`` where all values are 0 or 1: at
    most 0.025 exactly where the whole 95% interval lies beyond the margin.

    Args:
        before: shape (items,), finite.
        after: shape (items,), the same items in the same order.
        clusters: shape (items,), the label of each item's cluster.
        margin: over 0, in the unit of the values.
        side: -1 for a fall, 1 for a rise.

    Raises:
        ValueError: the margin is not over 0, or the two do not hold the same items.
    """
    if margin <= 0:
        raise ValueError(f"a margin must be over 0, found {margin}")
    one, other = (before, after) if side > 0 else (after, before)
    outcomes = is_outcome(before) and is_outcome(after)
    found = (rate_difference if outcomes else mean_difference)(one, other, clusters, unit="points", margin=margin)
    return found.p_worse


def is_outcome(values: ArrayLike) -> bool:
    """Whether all values are 0 or 1."""
    return bool(np.isin(np.asarray(values, dtype=np.float64), (0.0, 1.0)).all())
