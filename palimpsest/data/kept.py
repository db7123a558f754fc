"""Kept: what crosses from contexts to decisions in recurrent layers, item by item?

Pure functions from stored measurements to numbers for each item.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from palimpsest.core import roles, stats
from palimpsest.core.estimate import Estimate, unknown
from palimpsest.core.measurement import Measurement
from palimpsest.core.wording import number
from palimpsest.data.attended import ALLOWED, ALLOWED_HALF, Roles, mean

GATES = {"write": "write strength", "decay": "decay"}
OWN, REST = "direction", "rest"
ODDS = "nats of log-odds"
PARTS = {
    "recurrent": "recurrent states",
    "attention": "attention's keys and values",
    "both": "both: all that is kept of the context",
    "decision": "neither: the weights that decide",
}
"""What can be exchanged between two models at the end of a context, and what then is left."""
EXCHANGES = ("none", "recurrent", "attention", "both")


@dataclass(frozen=True)
class Swap:
    """Answers of two models over contexts that were read by either.

    ``log_odds`` and ``share`` map the deciding role (base, tuned) to [items, exchanges], in the order of ``exchanges``:
    of the behaviour's option against the others, when those parts of the context are the other model's.
    """

    log_odds: Mapping[str, np.ndarray]
    share: Mapping[str, np.ndarray]
    clusters: np.ndarray
    exchanges: tuple[str, ...] = EXCHANGES

    def of(self, role: str, exchange: str) -> np.ndarray:
        return self.log_odds[role][:, self.exchanges.index(exchange)]

    @property
    def whole(self) -> np.ndarray:
        """The change of the log-odds from base to tuned, shape (items,)."""
        return self.of("tuned", "none") - self.of("base", "none")

    def part(self, name: str, role: str | None = None) -> np.ndarray:
        """Return what of the change goes with a part, shape (items,).

        Args:
            name: of ``PARTS``.
            role: ``tuned``: what it loses with the base's part; ``base``: what it gains with the tuned one's; by default their
                mean.
        """
        if role is None:
            return (self.part(name, "tuned") + self.part(name, "base")) / 2
        if name == "decision":
            return self.whole - self.part("both", role)
        change = self.of(role, name) - self.of(role, "none")
        return change if role == "base" else -change


@dataclass(frozen=True)
class Kept:
    """One set of items, as far as it could be read.

    ``drift`` maps tuned and the control to [items, layers, heads]; ``gates`` a gate, a span and a role (with the base) to the
    same, NaN on items without that span.
    """

    drift: Roles = field(default_factory=dict)
    drift_clusters: np.ndarray = field(default_factory=lambda: np.zeros(0))
    drift_layers: tuple[int, ...] = ()
    gates: dict[str, dict[str, Roles]] = field(default_factory=dict)
    gate_clusters: np.ndarray = field(default_factory=lambda: np.zeros(0))
    gate_layers: tuple[int, ...] = ()
    swap: Swap | None = None


def gates_of(found: Mapping[str, Measurement]) -> dict[str, dict[str, Roles]]:
    """Return each gate's values on each span by role, for the spans that all roles have."""
    names = set.intersection(*(set(one.arrays) for one in found.values()))
    return {
        gate: {
            name.split(":", 1)[1]: {role: one.arrays[name] for role, one in found.items()}
            for name in sorted(names)
            if name.startswith(f"{gate}:")
        }
        for gate in GATES
    }


def whys(found: Mapping[str, Measurement]) -> list[str]:
    """Return why nothing could be read, each reason once."""
    return list(dict.fromkeys(one.texts["why"][0] for one in found.values() if "why" in one.texts))


def drifts(found: Mapping[str, Measurement], labels: np.ndarray) -> dict[str, Any]:
    """Return what a ``Kept`` holds of drifts, from what was read by role; nothing where no layer keeps a state."""
    base = found["base"].arrays
    roles = {role: one.arrays["drift"].astype(np.float64) for role, one in found.items() if "drift" in one.arrays}
    if "tuned" not in roles:
        return {}
    read = np.diff(base["start"]) > 0
    return {"drift": roles, "drift_clusters": labels[read], "drift_layers": tuple(base["recurrent_layer"].tolist())}


