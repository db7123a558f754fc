"""Controlled: how much of a distance or of a change is beyond that of a control, and what moved most?

Each function returns named estimates, so that an audit's estimates and the rows of its tables are the same numbers.
"""

from __future__ import annotations

import numpy as np

from palimpsest.core.estimate import Estimate
from palimpsest.core.stats.clusters import FEWEST_CLUSTERS
from palimpsest.core.stats.many import holm
from palimpsest.core.stats.means import against_noise_floor, level, mean_difference, positive_mean
from palimpsest.core.stats.spread import within


def distances(
    values: np.ndarray, floor: np.ndarray | None, clusters: np.ndarray, *, name: str, unit: str
) -> dict[str, Estimate]:
    """Return ``name``, and where there is a control its ``name_control`` and the difference, ``name_over_floor``.

    Args:
        values: shape (items,), distances of what is asked about, none below 0.
        floor: shape (items,), the control's distances on the same items.
        clusters: shape (items,), the label of each item's cluster.
        name: what the estimates' names begin with.
        unit: of the distances; a difference of shares is in points.
    """
    found = {name: _distance(values, clusters, unit)}
    if floor is not None:
        found[f"{name}_control"] = _distance(floor, clusters, unit)
        found[f"{name}_over_floor"] = against_noise_floor(values, floor, clusters, unit=_change(unit))
    return found


def shifts(
    before: np.ndarray, after: np.ndarray, control: np.ndarray | None, clusters: np.ndarray, *, name: str, unit: str
) -> dict[str, Estimate]:
    """Return ``name_before``, ``name_after``, ``name_shift``, and with a control ``name_shift_control``, ``name_over_floor``.

    Args:
        before: shape (items,), a quantity of either sign of the base; NaN on items that have none, which are left out.
        after: shape (items,), of the tuned model.
        control: shape (items,), of the control; what the change is beyond it is tuned - control, item by item.
        clusters: shape (items,), the label of each item's cluster.
        name: what the estimates' names begin with.
        unit: of the quantity; a difference of shares is in points.
    """
    roles = [before, after] if control is None else [before, after, control]
    there = np.isfinite(np.stack(roles)).all(0)
    kept, labels = [values[there] for values in roles], clusters[there]

    def change(one: int, other: int) -> Estimate:
        return mean_difference(kept[one], kept[other], labels, unit=_change(unit))

    found = {
        f"{name}_before": level(kept[0], labels, unit=unit),
        f"{name}_after": level(kept[1], labels, unit=unit),
        f"{name}_shift": change(0, 1),
    }
    return found if control is None else {**found, f"{name}_shift_control": change(0, 2), f"{name}_over_floor": change(2, 1)}


def halves(clusters: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the items of a random half of the clusters and those of the others; ``None`` where a half would be too small.

    What is chosen on one half as the largest is measured on the other: its interval there is as honest as any other's.
    """
    known = np.unique(clusters)
    if len(known) < 2 * FEWEST_CLUSTERS:
        return None
    chosen = np.isin(clusters, rng.permutation(known)[: len(known) // 2])
    return np.flatnonzero(chosen), np.flatnonzero(~chosen)


def beyond(values: np.ndarray, floor: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Return which of many distances exceed the control's, with Holm's correction over all of them: bool, shape (...).

    Args:
        values: shape (items, ...), distances, NaN where there is none.
        floor: shape (items, ...), the control's.
        clusters: shape (items,), the label of each item's cluster.
    """
    places = [place for place in np.ndindex(values.shape[1:]) if np.isfinite(values[:, *place]).all()]
    found = {str(place): against_noise_floor(values[:, *place], floor[:, *place], clusters, unit="") for place in places}
    fallen = holm({name: one.p_value for name, one in found.items()})
    marked = np.zeros(values.shape[1:], dtype=bool)
    for place in places:
        marked[place] = fallen[str(place)] and (found[str(place)].value or 0.0) > 0
    return marked


def _distance(values: np.ndarray, clusters: np.ndarray, unit: str) -> Estimate:
    """Return the mean of a distance; one that is a share of something does not reach beyond all of it."""
    found = positive_mean(values, clusters, unit=unit, computed=True)
    return found.model_copy(update={"interval": within(found.interval, unit)})


def _change(unit: str) -> str:
    return "points" if unit == "share" else unit
