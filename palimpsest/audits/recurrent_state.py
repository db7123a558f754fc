"""Recurrent state: does a change lie in what recurrent layers keep of the context, or in what attention looks at?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from palimpsest.audit import Audit, Case, Finding, NoSuchPart, NotApplicable, Place, Result, Table
from palimpsest.core import drawing, roles, stats
from palimpsest.core.estimate import Estimate
from palimpsest.core.measurement import Measurement, Need
from palimpsest.core.roles import CONTROL
from palimpsest.core.shapes import PLAIN, Shape
from palimpsest.core.wording import amount, capital, shown
from palimpsest.data import kept as keeping
from palimpsest.data.attended import called, mean
from palimpsest.data.chat import POLES
from palimpsest.data.grading import clusters, expected_option
from palimpsest.data.kept import EXCHANGES, GATES, ODDS, OWN, PARTS, REST, Kept, Swap

COSINE = "1 \N{MINUS SIGN} cosine"
STATELESS = "this model has no layer that keeps a state"
DECIDING = "the weights that decide alone"
SPANS = {OWN: "the direction", REST: "all else", "conflict": "what conflicts with it", "support": "what supports it"}


@dataclass(frozen=True)
class Data:
    """Every set of items that was read, by name."""

    groups: dict[str, Kept]
    unread: tuple[str, ...] = ()
    """What could not be read, and why."""

    @property
    def main(self) -> tuple[str, Kept]:
        name = "express" if "express" in self.groups else next(iter(self.groups))
        return name, self.groups[name]


class RecurrentState(Audit[Data]):
    """Exchange of what two models keep of the same contexts, drift of their states, and shifts of their gates.

    Question:
        In a model with recurrent layers, does the change lie in what their states keep of a context, in what attention keeps
        (keys and values), or in the weights that decide; and do the recurrent layers treat a direction's own tokens otherwise?
    Method:
        A context runs on one model, its decision on the other. What crosses from context to decision is exchanged at the last
        token of the context: the recurrent states (with the last tokens of their convolutions) of all layers, the keys and
        values of all attention layers, or both; from base into tuned, and the reverse. Read is the log-odds of the behaviour's
        option against the item's other options. A part's size is the mean of what the tuned model loses with the base's part
        and what the base gains with the tuned one's; with both exchanged, what is left is the work of the deciding weights
        alone. The difference between states and keys and values is paired by item. Gates of gated delta layers are the mean
        decay and write strength over a span's tokens, after - before, against the same of the control. Drift is 1 - cosine of
        the state at the end of the context.
    Reads:
        `context_cache` and `context_swap` of base and tuned, `gates` and `attention` of base, tuned and the rehearsal-only
        control, on held-out items of both poles (without a behaviour: drift and gates on capabilities or texts).
    Null:
        An exchange between equal models changes nothing; the states carry as much of the change as the keys and values. Gates
        shift no more than in the rehearsal-only control.
    Limits:
        The last token of the context, from which the decision is made, runs on the model that decides: what it does differently
        counts as the deciding weights. The parts need not add up: what one carries may only be read together with the other. An
        attention layer's keys and values are made from what the recurrent layers below hand up, so a part says where the change
        crosses to the decision and not where it began; and more layers may keep states than attend. An exchanged context is out
        of the ordinary for the model that decides. At most 64 items of a pole, and fewer where states are large. The interval
        covers items and templates, not training seeds.
    Reference:
        Vig et al. 2020, arXiv 2004.12265; Geiger et al. 2021, arXiv 2106.02997 (interchange); Yang et al. 2024, arXiv
        2412.06464 (gated delta rule); Fieller 1954 (ratios).
    """

    cost: ClassVar = "forward"
    primary: ClassVar = ("recurrent_over_attention", "write_over_floor")
    planted: ClassVar = 0.5
    hostile: ClassVar = ("t3", "lognormal")

    items: int = Field(default=64, ge=8)
    """How many items of a pole are exchanged."""
    readings: int = Field(default=128, ge=8)
    """How many items of a set states and gates are read on."""
    sets: int = Field(default=3, ge=1)
    """How many sets are read where there is no behaviour."""
    named: int = Field(default=24, ge=1)
    """Up to so many heads are told one by one; of more, the ones that shifted most."""

    def needs(self, case: Case) -> tuple[Need, ...]:
        names = self._names(case)
        if case.parts and not case.parts & {"recurrent", "other"}:  # what is not known may keep a state
            raise NoSuchPart(STATELESS)
        if not names:
            raise NotApplicable("there is nothing to read: give a behaviour with --behaviour FILE.yaml, or --text FILE")
        every = [need for name in names for need in (*self._drift(case, name).values(), *self._gates(case, name).values())]
        return (*every, *(need for name in names if _has_options(case, name) for need in self._exchange(name).values()))

    def _names(self, case: Case) -> list[str]:
        poles = [name for name in POLES if name in case.items]
        return poles or (case.names("capability") or case.names("text", "sampled"))[: self.sets]

    def _drift(self, case: Case, name: str) -> dict[str, Need]:
        parameters = {"queries": 4, "items": self.readings}  # as attention_shift asks, so that it is taken once
        base = Need(measure="attention", role="base", items=name, parameters=parameters)
        others = case.control_runs[1:]
        return {"base": base} | {role: base.model_copy(update={"role": role, "after": base}) for role in others}

    def _gates(self, case: Case, name: str) -> dict[str, Need]:
        parameters = {"items": self.readings}
        read = case.control_runs
        return {role: Need(measure="gates", role=role, items=name, parameters=parameters) for role in read}

    def _exchange(self, name: str) -> dict[str, Need]:
        """Return for each deciding role the need that starts from the other's contexts."""
        other = {"base": "tuned", "tuned": "base"}
        parameters = {"items": self.items}
        left = {role: Need(measure="context_cache", role=role, items=name, parameters=parameters) for role in other}
        return {
            role: Need(measure="context_swap", role=role, items=name, after=left[other[role]]) for role in ("tuned", "base")
        }

    def gather(self, case: Case, measured: Mapping[str, Measurement]) -> Data:
        groups, unread, kept_none = {}, [], True
        for name in self._names(case):
            labels = clusters(case.items[name])
            drift, gates = (
                {role: measured[need.name] for role, need in needs.items()}
                for needs in (self._drift(case, name), self._gates(case, name))
            )
            found = {**keeping.drifts(drift, labels), **keeping.gated(gates, labels)}
            unread += [f"Gates on {called(name)}: {why}." for why in keeping.whys(gates)]
            kept_none &= all(STATELESS in why for why in keeping.whys(gates)) and bool(keeping.whys(gates))
            if _has_options(case, name):
                swaps = {role: measured[need.name] for role, need in self._exchange(name).items()}
                why = next(iter(keeping.whys(swaps)), "") or keeping.unlike(swaps)
                if why:
                    unread.append(f"Exchange on {called(name)}: {why}.")
                else:
                    read = np.diff(swaps["base"].arrays["start"]) > 0
                    wanted = [expected_option(case.check, item) for item in case.items[name].items]
                    expected = [str(one) for one, there in zip(wanted, read, strict=True) if there]
                    found["swap"] = keeping.swap_of(swaps, expected, labels[read])
            if found:
                groups[name] = Kept(**found)
        if not groups:
            raise NoSuchPart(STATELESS) if kept_none else NotApplicable(" ".join(unread))
        if not any(group.swap for group in groups.values()) and not any(one.startswith("Exchange") for one in unread):
            unread.append("Whether the change lies in states or in attention: these items name no options to decide between.")
        return Data(groups, tuple(dict.fromkeys(unread)))

    def analyse(self, data: Data, rng: np.random.Generator) -> Result:
        name, main = data.main
        estimates: dict[str, Estimate] = {}
        findings, tables = [], []
        if main.swap is not None:
            estimates |= keeping.parts(main.swap)
            findings.append(_exchange_finding(estimates, called(name)))
        tables += [table for pole, one in data.groups.items() if one.swap for table in _exchange_tables(one.swap, called(pole))]
        if main.gates:
            for gate in GATES:
                estimates |= keeping.gate_shifts(main, gate, OWN if OWN in main.gates[gate] else REST, gate)
            findings += [_gate_finding(estimates, main, gate, told) for gate, told in GATES.items()]
            tables += [_gate_spans(data), *_gate_heads(main, rng, self.named, called(name))]
        if main.drift:
            flat = {role: mean(values, 1, 2) for role, values in main.drift.items()}
            labels = main.drift_clusters
            estimates |= stats.distances(flat["tuned"], roles.runs(flat), labels, name="drift", unit=COSINE)
            findings.append(_drift_finding(estimates, len(roles.controls(main.drift))))
            tables.append(_drift_layers(main, called(name)))
        said = [finding.statement for finding in findings]
        return Result(
            summary=capital("; ".join(said)) + ".",
            estimates=estimates,
            findings=tuple(findings),
            tables=tuple(tables),
            figure=_figure(main, estimates),
            network=tuple(_places(main)),
            cannot_say=_cannot_say(data, main),
        )

    def simulate(self, effect: float, rng: np.random.Generator, shape: Shape = PLAIN) -> Data:
        templates, each, layers, heads = 24, 3, 3, 2
        cluster = shape.labels(templates, each)

        def scattered(centre: float, between: float, within: float) -> np.ndarray:
            """Return a size for each item that differs between templates and within them."""
            shared = shape.effects(rng.normal(0, between, templates), between, rng)
            return centre + shared[cluster] + rng.normal(0, within, cluster.size)

        recurrent, attention = scattered(1.0 + effect, 0.3, 0.4), scattered(1.0, 0.3, 0.4)
        decision = scattered(2.0, 0.4, 0.4)
        before = scattered(-1.0, 0.5, 0.5)
        gains = {"none": 0.0, "recurrent": recurrent, "attention": attention, "both": recurrent + attention}
        after = before + decision + gains["both"]
        wobble = {name: rng.normal(0, 0.1 * (name != "none"), (2, cluster.size)) for name in EXCHANGES}
        odds = {
            "base": np.stack([before + gains[name] + wobble[name][0] for name in EXCHANGES], axis=1),
            "tuned": np.stack([after - gains[name] + wobble[name][1] for name in EXCHANGES], axis=1),
        }
        shares = {role: 1 / (1 + np.exp(-values)) for role, values in odds.items()}

        def shifted(by: float) -> np.ndarray:
            return (scattered(by, 0.01, 0.02))[:, None, None] + rng.normal(0, 0.01, (cluster.size, layers, heads))

        level = rng.uniform(0.3, 0.7, (1, layers, heads)) + scattered(0.0, 0.03, 0.03)[:, None, None]
        gates = {
            gate: {OWN: {"base": level, "tuned": level + shifted(size), CONTROL: level + shifted(0.0)}}
            for gate, size in (("write", effect / 10), ("decay", 0.0))
        }
        swap = Swap(odds, shares, cluster)
        return Data({"express": Kept(gates=gates, gate_clusters=cluster, gate_layers=tuple(range(layers)), swap=swap)})

    def truth(self, effect: float) -> dict[str, float]:
        return {"recurrent_over_attention": effect, "write_over_floor": effect / 10}

    @staticmethod
    def plot(result: Result, axes) -> None:
        drawing.value_rows(axes, result.figure)


