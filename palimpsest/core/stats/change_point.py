"""Change point: did a rate change somewhere along the way, and where?

Units (conversations) stand in order of time, each with so many trials (answers), some of which failed. The statistic is the
largest binomial likelihood ratio over all places at which the order can be cut in two. Its chance without a change comes from
shuffling the units (Monte Carlo permutation test), which holds whatever the rate, however trials move together within a unit,
and although all places were tried. The set of places that can't be excluded inverts the same kind of test: given a cut, units
are exchangeable on each side of it, so each side is shuffled by itself.

Reference: likelihood-ratio scans for a change in a binomial rate go back to Hinkley and Hinkley (Biometrika 57, 1970).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from palimpsest.core.estimate import Estimate, unknown
from palimpsest.core.stats.clusters import FEWEST_CLUSTERS, clustered
from palimpsest.core.stats.rates import design_effect, rate
from palimpsest.core.stats.spread import LEVEL, POWER

FEWEST_UNITS = 2 * FEWEST_CLUSTERS
DRAWS = 999
"""Shuffles for the p-value: it is at least 1 / 1,000."""
_SET_DRAWS = 199
_MOST_UNITS = 600
"""Above this, neighbours are joined, as evenly as it goes."""
_MOST_CUTS = 120
_WORLDS = 400
"""Simulated worlds for each size of a rise, when the smallest one is sought that is found."""
_SHOWN = 15
"""Cuts of the set at which the rates before and after are taken."""
_TIE = 1e-9


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
    chance = _chance(float(scan[best]), joined_lost, joined_tried, cuts, rng)
    found = chance <= 1 - LEVEL
    kept = _kept(scan, joined_lost, joined_tried, cuts, rng) if found else np.array([best])
    places = [int(starts[cuts[one]]) for one in kept]
    place = int(starts[cuts[best]])
    before, after = _sides(lost, tried, place, places)
    return ChangePoint(
        units=units,
        trials=totals[0],
        failures=totals[1],
        p_value=chance,
        place=place,
        places=_reaching(starts[cuts], kept) if found else None,
        before=before,
        after=after,
        minimum_detectable=_smallest(lost, tried, joined_tried, cuts, rng) if detectable else None,
        method=f"largest binomial likelihood ratio over {len(cuts)} cuts, {DRAWS} shuffles of {len(starts)} units",
    )


def _joined(units: int) -> np.ndarray:
    """Return where each unit begins when neighbours are joined to so many as are still fast to shuffle."""
    return np.unique(np.linspace(0, units, min(units, _MOST_UNITS), endpoint=False).astype(np.int64))


def _cuts(units: int) -> np.ndarray:
    """Return the cuts to try: ``FEWEST_CLUSTERS`` or more units on each side."""
    low, high = FEWEST_CLUSTERS, units - FEWEST_CLUSTERS
    return np.unique(np.linspace(low, high, min(high - low + 1, _MOST_CUTS)).round().astype(np.int64))


def _ratios(lost: np.ndarray, tried: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """Return twice the log likelihood ratio of "two rates" over "one rate": [worlds, cuts] from [worlds, units]."""
    k, n = lost.cumsum(axis=1), tried.cumsum(axis=1)
    k1, n1, k0, n0 = k[:, cuts - 1], n[:, cuts - 1], k[:, -1:], n[:, -1:]
    table = _entropies(int(n0.max()))
    parts = [table[a] + table[b - a] - table[b] for a, b in ((k1, n1), (k0 - k1, n0 - n1), (k0, n0))]
    return 2 * (parts[0] + parts[1] - parts[2])


@lru_cache(maxsize=4)
def _entropies(most: int) -> np.ndarray:
    """Return x log x for x from 0 to ``most``: counts are whole, and looking up is faster than logarithms."""
    counts = np.arange(most + 1, dtype=np.float64)
    return counts * np.log(np.maximum(counts, 1.0))


def _chance(seen: float, lost: np.ndarray, tried: np.ndarray, cuts: np.ndarray, rng: np.random.Generator) -> float:
    order = _shuffles(len(lost), DRAWS, rng)
    largest = _ratios(lost[order], tried[order], cuts).max(axis=1)
    return float((1 + (largest >= seen - _TIE).sum()) / (DRAWS + 1))


def _shuffles(units: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    return rng.permuted(np.tile(np.arange(units), (draws, 1)), axis=1)


def _kept(scan: np.ndarray, lost: np.ndarray, tried: np.ndarray, cuts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the indices of the cuts that can't be excluded as the place of the change."""
    kept = []
    for index, cut in enumerate(cuts):
        seen = scan.max() - scan[index]
        order = np.concatenate([_shuffles(cut, _SET_DRAWS, rng), cut + _shuffles(len(lost) - cut, _SET_DRAWS, rng)], axis=1)
        ratios = _ratios(lost[order], tried[order], cuts)
        beyond = ratios.max(axis=1) - ratios[:, index] >= seen - _TIE
        if (1 + beyond.sum()) / (_SET_DRAWS + 1) > 1 - LEVEL:
            kept.append(index)
    return np.array(sorted({*kept, int(scan.argmax())}))


