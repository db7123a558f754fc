"""Signal: are the two poles told apart (d'), and which way does the answer lean (criterion c)?

A hit is the behaviour where it should appear, a false alarm where it should not. Rates of 0/1 outcomes carry the log-linear
correction (Hautus 1995), half an item added to each side, so that a rate of 0 or 1 has a finite z. Mean probabilities are so
well known that the correction would be their largest error: they are only held half an item away from 0 and 1. The interval
is a delete-one-cluster jackknife in which a label that both poles share is one cluster.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from palimpsest.core.estimate import Estimate
from palimpsest.core.stats.clusters import FEWEST_CLUSTERS, clustered, together
from palimpsest.core.stats.spread import ROUNDING, around, minimum_detectable, two_sided
from palimpsest.core.wording import counted

SATURATED = ", a rate of 0 or 1 is known to half an item"
UNMOVED = ", a pole without a flip counts as one flip each way"


def d_prime(
    express: ArrayLike, withhold: ArrayLike, express_clusters: ArrayLike, withhold_clusters: ArrayLike
) -> tuple[Estimate, Estimate]:
    """Return d' = z(hit) - z(false alarm), and the criterion c = -(z(hit) + z(false alarm)) / 2.

    c is over 0 where the behaviour is held back in both poles, below 0 where it shows in both.

    Args:
        express: shape (items where it should appear,), 0/1 outcomes or probabilities of the behaviour.
        withhold: shape (items where it should not,).
        express_clusters: labels of the first.
        withhold_clusters: labels of the second; a label in both is one cluster.

    Raises:
        ValueError: a value is not between 0 and 1, or lengths differ.
    """
    one, two, count = together(express_clusters, withhold_clusters)
    counted = _counted(express, withhold)
    hit, alarm = _Rate(express, one, count, counted), _Rate(withhold, two, count, counted)
    return _estimate(((hit, 1.0), (alarm, -1.0)), "d'", test=True), _estimate(((hit, -0.5), (alarm, -0.5)), "criterion c")


def d_prime_change(
    before_express: ArrayLike,
    after_express: ArrayLike,
    before_withhold: ArrayLike,
    after_withhold: ArrayLike,
    express_clusters: ArrayLike,
    withhold_clusters: ArrayLike,
) -> Estimate:
    """Return d' after - d' before; the same items before and after, arrays as in ``d_prime``.

    Probabilities that are the same bit for bit have the interval (0, 0). Outcomes without a flip do not: their
    probabilities may have moved.
    """
    one, two, count = together(express_clusters, withhold_clusters)
    counted = _counted(before_express, after_express, before_withhold, after_withhold)
    before = [_Rate(before_express, one, count, counted), _Rate(before_withhold, two, count, counted)]
    after = [_Rate(after_express, one, count, counted), _Rate(after_withhold, two, count, counted)]
    still = [first.same(second) for first, second in zip(before, after, strict=True)]
    if all(still) and not counted and before[0].fewest(before[1]) >= FEWEST_CLUSTERS:
        method = "identical on every item"
        return Estimate(value=0.0, unit="d'", n=count, interval=(0.0, 0.0), method=method, p_value=1.0)
    parts = ((after[0], 1.0), (after[1], -1.0), (before[0], -1.0), (before[1], 1.0))
    unmoved = [rate for rate, unchanged in zip(after, still, strict=True) if counted and unchanged and not rate.saturated]
    return _estimate(parts, "d'", test=True, unmoved=unmoved)


def _counted(*arrays: ArrayLike) -> bool:
    return all(bool(np.isin(np.asarray(array, dtype=np.float64), (0.0, 1.0)).all()) for array in arrays)


class _Rate:
    """One rate: its z, and its z without each cluster (shape (clusters of both poles,))."""

    def __init__(self, values: ArrayLike, codes: np.ndarray, count: int, counted: bool) -> None:
        from scipy import special

        data = clustered(values, codes)
        if data.values.min() < 0 or data.values.max() > 1:
            raise ValueError("hits and false alarms must be outcomes or probabilities between 0 and 1")
        self.values, self.count, self.clusters, self.size = data.values, count, data.count, data.values.size
        self.degrees = data.degrees
        total = float(data.values.sum())
        sums, sizes = np.bincount(codes, data.values, minlength=count), np.bincount(codes, minlength=count)
        self.saturated = total in (0.0, float(self.size))
        self.z, *self.without = special.ndtri(
            _corrected(np.concatenate([[total], total - sums]), np.concatenate([[self.size], self.size - sizes]), counted)
        )

    def same(self, other: _Rate) -> bool:
        if self.values.shape != other.values.shape:
            raise ValueError(f"before and after must hold the same items, found {self.size} and {other.size}")
        return bool(np.array_equal(self.values, other.values))

    def fewest(self, other: _Rate) -> int:
        return min(self.clusters, other.clusters)

    @property
    def slope(self) -> float:
        """How fast z moves with the rate."""
        return math.sqrt(2 * math.pi) * math.exp(self.z**2 / 2)

    @property
    def floor(self) -> float:
        """Variance of z where every outcome is the same, so that the jackknife sees no spread: that of half an item."""
        rate = 0.5 / (self.size + 1)
        return rate * (1 - rate) / (self.size + 1) * self.slope**2 if self.saturated else 0.0


def _corrected(totals: np.ndarray, sizes: np.ndarray, counted: bool) -> np.ndarray:
    if counted:
        return (totals + 0.5) / (sizes + 1)
    sizes = np.maximum(sizes, 1)
    return np.clip(totals / sizes, 0.5 / (sizes + 1), 1 - 0.5 / (sizes + 1))


def _estimate(
    parts: Sequence[tuple[_Rate, float]], unit: str, *, test: bool = False, unmoved: Sequence[_Rate] = ()
) -> Estimate:
    value, count = float(sum(weight * rate.z for rate, weight in parts)), parts[0][0].count
    fewest = parts[0][0].fewest(parts[1][0])
    if fewest < FEWEST_CLUSTERS:
        why = f"could not say: {counted(fewest, 'cluster')} in one pole, {FEWEST_CLUSTERS} are needed"
        return Estimate(value=value, unit=unit, n=count, interval=None, method=why)
    without = np.sum([weight * np.array(rate.without) for rate, weight in parts], axis=0)
    variance = (count - 1) / count * float(np.square(without - without.mean()).sum())
    variance += sum(weight**2 * rate.floor for rate, weight in parts)
    variance += sum(2 / (rate.size + 2) ** 2 * rate.slope**2 for rate in unmoved)
    degrees, error = min(rate.degrees for rate, _ in parts), math.sqrt(variance)
    if error <= ROUNDING * max(1.0, abs(value)):
        return Estimate(value=value, unit=unit, n=count, interval=None, method="could not say: no spread between clusters")
    notes = (SATURATED if any(rate.saturated for rate, _ in parts) else "") + (UNMOVED if unmoved else "")
    return Estimate(
        value=value,
        unit=unit,
        n=count,
        interval=around(value, error, degrees),
        method=f"jackknife over {count} clusters, rates of outcomes with the log-linear correction{notes}",
        p_value=two_sided(value / error, degrees) if test else None,
        minimum_detectable=minimum_detectable(error, degrees) if test else None,
    )
