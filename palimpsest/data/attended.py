"""Attended: what did each model attend to, item by item?

Pure functions from stored measurements to numbers for each item, averaged over the tokens that were read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from palimpsest.core.measurement import Measurement
from palimpsest.core.wording import counted

ALLOWED, ALLOWED_HALF = 0.01, 0.5
"""By how many nats a log-probability may differ under eager attention: rounding alone makes 1e-5 of it in float32, and 0.1 in
half precision; a context that is not seen makes several."""
_CALLED = {
    "express": "where it should appear",
    "withhold": "where it should not",
    "sampled:generated": "text that the base wrote",
}
_LEAST_KEPT = 1e-3
"""More mass than this outside of the kept keys makes distances lower bounds worth telling."""
Roles = dict[str, np.ndarray]
"""One array for each role."""


@dataclass(frozen=True)
class Attended:
    """One set of items, as it was read on every role.

    ``distance``, ``drift`` map tuned and the control to [items, layers, heads], from the base; ``by_token`` to [items, tokens],
    NaN where a decision is shorter. ``mass`` maps a span, then a role (with the base) to [items, layers, heads], NaN on items
    without that span, and ``first`` to [items], at the token that chooses the first decision token; ``share`` as ``mass``, of
    the span in recurrent states. ``gini`` and ``top_tenth`` map a role to [items].
    """

    clusters: np.ndarray
    distance: Roles = field(default_factory=dict)
    by_token: Roles = field(default_factory=dict)
    mass: dict[str, Roles] = field(default_factory=dict)
    first: dict[str, Roles] = field(default_factory=dict)
    gini: Roles = field(default_factory=dict)
    top_tenth: Roles = field(default_factory=dict)
    drift: Roles = field(default_factory=dict)
    share: dict[str, Roles] = field(default_factory=dict)


@dataclass(frozen=True)
class How:
    """How maps were read."""

    layers: tuple[int, ...] = ()
    """The numbers of the layers with attention, counted from 0."""
    recurrent: tuple[int, ...] = ()
    difference: float | None = None
    """Largest difference of a log-probability between eager and ordinary attention, in nats."""
    ordinary: str = ""
    """The attention that the models run with otherwise."""
    outside: float = 0.0
    """Mean mass of the base's attention on keys that were not kept."""
    reordered: tuple[int, ...] = ()
    """The layers of the tuned model whose heads stand in another order; they were matched with the base's."""

    @property
    def order(self) -> str:
        """Which heads stand in another order, in words; empty where all are matched by number."""
        several = f"{len(self.reordered)} of {counted(len(self.layers), 'layer')}"
        return f"the heads of {several} stand in another order and were matched with the base's" if self.reordered else ""

    @property
    def told(self) -> str:
        """In one or two sentences; empty where there is nothing to tell."""
        if self.difference is None:
            return ""
        least = 1e-5
        size = f"at most {math.ceil(self.difference / least) * least:.5f}" if self.difference > least else f"under {least:.5f}"
        bounds = f" Lower bounds: {100 * self.outside:.1f}% of the base's attention is on keys that were not kept."
        said = f"Read with eager attention, in place of {self.ordinary}; this changed log-probabilities by {size} nats."
        return said + (bounds if self.outside > _LEAST_KEPT else "")


def how_read(sets: Sequence[Mapping[str, Measurement]]) -> How:
    """Return how sets were read, each of which maps roles to measurements, the base's first."""
    every = [one for found in sets for one in found.values()]
    base = {name: values for found in sets for name, values in found["base"].arrays.items()}
    outside = [np.nanmean(one.arrays["outside"]) for one in every if "outside" in one.arrays]
    return How(
        tuple(base["layer"].tolist()) if "layer" in base else (),
        tuple(base["recurrent_layer"].tolist()) if "recurrent_layer" in base else (),
        max(float(np.nanmax(one.arrays["difference"])) for one in every),
        every[0].texts["read"][0],
        float(max(outside, default=0.0)),
        tuple(sorted({layer for found in sets for layer in _reordered(found["tuned"])})),
    )


def _reordered(one: Measurement) -> list[int]:
    """Return the layers whose heads stand in another order than the base's."""
    return one.arrays["layer"][one.arrays["reordered"]].tolist() if "reordered" in one.arrays else []