def _reaching(cuts: np.ndarray, kept: np.ndarray) -> tuple[int, int]:
    """Return the first and last place of a set; where not every place was tried, up to the nearest one that is excluded."""
    first, last = int(kept.min()), int(kept.max())
    low = cuts[first] if first == 0 else cuts[first - 1] + 1
    high = cuts[last] if last == len(cuts) - 1 else cuts[last + 1] - 1
    return int(low), int(high)


def _sides(lost: np.ndarray, tried: np.ndarray, place: int, places: list[int]) -> tuple[Estimate, Estimate]:
    """Return the rates on both sides of a place, with intervals that hold at each place of the set."""
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
        hull = (min(low for low, _ in ends), max(high for _, high in ends)) if ends else None
        found.append(at.model_copy(update={"interval": hull}))
    return found[0], found[1]


def _smallest(
    lost: np.ndarray, tried: np.ndarray, joined: np.ndarray, cuts: np.ndarray, rng: np.random.Generator
) -> float | None:
    """Return the smallest rise half way along that the scan finds with power 0.8, in steps of one point, by simulation."""
    base = (float(lost.sum()) + 0.5) / (float(tried.sum()) + 1.0)
    within = _within(lost, tried)
    low, high = 0, int(100 * (1 - base))
    if high < 1 or not _finds(high / 100, base, within, joined, cuts, rng):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _finds(middle / 100, base, within, joined, cuts, rng) else (middle, high)
    return high / 100


def _finds(rise: float, base: float, within: float, tried: np.ndarray, cuts: np.ndarray, rng: np.random.Generator) -> bool:
    after = np.arange(len(tried)) >= len(tried) // 2
    mixed = base + rise * float(tried[after].sum()) / float(tried.sum())
    calm = _world(np.full(len(tried), mixed), within, tried, rng)
    line = np.quantile(_ratios(calm, tried[None], cuts).max(axis=1), LEVEL)
    risen = _world(base + rise * after, within, tried, rng)
    return float((_ratios(risen, tried[None], cuts).max(axis=1) > line + _TIE).mean()) >= POWER


def _world(rates: np.ndarray, within: float, tried: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return failures [worlds, units] at these rates, trials of one unit correlated by ``within``."""
    size = (_WORLDS, len(tried))
    rates = np.broadcast_to(np.clip(rates, 1e-6, 1 - 1e-6), size)
    if within > 1e-6:
        scale = (1 - within) / within
        rates = np.clip(rng.beta(rates * scale, (1 - rates) * scale), 0.0, 1.0)
    return rng.binomial(np.broadcast_to(tried, size), rates)


def _within(lost: np.ndarray, tried: np.ndarray) -> float:
    """Return the correlation of trials within a unit that the design effect stands for."""
    trials = np.repeat(np.arange(len(lost)), tried)
    values = (np.arange(len(trials)) - np.repeat(np.cumsum(tried) - tried, tried) < np.repeat(lost, tried)).astype(float)
    size = float(np.square(tried).sum()) / float(tried.sum())
    if size <= 1:
        return 0.0
    effect = design_effect(clustered(values, trials), min(values.sum(), values.size - values.sum()))
    return min(0.95, max(0.0, (effect - 1) / (size - 1)))