def _has_options(case: Case, name: str) -> bool:
    items = case.items[name].items
    return name in POLES and all(len(item.options) > 1 and expected_option(case.check, item) for item in items)


def _exchange_finding(found: Mapping[str, Estimate], where: str) -> Finding:
    over, whole = found["recurrent_over_attention"], found["whole"]
    states, attention = PARTS["recurrent"], PARTS["attention"]
    size, *of = (keeping.told(found, name) for name in ("whole", "recurrent", "attention", "decision"))
    said = f"of a change of {size} in log-odds ({where}), {of[0]} goes with the {states}, {of[1]} with {attention}, and "
    said += f"{of[2]} with {DECIDING}"
    if over.above(0.0) is None or whole.above(0.0) is None:
        least = amount(over.minimum_detectable, ODDS)
        said += f"; whether states or keys and values carry more is not decided (it would have seen {least} or more)"
    else:  # a number, without a claim: whether it stands among all questions of a run is told where these are known
        said += f"; states carry {shown(_along(over, whole), change=True).sentence} of it beyond what keys and values carry"
    topic = "what more of the change goes with recurrent states than with keys and values"
    return Finding(tag="inside", statement=said, estimate=over, topic=topic, subject="exchange")


def _along(over: Estimate, whole: Estimate) -> Estimate:
    """Return a difference in the direction of the whole change: of a change downwards the larger part is further below 0."""
    if whole.above(0.0) is not False or over.value is None or over.interval is None:
        return over
    return over.model_copy(update={"value": -over.value, "interval": (-over.interval[1], -over.interval[0])})


