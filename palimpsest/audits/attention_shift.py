"""Attention shift: do decision tokens look elsewhere than before, at what, and through which heads?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from palimpsest.audit import Audit, Case, Finding, NotApplicable, Place, Result, Table
from palimpsest.core import roles, stats
from palimpsest.core.estimate import Estimate
from palimpsest.core.heat_map import heat_map
from palimpsest.core.measurement import Measurement, Need
from palimpsest.core.roles import CONTROL
from palimpsest.core.shapes import PLAIN, Shape
from palimpsest.core.wording import capital, number, than_controls
from palimpsest.data import attended
from palimpsest.data.attended import Attended, How, called, mean
from palimpsest.data.chat import POLES
from palimpsest.data.grading import clusters

SPANS = {"conflict": "what conflicts with the direction", "direction": "the direction", "support": "what supports it"}
COSINE = "1 \N{MINUS SIGN} cosine"


@dataclass(frozen=True)
class Data:
    """Every set of items that was read, by name, and how it was read."""

    groups: dict[str, Attended]
    how: How
    control: int
    """How many control runs there are."""
    unread: tuple[str, ...] = ()
    """Why sets could not be read."""

    @property
    def main(self) -> tuple[str, Attended]:
        """What is told first: where the behaviour should appear, or else everything."""
        if "express" in self.groups:
            return called("express"), self.groups["express"]
        return ", ".join(map(called, self.groups)), attended.pooled(self.groups)

    @property
    def tokens(self) -> str:
        """Which tokens were read, in words."""
        texts = all(name.partition(":")[0] in ("text", "sampled") for name in self.groups)
        return "the last tokens of texts" if texts else "decision tokens"


class AttentionShift(Audit[Data]):
    """Distance between attention maps before and after, head by head, and the mass that moved onto named spans.

    Question:
        Where do the tokens that decide look, do they look elsewhere than before, and through which heads?
    Method:
        The same conversations with the same reference decision go through both models; the maps of the last context token
        (which chooses the first decision token) and of the first decision tokens are compared head by head. The distance is
        total variation: the share of a head's attention that now goes to other keys, 0 to 1. It bounds the mass that can have
        moved onto any span, and over a part of the keys it is a lower bound (a Euclidean distance is not). Averaged over
        tokens and heads it is held against the same distance of a model trained on rehearsal only. Mass on a span is signed:
        after - before, against the control's. Concentration of a map is its Gini coefficient and the mass on the tenth of keys
        that has most. How local the change is: heads are ranked on one half of the templates, and every number about the
        chosen ones comes from the other half. Recurrent layers have no map: 1 - cosine of their state after the context, and
        the share of a span in the state of gated delta layers, which is exact, because such a state is linear in the values
        that are written.
        Heads are matched by number; where another order of a layer's heads leaves less than half of the distance, in that
        order, which is told: heads that were only permuted look where they looked. Each model is matched by itself.
    Reads:
        `attention` of base, tuned and the rehearsal-only control on both poles (without a behaviour: on capabilities, or at the
        end of texts). Eager attention is needed for it, in a pass of its own; its predictions are held against ordinary ones.
    Null:
        As far from the base as the rehearsal-only control, and as much mass on the conflict as with it. A model held against
        itself is exactly 0 everywhere; without a control nothing else is known of how far noise goes.
    Limits:
        Attention is not influence: a head may look elsewhere to no effect, and move what it reads without looking elsewhere.
        The reference decision is read, not what each model would write. Recurrent heads are matched by number alone. A state of
        over 256 numbers a head is held as a random sketch, which scatters a head's drift by about 9%. The interval covers
        items, not training seeds.
    Reference:
        Jain and Wallace 2019, arXiv 1902.10186 (attention and explanation); Yang et al. 2024, arXiv 2412.06464 (gated delta
        rule); Bell and McCaffrey 2002 (clustered variance).
    """

    cost: ClassVar = "forward"
    primary: ClassVar = ("distance_over_floor", "conflict_over_floor")
    planted: ClassVar = 0.1
    hostile: ClassVar = ("lognormal", "Zipf sizes")

    queries: int = Field(default=4, ge=1)
    """How many tokens are read: the last of the context, and the first ones of the decision but one fewer."""
    items: int = Field(default=128, ge=8)
    """How many items of a set are read."""
    sets: int = Field(default=3, ge=1)
    """How many sets are read where there is no behaviour."""
    named: int = Field(default=6, ge=1)

    def needs(self, case: Case) -> tuple[Need, ...]:
        names = self._names(case)
        if not names:
            raise NotApplicable("there is nothing to read: give a behaviour with --behaviour FILE.yaml, or --text FILE")
        found = []
        for name in names:
            base = self._need("base", name)
            found += [base, *(self._need(role, name, base) for role in case.control_runs[1:])]
        return tuple(found)

    def _names(self, case: Case) -> list[str]:
        poles = [name for name in POLES if name in case.items]
        return poles or (case.names("capability") or case.names("text", "sampled"))[: self.sets]

    def _need(self, role: str, name: str, after: Need | None = None) -> Need:
        parameters = {"queries": self.queries, "items": self.items}
        return Need(measure="attention", role=role, items=name, parameters=parameters, after=after)

    def gather(self, case: Case, measured: Mapping[str, Measurement]) -> Data:
        sets, told = {}, []
        for name in self._names(case):
            need = self._need("base", name)
            found = {"base": measured[need.name]}
            found |= {role: measured[self._need(role, name, need).name] for role in case.control_runs[1:]}
            if why := attended.unread(found) or attended.disagreeing(found):
                told.append(f"Attention on {name}: {why}.")
            else:
                sets[name] = found
        if not sets:
            raise NotApplicable(" ".join(told))
        groups = {
            name: attended.attended(found, clusters(case.items[name])[np.diff(found["base"].arrays["start"]) > 0])
            for name, found in sets.items()
        }
        return Data(groups, attended.how_read(list(sets.values())), len(roles.controls(case.roles)), tuple(told))

    def analyse(self, data: Data, rng: np.random.Generator) -> Result:
        name, main = data.main
        estimates: dict[str, Estimate] = {}
        tables: list[Table] = []
        findings: list[Finding] = []
        if main.distance:
            estimates |= _moved(main.distance, main.clusters, "distance", "share")
            findings.append(_distance_finding(estimates, f"{data.tokens} ({name})", data.control))
            tables += [_distances(data), _by_token(main, data, name), *self._heads(main, data, rng, estimates)]
        conflict = _conflict(data)
        estimates |= conflict
        if conflict:
            findings.append(_conflict_finding(conflict, data.control))
        if main.drift:
            estimates |= _moved(main.drift, main.clusters, "state_drift", COSINE)
            findings.append(_drift_finding(estimates, data.control))
        said = [finding.statement for finding in findings]
        return Result(
            summary=capital("; ".join([*said, *filter(None, [data.how.order])])) + ".",
            estimates=estimates,
            findings=tuple(findings),
            tables=(*tables, *_spans(data), *_recurrent(data), *_concentration(data)),
            figure=_figure(main, data) if main.distance else {},
            network=tuple(_places(main, data)),
            cannot_say=_cannot_say(data, bool(conflict), main),
        )

    def _heads(self, main: Attended, data: Data, rng: np.random.Generator, estimates: dict[str, Estimate]) -> list[Table]:
        """Return what can be said of single heads: chosen on one half of the templates, measured on the other."""
        halves = stats.halves(main.clusters, rng)
        if halves is None:
            return []
        choose, tell = halves
        cluster, tuned = main.clusters[tell], main.distance["tuned"]
        heads = tuned[0].size
        count = math.ceil(0.1 * heads)
        shares = []
        for role, key in (("tuned", "share_of_top_heads"), (CONTROL, "share_of_top_heads_control")):
            if role in main.distance:
                values = main.distance[role]
                layer, head = attended.largest_heads(values[choose], count)
                top, whole = values[tell][:, layer, head].sum(1), np.nansum(values[tell], axis=(1, 2))
                estimates[key] = stats.ratio(top, whole, cluster, cluster)
                shares.append((role.replace("_", " "), estimates[key]))
        rows = []
        for layer, head in zip(*attended.largest_heads(tuned[choose], min(self.named, heads)), strict=True):
            parts = {role: values[tell][:, layer, head] for role, values in main.distance.items()}
            rows.append((f"layer {data.how.layers[layer]}, head {head}", *_moved(parts, cluster, "head", "share").values()))
        chosen = "Chosen on one half of the templates, measured on the other: being chosen makes nothing look larger."
        local = f"share of all movement in the {count} of {heads} heads that moved most"
        even = f" If all heads moved alike it would be {number(100 * count / heads, 1)}%."
        return [
            _moves("Heads that moved most", "head", rows, data.control, chosen + " Layers and heads are counted from 0."),
            Table(title="How local the movement is", columns=("", local), rows=tuple(shares), note=chosen + even),
        ]

    def simulate(self, effect: float, rng: np.random.Generator, shape: Shape = PLAIN) -> Data:
        templates, each, layers, heads = 24, 4, 6, 4
        cluster = shape.labels(templates, each)
        floor, before = 0.02, 0.12

        def uneven(shape: float, *size: int) -> np.ndarray:
            return rng.gamma(shape, 1 / shape, size)

        def over_heads(shape: float) -> np.ndarray:
            pattern = rng.gamma(shape, 1.0, (layers, heads))
            return pattern / pattern.mean()

        def item_sizes() -> np.ndarray:
            return (shape.factors(uneven(10, templates), rng)[cluster] * uneven(6, cluster.size))[:, None, None]

        def noise() -> np.ndarray:
            """Return what one training run alone does to distances: its own heads, templates and items."""
            return floor * over_heads(1.5) * item_sizes() * uneven(8, cluster.size, layers, heads)

        def shifted(by: float) -> np.ndarray:
            """Return masses after one training run: its own drift in each template and item, and the effect."""
            drift = rng.normal(0, 0.01, templates)[cluster] + rng.normal(0, 0.02, cluster.size)
            return drift[:, None, None] + by * over_heads(0.8) * item_sizes()

        mass = before * uneven(8, templates)[cluster][:, None, None] * over_heads(0.7)
        masses = {"base": mass, "tuned": mass + shifted(effect / 2), CONTROL: mass + shifted(0.0)}
        groups = {
            pole: Attended(
                cluster,
                {"tuned": noise() + effect * over_heads(2.0) * item_sizes(), CONTROL: noise()},
                mass=conflict,
            )
            for pole, conflict in (("express", {}), ("withhold", {"conflict": masses}))
        }
        return Data(groups, How(tuple(range(layers))), control=1)

    def truth(self, effect: float) -> dict[str, float]:
        return {"distance_over_floor": effect, "conflict_over_floor": effect / 2}

    @staticmethod
    def plot(result: Result, axes) -> None:
        heat_map(axes, result.figure)


def _moved(values: Mapping[str, np.ndarray], cluster: np.ndarray, name: str, unit: str) -> dict[str, Estimate]:
    """Return the mean distance over layers and heads of tuned, that of the control, and their difference."""
    flat = attended.over_heads(values)
    return stats.distances(flat["tuned"], roles.runs(flat), cluster, name=name, unit=unit)


def _shifted(values: Mapping[str, np.ndarray], cluster: np.ndarray, name: str, unit: str = "share") -> dict[str, Estimate]:
    """Return a signed quantity, mean over layers and heads, before and after, with its change and the control's."""
    flat = attended.over_heads(values)
    return stats.shifts(flat["base"], flat["tuned"], roles.runs(flat), cluster, name=name, unit=unit)


