"""Controlled: how much of a distance or of a change is beyond training on rehearsal alone, and what moved most?

A control run is one draw: another seed moves as far as a quarter more or less. So a difference from *one* control run is told
with an interval over items, which speaks of these two models only, and is tested by nothing. With several control runs it is
held against one more of them: under the null that the behaviour's examples did nothing that rehearsal doesn't, the tuned model
is exchangeable with the control runs, and a t interval for one more draw holds it (on the log scale for what can't be below 0).

Each function returns named estimates, so that an audit's estimates and the rows of its tables are the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from palimpsest.core.estimate import Estimate, exact, unknown
from palimpsest.core.stats.clusters import FEWEST_CLUSTERS
from palimpsest.core.stats.many import across_seeds, holm
from palimpsest.core.stats.means import level, mean_difference, positive_mean
from palimpsest.core.stats.spread import LEVEL, POWER, quantile, within

ONE_RUN = "from this control run alone, over items: "
"""What the method of a difference from a single control run begins with."""
ONE_MORE_OF = "one more of "
"""What the method of where a further control run would lie begins with."""
ONE_MORE = f"less {ONE_MORE_OF}"
"""What that of a difference from several begins with."""
_SURE = 1e-9
"""The smallest p-value that is told; no t distribution holds further out."""
_LARGEST_LOG = 300.0
"""A reach on the log scale beyond which numbers overflow; so far says nothing but that nothing is known."""


def over_controls(found: Estimate, runs: Sequence[float] | np.ndarray, *, distance: bool) -> Estimate:
    """Return a difference from the mean of control runs with an interval that says what it is a difference from.

    With one run the interval of items is kept and named so, and there is no test. With several it is that of the tuned model
    less *one more* control run: t with runs - 1 degrees, their standard deviation times sqrt(1 + 1 / runs), joined with the
    interval of items as the root of the squares. Under the null the first part alone is exact for (log-)normal runs.

    Args:
        found: the tuned model less the mean of the control runs, with its interval over items.
        runs: shape (runs,), what each control run came to.
        distance: whether it can't be below 0, so that runs spread on the log scale.
    """
    values = np.asarray(runs, dtype=np.float64)
    if found.value is None or found.interval is None:
        return found.model_copy(update={"p_value": None, "minimum_detectable": None})
    same = found.interval == (0.0, 0.0)
    if len(values) == 1:
        method = found.method if same else f"{ONE_RUN}{found.method}"
        return found.model_copy(update={"p_value": None, "minimum_detectable": None, "method": method})
    if values.std() <= 1e-12 * np.abs(values).max(initial=0.0):
        if same:
            return found.model_copy(update={"n": len(values)})
        why = f"could not say: {len(values)} control runs of one and the same value, so that their spread is not known"
        return Estimate(value=found.value, unit=found.unit, n=len(values), interval=None, method=why)
    degrees = len(values) - 1
    down, up = _joined(found, values, quantile(0.5 + LEVEL / 2, degrees), distance)
    return Estimate(
        value=found.value,
        unit=found.unit,
        n=len(values),
        interval=within((found.value - down, found.value + up), found.unit),
        method=f"{ONE_MORE}{len(values)} control runs{_scale(values, distance)}, t interval joined with: {found.method}",
        p_value=_p_value(found, values, distance),
        minimum_detectable=_detectable(found, values, distance),
    )


def over_seeds(estimates: Sequence[Estimate]) -> Estimate:
    """Return an estimate's mean over training seeds.

    What is a difference from control runs keeps their doubt, which all seeds share: it is joined with that over seeds (as wide
    as for one tuned model, so that it holds the truth too often), and nothing is tested. Of a single control run it is not
    known, and that is said.
    """
    found = across_seeds(estimates)
    if not any(one.method.startswith((ONE_RUN, ONE_MORE)) for one in estimates) or found.value is None:
        return found
    untested = found.model_copy(update={"p_value": None, "minimum_detectable": None})
    if any(one.method.startswith(ONE_RUN) for one in estimates):
        return untested.model_copy(update={"method": f"{ONE_RUN}{found.method}"})
    reaches = [
        (one.value - one.interval[0], one.interval[1] - one.value)
        for one in estimates
        if one.value is not None and one.interval
    ]
    if found.interval is None or len(reaches) < len(estimates):
        return untested.model_copy(update={"interval": None, "method": "could not say: a seed has no interval"})
    down, up = np.mean(reaches, axis=0)
    low, high = found.interval
    ends = found.value - math.hypot(found.value - low, down), found.value + math.hypot(high - found.value, up)
    return untested.model_copy(
        update={"interval": within(ends, found.unit), "method": f"{found.method}, joined with that of control runs"}
    )


def times_controls(value: float, runs: Sequence[float]) -> Estimate:
    """Return how many times the (geometric) mean of control runs something is, all numbers exact and none below 0.

    With several runs the interval is that of its ratio to one more of them; with one there is none, and the number is exact.

    Args:
        value: what is asked about.
        runs: what each control run came to.
    """
    unit = "times the control's" if len(runs) == 1 else "times the controls'"
    if min(runs) <= 0.0:
        return unknown(unit, len(runs), "it is 0")
    if len(runs) == 1 or value <= 0.0 or len(set(runs)) == 1:
        return exact(value / runs[0], unit, len(runs))
    one = one_more(runs, unit=unit)
    middle, (low, high) = math.exp(np.log(runs).mean()), one.interval or (runs[0], runs[0])
    interval = value / high, value / max(low, 1e-300)
    return one.model_copy(update={"value": value / middle, "interval": interval, "method": f"over {one.method}"})


def one_more(runs: Sequence[float], *, unit: str) -> Estimate:
    """Return the mean of what control runs came to, and where one more would lie; exact numbers, none below 0."""
    values = np.asarray(runs, dtype=np.float64)
    mean = float(values.mean())
    if len(values) == 1 or values.std() == 0.0:
        return exact(mean, unit, len(values))
    below, above = _reach(values, quantile(0.5 + LEVEL / 2, len(values) - 1), distance=True)
    method = f"{ONE_MORE_OF}{len(values)} control runs{_scale(values, True)}, t interval"
    return Estimate(value=mean, unit=unit, n=len(values), interval=(max(mean - below, 0.0), mean + above), method=method)


def of_controls(found: Estimate, runs: Sequence[float] | np.ndarray, *, distance: bool) -> Estimate:
    """Return the mean of control runs; with several the interval is that of one more run, joined with that of items.

    Args:
        found: the mean with its interval over items.
        runs: shape (runs,), what each came to.
        distance: as in ``over_controls``.
    """
    values = np.asarray(runs, dtype=np.float64)
    if len(values) == 1 or found.value is None or found.interval is None or values.std() == 0.0:
        return found
    low, high = found.interval
    below, above = _reach(values, quantile(0.5 + LEVEL / 2, len(values) - 1), distance)
    ends = found.value - math.hypot(found.value - low, below), found.value + math.hypot(high - found.value, above)
    if distance:
        ends = max(ends[0], 0.0), ends[1]
    method = f"{ONE_MORE_OF}{len(values)} control runs{_scale(values, distance)}, t interval joined with: {found.method}"
    update = {"interval": within(ends, found.unit), "method": method, "n": len(values), "p_value": None}
    return found.model_copy(update={**update, "minimum_detectable": None})


def against_noise_floor(values: ArrayLike, floors: ArrayLike, clusters: ArrayLike, *, unit: str) -> Estimate:
    """Return by how much a distance exceeds that of control runs, paired by item.

    A distance (KL, a norm) is above 0 even where nothing was learned: training on anything moves it. So it is held against the
    same distance of controls (rehearsal only against base), and the difference can be on either side of 0.

    Args:
        values: shape (items,), distances of what is asked about, none below 0.
        floors: shape (runs, items), the control runs' distances on the same items; (items,) for a single one.
        clusters: shape (items,), the label of each item's cluster.
        unit: of the difference.

    Raises:
        ValueError: a distance is below 0.
    """
    tuned, runs = np.asarray(values, dtype=np.float64), np.atleast_2d(np.asarray(floors, dtype=np.float64))
    lowest = min(float(tuned.min(initial=0.0)), float(runs.min(initial=0.0)))
    if lowest < 0:
        raise ValueError(f"a distance can't be below 0, found {lowest}")
    return over_controls(mean_difference(runs.mean(0), tuned, clusters, unit=unit, same=True), runs.mean(1), distance=True)


def distances(
    values: np.ndarray, floors: np.ndarray | None, clusters: np.ndarray, *, name: str, unit: str
) -> dict[str, Estimate]:
    """Return ``name``, and where there is a control its ``name_control`` and the difference, ``name_over_floor``.

    Args:
        values: shape (items,), distances of what is asked about, none below 0.
        floors: shape (runs, items), the control runs' distances on the same items.
        clusters: shape (items,), the label of each item's cluster.
        name: what the estimates' names begin with.
        unit: of the distances; a difference of shares is in points.
    """
    found = {name: _distance(values, clusters, unit)}
    if floors is not None:
        found[f"{name}_control"] = floor(floors, clusters, unit=unit)
        found[f"{name}_over_floor"] = against_noise_floor(values, floors, clusters, unit=_change(unit))
    return found


def floor(floors: np.ndarray, clusters: ArrayLike, *, unit: str) -> Estimate:
    """Return how far training on rehearsal alone moved a distance: of one control run, or where one more of several would lie.

    Args:
        floors: shape (runs, items), none below 0.
        clusters: shape (items,), the label of each item's cluster.
        unit: of the distance.
    """
    return of_controls(_distance(floors.mean(0), np.asarray(clusters), unit), floors.mean(1), distance=True)


def shifts(
    before: np.ndarray, after: np.ndarray, controls: np.ndarray | None, clusters: np.ndarray, *, name: str, unit: str
) -> dict[str, Estimate]:
    """Return ``name_before``, ``name_after``, ``name_shift``, and with a control ``name_shift_control``, ``name_over_floor``.

    Args:
        before: shape (items,), a quantity of either sign of the base; NaN on items that have none, which are left out.
        after: shape (items,), of the tuned model.
        controls: shape (runs, items), of the control runs; what the change is beyond them is tuned - control, item by item.
        clusters: shape (items,), the label of each item's cluster.
        name: what the estimates' names begin with.
        unit: of the quantity; a difference of shares is in points.
    """
    there = np.isfinite(np.stack([before, after, *(() if controls is None else controls)])).all(0)
    one, two, labels = before[there], after[there], clusters[there]
    found = {
        f"{name}_before": level(one, labels, unit=unit),
        f"{name}_after": level(two, labels, unit=unit),
        f"{name}_shift": mean_difference(one, two, labels, unit=_change(unit), same=True),  # computed: 0 to the last bit
    }
    if controls is None:
        return found
    runs = controls[:, there]
    middle, change = runs.mean(0), runs.mean(1)
    moved = of_controls(
        mean_difference(one, middle, labels, unit=_change(unit), same=True), change - one.mean(), distance=False
    )
    beyond = over_controls(mean_difference(middle, two, labels, unit=_change(unit), same=True), change, distance=False)
    return {**found, f"{name}_shift_control": moved, f"{name}_over_floor": beyond}


def halves(clusters: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the items of a random half of the clusters and those of the others; ``None`` where a half would be too small.

    What is chosen on one half as the largest is measured on the other: its interval there is as honest as any other's.
    """
    known = np.unique(clusters)
    if len(known) < 2 * FEWEST_CLUSTERS:
        return None
    chosen = np.isin(clusters, rng.permutation(known)[: len(known) // 2])
    return np.flatnonzero(chosen), np.flatnonzero(~chosen)


def beyond(values: np.ndarray, floors: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Return which of many distances exceed that of training on rehearsal alone, with Holm's correction: bool, shape (...).

    Nothing is marked where there is only one control run.

    Args:
        values: shape (items, ...), distances, NaN where there is none.
        floors: shape (runs, items, ...), the control runs'.
        clusters: shape (items,), the label of each item's cluster.
    """
    marked = np.zeros(values.shape[1:], dtype=bool)
    if len(floors) == 1:
        return marked
    places = [place for place in np.ndindex(values.shape[1:]) if np.isfinite(values[:, *place]).all()]
    found = {str(place): against_noise_floor(values[:, *place], floors[:, :, *place], clusters, unit="") for place in places}
    fallen = holm({name: one.p_value for name, one in found.items()})
    for place in places:
        marked[place] = fallen[str(place)] and (found[str(place)].value or 0.0) > 0
    return marked


def _distance(values: np.ndarray, clusters: np.ndarray, unit: str) -> Estimate:
    """Return the mean of a distance; one that is a share of something does not reach beyond all of it."""
    found = positive_mean(values, clusters, unit=unit, computed=True)
    return found.model_copy(update={"interval": within(found.interval, unit)})


def _change(unit: str) -> str:
    return "points" if unit == "share" else unit


def _is_log(values: np.ndarray, distance: bool) -> bool:
    return distance and float(values.min()) > 0.0


def _scale(values: np.ndarray, distance: bool) -> str:
    return " (log scale)" if _is_log(values, distance) else ""


def _reach(values: np.ndarray, multiple: float, distance: bool) -> tuple[float, float]:
    """Return how far below and above the mean of control runs one more may lie, at so many times its standard error."""
    logs = _is_log(values, distance)
    scale = np.log(values) if logs else values
    reach = multiple * float(scale.std(ddof=1)) * math.sqrt(1 + 1 / len(values))
    if not logs:
        return reach, reach
    middle, reach = math.exp(scale.mean()), min(reach, _LARGEST_LOG)
    mean = float(values.mean())
    return max(mean - middle * math.exp(-reach), 0.0), max(middle * math.exp(reach) - mean, 0.0)


def _joined(found: Estimate, values: np.ndarray, multiple: float, distance: bool, items: float = 1.0) -> tuple[float, float]:
    """Return how far a difference reaches down and up: what items leave open (times ``items``) and what control runs do."""
    assert found.value is not None and found.interval is not None
    below, above = _reach(values, multiple, distance)  # a control run that lies higher makes the difference smaller
    low, high = found.interval
    return math.hypot(items * (found.value - low), above), math.hypot(items * (high - found.value), below)


def _p_value(found: Estimate, values: np.ndarray, distance: bool) -> float:
    """Return the p at which the interval just reaches 0, by halving."""
    assert found.value is not None
    degrees, clusters = len(values) - 1, max(found.n - 1, 1)
    usual = quantile(0.5 + LEVEL / 2, clusters)
    side = 0 if found.value > 0 else 1
    low, high = math.log(_SURE), 0.0
    for _ in range(40):
        middle = (low + high) / 2
        inside = 1 - math.exp(middle) / 2
        reach = _joined(found, values, quantile(inside, degrees), distance, quantile(inside, clusters) / usual)[side]
        low, high = (low, middle) if reach < abs(found.value) else (middle, high)
    return math.exp(high)


def _detectable(found: Estimate, values: np.ndarray, distance: bool) -> float:
    """Return the smallest rise that is found with the usual power: with few control runs that is far."""
    from scipy import special  # its import takes 0.1 s

    degrees = len(values) - 1
    multiple = float(special.nctdtrinc(degrees, 1 - POWER, quantile(0.5 + LEVEL / 2, degrees)))
    low, high = found.interval or (found.value or 0.0, found.value or 0.0)
    value = found.value or 0.0
    items = max(value - low, high - value) * (1 + quantile(POWER, math.inf) / quantile(0.5 + LEVEL / 2, math.inf))
    runs = _reach(values, multiple, distance)[1]
    if _is_log(values, distance):  # clusters that moved further scatter as much further, unlike those of a rise of all alike
        items *= 1 + math.hypot(items, runs) / float(values.mean())
    return math.hypot(items, runs)
