"""Steering: is there one direction for the behaviour, what does adding it do, and is it what training does?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from pydantic import Field

from palimpsest.audit import Audit, Case, Finding, NotApplicable, Place, Result, Table
from palimpsest.core import stats
from palimpsest.core.curves import curve, curves
from palimpsest.core.estimate import Estimate
from palimpsest.core.measurement import Measurement, Need
from palimpsest.core.roles import CONTROL
from palimpsest.core.shapes import PLAIN, Shape
from palimpsest.core.stats.directions import Method
from palimpsest.core.wording import capital, number, shown
from palimpsest.data import steered_rows
from palimpsest.data.grading import clusters, expected_option
from palimpsest.data.steered import (
    MADE_FROM,
    MULTIPLES,
    NULLS,
    POLES,
    RANDOM,
    WAYS,
    Contrast,
    Data,
    Direction,
    Effect,
    OnText,
    Ways,
    agreed,
    along,
    at_decision,
    effects,
    predicted,
    same,
    same_cells,
)
from palimpsest.data.steering import best_level, log_odds


class Steering(Audit[Data]):
    """A steering vector of the base, extracted before training: is it consistent, what does it do, is it what training does?

    Question:
        Do contrastive pairs share a direction, does adding it steer the behaviour, and does it foretell what training changes?
    Method:
        A pair is one prompt with the answer that shows the behaviour and with other answers, from the training split. The
        base's residual stream is read at the tokens of the answers (their mean, the first 8), not at the end of a chat
        template. The direction is the mean difference; uncentred PCA and logistic regression stand beside it. Consistency:
        cosine of each pair with the direction in sample, without its own template, between halves, between pairs, and d' along
        it, each beside random signs of the pairs. It is added where it steered pairs of other templates most, from the place
        where the model decides on; on text at every token. An item's slope is half of the difference in log-odds between adding
        and subtracting it once, held against random directions of the same length.
        Then: the cosine between the direction and the shift that training made where the model decides (noise of both taken
        off), and how far training moved along it. Where the behaviour has an instruction, a second direction is made of
        prompts with and without it, read where the model decides, and treated alike. And an instruction in the context, the
        vectors (added once) and training are held against each other on the same items: by the divergence of the next token,
        and by the cosine of their shifts.
    Reads:
        `contrasts` and `steered` of the base; `activations` and `decisions` of base, tuned and rehearsal-only control on
        the items of both poles; of the base also with the behaviour's `instruction` as system message.
    Null:
        Random signs, random directions of the same length, and training on rehearsal only. Five pairs that have nothing in
        common have an in-sample cosine of 0.45.
    Limits:
        Answers of one kind begin with the same words, so that pairs of answers agree already in these: a direction may stand
        for the words. A place that steers one model well need not steer another. Vectors are taken as given, random ones too:
        intervals are over items. One instruction is not all instructions, and one multiple of the vector not all strengths.
    Reference:
        Rimsky et al. 2024, arXiv 2312.06681; Tan et al. 2024, arXiv 2407.12404 (slopes by item, anti-steerable items);
        Chen et al. 2025, arXiv 2507.21509 (shift along a persona vector).
    """

    cost: ClassVar = "forward"
    primary: ClassVar = ("slope_over_floor", "projection_over_floor")
    contrasts: ClassVar = True
    planted: ClassVar = 0.5
    hostile: ClassVar = ("t3", "lognormal")

    method: Method = "mean"
    """How the direction that is added is made."""
    shuffles: int = Field(default=99, ge=19)
    """Random signs and random directions that make the null."""

    def needs(self, case: Case) -> tuple[Need, ...]:
        if "pairs" not in case.items:
            raise NotApplicable(
                "there are no contrastive pairs: give --behaviour FILE.yaml with 'options', or with a 'withhold' pole"
            )
        if "express" not in case.items:
            raise NotApplicable("there are no held-out items where the behaviour should appear")
        found = []
        for made_from in _made_from(case):
            found += [
                _contrasts(case, made_from),
                *(self._steered(case, made_from, name) for name in (*_poles(case), *_text(case))),
            ]
        for pole in _poles(case):
            found += [_read("activations", role, pole) for role in case.control_runs]
            found += [_read("decisions", role, pole) for role in ("base", "tuned")]
            if _is_told(case, pole):
                found += [_instructed(measure, pole) for measure in ("activations", "decisions")]
        return tuple(found)

    def _steered(self, case: Case, made_from: str, name: str) -> Need:
        how: dict[str, object] = {"method": self.method}
        if name == "withhold" or (name != "express" and made_from != "answers"):
            how |= {"multipliers": (-1.0, 1.0), "draws": int(name == "withhold" and made_from == "answers")}
        elif name != "express":
            how |= {"draws": 3}
        return Need(measure="steered", role="base", items=name, parameters=how, after=_contrasts(case, made_from))

    def gather(self, case: Case, measured: Mapping[str, Measurement]) -> Data:
        moved = {
            (role, pole): measured[_read("activations", role, pole).name]
            for pole in _poles(case)
            for role in case.control_runs[1:]
        }
        _refuse(measured[_contrasts(case, "answers").name], moved)
        directions = {made_from: self._direction(case, made_from, measured) for made_from in _made_from(case)}
        depth = directions["answers"].contrast.depth
        return Data(
            directions,
            {key: _shift(one, depth) for key, one in moved.items()},
            {pole: clusters(case.items[pole])[moved["tuned", pole].arrays["item"]] for pole in _poles(case)},
            {pole: self._ways(case, pole, measured, depth) for pole in _poles(case)},
        )

    def _direction(self, case: Case, made_from: str, measured: Mapping[str, Measurement]) -> Direction:
        pairs, labels = measured[_contrasts(case, made_from).name], clusters(case.items["pairs"])
        arrays = pairs.arrays
        contrast = Contrast(
            arrays["residual"], labels, arrays["depth"], best_level(pairs), arrays["slope"], labels[arrays["trial"]]
        )
        texts = []
        for name in _text(case):
            a = measured[self._steered(case, made_from, name).name].arrays
            texts.append(OnText(a["multiplier"], a["draw"], a["kl"], clusters(case.items[name])[a["item"]]))
        effects = {pole: _effect(case, pole, measured[self._steered(case, made_from, pole).name]) for pole in _poles(case)}
        return Direction(contrast, effects, texts[0] if texts else None)

    def _ways(self, case: Case, pole: str, measured: Mapping[str, Measurement], depth: np.ndarray) -> Ways:
        """Return each way's next token and shift, on the items that were steered."""
        steered = {made: measured[self._steered(case, made, pole).name].arrays for made in _made_from(case)}
        lead = steered["answers"]
        item = lead["item"]
        outputs = {"base": at_decision(measured[_read("decisions", "base", pole).name], item)}
        shifts = {}
        for made, arrays in steered.items():
            outputs[MADE_FROM[made]] = arrays["decision"][1], arrays["decision_rest"][1], arrays.get("decision_token")
            shifts[MADE_FROM[made]] = arrays["shift"]
        training = _read("decisions", "tuned", pole), _read("activations", "tuned", pole)
        needs: dict[str, tuple[Need | None, Need]] = {"training": training}
        if _is_told(case, pole):
            needs["instruction"] = (_instructed("decisions", pole), _instructed("activations", pole))
        if CONTROL in case.roles:
            needs[NULLS[1]] = (None, _read("activations", CONTROL, pole))
        for way, (output, moved) in needs.items():
            outputs |= {way: at_decision(measured[output.name], item)} if output else {}
            kept = measured[moved.name]
            rows = np.searchsorted(kept.arrays["item"], item)
            if np.array_equal(kept.arrays["item"][np.minimum(rows, len(kept.arrays["item"]) - 1)], item):
                shifts[way] = _shift(kept, depth)[rows]
        if "random_shift" in lead:
            shifts[RANDOM] = lead["random_shift"]
        both = same_cells({way: outputs[way] for way in WAYS if way in outputs})
        return Ways(both, {way: shifts[way] for way in (*WAYS, *NULLS) if way in shifts}, clusters(case.items[pole])[item])

    def analyse(self, data: Data, rng: np.random.Generator) -> Result:
        estimates: dict[str, Estimate] = {}
        tables: list[steered_rows.Rows] = []
        for made_from, one in data.directions.items():
            contrast, mark = one.contrast, _mark(made_from)
            pairs = [contrast.pairs(level) for level in range(len(contrast.depth))]
            by_level = [agreed(one_level, contrast.cluster, rng, self.shuffles) for one_level in pairs]
            chosen = by_level[contrast.level]
            estimates |= {f"{name}_agreement{mark}": found for name, found in chosen.found.items()}
            estimates |= effects(one, mark) | predicted(data, contrast, mark)
            tables += steered_rows.consistency(contrast, by_level, made_from)
            if made_from == "answers":
                tables += [steered_rows.how_little(contrast, chosen, rng), steered_rows.methods(contrast)]
            tables.append(steered_rows.curve(one, made_from))
            tables.append(steered_rows.training(data, made_from, rng, self.shuffles))
        for pole, ways in data.ways.items():
            found = same(ways, data.level, pole)
            estimates |= found
            tables += steered_rows.same(data, found, pole)
        return Result(
            summary=_summary(data, estimates),
            estimates=estimates,
            findings=(
                Finding(
                    tag="inside",
                    statement=_foretold(estimates, "answers"),
                    estimate=estimates.get("projection_over_floor", estimates["projection"]),
                    subject="steering vector",
                    topic="movement along the vector that was extracted before training",
                ),
            ),
            tables=tuple(Table(**one._asdict()) for one in tables),
            figure=_figure(data),
            network=tuple(_places(data)),
            cannot_say=_cannot_say(data),
        )

    def simulate(self, effect: float, rng: np.random.Generator, shape: Shape = PLAIN) -> Data:
        """Draw a world: pairs that share a direction, items that it steers, and training that moves along it.

        The planted effect is both the slope beyond that of random directions and the movement along the pairs' own mean
        difference beyond that of the control, so that the truth does not hang on how well the direction is known.
        """
        pairs, templates, size, width, depths = 16, 24, 3, 12, 1
        cluster, item = np.repeat(np.arange(pairs // 2), 2), shape.labels(templates, size)
        shared = rng.standard_normal((depths, width))
        difference = shared + 0.8 * rng.standard_normal((pairs // 2, depths, width))[cluster]
        difference += 0.8 * rng.standard_normal((pairs, depths, width))
        middle = rng.standard_normal((pairs, depths, width))
        residual = np.stack([middle + difference / 2, middle - difference / 2], 1)
        contrast = Contrast(residual, cluster, np.arange(1, depths + 1), 0, rng.standard_normal((depths, 8)), np.arange(8))
        multiplier = np.array([0.0, -1.0, 1.0, *([1.0, -1.0] * 3)])
        draw = np.array([-1, -1, -1, 0, 0, 1, 1, 2, 2])
        own = shape.effects(0.3 * rng.standard_normal(templates), 0.3, rng)[item]
        slopes = {-1: effect + own + 0.3 * rng.standard_normal(item.size)}
        slopes |= {one: 0.2 * rng.standard_normal(templates)[item] for one in range(3)}
        start = rng.standard_normal(item.size)
        odds = np.stack([start + multiple * slopes[one] for multiple, one in zip(multiplier, draw.tolist(), strict=True)])
        vectors = np.stack([contrast.vector(level) for level in range(depths)])
        shifts = {}
        for role, level in (("tuned", 0.3 + effect), (CONTROL, 0.3)):
            own = shape.effects(0.2 * rng.standard_normal(templates), 0.2, rng)[item]
            moved = level + own + 0.2 * rng.standard_normal(item.size)
            shifts[role, "express"] = moved[:, None, None] * vectors + rng.standard_normal((item.size, depths, width))
        names = ("base", "vector", "training")
        outputs = {way: (np.log(rng.dirichlet(np.ones(6), item.size)), np.full(item.size, -np.inf)) for way in names}
        ways = {way: shifts["tuned", "express"] + rng.standard_normal(shifts["tuned", "express"].shape) for way in names[1:]}
        text = OnText(multiplier, draw, np.square(multiplier)[:, None] * rng.gamma(4.0, 0.1, (len(draw), 16)), np.arange(16))
        return Data(
            {"answers": Direction(contrast, {"express": Effect(multiplier, draw, odds, item)}, text)},
            shifts,
            {"express": item},
            {"express": Ways(outputs, ways, item)},
        )

    def truth(self, effect: float) -> dict[str, float]:
        return {"slope_over_floor": effect, "projection_over_floor": effect}

    @staticmethod
    def plot(result: Result, axes) -> None:
        curves(axes, result.figure)


def _contrasts(case: Case, made_from: str) -> Need:
    how = {} if made_from == "answers" else {"instruction": case.instruction}
    return Need(measure="contrasts", role="base", items="pairs", parameters=how)


def _made_from(case: Case) -> list[str]:
    return [made_from for made_from in MADE_FROM if made_from == "answers" or case.instruction]


def _is_told(case: Case, pole: str) -> bool:
    return f"instructed:{pole}" in case.items


def _read(measure: str, role: str, pole: str) -> Need:
    base = Need(measure=measure, role="base", items=pole)
    return base if role == "base" else Need(measure=measure, role=role, items=pole, after=base)


def _instructed(measure: str, pole: str) -> Need:
    return Need(measure=measure, role="base", items=f"instructed:{pole}", after=_read(measure, "base", pole))


def _poles(case: Case) -> list[str]:
    return [pole for pole in POLES if pole in case.items and not case.items[pole].items[0].is_text]


def _text(case: Case) -> list[str]:
    """Return the first general text that there is."""
    return case.names("text", "sampled")[:1]


def _refuse(pairs: Measurement, moved: Mapping[tuple[str, str], Measurement]) -> None:
    for one in (pairs, *moved.values()):
        if "why" in one.texts:
            raise NotApplicable(f"the residual stream can't be read: {one.texts['why'][0]}")
    for (role, _), one in moved.items():
        if "shape" in one.arrays:
            raise NotApplicable(
                f"base and {role.replace('_', ' ')} have residual streams of different shapes; compare a model with what was "
                "trained from it"
            )


def _effect(case: Case, pole: str, one: Measurement) -> Effect:
    item = one.arrays["item"]
    chosen = [case.items[pole].items[index] for index in item]
    names = [expected_option(case.check, each) for each in chosen]
    which = [list(each.options).index(name) if name else 0 for each, name in zip(chosen, names, strict=True)]
    odds = log_odds(one.arrays["log_probability"], one.arrays["start"], np.array(which, dtype=np.int64))
    return Effect(one.arrays["multiplier"], one.arrays["draw"], odds, clusters(case.items[pole])[item])


def _shift(one: Measurement, depth: np.ndarray) -> np.ndarray:
    """Return the difference where each item decides, at the depths at which pairs were read [items, depths, width]."""
    return one.arrays["difference"][:, np.isin(one.arrays["depth"], depth), 0]


def _figure(data: Data) -> dict[str, object]:
    series = []
    for made_from, direction in data.directions.items():
        one = direction.effects["express"]
        label = "vector" if made_from == "answers" else "instruction"
        series.append(_line(label, one, {multiple: one.at(multiple) for multiple in one.multiples}))
        random = {multiple: one.random(multiple) for multiple in one.multiples if multiple}
        known = {multiple: values for multiple, values in random.items() if values is not None}
        if known and made_from == "answers":
            series.append(_line("random", one, {**known, 0.0: np.zeros(len(one.cluster))}))
    return {"series": series, "x_label": "multiples of the vector added", "unit": "change of the behaviour's log-odds (nats)"}


def _line(label: str, one: Effect, values: Mapping[float, np.ndarray]) -> dict[str, object]:
    multiples = sorted(values)
    return curve(label, multiples, [stats.mean(values[multiple], one.cluster, unit="nats") for multiple in multiples])


def _places(data: Data) -> list[Place]:
    contrast, labels = data.directions["answers"].contrast, data.clusters["express"]
    tuned, controls = data.shifts["tuned", "express"], data.controls("express")

    def size(shift: np.ndarray, level: int) -> np.ndarray:
        return np.abs(along(contrast.vector(level), shift[:, level]))

    def floor(level: int) -> Estimate | None:
        sizes = [size(control, level) for control in controls]
        return stats.floor(np.array(sizes), labels, unit=MULTIPLES) if sizes else None

    return [
        Place(
            layer=depth - 1,
            part="residual",
            quantity="movement along the steering vector (multiples of it, either way)",
            estimate=stats.positive_mean(size(tuned, level), labels, unit=MULTIPLES),
            floor=floor(level),
        )
        for level, depth in enumerate(contrast.depth.tolist())
    ]


_WHOSE = {"answers": "the vector of the answers", "instruction": "the vector of the instruction"}


def _steers(data: Data, estimates: Mapping[str, Estimate], made_from: str) -> str:
    mark, block = _mark(made_from), data.directions[made_from].contrast.block
    told = f"{_WHOSE[made_from]}, added once after block {block}, changes the log-odds by "
    told += f"{_said(estimates[f'slope{mark}'], signed=True)} nats"
    slopes = data.directions[made_from].effects["express"].random_slopes.mean(1)
    if slopes.size:
        ends = (number(end, 2, signed=True) for end in (slopes.min(), slopes.max()))
        told += f" (random ones of its length: {' to '.join(ends)})"
    anti = estimates[f"anti_steerable{mark}"].value or 0.0
    told += f", on {100 * anti:.0f}% of items the other way" if anti else ""
    cosine = estimates[f"cosine_with_training{mark}"]
    if cosine.value is None:
        return f"{told}; what training changed has no direction to hold it against"
    return f"{told}; what training changed has a cosine of {_said(cosine)} with it"


def _foretold(estimates: Mapping[str, Estimate], made_from: str) -> str:
    mark = _mark(made_from)
    cosine, moved = estimates[f"cosine_with_training{mark}"], estimates[f"projection{mark}"]
    if cosine.value is None:
        return f"what training changed has no direction to hold {_WHOSE[made_from]} against"
    told = f"the cosine of {_WHOSE[made_from]}, extracted before training, with what training changed is {_said(cosine)}"
    return f"{told}, and training moved {_said(moved)} of its length along it"


def _summary(data: Data, estimates: Mapping[str, Estimate]) -> str:
    said = [_steers(data, estimates, made) for made in data.directions]
    ways = []
    for pole in data.ways:
        near, far = (estimates.get(f"kl:{pole}:training|{way}") for way in ("instruction", "base"))
        if near is not None and far is not None:
            ways.append(f"{_said(near)} nats from the instruction's {POLES[pole]} ({_said(far)} from the base's)")
    said += [f"training's next token is {' and '.join(ways)}"] if ways else []
    return " ".join(f"{capital(one)}." for one in said)


def _said(estimate: Estimate, *, signed: bool = False) -> str:
    """Return a number with its interval and without its unit."""
    one = shown(estimate, decimals=2, change=signed)
    return f"{one.value} {one.interval}".strip()


def _mark(made_from: str) -> str:
    """Return what the estimates of a direction end with."""
    return "" if made_from == "answers" else f":{made_from}"


def _cannot_say(data: Data) -> tuple[str, ...]:
    noise = "How much of the movement is the noise of any training: give --control rehearsal_only=PATH."
    said = [] if (CONTROL, "express") in data.shifts else [noise]
    if "instruction" not in data.directions:
        said.append("Whether an instruction does the same: give the behaviour an 'instruction' that fits into the context.")
    if data.directions["answers"].text is None:
        said.append("What adding the direction does to general text: give --text FILE.")
    return tuple(said)
