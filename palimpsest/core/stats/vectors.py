"""Vectors: do the items move in one direction, how far, and in how many directions altogether?

The length of a mean of noisy vectors is too large: noise adds to it whatever its direction. So nothing here takes the length of
a mean. Products of two items from different clusters have no such noise (their expectation is the squared length of the true
mean), and all quantities are ratios of sums of such products. Intervals are delete-one-cluster jackknives.
"""

from __future__ import annotations

import math
from copy import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from palimpsest.core.estimate import Estimate, unknown
from palimpsest.core.stats.clusters import FEWEST_CLUSTERS, together
from palimpsest.core.stats.spread import ROUNDING, Spread, around, degrees_of, minimum_detectable


@dataclass(frozen=True)
class Jackknifed:
    """A number, and what it would be without each cluster [clusters]; arithmetic on such pairs keeps both in step."""

    value: float
    without: np.ndarray
    degrees: float

    def minus(self, other: Jackknifed) -> Jackknifed:
        """Return the difference of two numbers over the same clusters."""
        return Jackknifed(self.value - other.value, self.without - other.without, min(self.degrees, other.degrees))

    def root(self) -> Jackknifed:
        """Return the square root, 0 of what is below 0."""
        return Jackknifed(_root(self.value), np.sqrt(np.maximum(self.without, 0.0)), self.degrees)

    @property
    def clear(self) -> bool:
        """Whether it is above 0 by more than its own doubt."""
        return self.value > 3 * self.error and bool((self.without > 0).all())

    @property
    def error(self) -> float:
        """Standard error, 0 where there is no spread beyond rounding."""
        error = self.spread.error
        return error if error > ROUNDING * float(np.abs(self.without).max()) else 0.0

    @property
    def spread(self) -> Spread:
        """The number with its error; what it would be without a cluster lies on the other side than the cluster."""
        count = len(self.without)
        return Spread(self.value, math.sqrt((count - 1) / count) * (self.without.mean() - self.without), self.degrees)