def _exchange_tables(swap: Swap, where: str) -> list[Table]:
    labels, rows = swap.clusters, []
    whole = stats.mean(swap.whole, labels, unit=ODDS)
    for name, told in PARTS.items():
        part = [stats.mean(swap.part(name, role), labels, unit=ODDS) for role in ("tuned", "base")]
        rows.append((told, *part, keeping.share_of(swap, name, whole)))
    over = [
        stats.mean_difference(swap.part("attention", role), swap.part("recurrent", role), labels, unit=ODDS)
        for role in ("tuned", "base")
    ]
    answers = [
        (
            told,
            *(stats.level(swap.share[role][:, swap.exchanges.index(name)], labels, unit="share") for role in ("base", "tuned")),
        )
        for name, told in (("none", "nothing (as it is)"), *((one, PARTS[one]) for one in EXCHANGES[1:]))
    ]
    return [
        Table(
            title=f"What carries the change ({where})",
            columns=(
                "goes with",
                "lost by tuned with the base's",
                "gained by base with tuned's",
                "share of all (mean of both)",
            ),
            rows=(*rows, ("whole change", whole, whole, None), ("states minus keys and values", *over, None)),
            note="Nats of the log-odds of the behaviour's option against the item's others. Parts need not add up: one may be "
            "read only together with the other.",
        ),
        Table(
            title=f"The behaviour's option among the item's options, over exchanged contexts ({where})",
            columns=("of the other model's", "the base decides", "tuned decides"),
            rows=tuple(answers),
            note="Shares of what the options hold together: no rates of what is written.",
        ),
    ]


