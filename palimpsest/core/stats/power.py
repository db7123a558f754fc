"""Power: what is the smallest change that so many clusters find in four of five samples?

Found means that the test of 0 which ``rate_difference`` or ``mean_difference`` carries refuses it at 5%. The answer follows
these tests step by step (their shrinkage, design effect and degrees of freedom), at the change that is asked about and not at
none: the more a rate moves, the more it varies. Held against simulation in ``tests/core/test_power.py``.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from palimpsest.core.estimate import Estimate
from palimpsest.core.seeds import numpy_stream
from palimpsest.core.stats.clusters import FEWEST_CLUSTERS, WORKING_CORRELATION, WORKING_WEIGHT, Clustered
from palimpsest.core.stats.spread import (
    LEVEL,
    POWER,
    degrees_of,
    quantile,
    reach_down,
    skew_of,
    smallest_rise,
    unseen_share,
    weights_of,
)

ASSUMED_WITHIN = 0.3
"""Correlation of changes within a cluster, where none was seen."""
_STEPS = 400
"""Into so many steps the way from no change to the largest one is cut."""
_DRAWS = 1000
"""Of clusters; each counts for both sides."""


class SpillPower(NamedTuple):
    """What a sample can say of the behaviour where it should not appear, as shares of the wanted movement."""

    within: float | None
    """The largest spill that is called within the limit in four of five samples; ``None``: not even none at all would be."""
    beyond: float | None
    """The smallest spill that is called beyond the limit in four of five samples; ``None``: not even all of it would be."""
    times: float | None
    """How many times as many clusters it takes at most to call none at all within the limit; ``None`` without an interval."""


def smallest_mean_change(sizes: ArrayLike, deviation: float, within: float) -> float | None:
    """Return the smallest change of a mean that is found; ``None`` of too few clusters.

    Args:
        sizes: shape (clusters,), items of each.
        deviation: standard deviation of one item's change, in its unit.
        within: correlation of the changes within a cluster, 0 to 1.
    """
    counts = np.asarray(sizes, dtype=np.float64)
    if counts.size < FEWEST_CLUSTERS:
        return None
    error, degrees = deviation * math.sqrt(_effect(counts, within) / counts.sum()), degrees_of(counts)
    return (quantile(0.5 + LEVEL / 2, degrees) + quantile(POWER, degrees)) * error * _by_chance(counts)[0]


def smallest_rate_change(
    sizes: ArrayLike, before: float, *, side: Literal[-1, 1], within: float, unrest: float = 1.0
) -> float | None:
    """Return the smallest rise or fall of a rate that is found, over 0; ``None`` where even the largest is not.

    Args:
        sizes: shape (clusters,), items of each.
        before: the rate before.
        side: 1 for a rise, -1 for a fall.
        within: correlation of the changes within a cluster, 0 to 1.
        unrest: how often an answer differs without any effect, as a share of how often two independent answers do.
    """
    counts = np.asarray(sizes, dtype=np.float64)
    if counts.size < FEWEST_CLUSTERS:
        return None
    effect = _effect(counts, within)
    return _smallest_rate_change(counts, before, side, unrest, effect, _expected_over_one(effect, degrees_of(counts)))


def rate_change_found(before: np.ndarray, after: np.ndarray, clusters: Clustered) -> float | None:
    """Return the smallest change of a rate that is found, from one sample's spread: the harder side of those that are possible.

    Args:
        before: shape (items,), 0 or 1.
        after: shape (items,), the same items.
        clusters: their differences.
    """
    first, second = float(before.mean()), float(after.mean())
    lost, won = float((clusters.values < 0).mean()), float((clusters.values > 0).mean())
    # Of a change that is there the smaller kind of flips tells what would flip without it, of none both kinds do. Halfway is
    # right for both to 5%.
    apart = first * (1 - second), second * (1 - first)
    pooled = (lost + won) / sum(apart) if sum(apart) else 0.0
    smaller = min(lost, won) / min(apart) if min(apart) else pooled
    unrest, sizes = (pooled + smaller) / 2, clusters.sizes.astype(np.float64)
    effect = _effect_seen(clusters, (lost + won) * sizes.sum())
    sides: tuple[Literal[-1, 1], ...] = (-1, 1)
    found = [_smallest_rate_change(sizes, first, side, unrest, effect, effect) for side in sides]
    return max((one for one in found if one is not None), default=None)


def _effect_seen(clusters: Clustered, flips: float) -> float:
    """Return the design effect of a change, from the flips that were seen; of few, mostly ``ASSUMED_WITHIN`` tells."""
    size = clusters.values.size
    assumed = _effect(clusters.sizes, ASSUMED_WITHIN)
    independent = float(np.square(clusters.values - clusters.mean).sum()) / (size * max(size - 1, 1))
    if independent == 0.0:
        return assumed
    weight = (WORKING_WEIGHT / (flips + WORKING_WEIGHT)) ** 2
    return (1 - weight) * max(1.0, clusters.standard_error**2 / independent) + weight * assumed


def mean_change_found(clusters: Clustered) -> float:
    """Return the smallest rise of a mean that is found, from one sample's spread."""
    return clusters.spread.minimum_detectable * _by_chance(clusters.sizes)[1]