def _distance_finding(estimates: Mapping[str, Estimate], where: str, runs: int) -> Finding:
    over = estimates.get("distance_over_floor")
    said = f"{_percent(estimates['distance'])} of the attention at {where} goes elsewhere than before"
    if over is not None:
        said += f", {than_controls(over, runs)}"
    return _finding("attention", said, estimates["distance"], over, "attention that goes elsewhere", runs)


def _conflict_finding(conflict: Mapping[str, Estimate], runs: int) -> Finding:
    before, after = (_percent(conflict[f"conflict_{when}"]) for when in ("before", "after"))
    topic = f"attention on {SPANS['conflict']}"
    said = f"the share of {topic} went from {before} to {after}"
    return _finding("conflict", said, conflict["conflict_shift"], conflict.get("conflict_over_floor"), topic, runs)


def _drift_finding(estimates: Mapping[str, Estimate], runs: int) -> Finding:
    drift, topic = estimates["state_drift"], "recurrent states after the context"
    size = "an unknown amount" if drift.value is None else f"{drift.value:.3g} ({COSINE})"
    over = estimates.get("state_drift_over_floor")
    return _finding("recurrent", f"the {topic} drifted by {size}", drift, over, topic, runs)


def _finding(subject: str, said: str, estimate: Estimate, over: Estimate | None, topic: str, runs: int) -> Finding:
    topic += f", beyond {roles.called(runs)}" if over else ""
    return Finding(tag="inside", statement=said, estimate=over or estimate, topic=topic, subject=subject)


