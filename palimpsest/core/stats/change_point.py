"""Change point: did a rate change somewhere along the way, and where?

Units (conversations) stand in order of time, each with so many trials (answers), some of which failed. Neighbours may fail
alike without any change. So the statistic is the largest likelihood ratio, over all places at which the order can be cut in
two, of two levels over one, where each unit also leans on the one before it (a regression on its predecessor). Its chance
without a change comes from shuffling blocks of neighbours (Monte Carlo permutation test), which holds whatever the rate,
however trials move together within a unit, and although all places were tried. The blocks are as long as the correlation of
neighbours asks for, of what the best cut leaves over; and where units are worth too few independent ones, nothing is said. The
set of places that can't be excluded inverts the same kind of test: given a cut, each side is shuffled by itself.

References: scans for a change in a binomial rate go back to Hinkley and Hinkley (Biometrika 57, 1970); block permutation under
dependence: Kirch (Journal of Time Series Analysis 28, 2007). Measured by tests/core/test_change_point.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from palimpsest.core.estimate import Estimate, unknown
from palimpsest.core.stats.clusters import FEWEST_CLUSTERS, clustered
from palimpsest.core.stats.rates import design_effect, rate
from palimpsest.core.stats.spread import LEVEL, POWER

FEWEST_UNITS = 2 * FEWEST_CLUSTERS
DRAWS = 999
"""Shuffles for the p-value: it is at least 1 / 1,000."""
_SET_DRAWS = 99
_MOST_UNITS = 600
"""Above this, neighbours are joined, as evenly as it goes."""
_MOST_CUTS = 120
_WORLDS = 400
"""Simulated worlds for each size of a rise, when the smallest one is sought that is found."""
_SHOWN = 15
"""Cuts of the set at which the rates before and after are taken."""
_TIE = 1e-9
FEWEST_EFFECTIVE = 20.0
"""So many independent units the units must be worth where neighbours fail alike; half of them, where they are under 40."""
_MISSED = 0.1
"""Share of the long-run variance that blocks may cut off at their ends."""
_MOST_CORRELATION = 0.97


@dataclass(frozen=True)
class ChangePoint:
    """Whether a rate changed. Places count the units before the cut."""

    units: int
    trials: int
    failures: int
    p_value: float | None
    """Of "the same rate all along"; ``None`` with too few units."""
    place: int | None
    """Where the likelihood ratio is largest, whether or not there is a change."""
    places: tuple[int, int] | None
    """First and last place that can't be excluded at 95%, given that there is one change."""
    before: Estimate
    after: Estimate
    """Rates at ``place``; the intervals hold for every place of the set at once, so that having picked it does no harm."""
    minimum_detectable: float | None
    """Smallest rise, half way along, that is found with power 0.8, as a share of 1; ``None`` where none would be."""
    method: str

    @property
    def rose(self) -> bool | None:
        """Whether the rate after is the higher one; ``None`` with too few units."""
        if self.place is None or self.before.value is None or self.after.value is None:
            return None
        return self.after.value > self.before.value


