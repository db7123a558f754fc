"""Dose: at how many examples does an effect begin, and at how many is it half of what it becomes?

Doses are spaced by their logarithm; 0 is a dose too, at which the change from the base is 0 by definition. The training seed is
the unit of every interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from palimpsest.core.estimate import Estimate, unknown
from palimpsest.core.stats.spread import around, equivalent, minimum_detectable, quantile, two_sided

_SLOPES = np.geomspace(0.3, 12.0, 36)
_BETWEEN = 24
"""Places of the half-way dose that are tried between two doses of the grid."""
SEEN = 0.8
"""Share of the fitted rise that must be reached at the largest dose, for the curve to count as one that bends."""


@dataclass(frozen=True)
class Logistic:
    """bottom + (top - bottom) / (1 + (half / dose) ** slope), fitted by least squares."""

    bottom: float
    top: float
    half: float
    """The dose half-way between bottom and top (EC50)."""
    slope: float
    bends: bool
    """Whether the half-way dose lies inside the doses and most of the rise was seen; else it would be guessed."""

    def at(self, doses: np.ndarray) -> np.ndarray:
        """Return the curve's values at doses, shape (doses,)."""
        return self.bottom + (self.top - self.bottom) * _shape(np.asarray(doses, dtype=float), self.half, self.slope)


def logistic(doses: Sequence[float], values: Sequence[float]) -> Logistic:
    """Return the four-parameter logistic in the logarithm of the dose that is nearest to the values.

    For each slope and half-way dose of a fine grid the other two parameters are linear; the best is refined once.

    Args:
        doses: shape (doses,), rising, from 0 on; at least 4.
        values: shape (doses,).

    Raises:
        ValueError: there are fewer than 4 doses.
    """
    x, y = np.asarray(doses, dtype=float), np.asarray(values, dtype=float)
    if x.size < 4:
        raise ValueError(f"a curve of four parameters needs 4 doses, found {x.size}")
    positive = x[x > 0]
    halves = np.geomspace(positive[0] / 3, positive[-1] * 3, _BETWEEN * positive.size)
    best = _nearest(x, y, halves, _SLOPES)
    step = halves[1] / halves[0]
    fine = best[0] * np.geomspace(1 / step, step, 15)
    half, slope, bottom, top = _nearest(x, y, fine, best[1] * np.geomspace(0.9, 1 / 0.9, 9))
    seen = _shape(positive[-1:], half, slope)[0]
    bends = bool(top != bottom and positive[0] <= half <= positive[-1] and seen >= SEEN)
    return Logistic(bottom, top, half, slope, bends)


