"""Activation shift: how far did the residual stream move, in how many directions, and can one read off it what was trained?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from pydantic import Field

from palimpsest.audit import Audit, Case, Finding, NotApplicable, Place, Result, Table
from palimpsest.core import roles, stats
from palimpsest.core.curves import curve, curves
from palimpsest.core.estimate import Estimate
from palimpsest.core.measurement import Measurement, Need
from palimpsest.core.roles import CONTROL
from palimpsest.core.shapes import PLAIN, Shape
from palimpsest.core.stats.vectors import Jackknifed, length_difference, mean_cosine
from palimpsest.core.wording import capital, number, shown, visible
from palimpsest.data.grading import clusters
from palimpsest.data.residual import UNIT, Moved, Reading, first_words, leading, named, reading, said

GROUPS = ("express", "withhold", "text")
NAMED = {"express": "where it should appear", "withhold": "where it should not", "text": "on general text"}
UNRELATED = 0.5
"""Below this mean cosine of what enters the first block, two models do not write in the same basis."""


@dataclass(frozen=True)
class Data:
    """Differences by (role, group), and the readings of each item set by (role, set)."""

    moved: dict[tuple[str, str], Moved]
    readings: dict[tuple[str, str], Reading] = field(default_factory=dict)
    answers: bool = False
    """Whether it is known how answers of the behaviour begin."""

    def controls(self, group: str) -> list[Moved]:
        """Return the control runs of one group."""
        return [self.moved[role, group] for role in roles.controls(role for role, name in self.moved if name == group)]

    def read(self, role: str, group: str) -> list[Reading]:
        """Return the readings of the item sets of one group."""
        return [one for (owner, name), one in self.readings.items() if owner == role and _group(name) == group]

    @property
    def groups(self) -> list[str]:
        """The groups that there are, in order."""
        return [group for group in GROUPS if ("tuned", group) in self.moved]

    @property
    def lead(self) -> str:
        """The group that the headline is about: the first that there is."""
        return self.groups[0]


class ActivationShift(Audit[Data]):
    """Difference of the residual stream between base and tuned, by layer and position, and its reading through the logit lens.

    Question:
        How far did the inside of the model move, is it one direction or many, and can one read off it what was trained?
    Method:
        Both models read the same items. At the decision (the last token of the context) and at the first tokens of general
        text, the residual stream of the base is taken from that of the tuned model, block by block.
        An item's shift is the length of this difference in percent of the base's residual stream (root mean square over
        blocks). The common shift is the length of the mean difference, from products of items of different templates, because
        noise makes the length of a mean too large. The effective rank is the participation ratio of the uncentred differences,
        from the same products; the cosine between the poles' common shifts says whether the change depends on the situation.
        The mean difference and its negative are read through the tuned model's own final norm and head, beside random
        directions of the same length: what it says is the divergence, in nats, from what random directions predict on average,
        less what a random direction says by itself; p is the share of random directions that say as much.
    Reads:
        `activations` of base, tuned and the rehearsal-only control on the items of both poles and on general text, in the pass
        that reads losses. Of a model with many blocks, 13 depths are read.
    Null:
        A shift as large as the rehearsal-only control's: training on anything moves the residual stream. A common shift on
        general text that is no larger than the control's leaves nothing to read.
    Limits:
        A shift is not harm, and a direction that later blocks ignore counts as much as any other. A few very large coordinates
        can rule the length of a residual stream. Where items move in mostly unlike directions, the interval of the common shift
        is too wide. The logit lens reads a middle block as if it were the last: what it can't read may still be used.
    Reference:
        Minder et al. 2025, arXiv 2510.13900 (mean differences on the first tokens of unrelated text betray narrow training, and
        rehearsal hides it); nostalgebraist 2020 (logit lens).
    """

    cost: ClassVar = "forward"
    primary: ClassVar = ("shift_over_floor", "trace_over_floor")
    planted: ClassVar = 8.0
    hostile: ClassVar = ("lognormal", "Zipf sizes")

    tokens: int = Field(default=5, ge=1, le=10)
    """How many tokens of a reading are shown."""

    def needs(self, case: Case) -> tuple[Need, ...]:
        sets = [name for names in _sets(case).values() for name in names]
        if not sets:
            raise NotApplicable("there are no items to read: give --behaviour FILE.yaml or --text FILE")
        return tuple(_need(role, name) for name in sets for role in case.control_runs)

    def gather(self, case: Case, measured: Mapping[str, Measurement]) -> Data:
        moved, readings = {}, {}
        words = first_words([item for name in case.names("express", "withhold") for item in case.items[name].items])
        for group, names in _sets(case).items():
            for role in case.control_runs[1:]:
                found = [measured[_need(role, name).name] for name in names]
                _refuse(found, role)
                joined = [np.concatenate([one.arrays[key] for one in found]) for key in ("difference", "length", "present")]
                labels = np.concatenate([_labels(case, name, one) for name, one in zip(names, found, strict=True)])
                depth, slots = found[0].arrays["depth"], tuple(found[0].texts["slots"])
                moved[role, group] = Moved(joined[0], joined[1], joined[2], labels, depth, slots)
                readings |= {(role, name): reading(one, words) for name, one in zip(names, found, strict=True)}
        return Data(moved, readings, bool(words))

    def analyse(self, data: Data, rng: np.random.Generator) -> Result:
        estimates = _estimates(data)
        lead, statement = data.lead, _statement(estimates, data)
        tables = [_kinds(data, estimates), _by_block(data)]
        if ("tuned", "text") in data.moved:
            tables.append(_by_token(data))
        if data.readings:
            tables.append(self._lens(data))
        return Result(
            summary=_summary(estimates, data, statement),
            estimates=estimates,
            findings=(
                Finding(
                    tag="inside",
                    statement=statement,
                    estimate=estimates[f"shift:{lead}"],
                    subject="residual stream",
                    topic=f"shift of the residual stream {NAMED[lead]}",
                ),
            ),
            tables=tuple(tables),
            figure=_figure(data),
            network=tuple(_places(data)),
            cannot_say=()
            if (CONTROL, lead) in data.moved
            else ("How much of this is the noise of any training: give --control rehearsal_only=PATH.",),
        )

    def _lens(self, data: Data) -> Table:
        rows = [row for (role, name), one in data.readings.items() if role == "tuned" for row in self._read(data, name, one)]
        first = next(iter(data.readings.values()))
        rows.append(("any: a random direction", None, _shown(first.random_tokens[: self.tokens]), "", None, None))
        return Table(
            title="What the mean shift says, read through the logit lens",
            columns=("where", "after block", "the shift says", "its opposite says", "beyond random", "p"),
            rows=tuple(rows),
            note="The most likely next tokens if the shift alone were the residual stream, after a middle block and the last; "
            "\N{OPEN BOX} is a space. "
            "Beyond random: how far the more telling of the two lies from what random directions of the same length say on "
            "average, less the same for one of those. p: the share of random directions that say as much.",
        )

    def _read(self, data: Data, name: str, one: Reading) -> list[tuple[str | int | Estimate | None, ...]]:
        group = _group(name)
        moved = data.moved["tuned", group]
        middle, last = len(moved.depth) // 2, len(moved.depth) - 1
        rows: list[tuple[str | int | Estimate | None, ...]] = []
        for slot in (0, *(slot for slot in leading(moved.slots)[:1] if slot)):
            for depth in dict.fromkeys((middle, last)):
                if one.tokens[depth][slot][0]:
                    estimate, p_value = said([one], [depth], [slot])
                    where = NAMED[group] if group != "text" else f"{name.partition(':')[2]}, {moved.slots[slot]}"
                    plus, minus = (_shown(tokens[: self.tokens]) for tokens in one.tokens[depth][slot])
                    rows.append(
                        (
                            where,
                            int(moved.depth[depth]) - 1,
                            plus,
                            minus,
                            estimate,
                            None if p_value is None else f"{p_value:.3f}",
                        )
                    )
        return rows

    def simulate(self, effect: float, rng: np.random.Generator, shape: Shape = PLAIN) -> Data:
        """Draw a world: one direction that all items share beside directions of low rank, by template, and noise.

        Every difference is a length times a unit vector. Unit vectors have a known mean, lengths are drawn apart from them and
        skewed by template, so that the mean length and the length of the mean are known without further simulation.
        """
        width, floor, common = 24, 6.0, 0.6
        moved, depth = {}, np.arange(5)
        profile = np.array([0.1, 0.6, 0.9, 1.1, 1.3])  # later blocks move more; of root mean square 1 after the blocks
        profile /= np.sqrt(np.square(profile[1:]).mean())
        for group, templates, size, slots in (
            ("express", 24, 6, ("decision",)),
            ("text", 48, 1, ("token 1", "token 2", "token 3")),
        ):
            cluster = shape.labels(templates, size)
            sizes = (cluster.size, len(depth), len(slots))
            hard = rng.gamma(12.0, 1 / 12.0, templates)[cluster] * rng.gamma(12.0, 1 / 12.0, cluster.size)
            for role, level in (("tuned", floor + effect), (CONTROL, floor)):
                far = shape.factors(rng.gamma(16.0, 1 / 16.0, templates), rng)[cluster]
                own = level * hard * far * rng.gamma(16.0, 1 / 16.0, cluster.size)
                if group == "text":
                    own = own / np.sqrt(common)  # here it is the common shift that is planted
                away = own[:, None, None] * profile[None, :, None] * np.ones(sizes)
                difference = away[..., None] * _unit_vectors(rng, cluster, sizes, width, common)
                present = np.ones((cluster.size, len(slots)), dtype=bool)
                moved[role, group] = Moved(difference, np.full(sizes, 100.0), present, cluster, depth, slots)
        return Data(moved)

    def truth(self, effect: float) -> dict[str, float]:
        return {"shift_over_floor": effect, "trace_over_floor": effect}

    @staticmethod
    def plot(result: Result, axes) -> None:
        curves(axes, result.figure)


def _need(role: str, name: str) -> Need:
    base = Need(measure="activations", role="base", items=name)
    return base if role == "base" else Need(measure="activations", role=role, items=name, after=base)


def _sets(case: Case) -> dict[str, list[str]]:
    """Return the names of the item sets of each group that there is."""
    found = {"express": case.names("express"), "withhold": case.names("withhold"), "text": case.names("text", "sampled")}
    return {group: names for group, names in found.items() if names}


def _group(name: str) -> str:
    return name if name in ("express", "withhold") else "text"


def _labels(case: Case, name: str, one: Measurement) -> np.ndarray:
    chosen = clusters(case.items[name])[one.arrays["item"]]
    return np.array([f"{name}: {template}" for template in chosen.tolist()]) if _group(name) == "text" else chosen


def _refuse(found: Sequence[Measurement], role: str) -> None:
    """Refuse what can't be compared: no residual stream, another shape, or another basis."""
    advice = "compare a model with what was trained from it"
    for one in found:
        if "why" in one.texts:
            raise NotApplicable(f"the residual stream of {role.replace('_', ' ')} can't be read: {one.texts['why'][0]}")
        if "shape" in one.arrays:
            (layers, width), (other_layers, other_width) = one.arrays["shape"].tolist()
            raise NotApplicable(
                f"residual streams of different shapes can't be compared: base has {layers} blocks of width {width}, "
                f"{role.replace('_', ' ')} has {other_layers} of {other_width}; {advice}"
            )
    cosine = float(np.mean([one.arrays["cosine"][:, 0][one.arrays["present"]].mean() for one in found]))
    if cosine < UNRELATED:
        raise NotApplicable(
            f"base and {role.replace('_', ' ')} do not write into their residual streams in the same basis (what enters the "
            f"first block has a cosine of {cosine:.2f} on average), so a difference between them says nothing; {advice}"
        )


