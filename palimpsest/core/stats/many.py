"""Many: what stays when many questions were asked, and what do several training seeds say together?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from palimpsest.core.estimate import Estimate
from palimpsest.core.stats.seeds import two_level
from palimpsest.core.stats.spread import needed_to_exclude, quantile, two_sided, unseen_share

FAMILY_ERROR = 0.05
"""Chance of one false alarm among all that a verdict says."""

_UNEVEN = 1.6
"""How many times further than that of equal clusters the interval of no flip reaches at most, in the sizes that are met."""


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


def unseen_only(estimate: Estimate) -> bool:
    """Whether nothing speaks for a loss beyond the margin, but that a cluster which lost everything may not have been seen."""
    margin, interval = estimate.margin, estimate.interval
    if margin is None or estimate.value is None or interval is None:
        return False
    if estimate.equivalent or interval[1] < -margin:
        return True
    if estimate.n >= needed_to_exclude(margin, estimate.unit):
        return False
    # where nothing flipped an interval reaches as far as templates go that were not seen, and further where sizes differ
    nothing_lost = estimate.unit == "points" and estimate.value <= 0 and interval[1] < _UNEVEN * unseen_share(estimate.n)
    return interval[1] < margin or nothing_lost


def _p_worse(estimate: Estimate) -> float | None:
    """Return the estimate's own one-sided p-value, or what its interval comes to where it has none (a record from before)."""
    if estimate.p_worse is not None or estimate.margin is None or estimate.value is None or estimate.interval is None:
        return estimate.p_worse
    reach = (estimate.value - estimate.interval[0]) / quantile(0.5 + estimate.level / 2, math.inf)
    over = estimate.value - estimate.margin
    return two_sided(over / reach, math.inf) / 2 if over > 0 and reach > 0 else float(over <= 0)


def across_seeds(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean over training seeds: a claim on a recipe and on items like these, not on one model (``two_level``).

    Raises:
        ValueError: there are no estimates, or their units differ.
    """
    units = {estimate.unit for estimate in estimates}
    if len(units) != 1:
        raise ValueError(f"estimates must be of one unit, found {sorted(units)}")
    margins = {estimate.margin for estimate in estimates}
    found = two_level(estimates, units.pop(), margins.pop() if len(margins) == 1 else None)
    missing = len(estimates) - found.n
    return found.model_copy(update={"method": f"{found.method}, {missing} more without a value"}) if missing else found