def gated(found: Mapping[str, Measurement], labels: np.ndarray) -> dict[str, Any]:
    """Return what a ``Kept`` holds of gates, from what was read by role; nothing where they could not be read on every role."""
    shapes = {one.arrays["layer"].tobytes() for one in found.values() if "layer" in one.arrays}
    if whys(found) or len(shapes) != 1:
        return {}
    base = found["base"].arrays
    read = np.diff(base["start"]) > 0
    return {"gates": gates_of(found), "gate_clusters": labels[read], "gate_layers": tuple(base["layer"].tolist())}


def swap_of(found: Mapping[str, Measurement], expected: Sequence[str], labels: np.ndarray) -> Swap:
    """Return the answers of base and tuned over each other's contexts.

    Args:
        found: base's and tuned's measurement of the same items.
        expected: for each item that was read the option that means the behaviour.
        labels: its template.
    """
    odds, shares = {}, {}
    for role, one in found.items():
        values, start, names = one.arrays["log_probability"], one.arrays["option_start"], one.texts["names"]
        rows = []
        for wanted, low, high in zip(expected, start[:-1], start[1:], strict=True):
            chosen = np.array([name == wanted for name in names[low:high]])
            some = values[low:high]
            rows.append(np.logaddexp.reduce(some[chosen], axis=0) - np.logaddexp.reduce(some[~chosen], axis=0))
        odds[role] = np.array(rows)
        shares[role] = 1.0 / (1.0 + np.exp(-odds[role]))
    return Swap(odds, shares, np.unique(labels, return_inverse=True)[1], tuple(found["base"].texts["exchanges"]))


def unlike(found: Mapping[str, Measurement]) -> str:
    """Return on which role a decision over a cached context differs from that in one pass by more than rounding, or nothing."""
    for role, one in found.items():
        largest = float(np.nanmax(one.arrays["difference"]))
        allowed = ALLOWED if one.texts["dtype"][0].endswith("float32") else ALLOWED_HALF
        if not largest <= allowed:
            return (
                f"over a cached context a log-probability of {role} differs by {largest:.2g} nats from that in one pass, "
                f"and {allowed:g} are allowed"
            )
    return ""


def parts(swap: Swap) -> dict[str, Estimate]:
    """Return the whole change, each part of it with its share, and the difference between states and keys and values."""
    labels = swap.clusters
    found = {"whole": stats.mean_difference(swap.of("base", "none"), swap.of("tuned", "none"), labels, unit=ODDS)}
    for name in PARTS:
        found[name] = stats.mean(swap.part(name), labels, unit=ODDS)
        found[f"{name}_share"] = share_of(swap, name, found["whole"])
    over = stats.mean_difference(swap.part("attention"), swap.part("recurrent"), labels, unit=ODDS)
    return {**found, "recurrent_over_attention": over}


def share_of(swap: Swap, name: str, whole: Estimate) -> Estimate:
    """Return the share of a part in the whole change, where that is told from 0."""
    if whole.above(0.0) is None:
        return unknown("share", whole.n, "the whole change may be nothing")
    return stats.ratio(swap.part(name), swap.whole, swap.clusters, swap.clusters)


def gate_shifts(one: Kept, gate: str, span: str, name: str) -> dict[str, Estimate]:
    """Return a gate's mean over layers and heads on a span before and after, its shift, and that beyond the control's."""
    flat = {role: mean(values, 1, 2) for role, values in one.gates[gate][span].items()}
    return stats.shifts(flat["base"], flat["tuned"], roles.runs(flat), one.gate_clusters, name=name, unit="share")


def told(found: Mapping[str, Estimate], name: str) -> str:
    """Return how much of the change goes with a part: its share, or where the whole could be nothing its size."""
    share, size = found.get(f"{name}_share"), found[name].value
    if share is not None and share.value is not None:
        return f"{number(100 * share.value, 1)}%"
    return "an unknown part" if size is None else f"{number(size, 2, signed=True)} nats"
