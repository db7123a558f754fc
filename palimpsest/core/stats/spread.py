"""Spread: how far is a number known, when it is known what each cluster adds to its error?

A t interval takes the error for symmetric. Where a few clusters move much more than the rest it is not, and the interval misses
the truth on the far side: of lognormal clusters in 12 to 17% of samples. Hall's (1992) transformation of t takes the skewness
out. It is noisy itself, so that each end of an interval is the more cautious of the two (`docs/validity.md` has both measured).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np

LEVEL = 0.95
POWER = 0.8
ROUNDING = 1e-12
"""A standard error below this share of the largest value is rounding, not spread."""
SKEWNESS_SHARE = 1.25
"""By how much the sample's skewness is taken for larger: a sample of few clusters shows less of it than there is."""
ONE_IN = 20
"""A change is called absent only where one carried by one cluster in so many would have been seen."""

_LEAST_VARIANCE = 0.25
"""Of the lower end of an interval, as a share of the value's own, however skewed the clusters are."""

_RANGES = {"share": (0.0, 1.0), "points": (-1.0, 1.0)}
"""Between what a quantity of some unit must lie."""


@dataclass(frozen=True)
class Spread:
    """A number with its error: ``influence`` [clusters] adds up to it in squares, ``degrees`` are those of its variance."""

    value: float
    influence: np.ndarray
    degrees: float
    weights: np.ndarray | None = None
    """How much each cluster counts in the number [clusters]; ``None`` where all count alike."""

    @property
    def count(self) -> int:
        return len(self.influence)

    @cached_property
    def error(self) -> float:
        """Standard error."""
        return math.sqrt(float(self.influence @ self.influence))

    @cached_property
    def skew(self) -> float:
        """Skewness of the number's own distribution: that of the clusters over the root of their count."""
        return float(skew_of(self.influence, self.weights)) if self.count > 2 and self.error > 0.0 else 0.0

    def around(self, level: float = LEVEL) -> tuple[float, float]:
        """Return the interval."""
        below, above = self._reaches(quantile(0.5 + level / 2, self.degrees))
        return self.value - below * self.error, self.value + above * self.error

    def over(self, line: float, side: Literal[-1, 1] = 1) -> float:
        """Return the one-sided p-value of "it does not lie beyond the line to this side", the inversion of ``around``."""
        from scipy import special

        statistic = (self.value - line) / self.error
        skewed = statistic + self.skew * (statistic**2 / 3 + 1 / 6) + self.skew**2 * statistic**3 / 27
        return float(special.stdtr(self.degrees, max(-side * statistic, -side * skewed)))

    @property
    def p_value(self) -> float:
        """Two-sided test of 0."""
        return min(1.0, 2 * min(self.over(0.0, 1), self.over(0.0, -1)))

    @property
    def minimum_detectable(self) -> float:
        """Smallest rise, of all clusters alike, that the test of 0 finds with power 0.8."""
        return float(smallest_rise(self.error, self.skew, self.degrees))

    def _reaches(self, reach: float) -> tuple[float, float]:
        """Return how many standard errors it reaches down and up."""
        return float(reach_down(reach, self.skew)), float(reach_down(reach, -self.skew))


