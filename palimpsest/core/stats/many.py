"""Many: what stays when many questions were asked, and what do several training seeds say together?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from palimpsest.core.estimate import Estimate, unknown
from palimpsest.core.stats.spread import LEVEL, minimum_detectable, needed_to_exclude, quantile, two_sided, within

FAMILY_ERROR = 0.05
"""Chance of one false alarm among all that a verdict says."""


def adjusted(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return Holm's (1979) adjusted p-values; a question without a p-value stays ``None`` and is not counted."""
    known = sorted((p, name) for name, p in p_values.items() if p is not None)
    found: dict[str, float | None] = dict.fromkeys(p_values)
    largest = 0.0
    for rank, (p, name) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        found[name] = largest
    return found


def holm(p_values: Mapping[str, float | None], alpha: float = 0.05) -> dict[str, bool]:
    """Return which null hypotheses fall when the chance of one false alarm among all is held at ``alpha``."""
    return {name: p is not None and p <= alpha for name, p in adjusted(p_values).items()}


def fallen(estimates: Sequence[Estimate], family_error: float = FAMILY_ERROR) -> list[bool]:
    """Return which of everything that could have got worse lies beyond its margin, with one error for all of them (Holm).

    Args:
        estimates: over 0 is worse; without a margin, none can fall.
        family_error: of the whole verdict. Half of it is for what fell, half for what appears where it should not; so a single
            ability fell where the whole of its 95% interval lies beyond the margin.
    """
    return list(holm({str(place): _p_worse(one) for place, one in enumerate(estimates)}, family_error / 2).values())


def _p_worse(estimate: Estimate) -> float | None:
    """Return the estimate's own one-sided p-value, or what its interval comes to where it has none (a record from before)."""
    if estimate.p_worse is not None or estimate.margin is None or estimate.value is None or estimate.interval is None:
        return estimate.p_worse
    reach = (estimate.value - estimate.interval[0]) / quantile(0.5 + estimate.level / 2, math.inf)
    over = estimate.value - estimate.margin
    return two_sided(over / reach, math.inf) / 2 if over > 0 and reach > 0 else float(over <= 0)


def across_seeds(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean over training seeds: a claim on a recipe and on items like these, not on one model.

    All seeds are measured on the same items, so that these seeds' spread says nothing of the items' error: the interval reaches
    as far as both together (root of squares), seeds by t and items by the mean reach of the seeds' own intervals. Where answers
    to one item vary between seeds it is too wide, by no more than the items' reach.

    Raises:
        ValueError: there are no estimates, or their units differ.
    """
    units = {estimate.unit for estimate in estimates}
    if len(units) != 1:
        raise ValueError(f"estimates must be of one unit, found {sorted(units)}")
    unit = units.pop()
    valued = [estimate for estimate in estimates if estimate.value is not None]
    values, n = np.array([estimate.value for estimate in valued]), len(valued)
    if n == 0:
        return unknown(unit, 0, "no seed has a value")
    centre, missing = float(values.mean()), len(estimates) - n
    note = f", {missing} more without a value" if missing else ""
    why = ""
    if n == 1:
        why = f"1 seed, 2 are needed{note}"
    elif not all(one.known for one in valued):
        why = f"of {sum(not one.known for one in valued)} of {n} seeds the items' own error is not known{note}"
    if why:
        return Estimate(value=centre, unit=unit, n=n, interval=None, method=f"could not say: {why}")
    by_seed = quantile(0.5 + LEVEL / 2, n - 1.0) * float(values.std(ddof=1)) / n**0.5
    below, above = (math.hypot(by_seed, items) for items in _reaches(valued))
    if max(below, above) == 0.0:
        why = f"the same in all {n} seeds, none of which has an interval{note}"
        return Estimate(value=centre, unit=unit, n=n, interval=None, method=f"could not say: {why}")
    towards = max(below if centre > 0 else above, 1e-300)
    degrees = _degrees(by_seed, towards, n, min(one.n for one in valued))
    error = towards / quantile(0.5 + LEVEL / 2, degrees)
    margin = valued[0].margin if len({one.margin for one in valued}) == 1 else None
    low, high = centre - below, centre + above
    return Estimate(
        value=centre,
        unit=unit,
        n=n,
        interval=within((low, high), unit),
        method=f"t over {n} seeds joined with the error of the items that they share{note}",
        p_value=two_sided(centre / error, degrees),
        minimum_detectable=minimum_detectable(error, degrees),
        margin=margin,
        equivalent=None
        if margin is None
        else -margin < low and high < margin and min(one.n for one in valued) >= needed_to_exclude(margin, unit),
        p_worse=None if margin is None else two_sided(max(centre - margin, 0.0) / error, degrees) / 2,
    )


def _reaches(estimates: Sequence[Estimate]) -> tuple[float, float]:
    """Return how far the seeds' own intervals reach down and up on average."""
    ends = [(one.value or 0.0, one.interval or (one.value or 0.0, one.value or 0.0)) for one in estimates]
    return (
        float(np.mean([value - low for value, (low, _) in ends])),
        float(np.mean([high - value for value, (_, high) in ends])),
    )


def _degrees(by_seed: float, reach: float, seeds: int, clusters: int) -> float:
    """Return Satterthwaite's degrees of freedom of a reach that joins that of seeds with that of clusters."""
    share = min(1.0, (by_seed / reach) ** 2)
    return 1 / (share**2 / (seeds - 1) + (1 - share) ** 2 / max(clusters - 1, 1))
