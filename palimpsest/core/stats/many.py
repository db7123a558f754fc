"""Many: what stays when many questions were asked, and what do several training seeds say together?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from palimpsest.core.estimate import Estimate, unknown
from palimpsest.core.stats.clusters import around, minimum_detectable, two_sided, within


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


def across_seeds(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean over training seeds with a t interval whose unit is the seed: a claim on a method, not on one model.

    Raises:
        ValueError: there are no estimates, or their units differ.
    """
    units = {estimate.unit for estimate in estimates}
    if len(units) != 1:
        raise ValueError(f"estimates must be of one unit, found {sorted(units)}")
    unit = units.pop()
    values = np.array([estimate.value for estimate in estimates if estimate.value is not None])
    n = len(values)
    if n == 0:
        return unknown(unit, 0, "no seed has a value")
    centre, missing = float(values.mean()), len(estimates) - n
    note = f", {missing} more without a value" if missing else ""
    if n == 1:
        return Estimate(value=centre, unit=unit, n=1, interval=None, method=f"could not say: 1 seed, 2 are needed{note}")
    error, degrees = float(values.std(ddof=1)) / n**0.5, n - 1.0
    if error == 0.0:
        return _alike(centre, unit, estimates, note)
    return Estimate(
        value=centre,
        unit=unit,
        n=n,
        interval=within(around(centre, error, degrees), unit),
        method=f"t interval over {n} seeds{note}",
        p_value=two_sided(centre / error, degrees),
        minimum_detectable=minimum_detectable(error, degrees),
    )


def _alike(centre: float, unit: str, estimates: Sequence[Estimate], note: str) -> Estimate:
    """Return what seeds with one value tell: they do not vary, but each is known no better than from its own items."""
    known = [one for one in estimates if one.value is not None]
    ranges = [one.interval or (centre, centre) for one in known if one.known]
    widest = (min(low for low, _ in ranges), max(high for _, high in ranges)) if len(ranges) == len(known) else None
    method = f"the same in all {len(known)} seeds, widest interval of one seed{note}"
    p_values = [one.p_value for one in known if one.p_value is not None]
    return Estimate(
        value=centre,
        unit=unit,
        n=len(known),
        interval=widest,
        method=method if widest else f"could not say: the same in all {len(known)} seeds, none of which has an interval",
        p_value=max(p_values) if len(p_values) == len(known) else None,
    )