def skew_of(influence: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the skewness of a number's own distribution: that of the clusters over the root of their count.

    Of clusters that count for more than others it is that of a cluster, whatever it counts for, times what the weights make of
    it: the few that count most would tell little of their own skewness. Measured with sizes like 1/rank and lognormal clusters:
    .96 to .97 covered with intervals a tenth narrower, where the skewness of the influences themselves gives .90 to .93.

    Args:
        influence: shape (..., clusters), three or more, not all 0.
        weights: shape (clusters,), over 0; ``None`` where all count alike.
    """
    n = influence.shape[-1]
    each = influence if weights is None else influence / weights
    each = each - each.sum(axis=-1, keepdims=True) / n
    square = each * each
    size = np.maximum(np.sqrt(square.sum(axis=-1) / n), 1e-100)
    skewness = (square * each).sum(axis=-1) / n / size**3 * (math.sqrt(n * (n - 1)) / (n - 2))
    made_of_it = 1 / math.sqrt(n) if weights is None else float((weights**3).sum() / (weights @ weights) ** 1.5)
    return SKEWNESS_SHARE * skewness * made_of_it


def reach_down(reach: float, skew: np.ndarray | float) -> np.ndarray:
    """Return how many standard errors an interval reaches down that without skewness reaches this far.

    It is the more cautious of t and of the t statistic whose transform is ``reach`` (Hall 1992, J. R. Statist. Soc. B 54, 221).
    """
    known = np.where(np.abs(skew) < 1e-6, 1e-6, skew)
    return np.maximum(reach, 3 / known * (np.cbrt(1 + known * (reach - known / 6)) - 1))


def smallest_rise(error: np.ndarray | float, skew: np.ndarray | float, degrees: float) -> np.ndarray:
    """Return the smallest rise, of all clusters alike, that is found with power 0.8.

    The lower end of an interval varies less than the value where clusters are skewed upwards (the error is large where the
    value is), and more where they are skewed downwards: a fall against the skewness takes more than a rise with it.
    """
    below = reach_down(quantile(0.5 + LEVEL / 2, degrees), skew)
    vary = np.sqrt(np.maximum(_LEAST_VARIANCE, 1 - below * skew))
    return (below + quantile(POWER, degrees) * vary) * error


@lru_cache(maxsize=1024)
def quantile(probability: float, degrees: float) -> float:
    """Return Student's t quantile; kept, because one analysis asks for the same few hundreds of times."""
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


def within(interval: tuple[float, float] | None, unit: str) -> tuple[float, float] | None:
    """Return the part of an interval that a quantity of this unit can lie in; a t interval knows of no bounds."""
    if interval is None or unit not in _RANGES:
        return interval
    lowest, highest = _RANGES[unit]
    low, high = (min(max(end, lowest), highest) for end in interval)
    return low, high


def minimum_detectable(standard_error: float, degrees: float, level: float = LEVEL, power: float = POWER) -> float:
    """Return the smallest true effect that a two-sided t test at this level finds with this power, in the error's unit."""
    return (quantile(0.5 + level / 2, degrees) + quantile(power, degrees)) * standard_error


def needed_clusters(share: float, level: float = LEVEL) -> int:
    """Return how many clusters it takes to see one of those, a ``share`` of all, that carry a change: (1 - share)^n <= 5%."""
    return 1 if share >= 1 else math.ceil(math.log(1 - level) / math.log1p(-share))


def unseen_share(clusters: int, level: float = LEVEL) -> float:
    """Return how large a share of all clusters can be of a kind that none of these is: 11.7% beside 24."""
    return 1 - (1 - level) ** (1 / clusters)


def needed_to_exclude(margin: float, unit: str) -> int:
    """Return of how many clusters it takes a sample to say "unchanged within the margin".

    What is right in 100% of 24 templates that were seen can be lost in 11.7% of all: that none of 24 is among them is as likely
    as 5% then. A cluster can lose no more than all of a share; of anything else it is taken to lose no more than 20 margins, so
    that a change which fewer than one cluster in twenty carries is not excluded by any interval.

    Raises:
        ValueError: the margin is not over 0.
    """
    if margin <= 0:
        raise ValueError(f"an equivalence margin must be over 0, found {margin}")
    return needed_clusters(margin if unit in _RANGES else 1 / ONE_IN)


def weights_of(sizes: np.ndarray) -> np.ndarray:
    """Return how much the mean of each cluster's residuals counts in the error of a mean (CR2), shape (clusters,)."""
    share = sizes / sizes.sum()
    return share / np.sqrt(np.maximum(1.0 - share, 1e-9))


def degrees_of(sizes: np.ndarray) -> float:
    """Return the degrees of freedom of the CR2 variance of a mean: Satterthwaite's with independent items as working model.

    Clusters - 1 where all have one size; 14.4 for 80 clusters whose sizes fall like 1/rank.

    Args:
        sizes: shape (clusters,), items of each.

    Source: Bell and McCaffrey 2002, for a mean in closed form.
    """
    share = sizes / sizes.sum()
    if share.size < 2:
        return 1.0
    cross = np.square(share) / (1 - share)
    return max(1.0, 1 / float(np.square(share).sum() + cross.sum() ** 2 - np.square(cross).sum()))