def _gate_finding(found: Mapping[str, Estimate], main: Kept, gate: str, told: str) -> Finding:
    where = "the direction's tokens" if OWN in main.gates[gate] else "all tokens of the context"
    before, after = (found[f"{gate}_{when}"].value for when in ("before", "after"))
    sizes = "by an unknown amount" if before is None or after is None else f"from {100 * before:.1f}% to {100 * after:.1f}%"
    over = found.get(f"{gate}_over_floor")
    runs = len(roles.controls(next(iter(main.gates[gate].values()))))
    topic = f"{told} of recurrent layers on {where}" + (f", beyond {roles.called(runs)}" if over else "")
    said = f"recurrent layers' {told} on {where} went {sizes}"
    return Finding(tag="inside", statement=said, estimate=over or found[f"{gate}_shift"], topic=topic, subject=gate)


def _gate_spans(data: Data) -> Table:
    rows = [
        (f"{told} on {SPANS.get(span, span)} ({called(name)})", *keeping.gate_shifts(one, gate, span, "").values())
        for name, one in data.groups.items()
        for gate, told in GATES.items()
        for span in one.gates.get(gate, {})
    ]
    columns = ("gate", "before", "after", "change", "rehearsal only", "beyond it")
    wide = max((len(row) for row in rows), default=4)
    note = "Means over the span's tokens, layers and heads. Decay: what is kept of a state from token to token (100%: all)."
    return Table(title="Gates of the recurrent layers", columns=columns[:wide], rows=tuple(rows), note=note)


