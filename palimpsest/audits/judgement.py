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
from palimpsest.core.shapes import PLAIN, Shape
from palimpsest.core.wording import number
from palimpsest.data.chances import NAMED, OPTION_ROWS, WHEN, Chances, Options, read_options
from palimpsest.data.chat import POLES
from palimpsest.data.grading import chosen_options, clusters, passes


@dataclass(frozen=True)
class Data:
    """Graded answers of both models in both poles.

    ``shown`` maps (pole, "before" or "after") to 0/1 [items of the pole]; ``options`` is ``None`` where answers have no named
    ones. ``clusters`` maps the pole to templates; a template that serves both poles has one name in both.
    """

    shown: dict[tuple[str, str], np.ndarray]
    clusters: dict[str, np.ndarray]
    options: Options | None = None
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
        share of the movement of the expressed pole. All of it is judged by the rate of the answers that were written. Where the
        check asks which of several named options an answer begins with, and these together hold more than 90% of the
        probability in both poles of both models, the probability of the graded option takes the rate's place. Differences are
        paired by item and clustered by template; d' by a delete-one-template jackknife.
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
    hostile: ClassVar = ("few", "Zipf sizes")

    samples: int = Field(default=12, ge=0)

    def needs(self, case: Case) -> tuple[Need, ...]:
        if case.check is None or "express" not in case.items:
            raise NotApplicable("there is no behaviour: give one with --behaviour FILE.yaml")
        if "withhold" not in case.items:
            raise NotApplicable("the behaviour has no 'withhold' pole: say where it should not appear")
        answers = [case.answers(role, pole) for pole in POLES for role in ("base", "tuned")]
        return (*answers, *case.options().values())

    def gather(self, case: Case, measured: Mapping[str, Measurement]) -> Data:
        shown, choices, answers = {}, {}, {}
        for pole in POLES:
            items = case.items[pole]
            for role, when in (("base", "before"), ("tuned", "after")):
                answers[pole, when] = measured[case.answers(role, pole).name].texts["answer"]
                shown[pole, when] = passes(items, case.check, answers[pole, when])
                chosen = chosen_options(case.check, answers[pole, when])
                if chosen is not None:
                    choices[pole, when] = dict(Counter(name or "something else" for name in chosen))
        options = {key: measured[need.name] for key, need in case.options().items()}
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
            {pole: clusters(case.items[pole]) for pole in POLES},
            read_options(case.poles, case.check, case.generation, options),
            choices,
            samples,
            case.words,
        )

    def analyse(self, data: Data, rng: np.random.Generator) -> Result:
        doubt = data.options.why_not() if data.options else "The answer is not one of several named choices."
        estimates = self._estimates(data, by_probability=not doubt)
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
                    note="Rates are graded answers." if doubt else "Rates are mean probabilities of the graded choice.",
                ),
                *self._options(data, estimates, doubt),
                *self._choices(data),
            ),
            figure={
                "labels": [NAMED[pole] for pole in POLES],
                "before": [estimates[f"{pole}_before"].model_dump() for pole in POLES],
                "after": [estimates[f"{pole}_after"].model_dump() for pole in POLES],
            },
            samples=data.samples,
        )

    def _estimates(self, data: Data, *, by_probability: bool) -> dict[str, Estimate]:
        estimates: dict[str, Estimate] = {}
        values = dict(data.shown)
        for pole in POLES:
            (before, after), where = (data.shown[pole, when] for when in WHEN), data.clusters[pole]
            estimates[f"{pole}_before"] = stats.rate(before, where)
            estimates[f"{pole}_after"] = stats.rate(after, where)
            estimates[f"{pole}_change"] = stats.rate_difference(before, after, where, unit="points")
            found = data.options.estimates(pole) if data.options else {}
            if data.options and by_probability:
                estimates |= {f"{pole}_rate_{when}": estimates[f"{pole}_{when}"] for when in (*WHEN, "change")}
                estimates |= {f"{pole}_{when}": found[f"probability_{when}"] for when in (*WHEN, "change")}
                values |= {(pole, when): data.options.chances[pole, when].probability for when in WHEN}
            estimates |= {f"{pole}_{name}": estimate for name, estimate in found.items() if not name.startswith("probability")}
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

    def _options(self, data: Data, estimates: Mapping[str, Estimate], doubt: str) -> tuple[Table, ...]:
        """Return what is told beside the rates: the written rate where a probability leads, and what the options hold."""
        if data.options is None:
            return ()
        named = (("generated answers, graded", "rate"), *OPTION_ROWS)
        rows = [
            (f"{NAMED[pole]}: {name}", *(estimates[f"{pole}_{key}_{when}"] for when in (*WHEN, "change")))
            for pole in POLES
            for name, key in named
            if f"{pole}_{key}_change" in estimates
        ]
        return (Table(title="The named options", columns=("", "before", "after", "change"), rows=tuple(rows), note=doubt),)

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

    def simulate(self, effect: float, rng: np.random.Generator, shape: Shape = PLAIN) -> Data:
        count, size = 24, 16
        template = shape.labels(count, size)
        leads = bool(rng.random() < 0.5)
        shown, chances = {}, {}
        for pole, part in (("express", 1.0), ("withhold", 0.25)):
            before = np.clip(0.3 + rng.normal(0, 0.06, count), 0.02, 0.98)[template]
            move = part * effect + shape.effects(rng.normal(0, 0.1, count), 0.1, rng)[template]
            for when, centre in (("before", before), ("after", before + move)):
                probability = np.clip(centre + rng.normal(0, 0.05, template.size), 0, 1)
                shown[pole, when] = (rng.random(template.size) < probability).astype(float)
                chances[pole, when] = Chances.simulated(probability, leads, rng)
        return Data(shown, dict.fromkeys(POLES, template), Options(chances, dict.fromkeys(POLES, template)))

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