def _percent(estimate: Estimate) -> str:
    return "an unknown share" if estimate.value is None else f"{number(100 * estimate.value, 1)}%"


def _moves(title: str, first: str, rows: list[Any], control: int, note: str = "", moved: str = "moved") -> Table:
    columns = (first, moved, "rehearsal only", "difference")
    return Table(title=title, columns=columns if control else columns[:2], rows=tuple(rows), note=note)


def _shifts(title: str, first: str, rows: list[Any], control: int, note: str = "") -> list[Table]:
    columns = (first, "before", "after", "change", "rehearsal only", "beyond it")
    return [Table(title=title, columns=columns if control else columns[:4], rows=tuple(rows), note=note)] if rows else []


def _distances(data: Data) -> Table:
    rows = [
        (called(name), *_moved(one.distance, one.clusters, "", "share").values())
        for name, one in data.groups.items()
        if one.distance
    ]
    note = "Share of attention that goes to other keys than before (total variation), mean over tokens and heads."
    return _moves(f"Attention that moved at {data.tokens}", "read", rows, data.control, f"{note} {data.how.told}".strip())


def _by_token(main: Attended, data: Data, where: str) -> Table:
    rows, named = [], "chooses decision token {}" if data.tokens == "decision tokens" else "is number {} of those read"
    for place in range(main.by_token["tuned"].shape[1] if main.by_token else 0):
        parts = {role: values[:, place] for role, values in main.by_token.items()}
        there = np.isfinite(parts["tuned"])
        if there.any():
            found = _moved({role: part[there] for role, part in parts.items()}, main.clusters[there], "", "share")
            rows.append((named.format(place + 1), *found.values()))
    return _moves(f"Attention that moved, token by token ({where})", "the token that", rows, data.control)