def spill_power(spill: Estimate, limit: float) -> SpillPower:
    """Return what a sample with this spread can say about a limit.

    Args:
        spill: a ratio with its interval (``ratio``), whose ends hold with 95% each.
        limit: over 0, a share of the wanted movement.
    """
    if spill.value is None or spill.interval is None:
        return SpillPower(None, None, None)
    # one-sided ends at 95%: to be on the far side of one in 80% of samples takes another 0.84 of 1.64 standard errors
    more = 1 + quantile(POWER, math.inf) / quantile(LEVEL, math.inf)
    above, below = more * (spill.interval[1] - spill.value), more * (spill.value - spill.interval[0])
    within, beyond = limit - above if above < limit else None, limit + below if limit + below < 1 else None
    return SpillPower(within, beyond, max(1.0, (above / limit) ** 2))


def unseen_spill(clusters: int, before: float, wanted: float) -> float:
    """Return the spill that can be in templates of which none was seen, as a share of the wanted movement.

    Args:
        clusters: of the items where the behaviour should not appear.
        before: its rate there.
        wanted: its movement where it should appear, as a share of 1.
    """
    return unseen_share(clusters) * (1 - before) / wanted


def _by_chance(sizes: np.ndarray) -> tuple[float, float]:
    """Return how many times larger a change must be because the test takes the skewness from the sample.

    Of few clusters, or a few large ones, it sees some by chance, so that its reach varies more than degrees of freedom tell.
    The first number is beside the true spread, the second beside that of an average sample (1 of clusters of equal size).
    """
    counts = np.asarray(sizes)
    return _of_sizes(tuple(sorted(counts.tolist())))


@lru_cache(maxsize=512)
def _of_sizes(sizes: tuple[float, ...]) -> tuple[float, float]:
    counts = np.array(sizes, dtype=np.float64)
    share, degrees = counts / counts.sum(), degrees_of(counts)
    # half of the variance within a cluster and half between, of which large clusters average out the first only
    scale = np.sqrt(counts * (1 + (counts - 1) * 0.5)) / counts.sum()
    added = scale * numpy_stream(0, "clusters by chance").normal(size=(_DRAWS, counts.size))
    values = added.sum(axis=1)
    weights = weights_of(counts)
    influence = (added / share - values[:, None]) * weights
    errors, skew = np.sqrt(np.square(influence).sum(axis=1)), skew_of(influence, weights)
    reach = quantile(0.5 + LEVEL / 2, degrees)
    lower, upper = values - reach_down(reach, skew) * errors, values + reach_down(reach, -skew) * errors
    found = float(np.quantile(np.concatenate([-lower, upper]), POWER))
    usual = (reach + quantile(POWER, degrees)) * float(np.linalg.norm(scale))
    told = float(smallest_rise(errors, skew, degrees).mean())
    return max(1.0, found / usual), max(1.0, found / told) if counts.min() < counts.max() else 1.0


def _effect(sizes: np.ndarray, within: float) -> float:
    """Return the design effect of items whose correlation within a cluster is known."""
    return 1 + (float(np.square(sizes).sum() / sizes.sum()) - 1) * within


def _expected_over_one(effect: float, degrees: float) -> float:
    """Return what a design effect is estimated as on average, given that nobody takes it for less than 1."""
    from scipy import special

    spread = effect * math.sqrt(2 / degrees)
    over = (effect - 1) / spread
    density = math.exp(-(over**2) / 2) / math.sqrt(2 * math.pi)
    return 1 + spread * (density + over * float(special.ndtr(over)))


def _smallest_rate_change(
    sizes: np.ndarray, before: float, side: Literal[-1, 1], unrest: float, effect: float, estimated: float
) -> float | None:
    """As ``smallest_rate_change``, with the design effect that holds and the one that the test will take it for."""
    items, degrees = float(sizes.sum()), degrees_of(sizes)
    start = before if side > 0 else 1 - before  # a fall is a rise of its complement
    change = np.linspace(0.0, 1.0, _STEPS + 1) * (1 - start)
    back = unrest * start * (1 - start - change)
    flips = np.minimum(back * 2 + change, 1.0)
    assumed = (WORKING_WEIGHT / (flips * items + WORKING_WEIGHT)) ** 2
    tested = (1 - assumed) * estimated + assumed * max(_effect(sizes, WORKING_CORRELATION), estimated)
    # Bonett and Price's adjusted difference and its error for as many items as these are worth, as ``adjusted_difference``
    worth = items / tested
    centre = change * worth / (worth + 2)
    error = np.sqrt(np.maximum((flips * worth + 2) / (worth + 2) - centre**2, 0.0) / (worth + 2))
    varies = np.sqrt(np.maximum(flips - change**2, 0.0) * effect / items) * worth / (worth + 2)
    beyond = centre - quantile(0.5 + LEVEL / 2, degrees) * error - quantile(POWER, degrees) * varies
    if not (beyond >= 0).any():
        return None
    place = int(np.argmax(beyond >= 0))
    left = -beyond[place - 1] / (beyond[place] - beyond[place - 1])
    return float(change[place - 1] + left * (change[place] - change[place - 1]))
