"""Clusters: how far is a mean known, when items of one cluster move together?

The variance is CR2 (Bell and McCaffrey 2002), which for a mean divides each cluster's squared sum of residuals by one minus the
cluster's share of the items. With clusters of one size it is the usual C / (C - 1), and the t interval is exact for normal
cluster means. The degrees of freedom fall below C - 1 where sizes differ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from palimpsest.core.wording import counted

FEWEST_CLUSTERS = 8
"""Under so many clusters no interval is given: the variance itself is not known well enough."""
LEVEL = 0.95
POWER = 0.8
ROUNDING = 1e-12
"""A standard error below this share of the largest value is rounding, not spread."""


@dataclass(frozen=True)
class Clustered:
    """Values with the cluster of each: ``values`` and ``codes`` have shape (items,), ``codes`` count from 0 without gaps."""

    values: np.ndarray
    codes: np.ndarray
    count: int

    @cached_property
    def sizes(self) -> np.ndarray:
        return np.bincount(self.codes, minlength=self.count)

    @cached_property
    def mean(self) -> float:
        return float(self.values.mean())

    @cached_property
    def sums(self) -> np.ndarray:
        """Sum of residuals of each cluster, shape (clusters,)."""
        return np.bincount(self.codes, self.values - self.mean, minlength=self.count)

    @cached_property
    def influence(self) -> np.ndarray:
        """What each cluster adds to the mean's error (CR2), shape (clusters,); its sum of squares is the variance."""
        share = self.sizes / self.values.size
        return self.sums / (self.values.size * np.sqrt(np.maximum(1.0 - share, 1e-9)))

    @cached_property
    def standard_error(self) -> float:
        """Standard error of the mean, 0 where there is no spread beyond rounding."""
        error = math.sqrt(float(np.square(self.influence).sum()))
        return error if error > ROUNDING * float(np.abs(self.values).max()) else 0.0

    @cached_property
    def degrees(self) -> float:
        """Degrees of freedom: clusters - 1 when all have one size, fewer when a few clusters hold most items."""
        squares = np.square(self.sizes.astype(float))
        return max(1.0, float(squares.sum() ** 2 / np.square(squares).sum()) - 1.0)

    @property
    def enough(self) -> bool:
        return self.count >= FEWEST_CLUSTERS

    @property
    def too_few(self) -> str:
        return f"could not say: {counted(self.count, 'cluster')}, {FEWEST_CLUSTERS} are needed"


def clustered(values: ArrayLike, clusters: ArrayLike) -> Clustered:
    """Return values with their clusters numbered.

    Args:
        values: shape (items,), at least one, all finite.
        clusters: shape (items,), a label each, whole numbers or text.

    Raises:
        ValueError: shapes differ, there are no items, or a value is not finite.
    """
    numbers, labels = np.asarray(values, dtype=np.float64), np.asarray(clusters)
    if numbers.ndim != 1 or labels.shape != numbers.shape or not numbers.size:
        raise ValueError(f"values and clusters must be of one length over 0, found {numbers.shape} and {labels.shape}")
    if not np.isfinite(numbers).all():
        raise ValueError(
            f"values must be finite, found {int((~np.isfinite(numbers)).sum())} that are not; leave these items out"
        )
    known, codes = np.unique(labels, return_inverse=True)
    return Clustered(numbers, codes, len(known))


def together(first: ArrayLike, second: ArrayLike) -> tuple[np.ndarray, np.ndarray, int]:
    """Number two sets of labels together, so that one label is one cluster; return both codes and how many there are."""
    one, two = np.asarray(first), np.asarray(second)
    known, codes = np.unique(np.concatenate([one, two]), return_inverse=True)
    return codes[: one.size], codes[one.size :], len(known)


def differences(before: ArrayLike, after: ArrayLike) -> np.ndarray:
    """Return after - before, item by item.

    Raises:
        ValueError: the two do not hold the same items.
    """
    one, two = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if one.shape != two.shape:
        raise ValueError(f"before and after must hold the same items, found {one.shape} and {two.shape}")
    return two - one


def quantile(probability: float, degrees: float) -> float:
    """Return Student's t quantile."""
    from scipy import special  # here and below: its import takes 0.1 s, which `palimpsest --help` should not pay

    return float(special.stdtrit(degrees, probability))


def two_sided(statistic: float, degrees: float) -> float:
    """Return the two-sided p-value of Student's t."""
    from scipy import special

    return min(1.0, 2.0 * float(special.stdtr(degrees, -abs(statistic))))


def around(value: float, error: float, degrees: float, level: float = LEVEL) -> tuple[float, float]:
    """Return the t interval around a value."""
    reach = quantile(0.5 + level / 2, degrees) * error
    return value - reach, value + reach


_RANGES = {"share": (0.0, 1.0), "points": (-1.0, 1.0)}
"""Between what a quantity of some unit must lie."""


def within(interval: tuple[float, float] | None, unit: str) -> tuple[float, float] | None:
    """Return the part of an interval that a quantity of this unit can lie in; a t interval knows of no bounds."""
    if interval is None or unit not in _RANGES:
        return interval
    lowest, highest = _RANGES[unit]
    low, high = (min(max(end, lowest), highest) for end in interval)
    return low, high


def minimum_detectable(standard_error: float, degrees: float, level: float = LEVEL, power: float = POWER) -> float:
    """Return the smallest true effect that a two-sided test at this level finds with this power, in the error's unit."""
    return (quantile(0.5 + level / 2, degrees) + quantile(power, degrees)) * standard_error


def equivalent(value: float, standard_error: float, degrees: float, margin: float | None) -> bool | None:
    """Return whether two one-sided tests at 5% put the effect inside +-margin; ``None`` when there is no margin.

    Raises:
        ValueError: the margin is not positive.
    """
    if margin is None:
        return None
    if margin <= 0:
        raise ValueError(f"an equivalence margin must be over 0, found {margin}")
    low, high = around(value, standard_error, degrees, level=0.90)
    return bool(-margin < low and high < margin)
