"""Ratios: how far did one pole move in proportion to the other?"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from palimpsest.core.estimate import Estimate, unknown
from palimpsest.core.stats.clusters import FEWEST_CLUSTERS, LEVEL, Clustered, clustered, quantile, together


def ratio(
    numerator: ArrayLike,
    denominator: ArrayLike,
    numerator_clusters: ArrayLike,
    denominator_clusters: ArrayLike,
    *,
    unit: str = "share",
) -> Estimate:
    """Return the ratio of two means with Fieller's interval; the two may hold different items.

    Where the denominator's own interval holds 0, the ratio could be anything: the value is ``None``.

    Args:
        numerator: shape (items,), such as after - before where the behaviour should not appear.
        denominator: shape (other items,), such as after - before where it should.
        numerator_clusters: labels of the first.
        denominator_clusters: labels of the second; a label in both is one cluster, and the covariance counts.
        unit: of the ratio.
    """
    one, two, count = together(numerator_clusters, denominator_clusters)
    top, bottom = clustered(numerator, numerator_clusters), clustered(denominator, denominator_clusters)
    fewest = min(top.count, bottom.count)
    if fewest < FEWEST_CLUSTERS:
        return unknown(unit, count, f"{fewest} clusters in one pole, {FEWEST_CLUSTERS} are needed")
    degrees = min(top.degrees, bottom.degrees)
    square = quantile(0.5 + LEVEL / 2, degrees) ** 2
    if bottom.mean**2 <= square * bottom.standard_error**2:
        return unknown(unit, count, "the interval of what it is divided by holds 0")
    shared = float(_spread(top, one, count) @ _spread(bottom, two, count))
    low, high = _fieller(top, bottom, shared, square)
    return Estimate(
        value=top.mean / bottom.mean, unit=unit, n=count, interval=(low, high), method=f"Fieller interval over {count} clusters"
    )


def _spread(data: Clustered, codes: np.ndarray, count: int) -> np.ndarray:
    """Return each cluster's part in the mean's error, numbered as both poles together, shape (count,)."""
    spread = np.zeros(count)
    spread[np.unique(codes)] = data.influence
    return spread


def _fieller(top: Clustered, bottom: Clustered, shared: float, square: float) -> tuple[float, float]:
    """Return the roots of (top - r bottom)^2 = t^2 Var(top - r bottom)."""
    a = bottom.mean**2 - square * bottom.standard_error**2
    b = top.mean * bottom.mean - square * shared
    c = top.mean**2 - square * top.standard_error**2
    root = math.sqrt(max(0.0, b * b - a * c))
    return (b - root) / a, (b + root) / a
