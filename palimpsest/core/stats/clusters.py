"""Clusters: how far is a mean known, when items of one cluster move together?

The variance is CR2 (Bell and McCaffrey 2002), which for a mean divides each cluster's squared sum of residuals by one minus the
cluster's share of the items. With clusters of one size it is the usual C / (C - 1), and the t interval is exact for normal
cluster means. The degrees of freedom fall below C - 1 where sizes differ, and the interval follows the skewness (``spread``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from palimpsest.core.stats.spread import LEVEL, ROUNDING, Spread, degrees_of, quantile, weights_of
from palimpsest.core.wording import counted

FEWEST_CLUSTERS = 8
"""Under so many clusters no interval is given: the variance itself is not known well enough."""
FEWEST_THAT_DIFFER = 3
"""Where all but so few clusters have one and the same value (0, mostly), how much the others carry is a guess."""
INSIDE_LEVEL = 0.93
"""Of the interval that must lie inside a margin: two tests at 3.5%. With 5%, of lognormal rises as large as the margin 6.5 to
7% were called unchanged; so it is 5."""

WORKING_CORRELATION = 1.0
"""Correlation within clusters that is assumed where too few items differ to estimate it: of templates that were not seen, each
could do as a whole what none of those that were seen did."""
WORKING_WEIGHT = 4.0
"""At how many items that differ the assumption counts for a quarter."""


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
        return self.sums / self.sizes * self.weights

    @cached_property
    def weights(self) -> np.ndarray:
        """How much the mean of each cluster's residuals counts in that error, shape (clusters,)."""
        return weights_of(self.sizes)

    @cached_property
    def spread(self) -> Spread:
        """The mean with its error."""
        return Spread(self.mean, self.influence, degrees_of(self.sizes), self.weights)

    @cached_property
    def standard_error(self) -> float:
        """Standard error of the mean, 0 where there is no spread beyond rounding."""
        error = self.spread.error
        return error if error > ROUNDING * float(np.abs(self.values).max()) else 0.0

    @property
    def degrees(self) -> float:
        return self.spread.degrees

    def around(self, level: float = LEVEL) -> tuple[float, float]:
        """Return the interval of the mean; where no item lies on the other side of 0, as wide as on the scale of logarithms."""
        low, high = self.spread.around(level)
        side = -1.0 if self.mean < 0 else 1.0
        if self.mean == 0.0 or (side * self.values < 0).any():
            return low, high
        factor = math.exp(min(quantile(0.5 + level / 2, self.degrees) * self.standard_error / abs(self.mean), 700.0))
        near, far = sorted((self.mean / factor, self.mean * factor))
        return min(low, near), max(high, far)

    def inside(self, margin: float) -> bool:
        """Whether two one-sided tests put the mean inside +-margin."""
        low, high = self.around(INSIDE_LEVEL)
        return bool(-margin < low and high < margin)

    @cached_property
    def differing(self) -> int:
        """How many clusters hold a value other than the one that most items have (all, where most have none in common)."""
        middle = (self.values.size - 1) // 2
        most = np.partition(self.values, middle)[middle]
        return int(np.count_nonzero(np.bincount(self.codes, self.values != most, minlength=self.count)))

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