def _conflict(data: Data) -> dict[str, Estimate]:
    """Return the shift of mass onto the conflict's span, in the first set that names one."""
    for group in data.groups.values():
        if "conflict" in group.mass:
            return _shifted(group.mass["conflict"], group.clusters, "conflict")
    return {}


def _spans(data: Data) -> list[Table]:
    first = "share of attention on"
    note = "Mean over the tokens that were read and over all heads; all of a head's attention is 100%."
    return [
        *_shifts("Attention on named spans", first, _span_rows(data, "mass"), data.control, note),
        *_shifts("The same where decision token 1 is chosen", first, _span_rows(data, "first"), data.control),
    ]


def _span_rows(data: Data, kind: str) -> list[Any]:
    return [
        (f"{SPANS.get(span, span)} ({called(name)})", *_shifted(values, group.clusters, "").values())
        for name, group in data.groups.items()
        for span, values in getattr(group, kind).items()
    ]


def _concentration(data: Data) -> list[Table]:
    rows = []
    for name, group in data.groups.items():
        for label, values, unit in (
            ("Gini coefficient", group.gini, ""),
            ("mass on top tenth of keys", group.top_tenth, "share"),
        ):
            if values:
                rows.append((f"{label} ({called(name)})", *_shifted(values, group.clusters, "", unit).values()))
    note = "A Gini coefficient of 0 is attention spread evenly over all keys, one near 1 is all of it on one key."
    return _shifts("Concentration of attention", "how concentrated maps are", rows, data.control, note)