def attended(found: Mapping[str, Measurement], labels: np.ndarray) -> Attended:
    """Return what was read of one set.

    Args:
        found: measurements by role, the base's first.
        labels: the template of each item that was read.
    """
    arrays = {role: one.arrays for role, one in found.items()}

    def each(name: str, read: Callable[[np.ndarray], np.ndarray]) -> Roles:
        return {role: read(one[name]) for role, one in arrays.items() if name in one}

    def spans(prefix: str, read: Callable[[np.ndarray], np.ndarray]) -> dict[str, Roles]:
        names = sorted(set.intersection(*({name for name in one if name.startswith(prefix)} for one in arrays.values())))
        return {name.removeprefix(prefix): each(name, read) for name in names}

    return Attended(
        np.unique(labels, return_inverse=True)[1],
        distance=each("distance", lambda values: mean(values, 3)),
        by_token=each("distance", lambda values: mean(values, 1, 2)),
        mass=spans("mass:", lambda values: mean(values, 3)),
        first=spans("mass:", lambda values: mean(values[..., 0], 1, 2)),
        gini=each("gini", lambda values: mean(values, 1, 2, 3)),
        top_tenth=each("top_tenth", lambda values: mean(values, 1, 2, 3)),
        drift=each("drift", lambda values: values.astype(np.float64)),
        share=spans("share:", lambda values: values.astype(np.float64)),
    )


def disagreeing(found: Mapping[str, Measurement]) -> str:
    """Return on which role eager attention changes predictions by more than rounding, and by how much, or nothing."""
    for role, one in found.items():
        dtype, largest = one.texts["read"][1], float(np.nanmax(one.arrays["difference"]))
        allowed = ALLOWED if dtype == "float32" else ALLOWED_HALF
        if not largest <= allowed:
            return (
                f"eager attention, which alone returns maps, changes a log-probability of {role} by {largest:.2g} nats, and "
                f"{allowed:g} are allowed in {dtype}: what it shows is not what this model does"
            )
    return ""


def pooled(groups: Mapping[str, Attended]) -> Attended:
    """Return several sets as one, of the distances that all of them have; templates of two sets are never one cluster."""
    parts = list(groups.values())
    if len(parts) == 1:
        return parts[0]
    offsets = np.cumsum([0, *(part.clusters.max() + 1 for part in parts)])
    labels = np.concatenate([part.clusters + offset for part, offset in zip(parts, offsets, strict=False)])

    def joined(name: str) -> Roles:
        values: list[Roles] = [getattr(part, name) for part in parts]
        return {role: np.concatenate([one[role] for one in values]) for role in values[0] if all(role in one for one in values)}

    return Attended(labels, joined("distance"), joined("by_token"), drift=joined("drift"))


def unread(found: Mapping[str, Measurement]) -> str:
    """Return why a set of items could not be read on some role, or nothing."""
    for role, one in found.items():
        if "why" in one.texts:
            return f"{one.texts['why'][0]} ({role})"
        if role != "base" and not {"distance", "drift"} & set(one.arrays):
            return f"the layers and heads of {role} are not those of the base, so that none can be held against another"
    return ""


def called(name: str) -> str:
    """Return what a set of items is called on a page; a general text by its own name."""
    kind, _, own = name.partition(":")
    return _CALLED.get(name, own if kind == "text" else name.replace(":", " "))


def over_heads(roles: Mapping[str, np.ndarray]) -> Roles:
    """Return the mean over layers and heads for each item; what has none stays as it is."""
    return {role: values if values.ndim == 1 else mean(values, 1, 2) for role, values in roles.items()}


def largest_heads(values: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the layers and the heads of the largest means over items [items, layers, heads], the largest first."""
    means = np.nan_to_num(mean(values, 0), nan=-np.inf)
    layer, head = np.unravel_index(np.argsort(-means.ravel(), kind="stable")[:count], means.shape)
    return layer, head


def mean(values: np.ndarray, *axes: int) -> np.ndarray:
    """Return the mean over what there is along these axes, NaN where there is nothing."""
    there = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(there, values, 0.0).sum(axes, dtype=np.float64) / there.sum(axes)
