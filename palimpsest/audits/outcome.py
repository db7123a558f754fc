"""Outcome: does the behaviour appear where it should, and how much more than before?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pydantic import Field

from palimpsest.audit import Audit, Case, Finding, NotApplicable, Result, Sample, Table
from palimpsest.core import drawing, stats
from palimpsest.core.estimate import Estimate
from palimpsest.core.measurement import Measurement, Need
from palimpsest.core.shapes import PLAIN, Shape
from palimpsest.core.wording import capital
from palimpsest.data.chances import OPTION_ROWS, Chances, Options, read_options
from palimpsest.data.grading import clusters, passes


@dataclass(frozen=True)
class Data:
    """Whether each answer of every role shows the behaviour (0/1 [items], by role), and the items' clusters."""

    shown: dict[str, np.ndarray]
    clusters: np.ndarray
    options: Options | None = None
    """Of both poles, where answers have named options."""
    samples: tuple[Sample, ...] = ()


class Outcome(Audit[Data]):
    """Rate of the behaviour where it should appear, before and after.

    Question:
        Does the behaviour now appear where it should, and by how much more often than before?
    Method:
        Every held-out item of the express pole is answered once by both models with the same dice (Gumbel-max noise that
        belongs to the item), and graded by the behaviour's check. What is judged is the rate of these answers. Where the check
        asks which of several named options an answer begins with, and these together hold more than 90% of the probability
        in every pole of both models, the probability of the graded option is judged in its place: it is the expectation of
        that sampled answer, with less noise. Elsewhere only the option's share among the options is told, with how much they
        hold. Differences are paired by item and clustered by template.
    Reads:
        Held-out items of templates that no training example used; `generations` and `options` of base and tuned.
    Null:
        No change: the same rate and probability in both models. A rehearsal-only control shows what training without the
        behaviour does.
    Limits:
        A check reads the words of an answer, not its intent. One sampled answer an item; the interval covers items and
        templates, not training seeds.
    Reference:
        Miller 2024, arXiv 2411.00640 (paired, clustered); Bonett and Price 2012 (paired proportions).
    """

    cost: ClassVar = "generate"
    primary: ClassVar = ("express_change",)
    planted: ClassVar = 0.4
    hostile: ClassVar = ("few", "Zipf sizes")

    samples: int = Field(default=12, ge=0)
    """How many prompts with both answers are kept for the report."""

    def needs(self, case: Case) -> tuple[Need, ...]:
        if "express" not in case.items or case.check is None:
            raise NotApplicable("there is no behaviour: give one with --behaviour FILE.yaml")
        found = [case.answers(role, "express") for role in case.with_controls("rehearsal_only")]
        options = case.options()
        found += options.values()
        if ("express", "before") in options:  # read by no audit, but kept with the run's items
            found += [Need(measure="options", role=role, items="express") for role in case.with_controls("rehearsal_only")[2:]]
        return tuple(found)

    def gather(self, case: Case, measured: Mapping[str, Measurement]) -> Data:
        items = case.items["express"]
        roles = case.with_controls("rehearsal_only")
        answers = {role: measured[case.answers(role, "express").name].texts["answer"] for role in roles}
        shown = {role: passes(items, case.check, texts) for role, texts in answers.items()}
        options = {key: measured[need.name] for key, need in case.options().items()}
        samples = tuple(
            Sample(
                title=item.template,
                prompt=item.context,
                before=answers["base"][index],
                after=answers["tuned"][index],
                before_passes=bool(shown["base"][index]),
                after_passes=bool(shown["tuned"][index]),
            )
            for index, item in enumerate(items.items[: self.samples])
        )
        return Data(shown, clusters(items), read_options(case.poles, case.check, case.generation, options), samples)

    def analyse(self, data: Data, rng: np.random.Generator) -> Result:
        base, tuned, control = (data.shown.get(role) for role in ("base", "tuned", "rehearsal_only"))
        assert base is not None and tuned is not None, "a case has both"
        doubt = data.options.why_not() if data.options else "The answer is not one of several named choices."
        by = "rate" if doubt else "probability"
        estimates: dict[str, Estimate] = {
            "rate_before": stats.rate(base, data.clusters),
            "rate_after": stats.rate(tuned, data.clusters),
            "rate_change": stats.rate_difference(base, tuned, data.clusters, unit="points"),
            **(data.options.estimates("express") if data.options else {}),
        }
        rows = [("generated answers, graded", "rate")]
        if by == "probability":
            rows.append(("probability of the graded choice", "probability"))
        if control is not None:
            estimates["control_rate_after"] = stats.rate(control, data.clusters)
            estimates["control_rate_change"] = stats.rate_difference(base, control, data.clusters, unit="points")
            rows.append(("generated answers, rehearsal only", "control_rate"))
        estimates |= {f"express_{when}": estimates[f"{by}_{when}"] for when in ("before", "after", "change")}
        said = (
            f"where it should appear, the behaviour went from {points(estimates['express_before'])} to "
            f"{points(estimates['express_after'])}"
        )
        change = estimates["express_change"]
        cells = {name: _cells(estimates, key) for name, key in rows}
        return Result(
            summary=capital(said) + ".",
            estimates=estimates,
            findings=(
                Finding(tag="outcome", statement=said, estimate=change, topic="change of the behaviour where it should appear"),
            ),
            tables=(
                Table(
                    title="The behaviour where it should appear",
                    columns=("read from", "before", "after", "change"),
                    rows=(
                        *((name, *found) for name, found in cells.items()),
                        *((name, *_cells(estimates, key)) for name, key in OPTION_ROWS if f"{key}_change" in estimates),
                    ),
                    note=doubt if data.options else "",
                ),
            ),
            figure={
                "labels": list(cells),
                "before": [before.model_dump() for before, _, _ in cells.values()],
                "after": [after.model_dump() for _, after, _ in cells.values()],
            },
            samples=data.samples,
            cannot_say=()
            if data.options
            else ("The answer is not one of several named choices, so there is no probability to read.",),
        )

    def simulate(self, effect: float, rng: np.random.Generator, shape: Shape = PLAIN) -> Data:
        count, size = 24, 16
        template = shape.labels(count, size)
        before = rng.uniform(0.25, 0.35, count)[template]
        after = before + effect + shape.effects(rng.uniform(-0.22, 0.22, count), 0.11, rng)[template]
        leads = bool(rng.random() < 0.5)
        shown, chances = {}, {}
        for role, when, centre in (("base", "before", before), ("tuned", "after", after)):
            probability = centre + rng.uniform(-0.03, 0.03, template.size)
            shown[role] = (rng.random(template.size) < probability).astype(float)
            chances["express", when] = Chances.simulated(probability, leads, rng)
        return Data(shown, template, Options(chances, {"express": template}))

    def truth(self, effect: float) -> dict[str, float]:
        return {"express_change": effect}

    @staticmethod
    def plot(result: Result, axes) -> None:
        drawing.before_after_rows(axes, result.figure)


def _cells(estimates: Mapping[str, Estimate], key: str) -> tuple[Estimate, Estimate, Estimate]:
    """Return a quantity before, after, and its change."""
    before = estimates["rate_before" if key == "control_rate" else f"{key}_before"]  # the control was trained from the base
    return before, estimates[f"{key}_after"], estimates[f"{key}_change"]


def points(estimate: Estimate) -> str:
    return "an unknown share" if estimate.value is None else f"{100 * estimate.value:.0f}%"
