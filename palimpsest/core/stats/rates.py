"""Rates: how often, and how much more or less often than before?

Rates of 0 and 1 are the rule here (a behaviour that never showed), and there a t interval has no width. So the intervals are
adjusted ones, with the number of items divided by the design effect: how much more the clustered variance is than that of
independent items.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from palimpsest.core.estimate import Estimate
from palimpsest.core.stats.clusters import WORKING_CORRELATION, WORKING_WEIGHT, Clustered, clustered, differences
from palimpsest.core.stats.power import rate_change_found
from palimpsest.core.stats.spread import LEVEL, around, needed_to_exclude, quantile, two_sided


class Flips(NamedTuple):
    """Items whose 0/1 outcome changed, and the exact McNemar test for "as many one way as the other".

    The test takes items as independent: with clusters, ``rate_difference`` has the p-value to report.
    """

    right_to_wrong: int
    wrong_to_right: int
    p_value: float


def flips(before: ArrayLike, after: ArrayLike) -> Flips:
    """Count the items that changed from 1 to 0 and from 0 to 1; both arrays have shape (items,)."""
    from scipy import special

    moved = differences(_outcomes(before), _outcomes(after))
    lost, won = int((moved < 0).sum()), int((moved > 0).sum())
    less = float(special.bdtr(min(lost, won), lost + won, 0.5)) if lost + won else 1.0
    return Flips(lost, won, min(1.0, 2.0 * less))


def rate(values: ArrayLike, clusters: ArrayLike, *, unit: str = "share") -> Estimate:
    """Return the share of ones with Wilson's interval for as many independent items as the clusters are worth.

    Args:
        values: shape (items,), 0 or 1.
        clusters: shape (items,), the label of each item's cluster.
        unit: of the rate.
    """
    data = clustered(_outcomes(values), clusters)
    if not data.enough:
        return Estimate(value=data.mean, unit=unit, n=data.count, interval=None, method=data.too_few)
    effect = design_effect(data, min(data.values.sum(), data.values.size - data.values.sum()))
    (low, high), (low_of_few, high_of_few) = _wilson(data, effect), _jeffreys(data, effect)
    return Estimate(
        value=data.mean,
        unit=unit,
        n=data.count,
        interval=(max(0.0, min(data.mean, low, low_of_few)), min(1.0, max(data.mean, high, high_of_few))),
        method=f"the wider of Wilson and Jeffreys intervals over {data.count} clusters, design effect {effect:.2f}",
    )


def _wilson(data: Clustered, effect: float) -> tuple[float, float]:
    items, square = data.values.size / effect, quantile(0.5 + LEVEL / 2, data.degrees) ** 2
    centre = (data.mean + square / (2 * items)) / (1 + square / items)
    reach = math.sqrt(square * (data.mean * (1 - data.mean) / items + square / (4 * items**2))) / (1 + square / items)
    return centre - reach, centre + reach


def _jeffreys(data: Clustered, effect: float) -> tuple[float, float]:
    """Wilson's lower end is too high where one or two of all are ones; this one knows what counts do."""
    from scipy import special

    normal = float(special.ndtri(0.5 + LEVEL / 2))
    items = data.values.size / effect * (normal / quantile(0.5 + LEVEL / 2, data.degrees)) ** 2
    ones, zeros = data.mean * items + 0.5, (1 - data.mean) * items + 0.5
    low, high = (float(special.betaincinv(ones, zeros, 0.5 + sign * LEVEL / 2)) for sign in (-1, 1))
    return low, high