class Cloud:
    """Vectors of several layers, summed up by cluster.

    Args:
        vectors: shape (layers, items, width).
        clusters: shape (items,), the label of each item's cluster.
    """

    def __init__(self, vectors: np.ndarray, clusters: ArrayLike) -> None:
        _, codes = np.unique(np.asarray(clusters), return_inverse=True)
        order = np.argsort(codes, kind="stable")
        self.sizes = np.bincount(codes)
        self.order, self.starts = order, np.concatenate([[0], np.cumsum(self.sizes)[:-1]])
        self.vectors = vectors[:, order].astype(np.float64)
        self.products = self.vectors @ self.vectors.swapaxes(1, 2)
        self.squared = np.diagonal(self.products, axis1=1, axis2=2)
        self.degrees = degrees_of(self.sizes)

    def at(self, layers: slice | list[int]) -> Cloud:
        """Return the same items at some of the layers."""
        chosen = copy(self)
        chosen.vectors, chosen.products, chosen.squared = self.vectors[layers], self.products[layers], self.squared[layers]
        return chosen

    @property
    def count(self) -> int:
        return len(self.sizes)

    def between(self, products: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean over pairs of items of different clusters [layers], and without each cluster [layers, clusters]."""
        sums = np.add.reduceat(np.add.reduceat(products, self.starts, axis=1), self.starts, axis=2)
        sizes = np.outer(self.sizes, self.sizes)[None].astype(float)
        with np.errstate(invalid="ignore", divide="ignore"):  # two clusters have no pair without one of them
            return _off_diagonal(sums) / _off_diagonal(sizes), _left_out(sums) / _left_out(sizes)

    def level(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean over items of values [layers, items] in their own order, and without each cluster."""
        sums = np.add.reduceat(values[:, self.order], self.starts, axis=1)
        total = sums.sum(1, keepdims=True)
        return total[:, 0] / self.sizes.sum(), (total - sums) / (self.sizes.sum() - self.sizes)


def common_square(cloud: Cloud, lengths: np.ndarray) -> Jackknifed:
    """Return the squared length of the mean vector as a share of the mean squared length of something, averaged over layers.

    Args:
        cloud: the vectors.
        lengths: shape (layers, items), such as the length of the residual stream that each vector was added to.
    """
    whole, without = cloud.between(cloud.products)
    energy, energy_without = cloud.level(np.square(lengths, dtype=np.float64))
    return Jackknifed(float((whole / energy).mean()), (without / energy_without).mean(0), cloud.degrees)


def common_length(square: Jackknifed, *, unit: str, scale: float = 1.0) -> Estimate:
    """Return a squared length (from ``common_square``) as a length times ``scale``, with its interval.

    The jackknife is on the scale of lengths, which are less skewed than squares; where the length can't be told from 0 it is on
    that of squares, which can be below 0, and the interval begins at 0.
    """
    value, count = scale * _root(square.value), len(square.without)
    refused = _refused(square, value, unit)
    if refused is not None:
        return refused
    low, high = _length_interval(square)
    method = f"products of items of different clusters, jackknife over {count} clusters"
    return Estimate(value=value, unit=unit, n=count, interval=(scale * low, scale * high), method=method)


def length_difference(square: Jackknifed, floor: Jackknifed, *, unit: str, scale: float = 1.0) -> Estimate:
    """Return by how much one common length exceeds another over the same items; both from ``common_square``.

    A jackknife of the difference of lengths. Where one of them can't be told from 0 its root has a bias, so the interval then
    goes from the lower end of the one less the upper end of the other to the reverse (it holds the truth too often), and the
    test is that of the squares.
    """
    value, count = scale * (_root(square.value) - _root(floor.value)), len(square.without)
    over = square.minus(floor)
    refused = _refused(over, value, unit)
    if refused is not None:
        return refused
    if square.clear and floor.clear:
        roots = square.root().minus(floor.root())
        low, high = roots.spread.around()
        p_value, detectable = roots.spread.p_value, roots.spread.minimum_detectable
        method = f"jackknife over {count} clusters"
    else:
        (low_one, high_one), (low_two, high_two) = _length_interval(square), _length_interval(floor)
        low, high = low_one - high_two, high_one - low_two
        error = (high - low) / (2 * around(0.0, 1.0, over.degrees)[1])
        p_value, detectable = over.spread.p_value, minimum_detectable(error, over.degrees)
        method = f"jackknife of each over {count} clusters"
    return Estimate(
        value=value,
        unit=unit,
        n=count,
        interval=(scale * low, scale * high),
        method=f"products of items of different clusters, {method}",
        p_value=p_value,
        minimum_detectable=scale * detectable,
    )


def _refused(found: Jackknifed, value: float, unit: str) -> Estimate | None:
    """Return the estimate where there is no interval to compute."""
    count = len(found.without)
    if count < FEWEST_CLUSTERS:
        why = f"could not say: {count} clusters, {FEWEST_CLUSTERS} are needed"
        return Estimate(value=value, unit=unit, n=count, interval=None, method=why)
    if found.value == 0.0 and not found.without.any():
        return Estimate(value=0.0, unit=unit, n=count, interval=(0.0, 0.0), method="0 on every item", p_value=1.0)
    if found.error == 0.0:
        why = "could not say: every cluster has the same value, so that its spread is not known"
        return Estimate(value=value, unit=unit, n=count, interval=None, method=why)
    return None


def _length_interval(square: Jackknifed) -> tuple[float, float]:
    found = square.root() if square.clear else square
    low, high = found.spread.around()
    return (max(low, 0.0), max(high, 0.0)) if square.clear else (_root(low), _root(high))


def effective_rank(cloud: Cloud) -> Estimate:
    """Return in how many directions vectors lie: (sum of variances)^2 / (sum of squared variances), uncentred.

    1 where all lie on one line, n where they spread evenly over n directions (participation ratio). From pairs of items of
    different clusters, so that few items do not make it look small. Averaged on the log scale over the layers that moved.
    """
    if cloud.count < FEWEST_CLUSTERS:
        return unknown("directions", cloud.count, f"{cloud.count} clusters, {FEWEST_CLUSTERS} are needed")
    top, top_without = cloud.between(cloud.squared[:, :, None] * cloud.squared[:, None, :])
    bottom, bottom_without = cloud.between(np.square(cloud.products))
    moved = (bottom > 0) & (bottom_without > 0).all(1)
    if not moved.any():
        return unknown("directions", cloud.count, "nothing moved")
    log_top, log_bottom = np.log(top_without[moved]), np.log(bottom_without[moved])
    logs = Jackknifed(float(np.log(top[moved] / bottom[moved]).mean()), (log_top - log_bottom).mean(0), cloud.degrees)
    value = math.exp(max(logs.value, 0.0))
    if logs.error == 0.0:
        why = "could not say: every cluster gives the same, so that the spread is not known"
        return Estimate(value=value, unit="directions", n=cloud.count, interval=None, method=why)
    low, high = logs.spread.around()
    return Estimate(
        value=value,
        unit="directions",
        n=cloud.count,
        interval=(math.exp(max(low, 0.0)), math.exp(max(high, 0.0))),
        method=f"participation ratio from items of different clusters, log-scale jackknife over {cloud.count} clusters",
    )


def mean_cosine(one: Cloud, two: Cloud, one_clusters: ArrayLike, two_clusters: ArrayLike) -> Estimate:
    """Return the cosine between the mean vectors of two groups of items, averaged over layers, noise taken off.

    1: both moved the same way; 0: in unrelated directions. A label that both groups share is one cluster. Where a mean can't be
    told from 0, it has no direction, and the cosine can't be said.

    Args:
        one: vectors of the first group.
        two: of the second, the same layers and width.
        one_clusters: labels of the first group's items, as given to its cloud.
        two_clusters: of the second's.
    """
    first, second, count = together(one_clusters, two_clusters)
    fewest = min(one.count, two.count)
    if fewest < FEWEST_CLUSTERS:
        return unknown("cosine", count, f"{fewest} clusters in one group, {FEWEST_CLUSTERS} are needed")
    lengths = [_spread_out(cloud, np.unique(codes), count) for cloud, codes in ((one, first), (two, second))]
    products = one.vectors @ two.vectors.swapaxes(1, 2)
    sums = np.zeros((len(products), count, count))
    block = np.add.reduceat(np.add.reduceat(products, one.starts, axis=1), two.starts, axis=2)
    sums[:, np.unique(first)[:, None], np.unique(second)[None, :]] = block
    sizes = np.outer(np.bincount(first, minlength=count), np.bincount(second, minlength=count))[None].astype(float)
    cross, cross_without = _off_diagonal(sums) / _off_diagonal(sizes), _left_out(sums) / _left_out(sizes)
    (a, a_without, a_sure), (b, b_without, b_sure) = lengths
    if not (a_sure and b_sure):
        return unknown("cosine", count, "a mean shift can't be told from 0, so it has no direction")
    scale, scale_without = np.sqrt(np.maximum(a * b, 1e-300)), np.sqrt(np.maximum(a_without * b_without, 1e-300))
    found = Jackknifed(float((cross / scale).mean()), (cross_without / scale_without).mean(0), float(fewest - 1))
    if found.error == 0.0:
        return unknown("cosine", count, "every cluster has the same value, so that its spread is not known")
    low, high = found.spread.around()
    return Estimate(
        value=min(max(found.value, -1.0), 1.0),
        unit="cosine",
        n=count,
        interval=(min(max(low, -1.0), 1.0), min(max(high, -1.0), 1.0)),
        method=f"cosine without noise, jackknife over {count} clusters",
    )


def _spread_out(cloud: Cloud, known: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return a group's squared mean length [layers], without each cluster of both groups, and whether all are above 0."""
    whole, without = cloud.between(cloud.products)
    everywhere = np.repeat(whole[:, None], count, axis=1)
    everywhere[:, known] = without
    error = Jackknifed(float(whole.mean()), without.mean(0), cloud.degrees)
    sure = bool((whole > 0).all() and (without > 0).all() and error.clear)
    return whole, everywhere, sure


def _off_diagonal(sums: np.ndarray) -> np.ndarray:
    return sums.sum((1, 2)) - np.trace(sums, axis1=1, axis2=2)


def _left_out(sums: np.ndarray) -> np.ndarray:
    """Return the off-diagonal sum without the row and the column of each cluster, shape (layers, clusters)."""
    own = np.diagonal(sums, axis1=1, axis2=2)
    return _off_diagonal(sums)[:, None] - sums.sum(1) - sums.sum(2) + 2 * own


def _root(value: float) -> float:
    return math.sqrt(max(value, 0.0))