def _shape(doses: np.ndarray, half: float | np.ndarray, slope: float | np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return 1.0 / (1.0 + np.exp(-slope * (np.log(doses) - np.log(half))))


def _nearest(x: np.ndarray, y: np.ndarray, halves: np.ndarray, slopes: np.ndarray) -> tuple[float, float, float, float]:
    """Return half-way dose, slope, bottom and top with the smallest sum of squares."""
    half, slope = (one.ravel()[:, None] for one in np.meshgrid(halves, slopes))
    shape = _shape(x[None, :], half, slope)
    centred, moved = shape - shape.mean(1, keepdims=True), y - y.mean()
    spread = np.maximum(np.square(centred).sum(1), 1e-12)
    rise = centred @ moved / spread
    bottom = y.mean() - rise * shape.mean(1)
    error = np.square(y[None, :] - bottom[:, None] - rise[:, None] * shape).sum(1)
    at = int(np.argmin(np.round(error, 15)))
    return float(half[at, 0]), float(slope[at, 0]), float(bottom[at]), float(bottom[at] + rise[at])


def half_dose(doses: Sequence[float], by_seed: Sequence[Sequence[Estimate]]) -> Estimate:
    """Return the dose at which half of the effect is there (EC50), with an interval over seeds and items.

    A curve is fitted to each seed; the interval is a t interval over their log half-way doses, widened by the items, which all
    seeds share: their error is half of how far the half-way dose moves between all values one standard error of the items up
    and all down. (A percentile bootstrap over three seeds holds the truth far too seldom.)

    Args:
        doses: shape (doses,), rising, from 0 on.
        by_seed: for each seed its change at every dose.
    """
    seeds = [one for one in by_seed if all(each.value is not None for each in one)]
    if len(seeds) < 2:
        return unknown("examples", len(seeds), f"seeds that have a value at every dose: {len(seeds)}, 2 are needed")
    if len(doses) < 4:
        return unknown("examples", len(seeds), f"a curve of four parameters needs 4 doses, there are {len(doses)}")
    values = np.array([[each.value for each in one] for one in seeds], dtype=float)
    curves = [logistic(doses, row) for row in values]
    straight = sum(not one.bends for one in curves)
    if straight:
        return unknown(
            "examples", len(seeds), f"the curve of {straight} of {len(seeds)} seeds does not bend within these doses"
        )
    errors, clusters = _item_errors(seeds)
    moved = [[logistic(doses, row + sign * error).half for sign in (1, -1)] for row, error in zip(values, errors, strict=True)]
    items = float(np.mean([abs(math.log(up / down)) / 2 for up, down in moved]))
    return _of_logs(np.log([one.half for one in curves]), items, clusters)


def _of_logs(logs: np.ndarray, items: float, clusters: int) -> Estimate:
    """Return the geometric mean with an interval that joins the reach over seeds and that over items (squares added)."""
    n, centre = logs.size, float(logs.mean())
    error = float(logs.std(ddof=1)) / n**0.5
    reach = math.hypot(quantile(0.975, n - 1) * error, quantile(0.975, max(clusters - 1, 1)) * items)
    if reach == 0.0:
        return Estimate(
            value=math.exp(centre), unit="examples", n=n, interval=None, method="could not say: all seeds give the same"
        )
    return Estimate(
        value=math.exp(centre),
        unit="examples",
        n=n,
        interval=(math.exp(centre - reach), math.exp(min(centre + reach, 700.0))),
        method=f"log-scale t interval over {n} seeds, widened by the items they share",
    )


def _item_errors(seeds: Sequence[Sequence[Estimate]]) -> tuple[np.ndarray, int]:
    """Return the standard error over items of every value, shape (seeds, doses), and over how many clusters it is."""
    clusters = max((each.n for one in seeds for each in one), default=2)
    reach = quantile(0.975, max(clusters - 1, 1))
    return np.array(
        [
            [0.0 if each.interval is None else (each.interval[1] - each.interval[0]) / (2 * reach) for each in one]
            for one in seeds
        ]
    ), clusters


def threshold(doses: Sequence[float], over_seeds: Sequence[Estimate], least: float) -> Estimate:
    """Return the dose at which an effect passes a stated size.

    The value is where the mean curve first passes it, on the logarithmic axis between two doses of the grid. The interval is
    that of the test at each dose, turned round: from the largest dose at which the effect lies surely below, to the smallest
    from which on it lies surely above. A dose in between is not ruled out.

    Args:
        doses: shape (doses,), rising, from 0 on.
        over_seeds: the effect at each dose over seeds, with its interval.
        least: the size, in the effect's unit.
    """
    n = min((one.n for one in over_seeds), default=0)
    if any(one.value is None for one in over_seeds):
        return unknown("examples", n, "the effect is not known at every dose")
    crossing = crossing_dose(doses, [one.value or 0.0 for one in over_seeds], least)
    if crossing is None:
        return unknown("examples", n, "the effect does not reach it within these doses")
    sides = [one.above(least) for one in over_seeds]
    low = max((dose for dose, side in zip(doses, sides, strict=True) if side is False), default=0.0)
    above = [dose for place, dose in enumerate(doses) if all(side is True for side in sides[place:])]
    if not above:
        return Estimate(
            value=crossing,
            unit="examples",
            n=n,
            interval=None,
            method="could not say: at no dose is the effect surely above it",
        )
    return Estimate(
        value=crossing,
        unit="examples",
        n=n,
        interval=(min(low, crossing), max(float(above[0]), crossing)),
        method=f"doses not ruled out by the t interval over {n} seeds at each dose",
    )


def crossing_dose(doses: Sequence[float], values: Sequence[float], level: float) -> float | None:
    """Return where a curve first passes a level (``None``: never), along straight lines on the axis log(1 + dose)."""
    x = np.log1p(np.asarray(doses, dtype=float))
    for place in range(1, len(values)):
        before, after = values[place - 1], values[place]
        if before < level <= after:
            share = (level - before) / (after - before)
            return float(np.expm1(x[place - 1] + share * (x[place] - x[place - 1])))
    return 0.0 if values and values[0] >= level else None


def later(doses: Sequence[float], values: Sequence[Sequence[float]], reference: Sequence[Sequence[float]]) -> Estimate:
    """Return how much later one quantity is half of what it becomes than another, in doublings of the dose, paired by seed.

    Each seed's curves go from 0 to what they are at the largest dose; where that is not told from no change over the seeds,
    half of it means nothing.

    Args:
        doses: shape (doses,), rising, from 0 on.
        values: shape (seeds, doses).
        reference: shape (seeds, doses), of the quantity it is held against, the same seeds.
    """
    n = len(values)
    if n < 2:
        return unknown("doublings", n, f"{n} seed, 2 are needed")
    for what in (values, reference):
        if not _clearly_changed(np.array([curve[-1] for curve in what])):
            return unknown("doublings", n, "its change at the largest dose is not told from none")
    found = []
    for own, other in zip(values, reference, strict=True):
        halves = [crossing_dose(doses, [one / curve[-1] for one in curve], 0.5) or 0.0 for curve in (own, other)]
        found.append(math.log2((1 + halves[0]) / (1 + halves[1])))
    return paired(found, [0.0] * n, "doublings")


def _clearly_changed(last: np.ndarray) -> bool:
    """Whether the t interval over seeds of what a quantity becomes lies on one side of 0, with every seed on that side."""
    reach = quantile(0.975, last.size - 1) * float(last.std(ddof=1)) / last.size**0.5
    return bool(abs(float(last.mean())) > reach and (last > 0).all() | (last < 0).all())


def paired(after: Sequence[float], before: Sequence[float], unit: str, margin: float | None = None) -> Estimate:
    """Return the mean of after - before over seeds, paired by seed, with a t interval.

    Args:
        after: shape (seeds,).
        before: shape (seeds,), the same seeds in the same order.
        unit: of both.
        margin: equivalence margin, in the same unit.
    """
    differences = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    n = differences.size
    if n == 0:
        return unknown(unit, 0, "no seed has both")
    centre = float(differences.mean())
    if n == 1:
        return Estimate(
            value=centre, unit=unit, n=1, interval=None, method="could not say: 1 seed, 2 are needed", margin=margin
        )
    error, degrees = float(differences.std(ddof=1)) / n**0.5, n - 1.0
    if error == 0.0:
        return Estimate(
            value=centre, unit=unit, n=n, interval=None, method="could not say: all seeds give the same", margin=margin
        )
    return Estimate(
        value=centre,
        unit=unit,
        n=n,
        interval=around(centre, error, degrees),
        method=f"paired t interval over {n} seeds",
        p_value=two_sided(centre / error, degrees),
        minimum_detectable=minimum_detectable(error, degrees),
        margin=margin,
        equivalent=equivalent(centre, error, degrees, margin),
    )