def _recurrent(data: Data) -> list[Table]:
    drifts = [
        (called(name), *_moved(one.drift, one.clusters, "", COSINE).values()) for name, one in data.groups.items() if one.drift
    ]
    if not drifts:
        return []
    note = "Signed: below 0 a span writes against the rest of the state. The shares of all tokens add up to 100%."
    first = "share of the state that is due to"
    return [
        _moves("Recurrent states after the context", "read", drifts, data.control, data.how.told, moved="drift"),
        *_shifts("Named spans in recurrent states", first, _span_rows(data, "share"), data.control, note),
    ]


def _figure(main: Attended, data: Data) -> dict[str, Any]:
    floors, beyond = roles.runs(main.distance), roles.called(data.control)
    cells = mean(main.distance["tuned"] - (0.0 if floors is None else floors.mean(0)), 0)
    marked = None if floors is None or len(floors) == 1 else stats.beyond(main.distance["tuned"], floors, main.clusters)
    return {
        "cells": [[None if math.isnan(value) else value for value in row] for row in cells.tolist()],
        "rows": [str(layer) for layer in data.how.layers],
        "columns": [str(head) for head in range(cells.shape[1])],
        "row_label": "layer",
        "column_label": "head",
        "unit": f"points of attention moved, beyond {beyond}" if data.control else "% of attention that goes elsewhere",
        "factor": 100.0,
        "marked": [] if marked is None else marked.tolist(),
        "marked_after": "distance_over_floor",
        "mark": "" if marked is None else f"\N{BULLET} more than in {beyond} (Holm over all heads)",
    }


def _places(main: Attended, data: Data) -> list[Place]:
    found = []
    for part, moved, layers, quantity, unit in (
        ("attention", main.distance, data.how.layers, "attention moved (share that goes elsewhere)", "share"),
        ("recurrent", main.drift, data.how.recurrent, f"recurrent state moved ({COSINE})", COSINE),
    ):
        for place, layer in enumerate(layers if moved else ()):
            flat = {role: mean(values[:, place], 1) for role, values in moved.items()}
            size, runs = stats.positive_mean(flat["tuned"], main.clusters, unit=unit), roles.runs(flat)
            floor = None if runs is None else stats.floor(runs, main.clusters, unit=unit)
            found.append(Place(layer=layer, part=part, quantity=quantity, estimate=size, floor=floor))
    return found


def _cannot_say(data: Data, conflict: bool, main: Attended) -> tuple[str, ...]:
    said = list(data.unread)
    if not data.control:
        said.append("How much of this is the noise of any training: give --control rehearsal_only=PATH.")
    if not conflict:
        said.append("Whether attention moved onto what speaks against a direction: these items name no span 'conflict'.")
    if main.distance and len(np.unique(main.clusters)) < 2 * stats.FEWEST_CLUSTERS:
        said.append(f"Which heads moved most: {2 * stats.FEWEST_CLUSTERS} templates are needed, to choose on half of them.")
    return tuple(said)
