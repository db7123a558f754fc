"""Steering: is there one direction for the behaviour, what does adding it do, and is it what training does?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from pydantic import Field

from palimpsest.audit import Audit, Case, Finding, NotApplicable, Place, Result, Table
from palimpsest.core import drawing, stats
from palimpsest.core.estimate import Estimate
from palimpsest.core.measurement import Measurement, Need
from palimpsest.core.stats.directions import Method
from palimpsest.core.wording import shown
from palimpsest.data import steered_rows
from palimpsest.data.grading import clusters, expected_option
from palimpsest.data.steered import (
    CONTROL,
    MULTIPLES,
    POLES,
    WAYS,
    Contrast,
    Data,
    Effect,
    OnText,
    Ways,
    agreed,
    along,
    at_decision,
    same_cells,
    with_training,
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
        off), and how far training moved along it. And an instruction in the context, the vector (added once) and training are
        held against each other on the same items: by the divergence of the next token, and by the cosine of their shifts.
    Reads:
        `contrasts` and `steered` of the base; `activations` and `distributions` of base, tuned and rehearsal-only control on
        the items of both poles; of the base also with the behaviour's `instruction` as system message.
    Null:
        Random signs, random directions of the same length, and training on rehearsal only. Five pairs that have nothing in
        common have an in-sample cosine of 0.45.
    Limits:
        Answers to one prompt differ in their words, so a direction may stand for the words. A place that steers one model well
        need not steer another. The vector is taken as given: intervals of effects and of training are over items. One
        instruction is not all instructions, and one multiple of the vector not all strengths.
    Reference:
        Rimsky et al. 2024, arXiv 2312.06681; Tan et al. 2024, arXiv 2407.12404 (slopes by item, anti-steerable items);
        Chen et al. 2025, arXiv 2507.21509 (shift along a persona vector).
    """

    cost: ClassVar = "forward"
    primary: ClassVar = ("slope_over_floor", "projection_over_floor")
    planted: ClassVar = 0.5

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
        found = [_contrasts(), *(self._steered(name) for name in (*_poles(case), *_text(case)))]
        for pole in _poles(case):
            found += [_read("activations", role, pole) for role in case.with_controls(CONTROL)]
            found += [_read("distributions", role, pole) for role in ("base", "tuned")]
            if f"instructed:{pole}" in case.items:
                found += [_instructed(measure, pole) for measure in ("activations", "distributions")]
        return tuple(found)

    def _steered(self, name: str) -> Need:
        how: dict[str, object] = {"method": self.method}
        if name == "withhold":
            how |= {"multipliers": (-1.0, 1.0), "draws": 0}
        elif name != "express":
            how |= {"draws": 3}
        return Need(measure="steered", role="base", items=name, parameters=how, after=_contrasts())

    def gather(self, case: Case, measured: Mapping[str, Measurement]) -> Data:
        pairs = measured[_contrasts().name]
        moved = {
            (role, pole): measured[_read("activations", role, pole).name]
            for pole in _poles(case)
            for role in case.with_controls(CONTROL)[1:]
        }
        _refuse(pairs, moved)
        contrast = Contrast(
            pairs.arrays["residual"],
            clusters(case.items["pairs"]),
            pairs.arrays["depth"],
            best_level(pairs),
            pairs.arrays["slope"],
            clusters(case.items["pairs"])[pairs.arrays["trial"]],
        )
        steered = {pole: measured[self._steered(pole).name] for pole in _poles(case)}
        told = [pole for pole in _poles(case) if f"instructed:{pole}" in case.items]
        texts = [(name, measured[self._steered(name).name].arrays) for name in _text(case)]
        return Data(
            contrast,
            {pole: _effect(case, pole, one) for pole, one in steered.items()},
            {key: _shift(one, contrast.depth) for key, one in moved.items()},
            {pole: clusters(case.items[pole])[moved["tuned", pole].arrays["item"]] for pole in _poles(case)},
            next(
                (OnText(a["multiplier"], a["draw"], a["kl"], clusters(case.items[name])[a["item"]]) for name, a in texts), None
            ),
            {pole: _ways(case, pole, measured, steered[pole], contrast.depth, told=pole in told) for pole in _poles(case)},
            "" if told else "the behaviour has no 'instruction' that fits into the context as a system message",
        )

    def analyse(self, data: Data, rng: np.random.Generator) -> Result:
        contrast = data.contrast
        by_level = [agreed(contrast.pairs(level), contrast.cluster, rng, self.shuffles) for level in range(len(contrast.depth))]
        chosen = by_level[contrast.level]
        estimates = {f"{name}_agreement": one for name, one in chosen.found.items()}
        estimates |= _effects(data) | _predicted(data)
        tables = [
            steered_rows.consistency(contrast, by_level),
            steered_rows.how_little(contrast, chosen, rng),
            steered_rows.methods(contrast),
            steered_rows.curve(data),
            steered_rows.training(data, rng, self.shuffles),
        ]
        for pole, ways in data.ways.items():
            found = _same(ways, contrast.level, pole)
            estimates |= found
            tables += steered_rows.same(ways, found, contrast, pole)
        statement = _statement(estimates)
        return Result(
            summary=_summary(data, estimates),
            estimates=estimates,
            findings=(
                Finding(
                    tag="inside",
                    statement=statement,
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

    def simulate(self, effect: float, rng: np.random.Generator) -> Data:
        """Draw a world: pairs that share a direction, items that it steers, and training that moves along it.

        The planted effect is both the slope beyond that of random directions and the movement along the pairs' own mean
        difference beyond that of the control, so that the truth does not hang on how well the direction is known.
        """
        pairs, templates, size, width, depths = 24, 24, 4, 12, 2
        cluster, item = np.repeat(np.arange(pairs // 2), 2), np.repeat(np.arange(templates), size)
        shared = rng.standard_normal((depths, width))
        difference = shared + 0.8 * rng.standard_normal((pairs // 2, depths, width))[cluster]
        difference += 0.8 * rng.standard_normal((pairs, depths, width))
        middle = rng.standard_normal((pairs, depths, width))
        residual = np.stack([middle + difference / 2, middle - difference / 2], 1)
        contrast = Contrast(residual, cluster, np.arange(1, depths + 1), 1, rng.standard_normal((depths, 8)), np.arange(8))
        multiplier = np.array([0.0, -1.0, 1.0, *([1.0, -1.0] * 3)])
        draw = np.array([-1, -1, -1, 0, 0, 1, 1, 2, 2])
        slopes = {-1: effect + 0.3 * rng.standard_normal(templates)[item] + 0.3 * rng.standard_normal(item.size)}
        slopes |= {one: 0.2 * rng.standard_normal(templates)[item] for one in range(3)}
        start = rng.standard_normal(item.size)
        odds = np.stack([start + multiple * slopes[one] for multiple, one in zip(multiplier, draw.tolist(), strict=True)])
        vectors = np.stack([contrast.vector(level) for level in range(depths)])
        shifts = {}
        for role, level in (("tuned", 0.3 + effect), (CONTROL, 0.3)):
            moved = level + 0.2 * rng.standard_normal(templates)[item] + 0.2 * rng.standard_normal(item.size)
            shifts[role, "express"] = moved[:, None, None] * vectors + rng.standard_normal((item.size, depths, width))
        outputs = {way: (np.log(rng.dirichlet(np.ones(6), item.size)), np.full(item.size, -np.inf)) for way in WAYS}
        ways = {way: shifts["tuned", "express"] + rng.standard_normal(shifts["tuned", "express"].shape) for way in WAYS[1:]}
        return Data(
            contrast,
            {"express": Effect(multiplier, draw, odds, item)},
            shifts,
            {"express": item},
            OnText(multiplier, draw, np.square(multiplier)[:, None] * rng.gamma(4.0, 0.1, (len(draw), 16)), np.arange(16)),
            {"express": Ways(outputs, ways, item)},
        )

    def truth(self, effect: float) -> dict[str, float]:
        return {"slope_over_floor": effect, "projection_over_floor": effect}

    @staticmethod
    def plot(result: Result, axes) -> None:
        drawing.curves(axes, result.figure)


def _contrasts() -> Need:
    return Need(measure="contrasts", role="base", items="pairs")


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


def _ways(
    case: Case, pole: str, measured: Mapping[str, Measurement], steered: Measurement, depth: np.ndarray, *, told: bool
) -> Ways:
    item, arrays = steered.arrays["item"], steered.arrays
    outputs = {
        way: (arrays["decision"][row], arrays["decision_rest"][row], arrays.get("decision_token"))
        for row, way in enumerate(("base", "vector"))
    }
    needs = {"training": (_read("distributions", "tuned", pole), _read("activations", "tuned", pole))}
    if told:
        needs["instruction"] = (_instructed("distributions", pole), _instructed("activations", pole))
    shifts = {"vector": arrays["shift"]}
    for way, (output, moved) in needs.items():
        outputs[way] = at_decision(measured[output.name], item)
        kept = measured[moved.name]
        rows = np.searchsorted(kept.arrays["item"], item)
        if np.array_equal(kept.arrays["item"][np.minimum(rows, len(kept.arrays["item"]) - 1)], item):
            shifts[way] = _shift(kept, depth)[rows]
    order = [way for way in WAYS if way in outputs]
    both = same_cells({way: outputs[way] for way in order})
    return Ways(both, {way: shifts[way] for way in order if way in shifts}, clusters(case.items[pole])[item])


def _effects(data: Data) -> dict[str, Estimate]:
    found: dict[str, Estimate] = {}
    for pole, one in data.effects.items():
        mark = "" if pole == "express" else f":{pole}"
        found[f"slope{mark}"] = stats.level(one.slope(), one.cluster, unit="nats")
        found[f"anti_steerable{mark}"] = stats.rate((one.slope() < 0).astype(float), one.cluster)
        if one.draws:
            random = one.random_slopes
            found[f"slope_random{mark}"] = stats.level(random.mean(0), one.cluster, unit="nats")
            found[f"slope_over_floor{mark}"] = stats.level(one.slope() - random.mean(0), one.cluster, unit="nats")
    if data.text:
        for name, random in (("kl_text", False), ("kl_text_random", True)):
            if (estimate := data.text.estimate(1.0, random=random)) is not None:
                found[name] = estimate
    return found


def _predicted(data: Data) -> dict[str, Estimate]:
    contrast, found = data.contrast, {}
    for pole in data.clusters:
        mark, labels = "" if pole == "express" else f":{pole}", data.clusters[pole]
        tuned, control = data.shifts["tuned", pole], data.shifts.get((CONTROL, pole))
        vector = contrast.vector(contrast.level)
        moved = along(vector, tuned[:, contrast.level])
        found[f"projection{mark}"] = stats.mean(moved, labels, unit=MULTIPLES)
        found[f"cosine_with_training{mark}"] = with_training(contrast, tuned, labels, [contrast.level])[contrast.level]
        if control is not None:
            floor = along(vector, control[:, contrast.level])
            found[f"projection_control{mark}"] = stats.mean(floor, labels, unit=MULTIPLES)
            found[f"cosine_with_control{mark}"] = with_training(contrast, control, labels, [contrast.level])[contrast.level]
            found[f"projection_over_floor{mark}"] = stats.mean_difference(floor, moved, labels, unit=MULTIPLES)
    return found


def _same(ways: Ways, level: int, pole: str) -> dict[str, Estimate]:
    found = {
        f"kl:{pole}:{one}|{other}": ways.nats(one, other) for one in ways.outputs for other in ways.outputs if one != other
    }
    names = list(ways.shifts)
    for place, one in enumerate(names):
        for other in names[place + 1 :]:
            found[f"shift_cosine:{pole}:{one}|{other}"] = ways.cosine(one, other, level)
    return found


def _figure(data: Data) -> dict[str, object]:
    one, series = data.effects["express"], []
    for label, random in (("the vector", False), ("random", True)):
        x, y, low, high = [], [], [], []
        for multiple in one.multiples:
            values = one.random(multiple) if random else one.at(multiple)
            if multiple == 0.0:
                values = np.zeros(len(one.cluster))
            if values is None:
                continue
            estimate = stats.mean(values, one.cluster, unit="nats")
            ends = estimate.interval or (estimate.value, estimate.value)
            for column, value in zip((x, y, low, high), (multiple, estimate.value, *ends), strict=True):
                column.append(value)
        if len(x) > 1:
            series.append({"label": label, "x": x, "y": y, "low": low, "high": high})
    return {"series": series, "x_label": "multiples of the vector added", "unit": "log-odds of the behaviour, change (nats)"}


def _places(data: Data) -> list[Place]:
    contrast, labels = data.contrast, data.clusters["express"]
    tuned, control = data.shifts["tuned", "express"], data.shifts.get((CONTROL, "express"))

    def size(shift: np.ndarray, level: int) -> Estimate:
        return stats.positive_mean(np.abs(along(contrast.vector(level), shift[:, level])), labels, unit=MULTIPLES)

    return [
        Place(
            layer=depth - 1,
            part="residual",
            quantity="movement along the steering vector (multiples, either way)",
            estimate=size(tuned, level),
            floor=size(control, level) if control is not None else None,
        )
        for level, depth in enumerate(contrast.depth.tolist())
    ]


def _statement(estimates: Mapping[str, Estimate]) -> str:
    cosine, moved = estimates["cosine_with_training"], estimates["projection"]
    told = "could not be said" if cosine.value is None else shown(cosine, decimals=2).sentence
    told = f"the vector extracted before training has a cosine with what training changed of {told}".replace(" cosine [", " [")
    return f"{told}; training moved {shown(moved, decimals=2).sentence} along it"


def _summary(data: Data, estimates: Mapping[str, Estimate]) -> str:
    slope, random = estimates["slope"], estimates.get("slope_random")
    said = f"Added once after block {data.contrast.block}, the vector changes the log-odds of the behaviour by "
    said += shown(slope, decimals=2, change=True).sentence
    if random is not None:
        said += f" (a random direction: {shown(random, decimals=2, change=True).sentence})"
    said += f"; {_percent(estimates['anti_steerable'])} of items go the other way. "
    statement = _statement(estimates)
    return said + statement[0].upper() + statement[1:] + "."


def _percent(estimate: Estimate) -> str:
    return "an unknown share" if estimate.value is None else f"{100 * estimate.value:.0f}%"


def _cannot_say(data: Data) -> tuple[str, ...]:
    said = []
    if (CONTROL, "express") not in data.shifts:
        said.append("How much of the movement is the noise of any training: give --control rehearsal_only=PATH.")
    if data.no_instruction:
        said.append(f"Whether an instruction does the same: {data.no_instruction}.")
    if data.text is None:
        said.append("What adding the direction does to general text: give --text FILE.")
    return tuple(said)