def rate_difference(
    before: ArrayLike, after: ArrayLike, clusters: ArrayLike, *, unit: str = "points", margin: float | None = None
) -> Estimate:
    """Return the rate after - the rate before, paired by item, as a share of 1.

    The value is the raw difference; the interval is Bonett and Price's (2012) adjusted one for paired proportions, with the
    design effect and t quantiles. The p-value is that interval's own inversion, so the two never contradict each other (an
    exact McNemar test would, and takes items as independent).

    Args:
        before: shape (items,), 0 or 1.
        after: shape (items,), the same items in the same order.
        clusters: shape (items,), the label of each item's cluster.
        unit: of the difference.
        margin: equivalence margin, as a share of 1.
    """
    from scipy import special

    first, second = _outcomes(before), _outcomes(after)
    data = clustered(differences(first, second), clusters)
    if not data.enough:
        return Estimate(value=data.mean, unit=unit, n=data.count, interval=None, method=data.too_few, margin=margin)
    centre, error, effect = adjusted_difference(data)
    low, high = around(centre, error, data.degrees)
    return Estimate(
        value=data.mean,
        unit=unit,
        n=data.count,
        interval=(min(data.mean, max(-1.0, low)), max(data.mean, min(1.0, high))),
        method=f"paired Bonett-Price interval over {data.count} clusters, design effect {effect:.2f}",
        p_value=two_sided(centre / error, data.degrees),
        minimum_detectable=rate_change_found(first, second, data),
        margin=margin,
        equivalent=None if margin is None else _inside(centre, error, data, margin),
        p_worse=None if margin is None else float(special.stdtr(data.degrees, (margin - centre) / error)),
    )


def _inside(centre: float, error: float, data: Clustered, margin: float) -> bool:
    """Whether two one-sided tests at 5% put the change inside the margin, and a template that lost all would have been seen."""
    low, high = around(centre, error, data.degrees, level=0.90)
    low, high = min(low, data.mean - _unseen(data, -1)), max(high, data.mean + _unseen(data, 1))
    return data.count >= needed_to_exclude(margin, "points") and bool(-margin < low and high < margin)


def _unseen(data: Clustered, side: int) -> float:
    """Return by how much the share that moved to one side may exceed that which was seen: Clopper and Pearson's bound at 95%.

    The adjusted interval adds a flip to either side and so takes a loss of one whole template of 80 for half of it.
    """
    from scipy import special

    share = float((side * data.values > 0).mean())
    if share == 1.0:
        return 0.0
    items = data.values.size / design_effect(data, float(np.count_nonzero(data.values)))
    return float(special.betaincinv(share * items + 1, (1 - share) * items, 0.95)) - share


def adjusted_difference(data: Clustered) -> tuple[float, float, float]:
    """Return Bonett and Price's adjusted difference of paired rates, its standard error, and the design effect.

    Args:
        data: after - before of 0/1 outcomes: -1, 0 or 1 an item.
    """
    lost, won = float((data.values < 0).mean()), float((data.values > 0).mean())
    effect = design_effect(data, (lost + won) * data.values.size)
    items = data.values.size / effect
    lost, won = (lost * items + 1) / (items + 2), (won * items + 1) / (items + 2)
    return won - lost, math.sqrt((lost + won - (won - lost) ** 2) / (items + 2)), effect


def design_effect(data: Clustered, informative: float) -> float:
    """Return how many times the variance of independent items the clustered variance is, at least 1.

    Args:
        data: 0/1 outcomes, or their differences.
        informative: how many items differ from the rest. Where these are few, the estimate is mostly noise, and where there
            are none, there is no estimate: it is drawn to what ``WORKING_CORRELATION`` would give.
    """
    size = data.values.size
    working = 1 + (float(np.square(data.sizes).sum()) / size - 1) * WORKING_CORRELATION
    independent = float(np.square(data.values - data.mean).sum()) / (size * max(size - 1, 1))
    if independent == 0.0:
        return working
    estimated = max(1.0, data.standard_error**2 / independent)
    assumed = (WORKING_WEIGHT / (informative + WORKING_WEIGHT)) ** 2
    return (1 - assumed) * estimated + assumed * max(working, estimated)


def _outcomes(values: ArrayLike) -> np.ndarray:
    numbers = np.asarray(values, dtype=np.float64)
    if not np.isin(numbers, (0.0, 1.0)).all():
        raise ValueError("outcomes must be 0 or 1; leave out the items that could not be graded")
    return numbers