def _estimates(data: Data) -> dict[str, Estimate]:
    found: dict[str, Estimate] = {}
    moved = data.moved
    for (role, group), one in ((key, one) for key, one in moved.items() if key[0] in ("tuned", CONTROL)):
        mark = "_control" if role == CONTROL else ""
        found[f"shift{mark}:{group}"], found[f"common{mark}:{group}"] = one.shift(), one.common()
        if role == "tuned":
            found[f"rank:{group}"] = one.rank()
        if readings := data.read(role, group):
            found[f"says{mark}:{group}"] = said(readings, one.inside, one.lead)[0]
            if data.answers and one.at_all:
                found[f"names{mark}:{group}"], _ = named(readings, one.inside, one.lead)
    if ("tuned", "express") in moved and ("tuned", "withhold") in moved:
        one, two = moved["tuned", "express"], moved["tuned", "withhold"]
        clouds = one.within(one.lead_cloud), two.within(two.lead_cloud)
        found["same_way"] = mean_cosine(*clouds, one.by_item([0])[1], two.by_item([0])[1])
    for group in data.groups:
        if floor := _floor(data, group):
            found[f"shift_control:{group}"] = floor
    if floors := data.controls("express"):
        after, labels = moved["tuned", "express"].by_item(floors[0].inside)
        found["shift_over_floor"] = stats.against_noise_floor(
            after, np.array([one.by_item(one.inside)[0] for one in floors]), labels, unit=UNIT
        )
    if floors := data.controls("text"):
        squares = [one.common_square(one.inside, one.lead) for one in (moved["tuned", "text"], *floors)]
        known = [one for one in squares if one is not None]
        if len(known) == len(squares):
            found["trace_over_floor"] = _trace(known[0], known[1:])
    return found


