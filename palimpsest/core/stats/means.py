"""Means: how large is a quantity, and by how much did it move?"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from palimpsest.core.estimate import Estimate
from palimpsest.core.stats.clusters import (
    Clustered,
    around,
    clustered,
    differences,
    equivalent,
    minimum_detectable,
    two_sided,
    within,
)

NO_SPREAD = "could not say: every item has the same value, so that its spread is not known"


def mean(values: ArrayLike, clusters: ArrayLike, *, unit: str, margin: float | None = None) -> Estimate:
    """Return the mean over items with an interval over clusters.

    Args:
        values: shape (items,), finite.
        clusters: shape (items,), the label of each item's cluster.
        unit: of the values.
        margin: equivalence margin around 0, in the same unit.
    """
    return _of_mean(clustered(values, clusters), unit, margin, "CR2 t interval over {} clusters", "0 on every item")


def level(values: ArrayLike, clusters: ArrayLike, *, unit: str) -> Estimate:
    """Return a mean that nobody holds against 0: a loss, a probability. As ``mean``, without the test, inside its range."""
    found = mean(values, clusters, unit=unit)
    return found.model_copy(update={"p_value": None, "minimum_detectable": None, "interval": within(found.interval, unit)})


def mean_difference(
    before: ArrayLike, after: ArrayLike, clusters: ArrayLike, *, unit: str, margin: float | None = None
) -> Estimate:
    """Return the mean of after - before, paired by item, with an interval over clusters.

    When no item differs at all, the interval is (0, 0), p is 1 and the method says that both are identical.

    Args:
        before: shape (items,), finite.
        after: shape (items,), the same items in the same order.
        clusters: shape (items,), the label of each item's cluster.
        unit: of the difference.
        margin: equivalence margin, in the same unit.
    """
    moved = clustered(differences(before, after), clusters)
    return _of_mean(moved, unit, margin, "paired CR2 t interval over {} clusters", "identical on every item")


def positive_mean(values: ArrayLike, clusters: ArrayLike, *, unit: str) -> Estimate:
    """Return the mean of a quantity that can't be below 0, with an interval on the log scale that respects this.

    It has no p-value: that such a mean is above 0 is no finding (see ``against_noise_floor``).

    Args:
        values: shape (items,), none below 0.
        clusters: shape (items,), the label of each item's cluster.
        unit: of the values.

    Raises:
        ValueError: a value is below 0.
    """
    _check_distances(values)
    data = clustered(values, clusters)
    if not data.enough:
        return Estimate(value=data.mean, unit=unit, n=data.count, interval=None, method=data.too_few)
    if data.mean == 0.0:
        return Estimate(value=0.0, unit=unit, n=data.count, interval=(0.0, 0.0), method="0 on every item")
    if data.standard_error == 0.0:
        return Estimate(value=data.mean, unit=unit, n=data.count, interval=None, method=NO_SPREAD)
    low, high = around(math.log(data.mean), data.standard_error / data.mean, data.degrees)
    return Estimate(
        value=data.mean,
        unit=unit,
        n=data.count,
        interval=(math.exp(low), math.exp(high)),
        method=f"log-scale CR2 t interval over {data.count} clusters",
    )


def _of_mean(data: Clustered, unit: str, margin: float | None, method: str, when_zero: str) -> Estimate:
    value, error, degrees, n = data.mean, data.standard_error, data.degrees, data.count
    if not data.enough:
        return Estimate(value=value, unit=unit, n=n, interval=None, method=data.too_few, margin=margin)
    if not data.values.any():
        same = equivalent(0.0, 0.0, degrees, margin)
        return Estimate(
            value=0.0, unit=unit, n=n, interval=(0.0, 0.0), method=when_zero, p_value=1.0, margin=margin, equivalent=same
        )
    if error == 0.0:
        return Estimate(value=value, unit=unit, n=n, interval=None, method=NO_SPREAD, margin=margin)
    return Estimate(
        value=value,
        unit=unit,
        n=n,
        interval=around(value, error, degrees),
        method=method.format(n),
        p_value=two_sided(value / error, degrees),
        minimum_detectable=minimum_detectable(error, degrees),
        margin=margin,
        equivalent=equivalent(value, error, degrees, margin),
    )


def _check_distances(values: ArrayLike) -> None:
    lowest = float(np.min(np.asarray(values, dtype=np.float64), initial=0.0))
    if lowest < 0:
        raise ValueError(f"a distance can't be below 0, found {lowest}")
