"""Dose: at how many examples does an effect begin, and at how many is it half of what it becomes?

Doses are spaced by their logarithm; 0 is a dose too, at which the change from the base is 0 by definition. The training seed is
the unit of every interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from palimpsest.core.estimate import Estimate, unknown
from palimpsest.core.stats.seeds import joined, two_level
from palimpsest.core.stats.spread import quantile

_SLOPES = np.array([*np.geomspace(0.3, 12.0, 36), 16.0, 22.0, 32.0, 64.0, 1e4])
"""Of the curves that are tried; the last is a step."""
_BETWEEN = 40
"""Places of the half-way dose that are tried between two doses of the grid."""
SEEN = 0.8
"""Share of the fitted rise that must be reached at the largest dose, for the curve to count as one that bends."""


@dataclass(frozen=True)
class Logistic:
    """top / (1 + (half / dose) ** slope), fitted by least squares: 0 at dose 0, as every change from the base is."""

    top: float
    half: float
    """The dose half-way to the top (EC50)."""
    slope: float
    bends: bool
    """Whether the half-way dose lies inside the doses and most of the rise was seen; else it would be guessed."""

    def at(self, doses: np.ndarray) -> np.ndarray:
        """Return the curve's values at doses, shape (doses,)."""
        return self.top * _shape(np.asarray(doses, dtype=float), self.half, self.slope)


def logistic(doses: Sequence[float], values: Sequence[float]) -> Logistic:
    """Return the three-parameter logistic in the logarithm of the dose, 0 at dose 0, that is nearest to the values.

    Args:
        doses: shape (doses,), rising, from 0 on; at least 4.
        values: shape (doses,).

    Raises:
        ValueError: there are fewer than 4 doses.
    """
    if len(doses) < 4:
        raise ValueError(f"a curve of three parameters needs 4 doses with 0, found {len(doses)}")
    return _Grid.of(doses).fitted(np.asarray([values], dtype=float))[0]