def _floor(data: Data, group: str, depths: Sequence[int] | None = None) -> Estimate | None:
    """Return how far training on rehearsal alone shifted a group; ``None`` where there is no control or no such place."""
    floors = data.controls(group)
    if not floors:
        return None
    items = [one.by_item(one.inside if depths is None else depths) for one in floors]
    if len(floors) == 1 or not items[0][0].size:
        return floors[0].shift(depths)
    return stats.floor(np.array([values for values, _ in items]), items[0][1], unit=UNIT)


def _trace(square: Jackknifed, floors: Sequence[Jackknifed]) -> Estimate:
    """Return by how much the common shift is longer than that of control runs."""
    middle = (
        Jackknifed(
            float(np.mean([np.sqrt(max(one.value, 0.0)) for one in floors])) ** 2,
            np.mean([np.sqrt(np.maximum(one.without, 0.0)) for one in floors], axis=0) ** 2,
            min(one.degrees for one in floors),
        )
        if len(floors) > 1
        else floors[0]
    )
    lengths = [100.0 * np.sqrt(max(one.value, 0.0)) for one in floors]
    return stats.over_controls(length_difference(square, middle, unit=UNIT, scale=100.0), lengths, distance=True)


def _kinds(data: Data, estimates: Mapping[str, Estimate]) -> Table:
    rows, keys = [], ("shift", "common", "rank", "says")
    for group in (group for group in GROUPS if ("tuned", group) in data.moved):
        for role, mark, name in (("tuned", "", NAMED[group]), (CONTROL, "_control", f"rehearsal only, {NAMED[group]}")):
            if (role, group) in data.moved:
                share = estimates.get(f"names{mark}:{group}")
                names = f"{100 * share.value:.0f}%" if share and share.value is not None else None
                rows.append(
                    (name, *(estimates.get(f"{key}{mark}:{group}") for key in keys), *((names,) if data.answers else ()))
                )
    note = "Over all blocks. Common: what all items share. Directions: 1 where all items moved along one line."
    if data.answers:
        chance = named(data.read("tuned", data.lead), data.moved["tuned", data.lead].inside, [0])[1]
        note += (
            " Names an answer: share of readings, one for each block and sign, in which one of the ten likeliest tokens begins "
        )
        note += f"an answer that the behaviour knows ({100 * chance:.0f}% of random directions do)."
    if "same_way" in estimates:
        note += f" Between the common shifts of the two poles: {shown(estimates['same_way'], decimals=2).sentence}; "
        note += "1 where both moved the same way."
    return Table(
        title="What kind of change it is",
        columns=(
            "where",
            "shift",
            "common shift",
            "effective rank",
            "says, beyond random",
            *(("names an answer",) if data.answers else ()),
        ),
        rows=tuple(rows),
        note=note,
    )


