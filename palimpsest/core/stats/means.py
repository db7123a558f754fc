"""Means: how large is a quantity, and by how much did it move?"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from palimpsest.core.estimate import Estimate
from palimpsest.core.stats.clusters import FEWEST_CLUSTERS, FEWEST_THAT_DIFFER, Clustered, clustered, differences
from palimpsest.core.stats.power import mean_change_found
from palimpsest.core.stats.spread import ONE_IN, needed_clusters, needed_to_exclude, within

SEEN_IF_THERE = needed_clusters(1 / ONE_IN)
NO_SPREAD = "could not say: every item has the same value, so that its spread is not known"


def mean(values: ArrayLike, clusters: ArrayLike, *, unit: str, margin: float | None = None) -> Estimate:
    """Return the mean over items with an interval over clusters.

    Args:
        values: shape (items,), finite.
        clusters: shape (items,), the label of each item's cluster.
        unit: of the values.
        margin: equivalence margin around 0, in the same unit.
    """
    data = clustered(values, clusters)
    return _of_mean(data, unit, margin, "skewness-aware CR2 interval over {} clusters", "0 on every item")


def level(values: ArrayLike, clusters: ArrayLike, *, unit: str) -> Estimate:
    """Return a mean that nobody holds against 0: a loss, a probability. As ``mean``, without the test, inside its range."""
    found = mean(values, clusters, unit=unit)
    return found.model_copy(update={"p_value": None, "minimum_detectable": None, "interval": within(found.interval, unit)})


def mean_difference(
    before: ArrayLike, after: ArrayLike, clusters: ArrayLike, *, unit: str, margin: float | None = None, same: bool = False
) -> Estimate:
    """Return the mean of after - before, paired by item, with an interval over clusters.

    When no item differs at all, and clusters are enough to have seen one that does or both sides are known to be the same, the
    interval is (0, 0), p is 1 and the method says that they are identical.

    Args:
        before: shape (items,), finite.
        after: shape (items,), the same items in the same order.
        clusters: shape (items,), the label of each item's cluster.
        unit: of the difference.
        margin: equivalence margin, in the same unit.
        same: whether both sides are known to come from one function by more than these values (all else that was read of them
            is the same to the last bit); then no difference is none, whatever the values.
    """
    moved = clustered(differences(before, after), clusters)
    return _of_mean(moved, unit, margin, "paired skewness-aware CR2 interval over {} clusters", "identical on every item", same)


def positive_mean(values: ArrayLike, clusters: ArrayLike, *, unit: str, computed: bool = False) -> Estimate:
    """Return the mean of a quantity that can't be below 0, with an interval on the log scale that respects this.

    It has no p-value: that such a mean is above 0 is no finding (see ``against_noise_floor``).

    Args:
        values: shape (items,), none below 0.
        clusters: shape (items,), the label of each item's cluster.
        unit: of the values.
        computed: whether they are distances between what two models compute, which are 0 to the last bit on every item only
            where both compute the same.

    Raises:
        ValueError: a value is below 0.
    """
    _check_distances(values)
    data = clustered(values, clusters)
    if not data.values.any() and data.count >= (FEWEST_CLUSTERS if computed else SEEN_IF_THERE):
        return Estimate(value=0.0, unit=unit, n=data.count, interval=(0.0, 0.0), method="0 on every item")
    if (why := _without_interval(data)) is not None:
        return Estimate(value=data.mean, unit=unit, n=data.count, interval=None, method=why)
    low, high = data.around()
    return Estimate(
        value=data.mean,
        unit=unit,
        n=data.count,
        interval=(max(0.0, low), high),
        method=f"the wider of log-scale t and skewness-aware CR2 intervals over {data.count} clusters",
    )


def _of_mean(data: Clustered, unit: str, margin: float | None, method: str, all_zero: str, same: bool = False) -> Estimate:
    """Return the mean; of few clusters, that all are 0 may be chance, unless it is known that they are (``same``)."""
    known: dict[str, Any] = {"unit": unit, "n": data.count, "margin": margin}
    if not data.values.any() and data.enough and (same or data.count >= SEEN_IF_THERE):
        inside, worse = (None, None) if margin is None else (True, 1.0)
        return Estimate(value=0.0, interval=(0.0, 0.0), method=all_zero, p_value=1.0, equivalent=inside, p_worse=worse, **known)
    if (why := _without_interval(data)) is not None:
        return Estimate(value=data.mean, interval=None, method=why, **known)
    spread = data.spread
    return Estimate(
        value=data.mean,
        interval=data.around(),
        method=method.format(data.count),
        p_value=spread.p_value,
        minimum_detectable=mean_change_found(data),
        equivalent=None if margin is None else data.count >= needed_to_exclude(margin, unit) and data.inside(margin),
        p_worse=None if margin is None else spread.over(margin),
        **known,
    )


def _without_interval(data: Clustered) -> str | None:
    """Return why no interval can be given."""
    if not data.enough:
        return data.too_few
    if not data.values.any():
        return f"could not say: 0 on each of {data.count} clusters; {SEEN_IF_THERE} are needed to see what 1 in {ONE_IN} has"
    if data.standard_error == 0.0:
        return NO_SPREAD
    if data.differing < FEWEST_THAT_DIFFER:
        needed = math.ceil(data.count * FEWEST_THAT_DIFFER / data.differing)
        return f"could not say: {data.differing} of {data.count} clusters differ from the rest, about {needed} are needed"
    return None


def _check_distances(values: ArrayLike) -> None:
    lowest = float(np.min(np.asarray(values, dtype=np.float64), initial=0.0))
    if lowest < 0:
        raise ValueError(f"a distance can't be below 0, found {lowest}")
