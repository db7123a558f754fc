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
from palimpsest.core.wording import capital
from palimpsest.data.grading import clusters, graded_probability, passes


@dataclass(frozen=True)
class Graded:
    """One role's answers where the behaviour should appear: 0/1 [items], and its probability [items] where it can be had."""

    shown: np.ndarray
    probability: np.ndarray | None


@dataclass(frozen=True)
class Data:
    """Answers of every role on the same items, and the items' clusters."""

    roles: dict[str, Graded]
    clusters: np.ndarray
    samples: tuple[Sample, ...] = ()


class Outcome(Audit[Data]):
    """Rate of the behaviour where it should appear, before and after.

    Question:
        Does the behaviour now appear where it should, and by how much more often than before?
    Method:
        Every held-out item of the express pole is answered once by both models with the same dice (Gumbel-max noise that
        belongs to the item), and graded by the behaviour's check. Where the answer begins with one of several named choices,
        the probability of the graded choice is read as well: it is the expectation of that sampled answer, with less noise.
        Differences are paired by item and clustered by template.
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
    primary: ClassVar = ("rate_change", "probability_change")
    planted: ClassVar = 0.4

    samples: int = Field(default=12, ge=0)
    """How many prompts with both answers are kept for the report."""

    def needs(self, case: Case) -> tuple[Need, ...]:
        if "express" not in case.items or case.check is None:
            raise NotApplicable("there is no behaviour: give one with --behaviour FILE.yaml")
        found = [case.answers(role, "express") for role in case.with_controls("rehearsal_only")]
        if case.items["express"].items[0].options:
            found += [Need(measure="options", role=role, items="express") for role in case.with_controls("rehearsal_only")]
        return tuple(found)

    def gather(self, case: Case, measured: Mapping[str, Measurement]) -> Data:
        items = case.items["express"]
        roles, answers = {}, {}
        for role in case.with_controls("rehearsal_only"):
            answers[role] = measured[case.answers(role, "express").name].texts["answer"]
            options = measured.get(Need(measure="options", role=role, items="express").name)
            roles[role] = Graded(
                passes(items, case.check, answers[role]),
                graded_probability(items, case.check, options) if options else None,
            )
        samples = tuple(
            Sample(
                title=item.template,
                prompt=item.context,
                before=answers["base"][index],
                after=answers["tuned"][index],
                before_passes=bool(roles["base"].shown[index]),
                after_passes=bool(roles["tuned"].shown[index]),
            )
            for index, item in enumerate(items.items[: self.samples])
        )
        return Data(roles, clusters(items), samples)

    def analyse(self, data: Data, rng: np.random.Generator) -> Result:
        base, tuned = data.roles["base"], data.roles["tuned"]
        estimates: dict[str, Estimate] = {
            "rate_before": stats.rate(base.shown, data.clusters),
            "rate_after": stats.rate(tuned.shown, data.clusters),
            "rate_change": stats.rate_difference(base.shown, tuned.shown, data.clusters, unit="points"),
        }
        if base.probability is not None and tuned.probability is not None:
            estimates |= {
                "probability_before": stats.level(base.probability, data.clusters, unit="share"),
                "probability_after": stats.level(tuned.probability, data.clusters, unit="share"),
                "probability_change": stats.mean_difference(base.probability, tuned.probability, data.clusters, unit="points"),
            }
        control = data.roles.get("rehearsal_only")
        if control is not None:
            estimates["control_rate_change"] = stats.rate_difference(base.shown, control.shown, data.clusters, unit="points")
        by = "probability" if "probability_change" in estimates and estimates["probability_change"].known else "rate"
        change, before, after = (estimates[f"{by}_{name}"] for name in ("change", "before", "after"))
        estimates["express_before"], estimates["express_after"] = before, after
        said = f"where it should appear, the behaviour went from {points(before)} to {points(after)}"
        rows = [("generated answers, graded", "rate_before", "rate_after", "rate_change")]
        if by == "probability":
            rows.append(("probability of the graded choice", "probability_before", "probability_after", "probability_change"))
        if control is not None:
            estimates["control_rate_after"] = stats.rate(control.shown, data.clusters)
            rows.append(("generated answers, rehearsal only", "rate_before", "control_rate_after", "control_rate_change"))
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
                    rows=tuple((name, *(estimates[key] for key in keys)) for name, *keys in rows),
                ),
            ),
            figure={
                "labels": [name for name, *_ in rows],
                "before": [estimates[before].model_dump() for _, before, _, _ in rows],
                "after": [estimates[after].model_dump() for _, _, after, _ in rows],
            },
            samples=data.samples,
            cannot_say=()
            if by == "probability"
            else ("The answer is not one of several named choices, so there is no probability to read.",),
        )

    def simulate(self, effect: float, rng: np.random.Generator) -> Data:
        count, size = 24, 16
        template = np.repeat(np.arange(count), size)
        before = rng.uniform(0.25, 0.35, count)[template]
        after = before + rng.uniform(effect - 0.22, effect + 0.22, count)[template]
        roles = {}
        for role, centre in (("base", before), ("tuned", after)):
            probability = centre + rng.uniform(-0.03, 0.03, template.size)
            roles[role] = Graded((rng.random(template.size) < probability).astype(float), probability)
        return Data(roles, template)

    def truth(self, effect: float) -> dict[str, float]:
        return {"rate_change": effect, "probability_change": effect}

    @staticmethod
    def plot(result: Result, axes) -> None:
        drawing.before_after_rows(axes, result.figure)


def points(estimate: Estimate) -> str:
    return "an unknown share" if estimate.value is None else f"{100 * estimate.value:.0f}%"