def change_point(failures: ArrayLike, trials: ArrayLike, rng: np.random.Generator, *, detectable: bool = True) -> ChangePoint:
    """Look for one change of a rate.

    Args:
        failures: shape (units,), in order of time.
        trials: shape (units,), over 0.
        rng: for shuffles.
        detectable: whether to simulate how small a rise would be found, which takes most of the time.

    Raises:
        ValueError: shapes differ, or a unit has more failures than trials, or no trial.
    """
    lost, tried = np.asarray(failures, dtype=np.int64), np.asarray(trials, dtype=np.int64)
    if lost.shape != tried.shape or lost.ndim != 1 or (tried < 1).any() or (lost < 0).any() or (lost > tried).any():
        raise ValueError("each unit must have a trial or more, and no more failures than trials")
    units, totals = len(lost), (int(tried.sum()), int(lost.sum()))
    if units < FEWEST_UNITS:
        why = f"{units} conversations, {FEWEST_UNITS} are needed"
        nothing = unknown("share", units, why)
        return ChangePoint(units, *totals, None, None, None, nothing, nothing, None, f"could not say: {why}")
    starts = _joined(units)
    joined_lost, joined_tried = np.add.reduceat(lost, starts), np.add.reduceat(tried, starts)
    cuts = _cuts(len(starts))
    scan = _ratios(joined_lost[None], joined_tried[None], cuts)[0]
    best = int(scan.argmax())
    alike = Alike.of(joined_lost, joined_tried, int(cuts[best]))
    needed = min(FEWEST_EFFECTIVE, len(starts) / 2)
    if len(starts) / alike.worth < needed:
        why = (
            f"neighbouring conversations fail alike (correlation {alike.correlation:.2f}), so {units} of them are worth about "
            f"{len(starts) / alike.worth:.0f} independent ones; {needed:.0f} are needed"
        )
        nothing = unknown("share", units, why)
        return ChangePoint(units, *totals, None, None, None, nothing, nothing, None, f"could not say: {why}")
    chance = _chance(float(scan[best]), joined_lost, joined_tried, cuts, alike, rng)
    found = chance <= 1 - LEVEL
    kept = _kept(scan, joined_lost, joined_tried, cuts, alike, rng) if found else np.array([best])
    places = [int(starts[cuts[one]]) for one in kept]
    place = int(starts[cuts[best]])
    before, after = _sides(lost, tried, place, places, alike.worth)
    return ChangePoint(
        units=units,
        trials=totals[0],
        failures=totals[1],
        p_value=chance,
        place=place,
        places=_reaching(starts[cuts], kept) if found else None,
        before=before,
        after=after,
        minimum_detectable=_smallest(lost, tried, joined_tried, cuts, alike, rng) if detectable else None,
        method=f"largest likelihood ratio over {len(cuts)} cuts, each unit leaning on the one before; {DRAWS} shuffles of "
        f"{len(starts)} units in blocks of {alike.block} (correlation of neighbours {alike.correlation:.2f})",
    )


