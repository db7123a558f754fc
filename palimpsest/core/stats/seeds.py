"""Seeds: what do several training seeds say together, when all of them are read on the same held-out items?

Two levels: the spread between seeds says how far other seeds would come out otherwise, and nothing of other items, whose error
all seeds share. An interval reaches as far as both together (squares added); its p-value is its own inversion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from palimpsest.core.estimate import Estimate, unknown
from palimpsest.core.stats.spread import minimum_detectable, needed_to_exclude, quantile, two_sided, within

_HALVINGS = 28
"""Of the bracket of a p-value's logarithm, to 7 digits."""
_SMALLEST = -28.0
"""Logarithm of the smallest p-value that is looked for."""


def joined(parts: Sequence[tuple[float, Estimate]], unit: str) -> Estimate:
    """Return a weighted sum of numbers that were read on one model.

    Their items' errors are added as squares, as if they had no item in common. Two changes on the same items move together, so
    that of their difference this is an upper bound: what they share is not stored.

    Args:
        parts: each a weight and a number.
        unit: of the sum.
    """
    missing = next((one for _, one in parts if one.value is None), None)
    n = min((one.n for _, one in parts if one.method != "exact"), default=1)
    if missing is not None or not parts:
        return unknown(unit, n, missing.method.removeprefix("could not say: ") if missing else "there is nothing to add")
    value = sum(weight * (one.value or 0.0) for weight, one in parts)
    if lost := next((one for _, one in parts if not one.known), None):
        return Estimate(value=value, unit=unit, n=n, interval=None, method=lost.method)
    reach = math.hypot(*(weight * _half(one) for weight, one in parts))
    if all(one.method == "exact" for _, one in parts):
        return Estimate(value=value, unit=unit, n=n, interval=None, method="exact")
    degrees = max(n - 1.0, 1.0)
    return Estimate(
        value=value,
        unit=unit,
        n=n,
        interval=(value - reach, value + reach),
        method=f"joined intervals over {n} clusters",
        p_value=two_sided(value * quantile(0.975, degrees) / reach, degrees) if reach else float(value == 0.0),
    )


def paired(after: Sequence[Estimate], before: Sequence[Estimate], unit: str, margin: float | None = None) -> Estimate:
    """Return the mean of after - before over seeds, paired by seed, with an interval over seeds and items.

    Args:
        after: shape (seeds,), each with its interval over items.
        before: shape (seeds,), the same seeds in the same order.
        unit: of both.
        margin: equivalence margin, in the same unit.
    """
    return two_level([joined([(1.0, one), (-1.0, two)], unit) for one, two in zip(after, before, strict=True)], unit, margin)


def two_level(by_seed: Sequence[Estimate], unit: str, margin: float | None = None) -> Estimate:
    """Return the mean over seeds, with an interval that holds for other seeds and other items.

    Args:
        by_seed: shape (seeds,), each with its interval over the items that all of them share.
        unit: of them.
        margin: equivalence margin, in the same unit.
    """
    known = [one for one in by_seed if one.value is not None]
    n = len(known)
    if n == 0:
        return unknown(unit, 0, "no seed has a value")
    values = np.array([one.value for one in known], dtype=float)
    centre = float(values.mean())
    lost = next((one.method for one in known if not one.known), "")
    seeds = float(values.std(ddof=1)) / n**0.5 if n > 1 else 0.0
    degrees = max(min((one.n for one in known if one.interval is not None), default=2) - 1.0, 1.0)
    items = float(np.mean([_half(one) for one in known])) / quantile(0.975, degrees)
    why = "1 seed, 2 are needed" if n == 1 else lost.removeprefix("could not say: ")
    why = why or ("" if seeds or items else "all seeds give the same")
    if why:
        return Estimate(value=centre, unit=unit, n=n, interval=None, method=f"could not say: {why}", margin=margin)
    parts = ((seeds, n - 1.0), (items, degrees))
    reach = _reach(parts, 0.05)
    return Estimate(
        value=centre,
        unit=unit,
        n=n,
        interval=within((centre - reach, centre + reach), unit),
        method=f"t interval over {n} seeds, widened by the items they share",
        p_value=_p_value(centre, parts),
        minimum_detectable=math.hypot(*(minimum_detectable(error, own) for error, own in parts)),
        margin=margin,
        **_held_against(margin, centre, parts, unit, min((one.n for one in known if one.interval is not None), default=None)),
    )


def _held_against(
    margin: float | None, centre: float, parts: Sequence[tuple[float, float]], unit: str, clusters: int | None
) -> dict[str, Any]:
    """Return what is known of a number beside its margin; ``clusters`` is ``None`` of exact numbers, which need none."""
    if margin is None:
        return {}
    enough = clusters is None or clusters >= needed_to_exclude(margin, unit)
    one_sided = _p_value(centre - margin, parts) / 2
    return {
        "equivalent": enough and abs(centre) + _reach(parts, 0.10) < margin,
        "p_worse": one_sided if centre > margin else 1 - one_sided,
    }


def _half(one: Estimate) -> float:
    """Return how far an interval reaches to a side, 0 of an exact number."""
    return 0.0 if one.interval is None else (one.interval[1] - one.interval[0]) / 2


def _reach(parts: Sequence[tuple[float, float]], alpha: float) -> float:
    """Return how far errors with their degrees of freedom reach together at a two-sided level."""
    return math.hypot(*(quantile(alpha / 2, degrees) * error for error, degrees in parts if error))


def _p_value(value: float, parts: Sequence[tuple[float, float]]) -> float:
    """Return the level at which the interval ends at 0."""
    parts = [part for part in parts if part[0]]
    if len(parts) == 1:
        return two_sided(value / parts[0][0], parts[0][1])
    low, high = _SMALLEST, 0.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _reach(parts, math.exp(middle)) > abs(value) else (low, middle)
    return math.exp(high)