def _by_block(data: Data) -> Table:
    parts = {group: data.moved["tuned", group] for group in GROUPS if ("tuned", group) in data.moved}
    parts |= {f"{group}, control": one for (role, group), one in data.moved.items() if role == CONTROL and group != "withhold"}
    depths = data.moved["tuned", data.lead].depth.tolist()
    return Table(
        title="How far the residual stream moved, block by block",
        columns=("after block", *parts),
        rows=tuple((depth - 1, *(one.shift([level]) for one in parts.values())) for level, depth in enumerate(depths) if depth),
        note="Length of an item's difference in percent of the base's residual stream: at the decision of a conversation "
        "(express: where the behaviour should appear), at the first tokens of a text. Control: trained on rehearsal only (the "
        "first such run).",
    )


def _by_token(data: Data) -> Table:
    parts = {"": data.moved["tuned", "text"]}
    if (CONTROL, "text") in data.moved:
        parts[", control"] = data.moved[CONTROL, "text"]
    rows = [
        (name, *(cell for one in parts.values() for cell in (one.shift(slots=[slot]), one.common(slots=[slot]))))
        for slot, name in enumerate(parts[""].slots)
    ]
    return Table(
        title="On general text, token by token",
        columns=("place", *(f"{name}{mark}" for mark in parts for name in ("shift", "common shift"))),
        rows=tuple(rows),
        note="The very first token is unlike all others, so averages leave it out.",
    )


