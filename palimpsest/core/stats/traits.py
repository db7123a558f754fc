"""Traits: by how much did one thing about each item change, where not every item has it?

A trait is a number of each item, or a ``rate`` (0 or 1); NaN stands for an item that can't have it (a text that is too short).
"""

from __future__ import annotations

import numpy as np

from palimpsest.core.estimate import Estimate, unknown
from palimpsest.core.stats.means import level, mean_difference
from palimpsest.core.stats.rates import rate, rate_difference

NOBODY = "no item has it"


def spread(before: np.ndarray, after: np.ndarray) -> float:
    """Return the standard deviation over both sides' items [items each]; 0 where there is none."""
    values = np.concatenate([before, after])
    values = values[np.isfinite(values)]
    return float(values.std()) if values.size and np.ptp(values) > 0 else 0.0


def trait_level(values: np.ndarray, clusters: np.ndarray, *, unit: str) -> Estimate:
    """Return the mean of a trait over the items that have it; in the unit ``rate`` or ``points`` it is a share."""
    known = np.isfinite(values)
    if not known.any():
        return unknown("share" if unit in ("rate", "points") else unit, 0, NOBODY)
    if unit == "rate":
        return rate(values[known], clusters[known])
    return level(values[known], clusters[known], unit="share" if unit == "points" else unit)


def trait_change(
    before: np.ndarray, after: np.ndarray, clusters: np.ndarray, *, unit: str, margin: float | None = None, same: bool = False
) -> Estimate:
    """Return the mean of after - before over the items that have the trait on both sides, with an equivalence margin.

    ``same``: whether both sides are known to be one and the same, as in ``mean_difference``.
    """
    known = np.isfinite(before) & np.isfinite(after)
    if not known.any():
        return unknown("points" if unit == "rate" else unit, 0, NOBODY)
    if unit == "rate":
        return rate_difference(before[known], after[known], clusters[known], margin=margin)
    return mean_difference(before[known], after[known], clusters[known], unit=unit, margin=margin, same=same)