@dataclass(frozen=True)
class Alike:
    """How much neighbouring units fail alike, whatever changed between them."""

    correlation: float
    """Of neighbours, 0 or more."""
    units: int

    @property
    def worth(self) -> float:
        """How many units are worth one independent one, for a mean: the long-run variance over that of single units."""
        return (1 + self.correlation) / (1 - self.correlation)

    @property
    def block(self) -> int:
        """Units in a block: blocks keep all but ``_MISSED`` of the long-run variance, but ``FEWEST_CLUSTERS`` are left."""
        wanted = math.ceil(2 * self.correlation / ((1 - self.correlation**2) * _MISSED))
        return max(1, min(wanted, self.units // FEWEST_CLUSTERS))

    @staticmethod
    def of(lost: np.ndarray, tried: np.ndarray, cut: int) -> Alike:
        """Return it from what is left over when each side of a cut has its own rate.

        A correlation about fitted levels is too small by about (1 + 3 correlation) / units for each level (Kendall 1954); two
        were fitted, and this is undone.
        """
        side, units = np.arange(len(lost)) >= cut, len(lost)
        rates = np.where(side, lost[side].sum() / tried[side].sum(), lost[~side].sum() / tried[~side].sum())
        rest = lost - tried * rates
        spread = float(np.square(rest).sum())
        if spread <= _TIE:
            return Alike(0.0, units)
        seen = float((rest[1:] * rest[:-1]).sum()) / spread
        return Alike(min(max(0.0, (seen + 2 / units) / (1 - 6 / units)), _MOST_CORRELATION), units)


def _joined(units: int) -> np.ndarray:
    """Return where each unit begins when neighbours are joined to so many as are still fast to shuffle."""
    return np.unique(np.linspace(0, units, min(units, _MOST_UNITS), endpoint=False).astype(np.int64))


def _cuts(units: int) -> np.ndarray:
    """Return the cuts to try: ``FEWEST_CLUSTERS`` or more units on each side."""
    low, high = FEWEST_CLUSTERS, units - FEWEST_CLUSTERS
    return np.unique(np.linspace(low, high, min(high - low + 1, _MOST_CUTS)).round().astype(np.int64))


def _ratios(lost: np.ndarray, tried: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """Return twice the log likelihood ratio of "two levels" over "one level": [worlds, cuts] from [worlds, units].

    Least squares of each unit's standardised failures, weighted by its trials, on a level, the unit before, and a step at the
    cut; all by cumulated sums (Frisch and Waugh).
    """
    rate = lost.sum(axis=1, keepdims=True) / tried.sum(axis=1, keepdims=True)
    root = np.sqrt(tried)
    z = (lost - tried * rate) / (root * np.sqrt(np.maximum(rate * (1 - rate), _TIE)))
    level, former, own = root[:, 1:], z[:, :-1], z[:, 1:]
    whole = np.square(level).sum(axis=1, keepdims=True)
    former, own = (one - level * ((one * level).sum(axis=1, keepdims=True) / whole) for one in (former, own))
    lag = np.maximum(np.square(former).sum(axis=1, keepdims=True), _TIE)
    rest = own - former * ((own * former).sum(axis=1, keepdims=True) / lag)
    left = np.maximum(np.square(rest).sum(axis=1, keepdims=True), _TIE)
    at = cuts - 2  # the last one before the cut, among the units that have one before them
    part, slope, gain = (np.cumsum(level * one, axis=1)[:, at] for one in (level, former, rest))
    norm = part - np.square(part) / whole - np.square(slope) / lag
    share = np.square(gain) / (np.maximum(norm, _TIE) * left)
    return -own.shape[1] * np.log(np.maximum(1 - share, _TIE))


def _chance(
    seen: float, lost: np.ndarray, tried: np.ndarray, cuts: np.ndarray, alike: Alike, rng: np.random.Generator
) -> float:
    """Return the chance of so large a ratio without a change.

    Shuffling breaks the correlation at the ends of blocks, and the correlation is itself only estimated, so the chance is
    multiplied by what one independent unit is worth; 1 where neighbours do not fail alike.
    """
    order = _shuffles(len(lost), DRAWS, alike.block, rng)
    largest = _ratios(lost[order], tried[order], cuts).max(axis=1)
    return min(1.0, alike.worth * float((1 + (largest >= seen - _TIE * max(1.0, seen)).sum()) / (DRAWS + 1)))


def _shuffles(units: int, draws: int, block: int, rng: np.random.Generator) -> np.ndarray:
    """Return orders [draws, units] in which blocks of neighbours (of ``block`` units or a little more) are shuffled."""
    if block == 1:
        return rng.permuted(np.tile(np.arange(units), (draws, 1)), axis=1)
    edges = np.linspace(0, units, max(1, units // block) + 1).astype(np.int64)
    ranks = rng.permuted(np.tile(np.arange(len(edges) - 1, dtype=np.int16), (draws, 1)), axis=1)
    return np.repeat(ranks, np.diff(edges), axis=1).argsort(axis=1, kind="stable")


def _kept(
    scan: np.ndarray, lost: np.ndarray, tried: np.ndarray, cuts: np.ndarray, alike: Alike, rng: np.random.Generator
) -> np.ndarray:
    """Return the indices of the cuts that can't be excluded as the place of the change."""
    kept, block = [], alike.block
    for index, cut in enumerate(cuts):
        seen = scan.max() - scan[index]
        sides = (_shuffles(cut, _SET_DRAWS, block, rng), cut + _shuffles(len(lost) - cut, _SET_DRAWS, block, rng))
        order = np.concatenate(sides, axis=1)
        ratios = _ratios(lost[order], tried[order], cuts)
        beyond = ratios.max(axis=1) - ratios[:, index] >= seen - _TIE * max(1.0, seen)
        if alike.worth * (1 + beyond.sum()) / (_SET_DRAWS + 1) > 1 - LEVEL:
            kept.append(index)
    return np.array(sorted({*kept, int(scan.argmax())}))


def _reaching(cuts: np.ndarray, kept: np.ndarray) -> tuple[int, int]:
    """Return the first and last place of a set; where not every place was tried, up to the nearest one that is excluded."""
    first, last = int(kept.min()), int(kept.max())
    low = cuts[first] if first == 0 else cuts[first - 1] + 1
    high = cuts[last] if last == len(cuts) - 1 else cuts[last + 1] - 1
    return int(low), int(high)


def _sides(lost: np.ndarray, tried: np.ndarray, place: int, places: list[int], worth: float) -> tuple[Estimate, Estimate]:
    """Return the rates on both sides of a place, with intervals that hold at each place of the set.

    Units that fail alike tell less: each interval is that of so many fewer trials as ``worth`` says.
    """
    trials = np.repeat(np.arange(len(lost)), tried)
    values = (np.arange(len(trials)) - np.repeat(np.cumsum(tried) - tried, tried) < np.repeat(lost, tried)).astype(float)
    some = {places[one] for one in np.linspace(0, len(places) - 1, min(_SHOWN, len(places))).round().astype(int)}
    found = []
    for side in (trials < place, trials >= place):
        at = rate(values[side], trials[side])
        ends = [at.interval] if at.interval else []
        for cut in some - {place}:
            other = trials < cut if side[0] else trials >= cut
            if (interval := rate(values[other], trials[other]).interval) is not None:
                ends.append(interval)
        ends = [_widened(interval, worth) for interval in ends]
        hull = (min(low for low, _ in ends), max(high for _, high in ends)) if ends else None
        found.append(at.model_copy(update={"interval": hull}))
    return found[0], found[1]


def _widened(interval: tuple[float, float], worth: float) -> tuple[float, float]:
    """Return Wilson's interval with ``worth`` times fewer trials than one has.

    Its ends solve (p - x)^2 = k x (1 - x), where k falls with the trials; both p and k can be read from the ends.
    """
    low, high = interval
    if worth == 1 or not 0 < high - low < 1:
        return interval
    inner, outer = math.sqrt(low * high), math.sqrt((1 - low) * (1 - high))
    rate = inner / (inner + outer)
    k = worth * (1 / (inner + outer) ** 2 - 1)
    reach = math.sqrt(k * rate * (1 - rate) + k * k / 4)
    return (rate + k / 2 - reach) / (1 + k), (rate + k / 2 + reach) / (1 + k)


def _smallest(
    lost: np.ndarray, tried: np.ndarray, joined: np.ndarray, cuts: np.ndarray, alike: Alike, rng: np.random.Generator
) -> float | None:
    """Return the smallest rise half way along that the scan finds with power 0.8, in steps of one point, by simulation."""
    base = (float(lost.sum()) + 0.5) / (float(tried.sum()) + 1.0)
    within = _within(lost, tried)
    low, high = 0, int(100 * (1 - base))
    if high < 1 or not _finds(high / 100, base, within, joined, cuts, alike, rng):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _finds(middle / 100, base, within, joined, cuts, alike, rng) else (middle, high)
    return high / 100


def _finds(
    rise: float, base: float, within: float, tried: np.ndarray, cuts: np.ndarray, alike: Alike, rng: np.random.Generator
) -> bool:
    after = np.arange(len(tried)) >= len(tried) // 2
    mixed = base + rise * float(tried[after].sum()) / float(tried.sum())
    calm = _world(np.full(len(tried), mixed), within, tried, alike, rng)
    order = _shuffles(len(tried), len(calm), alike.block, rng)
    shuffled = _ratios(np.take_along_axis(calm, order, axis=1), tried[order], cuts)
    line = np.quantile(shuffled.max(axis=1), 1 - (1 - LEVEL) / alike.worth)
    risen = _world(base + rise * after, within, tried, alike, rng)
    largest = _ratios(risen, np.broadcast_to(tried, risen.shape), cuts).max(axis=1)
    return float((largest > line + _TIE * max(1.0, line)).mean()) >= POWER


def _world(rates: np.ndarray, within: float, tried: np.ndarray, alike: Alike, rng: np.random.Generator) -> np.ndarray:
    """Return failures [worlds, units] at these rates, trials of one unit correlated by ``within``.

    A unit does as the one before with probability ``alike.correlation``, but not across a change of the rate.
    """
    size = (_WORLDS, len(tried))
    change = np.flatnonzero(np.diff(rates)) + 1
    rates = np.broadcast_to(np.clip(rates, 1e-6, 1 - 1e-6), size)
    if within > 1e-6:
        scale = (1 - within) / within
        rates = np.clip(rng.beta(rates * scale, (1 - rates) * scale), 0.0, 1.0)
    lost = rng.binomial(np.broadcast_to(tried, size), rates)
    if not alike.correlation:
        return lost
    own = rng.random(size) >= alike.correlation
    own[:, [0, *change]] = True
    like = np.maximum.accumulate(np.where(own, np.arange(len(tried)), 0), axis=1)
    share = np.take_along_axis(lost, like, axis=1) / tried[like]
    return np.where(own, lost, np.floor(share * tried + rng.random(size) * (1 - 1e-9)).astype(np.int64))


def _within(lost: np.ndarray, tried: np.ndarray) -> float:
    """Return the correlation of trials within a unit that the design effect stands for."""
    trials = np.repeat(np.arange(len(lost)), tried)
    values = (np.arange(len(trials)) - np.repeat(np.cumsum(tried) - tried, tried) < np.repeat(lost, tried)).astype(float)
    size = float(np.square(tried).sum()) / float(tried.sum())
    if size <= 1:
        return 0.0
    effect = design_effect(clustered(values, trials), min(values.sum(), values.size - values.sum()))
    return min(0.95, max(0.0, (effect - 1) / (size - 1)))
