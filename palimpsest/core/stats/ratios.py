"""Ratios: how far did one pole move in proportion to the other?"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from palimpsest.core.estimate import Estimate, unknown
from palimpsest.core.stats.clusters import FEWEST_CLUSTERS, clustered, together
from palimpsest.core.stats.spread import Spread, unseen_share

BELOW, ABOVE = 0.025, 0.05
"""Errors of the two ends: a ratio is held against a limit, from one side. That it lies beyond is an alarm, which shares one
error with all others of a verdict; that it lies within is a claim of its own."""
_LARGEST = 1e6
"""A ratio beyond this is as good as none."""


def ratio(
    numerator: ArrayLike,
    denominator: ArrayLike,
    numerator_clusters: ArrayLike,
    denominator_clusters: ArrayLike,
    *,
    unit: str = "share",
    most: tuple[float, float] | None = None,
) -> Estimate:
    """Return the ratio of two means, with the upper end of its interval at 95%; the two may hold different items.

    The interval holds each ratio r for which "numerator - r x denominator is 0" is not refused on the one side or the other
    (Fieller's set, with the skewness-aware test of ``spread``). It reaches at least as far as clusters alone could take it of
    which none may have been seen: with 24, up to 11.7% of all. Where the denominator's own interval holds 0 the value is
    ``None``.

    Args:
        numerator: shape (items,), such as after - before where the behaviour should not appear.
        denominator: shape (other items,), such as after - before where it should.
        numerator_clusters: labels of the first.
        denominator_clusters: labels of the second; a label in both is one cluster, and the covariance counts.
        unit: of the ratio.
        most: how far a cluster of the numerator can fall and rise, where it can't move as far as it likes.
    """
    one, two, count = together(numerator_clusters, denominator_clusters)
    top, bottom = clustered(numerator, numerator_clusters), clustered(denominator, denominator_clusters)
    fewest = min(top.count, bottom.count)
    if fewest < FEWEST_CLUSTERS:
        return unknown(unit, count, f"{fewest} clusters in one pole, {FEWEST_CLUSTERS} are needed")
    low, high = bottom.spread.around(1 - 2 * ABOVE)
    if (bottom.standard_error > 0.0 and low <= 0 <= high) or bottom.mean == 0.0:
        return unknown(unit, count, "the interval of what it is divided by holds 0")
    influence = _spread_out(top.influence, one, count), _spread_out(bottom.influence, two, count)
    weights = _spread_out(top.weights, one, count) + _spread_out(bottom.weights, two, count)
    degrees = min(top.degrees, bottom.degrees)

    def moved_beyond(share: float) -> Spread:
        return Spread(top.mean - share * bottom.mean, influence[0] - share * influence[1], degrees, weights)

    def doubt(share: float, direction: int) -> float:
        """Return how far the test is from refusing: over 0, the share may be the true one."""
        error = ABOVE if direction > 0 else BELOW
        return _chance(moved_beyond(share), direction * math.copysign(1.0, bottom.mean)) - error

    value = top.mean / bottom.mean
    ends = [_end(value, direction, partial(doubt, direction=direction)) for direction in (-1, 1)]
    if most is not None:
        fall, rise = (abs(each) * unseen_share(top.count) for each in most)
        low, high = top.spread.around(1 - 2 * ABOVE)
        sure = max(low, 0.0) + min(high, 0.0)  # noise of those that were seen is no movement that others could add to
        largest = abs(bottom.mean) + bottom.standard_error  # errors of both seldom come together; measured in docs/validity.md
        ends = [min(ends[0], (sure - fall) / largest), max(ends[1], (sure + rise) / largest)]
    if max(map(abs, ends)) >= _LARGEST:
        return unknown(unit, count, "no ratio is too large for these clusters")
    return Estimate(
        value=value,
        unit=unit,
        n=count,
        interval=(ends[0], ends[1]),
        level=1 - BELOW - ABOVE,
        method=f"Fieller's set by a skewness-aware test over {count} clusters, ends at {1 - BELOW:.1%} and {1 - ABOVE:.0%}",
    )


def _spread_out(values: np.ndarray, codes: np.ndarray, count: int) -> np.ndarray:
    """Return a number of each of a pole's clusters, numbered as both poles together, shape (count,); 0 of the others."""
    spread = np.zeros(count)
    spread[np.unique(codes)] = values
    return spread


def _chance(moved: Spread, side: float) -> float:
    """Return the chance of what is left, were it not below 0 (side 1: the share is too large) or not above (side -1)."""
    if moved.error == 0.0:
        return float(side * moved.value >= 0)
    return moved.over(0.0, -1 if side > 0 else 1)


def _end(value: float, direction: int, doubt: Callable[[float], float]) -> float:
    """Return the nearest ratio to one side of the value at which no doubt is left, by doubling and a search for the root."""
    from scipy import optimize  # its import takes 0.1 s

    last, step = 0.0, max(abs(value), 1.0) / 64
    while doubt(value + direction * step) > 0:
        last, step = step, step * 2
        if step >= _LARGEST:
            return direction * _LARGEST
    if doubt(value + direction * last) <= 0:
        return value
    found = optimize.root_scalar(lambda far: doubt(value + direction * far), bracket=(last, step), method="brentq", xtol=1e-9)
    return value + direction * float(found.root)