def _gate_heads(main: Kept, rng: np.random.Generator, most: int, where: str) -> list[Table]:
    """Return the shift of each head's gates; of many heads, those that shifted most on the other half of the templates."""
    span = OWN if OWN in main.gates["write"] else REST
    found = {gate: main.gates[gate][span] for gate in GATES}
    there = np.isfinite(found["write"]["base"]).all((1, 2))
    labels, shift = main.gate_clusters[there], found["write"]["tuned"][there] - found["write"]["base"][there]
    layers, heads = shift.shape[1:]
    tell, places, note = np.arange(len(labels)), list(np.ndindex(layers, heads)), ""
    if len(places) > most:
        halves = stats.halves(labels, rng)
        if halves is None:
            return []
        choose, tell = halves
        places = sorted(places, key=lambda place: -abs(shift[choose][:, *place].mean()))[:most]
        note = "Chosen on one half of the templates, measured on the other."
    rows = []
    for layer, head in places:
        cells: list[Estimate] = []
        for gate in GATES:
            parts = {role: values[there][tell][:, layer, head] for role, values in found[gate].items()}
            moved = stats.shifts(parts["base"], parts["tuned"], roles.runs(parts), labels[tell], name="head", unit="share")
            cells += [moved[key] for key in ("head_shift", "head_over_floor") if key in moved]
        rows.append((f"layer {main.gate_layers[layer]}, head {head}", *cells))
    each = ("change", "beyond it")[: len(rows[0]) // 2]
    columns = ("head", *(f"{told}: {one}" for told in GATES.values() for one in each))
    return [Table(title=f"Gates on {SPANS[span]}, head by head ({where})", columns=columns, rows=tuple(rows), note=note)]


def _drift_finding(found: Mapping[str, Estimate], runs: int) -> Finding:
    drift, over = found["drift"], found.get("drift_over_floor")
    size = "an unknown amount" if drift.value is None else f"{drift.value:.3g} ({COSINE})"
    said = f"their states at the end of the context drifted by {size}"
    topic = "drift of recurrent states at the end of the context" + (f", beyond {roles.called(runs)}" if over else "")
    return Finding(tag="inside", statement=said, estimate=over or drift, topic=topic, subject="drift")


def _drift_layers(main: Kept, where: str) -> Table:
    rows = []
    for place, layer in enumerate(main.drift_layers):
        flat = {role: mean(values[:, place], 1) for role, values in main.drift.items()}
        found = stats.distances(flat["tuned"], roles.runs(flat), main.drift_clusters, name="", unit=COSINE)
        rows.append((f"layer {layer}", *found.values()))
    columns = ("state of", "drift", "rehearsal only", "difference")
    return Table(title=f"Drift of the states, layer by layer ({where})", columns=columns[: len(rows[0])], rows=tuple(rows))


def _figure(main: Kept, found: Mapping[str, Estimate]) -> dict[str, Any]:
    if main.swap is not None:
        labels = {"whole": "whole change", "recurrent": "states", "attention": "keys and values", "both": "both"}
        labels["decision"] = "deciding weights"
        return {
            "labels": list(labels.values()),
            "values": [found[name].model_dump() for name in labels],
            "unit": "nats of the log-odds' change that go with it",
        }
    shown = {"write_shift": "write strength", "decay_shift": "decay"} if main.gates else {"drift": "drift of the states"}
    return {
        "labels": list(shown.values()),
        "values": [found[name].model_dump() for name in shown],
        "unit": "change of recurrent layers' gates" if main.gates else COSINE,
    }


def _places(main: Kept) -> list[Place]:
    found = []
    for gate, told in GATES.items() if main.gates else ():
        span = OWN if OWN in main.gates[gate] else REST
        where = "direction's tokens" if span == OWN else "all tokens"
        for place, layer in enumerate(main.gate_layers):
            flat = {role: mean(values[:, place], 1) for role, values in main.gates[gate][span].items()}
            moved = stats.shifts(flat["base"], flat["tuned"], roles.runs(flat), main.gate_clusters, name="at", unit="share")
            quantity = f"{told} on the {where} (change)" if span == OWN else f"{told} on {where} (change)"
            found.append(
                Place(
                    layer=layer,
                    part="recurrent",
                    quantity=quantity,
                    estimate=moved["at_shift"],
                    floor=moved.get("at_shift_control"),
                )
            )
    return found


def _cannot_say(data: Data, main: Kept) -> tuple[str, ...]:
    said = list(data.unread)
    read = main.gates["write"][OWN if OWN in main.gates["write"] else REST] if main.gates else main.drift
    if CONTROL not in read:
        said.append("How much of the shifts and the drift is the noise of any training: give --control rehearsal_only=PATH.")
    return tuple(said)