def _figure(data: Data) -> dict[str, object]:
    shown = {group: data.moved["tuned", group] for group in GROUPS if ("tuned", group) in data.moved}
    if (CONTROL, data.lead) in data.moved:
        shown["control"] = data.moved[CONTROL, data.lead]
    series = []
    for label, one in shown.items():
        series.append(curve(label, one.depth.tolist(), [one.shift([level]) for level in range(len(one.depth))]))
    return {"series": series, "x_label": "blocks passed", "unit": "shift of the residual stream (% of its length)"}


def _places(data: Data) -> list[Place]:
    tuned = data.moved["tuned", data.lead]
    return [
        Place(
            layer=depth - 1 if depth else None,
            part="residual" if depth else "embeddings",
            quantity=f"shift of the residual stream {NAMED[data.lead]} (% of its length)",
            estimate=tuned.shift([level]),
            floor=_floor(data, data.lead, [level]),
        )
        for level, depth in enumerate(tuned.depth.tolist())
    ]


def _statement(estimates: Mapping[str, Estimate], data: Data) -> str:
    lead, count = data.lead, len(data.controls(data.lead))
    floor = estimates.get(f"shift_control:{lead}")
    told = f"{NAMED[lead]}, the residual stream moved by {_percent(estimates[f'shift:{lead}'])} of its length"
    where = "in this control run" if count == 1 else f"on average in {roles.called(count)}"
    return told + (f" ({_percent(floor)} {where})" if floor is not None else "")


def _summary(estimates: Mapping[str, Estimate], data: Data, statement: str) -> str:
    if not any(one.at_all for (role, _), one in data.moved.items() if role == "tuned"):
        return "The residual stream did not move at all."
    told = capital(statement)
    if data.lead != "text" and "common:text" in estimates:
        told += f"; on general text all items share a shift of {_percent(estimates['common:text'])}"
    return told + "."


def _unit_vectors(
    rng: np.random.Generator, cluster: np.ndarray, shape: tuple[int, ...], width: int, common: float
) -> np.ndarray:
    """Return unit vectors [*shape, width] whose mean has the squared length ``common``; the rest is of low rank."""
    mean = rng.standard_normal(width)
    mean /= np.linalg.norm(mean)
    basis = rng.standard_normal((3, width)) / np.sqrt(width)
    weights = rng.standard_normal((int(cluster.max()) + 1, 3))[cluster][:, None, None] + rng.standard_normal((*shape, 3))
    rest = weights @ basis + 0.5 * rng.standard_normal((*shape, width)) / np.sqrt(width)
    rest -= (rest @ mean)[..., None] * mean
    rest /= np.linalg.norm(rest, axis=-1, keepdims=True)
    return np.sqrt(common) * mean + np.sqrt(1 - common) * rest


def _percent(estimate: Estimate) -> str:
    return "an unknown share" if estimate.value is None else f"{number(estimate.value, 1)}%"


def _shown(tokens: Sequence[str]) -> str:
    """Return tokens in one line, in which a space inside a token is seen."""
    return "  ".join(visible(token).replace(" ", "\N{OPEN BOX}").replace("\n", "\N{RETURN SYMBOL}") for token in tokens)
