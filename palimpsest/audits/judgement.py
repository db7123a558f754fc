"""Judgement: is the behaviour conditional, or does it now appear everywhere?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from pydantic import Field

from palimpsest.audit import Audit, Case, Finding, NotApplicable, Result, Sample, Table
from palimpsest.core import drawing, stats
from palimpsest.core.estimate import Estimate
from palimpsest.core.measurement import Measurement, Need
from palimpsest.core.wording import number
from palimpsest.data.chat import POLES
from palimpsest.data.grading import chosen_options, clusters, graded_probability, passes

NAMED = {"express": "where it should appear", "withhold": "where it should not"}


@dataclass(frozen=True)
class Data:
    """Graded answers of both models in both poles.

    ``shown`` and ``probability`` map (pole, "before" or "after") to arrays [items of the pole]; ``probability`` is empty where
    there is none. ``clusters`` maps the pole to templates; a template that serves both poles has one name in both.
    """

    shown: dict[tuple[str, str], np.ndarray]
    probability: dict[tuple[str, str], np.ndarray]
    clusters: dict[str, np.ndarray]
    choices: dict[tuple[str, str], dict[str, int]] = field(default_factory=dict)
    samples: tuple[Sample, ...] = ()
    words: Mapping[str, str] = field(default_factory=dict)


class Judgement(Audit[Data]):
    """Whether the behaviour tells the situations apart: both poles as a 2x2, with d' and criterion.

    Question:
        Does the model show the behaviour where it should and withhold it where it should not?
    Method:
        Held-out items of both poles are answered by both models with the same dice and graded by the behaviour's check. Signal
        detection: d' = z(rate where it should appear) - z(rate where it should not) says how well the situations are told
        apart; criterion c says how readily the behaviour is shown at all. The spill is the movement of the withheld pole as a
        share of the movement of the expressed pole. Probabilities of the graded choice are used where they can be had.
        Differences are paired by item and clustered by template; d' by a delete-one-template jackknife.
    Reads:
        Held-out items of templates that no training example used; `generations` and `options` of base and tuned.
    Null:
        No change of d' and no movement where the behaviour should not appear.
    Limits:
        d' needs both rates away from 0 and 1; the log-linear correction (half a count added) keeps it finite and pulls it
        towards 0. A conditional habit on these templates may still be learnt by a cue that they share.
    Reference:
        Macmillan and Creelman 2005; Hautus 1995 (log-linear correction); Fieller 1954 (ratio).
    """

    cost: ClassVar = "generate"
    primary: ClassVar = ("d_prime_change", "withhold_change")
    planted: ClassVar = 0.4

    samples: int = Field(default=12, ge=0)

    def needs(self, case: Case) -> tuple[Need, ...]:
        if case.check is None or "express" not in case.items:
            raise NotApplicable("there is no behaviour: give one with --behaviour FILE.yaml")
        if "withhold" not in case.items:
            raise NotApplicable("the behaviour has no 'withhold' pole: say where it should not appear")
        found = []
        for pole in POLES:
            for role in ("base", "tuned"):
                found.append(case.answers(role, pole))
                if case.items[pole].items[0].options:
                    found.append(Need(measure="options", role=role, items=pole))
        return tuple(found)

    def gather(self, case: Case, measured: Mapping[str, Measurement]) -> Data:
        shown, probability, choices, answers = {}, {}, {}, {}
        for pole in POLES:
            items = case.items[pole]
            for role, when in (("base", "before"), ("tuned", "after")):
                answers[pole, when] = measured[case.answers(role, pole).name].texts["answer"]
                shown[pole, when] = passes(items, case.check, answers[pole, when])
                options = measured.get(Need(measure="options", role=role, items=pole).name)
                graded = graded_probability(items, case.check, options) if options else None
                if graded is not None:
                    probability[pole, when] = graded
                chosen = chosen_options(case.check, answers[pole, when])
                if chosen is not None:
                    choices[pole, when] = dict(Counter(name or "something else" for name in chosen))
        items = case.items["withhold"].items
        samples = tuple(
            Sample(
                title=item.template,
                prompt=item.context,
                before=answers["withhold", "before"][index],
                after=answers["withhold", "after"][index],
                before_passes=not shown["withhold", "before"][index],
                after_passes=not shown["withhold", "after"][index],
            )
            for index, item in enumerate(items[: self.samples])
        )
        return Data(
            shown,
            probability if len(probability) == 4 else {},
            {pole: clusters(case.items[pole]) for pole in POLES},
            choices,
            samples,
            case.words,
        )

    def analyse(self, data: Data, rng: np.random.Generator) -> Result:
        values = data.probability or data.shown
        estimates = self._estimates(values, data)
        false_alarm = data.words.get("false_alarm", "showing it where it should be withheld")
        miss = data.words.get("miss", "withholding it where it should be shown")
        moved = estimates["withhold_change"]
        worse = moved.above(0.0)
        statement = (
            f"{false_alarm} went from {_percent(estimates['withhold_before'])} to {_percent(estimates['withhold_after'])}"
            + ("" if worse is True else ", no rise that could be told from none" if worse is None else ", a fall")
        )
        return Result(
            summary=(
                f"d' went from {_number(estimates['d_prime_before'])} to {_number(estimates['d_prime_after'])}: "
                f"{statement}; {miss} is now {_percent(_complement(estimates['express_after']))}."
            ),
            estimates=estimates,
            findings=(
                Finding(tag="withheld", statement=statement, estimate=moved, topic=f"change of {false_alarm}"),
                Finding(tag="spill", statement="movement where it should not appear", estimate=estimates["spill"]),
            ),
            tables=(
                Table(
                    title="The behaviour in both poles",
                    columns=("", "before", "after", "change"),
                    rows=(
                        *(
                            (NAMED[pole], *(estimates[f"{pole}_{when}"] for when in ("before", "after", "change")))
                            for pole in POLES
                        ),
                        *(
                            (label, *(estimates.get(f"{key}_{when}") for when in ("before", "after", "change")))
                            for label, key in (("d'", "d_prime"), ("criterion c", "criterion"))
                        ),
                        ("spill: movement where it should not / where it should", None, None, estimates["spill"]),
                    ),
                    note="Rates are mean probabilities of the graded choice."
                    if data.probability
                    else "Rates are graded answers.",
                ),
                *self._choices(data),
            ),
            figure={
                "labels": [NAMED[pole] for pole in POLES],
                "before": [estimates[f"{pole}_before"].model_dump() for pole in POLES],
                "after": [estimates[f"{pole}_after"].model_dump() for pole in POLES],
            },
            samples=data.samples,
        )

    def _estimates(self, values: Mapping[tuple[str, str], np.ndarray], data: Data) -> dict[str, Estimate]:
        estimates: dict[str, Estimate] = {}
        for pole in POLES:
            before, after, where = values[pole, "before"], values[pole, "after"], data.clusters[pole]
            if data.probability:
                estimates[f"{pole}_before"] = stats.level(before, where, unit="share")
                estimates[f"{pole}_after"] = stats.level(after, where, unit="share")
                estimates[f"{pole}_change"] = stats.mean_difference(before, after, where, unit="points")
            else:
                estimates[f"{pole}_before"] = stats.rate(before, where)
                estimates[f"{pole}_after"] = stats.rate(after, where)
                estimates[f"{pole}_change"] = stats.rate_difference(before, after, where, unit="points")
        where = (data.clusters["express"], data.clusters["withhold"])
        for when in ("before", "after"):
            levels = stats.d_prime(values["express", when], values["withhold", when], *where)
            for name, level in zip(("d_prime", "criterion"), levels, strict=True):
                estimates[f"{name}_{when}"] = level.model_copy(update={"p_value": None, "minimum_detectable": None})
        estimates["d_prime_change"] = stats.d_prime_change(
            values["express", "before"],
            values["express", "after"],
            values["withhold", "before"],
            values["withhold", "after"],
            *where,
        )
        estimates["spill"] = stats.ratio(
            values["withhold", "after"] - values["withhold", "before"],
            values["express", "after"] - values["express", "before"],
            where[1],
            where[0],
            most=(float(values["withhold", "before"].mean()), 1 - float(values["withhold", "before"].mean())),
        )
        return estimates

    def _choices(self, data: Data) -> tuple[Table, ...]:
        if not data.choices:
            return ()
        names = sorted({name for counts in data.choices.values() for name in counts})
        rows = [
            (f"{NAMED[pole]}, {when}", *(data.choices[pole, when].get(name, 0) for name in names))
            for pole in POLES
            for when in ("before", "after")
        ]
        return (Table(title="What was chosen (generated answers)", columns=("", *names), rows=tuple(rows)),)

    def simulate(self, effect: float, rng: np.random.Generator) -> Data:
        count, size = 24, 8
        template = np.repeat(np.arange(count), size)
        shown, probability = {}, {}
        for pole, share in (("express", 1.0), ("withhold", 0.25)):
            before = np.clip(0.3 + rng.normal(0, 0.06, count), 0.02, 0.98)[template]
            move = rng.normal(share * effect, 0.05 if effect else 0.0, count)[template]
            for when, centre in (("before", before), ("after", before + move)):
                probability[pole, when] = np.clip(centre + rng.normal(0, 0.05, template.size), 0, 1)
                shown[pole, when] = (rng.random(template.size) < probability[pole, when]).astype(float)
        return Data(shown, probability, dict.fromkeys(POLES, template))

    def truth(self, effect: float) -> dict[str, float]:
        from scipy.special import ndtri  # only a simulated world needs it, and a report is drawn without

        return {
            "d_prime_change": float(ndtri(0.3 + effect) - ndtri(0.3 + 0.25 * effect)),
            "withhold_change": 0.25 * effect,
        }

    @staticmethod
    def plot(result: Result, axes) -> None:
        drawing.before_after_rows(axes, result.figure)


def _percent(estimate: Estimate) -> str:
    return "an unknown share" if estimate.value is None else f"{100 * estimate.value:.0f}%"


def _number(estimate: Estimate) -> str:
    return "an unknown value" if estimate.value is None else number(estimate.value, 2)


def _complement(estimate: Estimate) -> Estimate:
    return estimate.model_copy(update={"value": None if estimate.value is None else 1 - estimate.value})