def _shape(doses: np.ndarray, half: float | np.ndarray, slope: float | np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", over="ignore"):
        return 1.0 / (1.0 + np.exp(-slope * (np.log(doses) - np.log(half))))


@dataclass(frozen=True)
class _Grid:
    """Curves of every half-way dose and slope that are tried, at some doses."""

    doses: np.ndarray
    halves: np.ndarray
    shapes: np.ndarray
    """Shape (halves, slopes, doses)."""

    @classmethod
    def of(cls, doses: Sequence[float]) -> _Grid:
        return cls._made(tuple(float(dose) for dose in doses))

    @classmethod
    @lru_cache(maxsize=4)
    def _made(cls, doses: tuple[float, ...]) -> _Grid:
        x = np.array([dose for dose in doses if dose > 0])
        halves = np.geomspace(x[0] / 3, x[-1] * 3, _BETWEEN * x.size)
        return cls(np.array(doses), halves, _shape(np.array(doses), halves[:, None, None], _SLOPES[None, :, None]))

    def misfit(self, values: np.ndarray) -> np.ndarray:
        """Return the sum of squares that the best top leaves, shape (curves, halves, slopes), of values (curves, doses)."""
        length = np.maximum(np.square(self.shapes).sum(-1), 1e-12)
        along = (values @ self.shapes.reshape(-1, self.doses.size).T).reshape(len(values), *length.shape)
        return np.maximum(np.square(values).sum(1)[:, None, None] - np.square(along) / length, 0.0)

    def fitted(self, values: np.ndarray) -> list[Logistic]:
        """Return the nearest curve to each row of values, shape (curves, doses)."""
        return [self._at(row, error) for row, error in zip(values, self.misfit(values), strict=True)]

    def _at(self, row: np.ndarray, error: np.ndarray) -> Logistic:
        place, slope = np.unravel_index(int(np.argmin(error)), error.shape)
        half, steepness = _lowest(self.halves, error.min(1), int(place)), float(_SLOPES[slope])
        shape = _shape(self.doses, half, steepness)
        top = float(shape @ row) / max(float(shape @ shape), 1e-12)
        seen, tried = float(shape[-1]), self.doses[self.doses > 0]
        return Logistic(top, half, steepness, bool(top != 0.0 and tried[0] <= half <= tried[-1] and seen >= SEEN))

    def as_good(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return between which half-way doses each row's curve can't be told apart, as logarithms, shape (curves,) each.

        A curve counts as well as the nearest where its sum of squares exceeds that one's by no more than one squared residual.
        Where the whole step lies between two doses of the grid, that is all between these two.
        """
        profile = self.misfit(values).min(2)
        least, spare = profile.min(1), max((values.shape[1] - 1 - 3) * values.shape[0], 1)
        bound = least + least.sum() / spare + 1e-6 * np.square(values).sum(1)
        step, ends = math.log(self.halves[1] / self.halves[0]), []
        for row, most in zip(profile, bound, strict=True):
            inside, at = row <= most, int(np.argmin(row))
            low = at - int(np.argmin(inside[at::-1])) if not inside[: at + 1].all() else -1
            high = at + int(np.argmin(inside[at:])) if not inside[at:].all() else inside.size
            ends.append((low, high))
        low, high = np.array(ends, dtype=float).T
        return math.log(self.halves[0]) + step * low, math.log(self.halves[0]) + step * high


def _lowest(halves: np.ndarray, profile: np.ndarray, place: int) -> float:
    """Return where a parabola through the smallest value and its two neighbours is lowest."""
    if not 0 < place < halves.size - 1:
        return float(halves[place])
    before, least, after = profile[place - 1 : place + 2]
    bend = before - 2 * least + after
    aside = 0.0 if bend <= 0 else float(np.clip((before - after) / (2 * bend), -0.5, 0.5))
    return float(halves[place] * (halves[1] / halves[0]) ** aside)


def half_dose(doses: Sequence[float], by_seed: Sequence[Sequence[Estimate]]) -> Estimate:
    """Return the dose at which half of the effect is there (EC50), with an interval over seeds and items.

    A curve is fitted to each seed. The t interval over their log half-way doses is widened by the items, which all seeds share
    (how far the half-way dose moves with each dose's own error), and by the grid: a step between two doses may be anywhere
    between them, so the interval always reaches from the one to the other. (A percentile bootstrap over three seeds holds the
    truth far too seldom.)

    Args:
        doses: shape (doses,), rising, from 0 on.
        by_seed: for each seed its change at every dose.
    """
    seeds = [one for one in by_seed if all(each.known for each in one)]
    if len(seeds) < 2:
        return unknown("examples", len(seeds), f"seeds with a value and its error at every dose: {len(seeds)}, 2 are needed")
    if len(doses) < 4:
        return unknown("examples", len(seeds), f"a curve of three parameters needs 4 doses with 0, there are {len(doses)}")
    values = np.array([[each.value for each in one] for one in seeds], dtype=float)
    grid = _Grid.of(doses)
    curves = grid.fitted(values)
    straight = sum(not one.bends for one in curves)
    if straight:
        return unknown(
            "examples", len(seeds), f"the curve of {straight} of {len(seeds)} seeds does not bend within these doses"
        )
    errors, clusters = _item_errors(seeds)

    def place(rows: np.ndarray) -> np.ndarray:
        return np.log([one.half for one in grid.fitted(rows)])

    items = float(np.mean([_moved(place, row, error) for row, error in zip(values, errors, strict=True)]))
    return _of_logs(*grid.as_good(values), items, clusters)


def _moved(place: Callable[[np.ndarray], np.ndarray], row: np.ndarray, errors: np.ndarray) -> float:
    """Return the error of a place on a curve from those of its values.

    How the errors at two doses go together is not known: the larger is taken of all at once and each by itself.

    Args:
        place: of curves, shape (curves, doses), where each has it.
        row: shape (doses,).
        errors: shape (doses,), standard errors.
    """
    steps = np.vstack([errors, np.diag(errors)])
    up, down = place(row + steps), place(row - steps)
    moved = (up - down) / 2
    return max(abs(float(moved[0])), math.hypot(*moved[1:]))


def _of_logs(low: np.ndarray, high: np.ndarray, items: float, clusters: int) -> Estimate:
    """Return the geometric mean of places that are known to lie between two ends each, shape (seeds,), as logarithms.

    Where in its range a seed's place lies counts as spread between seeds (that of an even distribution); the interval reaches
    at least over the ranges.
    """
    n, logs = low.size, (low + high) / 2
    centre, error = float(logs.mean()), math.sqrt((float(logs.var(ddof=1)) + float(np.square(high - low).mean()) / 12) / n)
    reach = math.hypot(quantile(0.975, n - 1) * error, quantile(0.975, max(clusters - 1, 1)) * items)
    ends = min(centre - reach, float(low.mean())), max(centre + reach, float(high.mean()))
    return Estimate(
        value=math.exp(centre),
        unit="examples",
        n=n,
        interval=(math.exp(ends[0]), math.exp(min(ends[1], 700.0))),
        method=f"log-scale t interval over {n} seeds, widened by the items they share and the doses that were tried",
    )


def _item_errors(seeds: Sequence[Sequence[Estimate]]) -> tuple[np.ndarray, int]:
    """Return the standard error over items of every value, shape (seeds, doses), and the fewest clusters of any of them."""
    clusters = min((each.n for one in seeds for each in one if each.interval is not None), default=2)
    return np.array(
        [
            [
                0.0
                if each.interval is None
                else (each.interval[1] - each.interval[0]) / 2 / quantile(0.975, max(each.n - 1, 1))
                for each in one
            ]
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


def later(doses: Sequence[float], values: Sequence[Sequence[Estimate]], reference: Sequence[Sequence[Estimate]]) -> Estimate:
    """Return how much later one quantity is half of what it becomes than another, in doublings of the dose, paired by seed.

    Each seed's curves go from 0 to what they are at the largest dose; where that is not told from no change over the seeds,
    half of it means nothing. Between two doses a curve can go any way: each half-way dose is uncertain by half their distance,
    times the share of the rise that falls between them.

    Args:
        doses: shape (doses,), rising, from 0 on.
        values: shape (seeds, doses), each with its interval over items.
        reference: shape (seeds, doses), of the quantity it is held against, the same seeds.
    """
    n = len(values)
    if n < 2:
        return unknown("doublings", n, f"{n} seed, 2 are needed")
    for what in (values, reference):
        last = [curve[-1] for curve in what]
        if two_level(last, last[0].unit).above(0.0) is None or len({(one.value or 0.0) > 0 for one in last}) > 1:
            return unknown("doublings", n, "its change at the largest dose is not told from none")
    return two_level(
        [
            joined([(1.0, _half_way(doses, own)), (-1.0, _half_way(doses, other))], "doublings")
            for own, other in zip(values, reference, strict=True)
        ],
        "doublings",
    )


def _half_way(doses: Sequence[float], curve: Sequence[Estimate]) -> Estimate:
    """Return at how many doublings from dose 1 a curve is half of its last value, with its interval over items and the grid."""
    row, (errors, clusters) = np.array([one.value or 0.0 for one in curve]), _item_errors([curve])

    def place(rows: np.ndarray) -> np.ndarray:
        found = (crossing_dose(doses, list(one / one[-1]), 0.5) for one in rows)
        return np.log2([1 + (dose or 0.0) for dose in found])

    where = float(place(row[None])[0])
    if lost := next((one.method for one in curve if not one.known), ""):
        return Estimate(value=where, unit="doublings", n=clusters, interval=None, method=lost)
    gap = int(np.clip(np.searchsorted(np.log2(1 + np.asarray(doses)), where), 1, len(doses) - 1))
    rise = float(np.clip((row[gap] - row[gap - 1]) / row[-1], 0.0, 1.0))
    between = rise * math.log2((1 + doses[gap]) / (1 + doses[gap - 1])) / 2
    reach = math.hypot(between, quantile(0.975, max(clusters - 1, 1)) * _moved(place, row, errors[0]))
    return Estimate(value=where, unit="doublings", n=clusters, interval=(where - reach, where + reach), method="straight lines")
