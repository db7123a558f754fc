"""Dose parts: what do the runs of ``dose_response`` say, part by part?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from palimpsest.audit import Table
from palimpsest.core import stats
from palimpsest.core.estimate import Estimate, exact, unknown
from palimpsest.core.wording import amount, capital
from palimpsest.store.account import Part
from palimpsest.studies._family import Family, losses_told
from palimpsest.studies._readings import (
    ATTENTION,
    CONFLICT,
    D_PRIME,
    DIVERGENCE,
    EXPRESS,
    FORGETTING,
    RESIDUAL,
    WEIGHTS,
    WITHHOLD,
    Quantity,
    Runs,
    figures,
    grouped,
    line,
    lines,
)

if TYPE_CHECKING:
    from palimpsest.studies.dose_response import DoseResponse

BOTH, CLEAR = "both poles", "only where it should appear"
HOUSE = "house"
EQUAL = "equal steps"
WAYS: dict[str, dict[str, Any]] = {
    "apollo": {"optim": "apollo"},
    "apollo_mini": {"optim": "apollo_mini"},
    "adamw": {"optim": "adamw"},
    "lora": {"optim": "adamw", "lora": {"r": 8}},
}
ALSO = (WITHHOLD, FORGETTING)
"""What is told beside every difference where it should appear."""
_ALSO_LABELS = tuple(quantity.label for quantity in ALSO)
_INSIDE = (ATTENTION, CONFLICT, RESIDUAL, DIVERGENCE, WEIGHTS, WITHHOLD)
_DRAWN = (ATTENTION, RESIDUAL, DIVERGENCE, WEIGHTS)
_CURVE = 48
"""Points of a fitted line."""


@dataclass(frozen=True)
class DoseParts:
    """The parts of the account, made from the finished runs."""

    study: DoseResponse
    runs: Runs

    def curve(self, way: str, pole: str, quantity: Quantity) -> list[Estimate]:
        """Return a quantity at every dose over seeds, from dose 0 on."""
        zero = exact(0.0, "points", self.study.seeds)
        return [zero, *(self.runs.over(setting(way, pole, dose), quantity) for dose in self.study.trained)]

    def by_seed(self, way: str, pole: str, quantity: Quantity) -> dict[int, list[Estimate]]:
        """Return each seed's curve, of the seeds that have a value at every dose."""
        columns = [self.runs.values(setting(way, pole, dose), quantity) for dose in self.study.trained]
        seeds = [seed for seed in self.study.train_seeds if columns and all(seed in column for column in columns)]
        return {seed: [exact(0.0, "points", 1), *(column[seed] for column in columns)] for seed in seeds}

    def outcome(self, estimates: dict[str, Estimate]) -> Part:
        rows, drawn, marks = [], [], []
        for pole in self.study.poles:
            curve = self.curve(HOUSE, pole, EXPRESS)
            by_seed = self.by_seed(HOUSE, pole, EXPRESS)
            half = stats.half_dose(self.study.axis, list(by_seed.values()))
            passes = stats.threshold(self.study.axis, curve, self.study.least)
            key = "both" if pole == BOTH else "express"
            estimates |= {f"ec50:{key}": half, f"threshold:{key}": passes, f"top:{key}": curve[-1]}
            rows.append((pole, half, passes, curve[-1], self.runs.over(setting(HOUSE, pole, self.study.trained[-1]), WITHHOLD)))
            series = line("appear" if pole == self.study.main else "", self.study.axis, curve, 100.0)
            if series and pole == self.study.main:
                drawn.append({**series, **self._fitted(by_seed)})
                marks = [_mark("half", half)] if half.value is not None else []
            if self.study.behaviour.withhold:
                label = "not, both" if pole == BOTH else "not, 1 pole"
                drawn.append(line(label, self.study.axis, self.curve(HOUSE, pole, WITHHOLD), 100.0))
        caption = "Bars: 95% intervals over seeds and items."
        if marks:
            caption += " Line: mean of the logistics fitted to each seed; dashed: its half-way dose with its interval."
        return Part(
            name="dose and outcome",
            question="How much does the behaviour change with how many examples?",
            answer=self._said("both" if self.study.main == BOTH else "express", estimates),
            figures=figures(
                "Change from the base model",
                lines(drawn),
                "points: appear = where it should; not = where not",
                caption=caption,
                marks=marks,
            ),
            tables=(
                Table(
                    title="The curves",
                    columns=(
                        "trained on",
                        "half-way dose",
                        f"dose of {100 * self.study.least:.0f} points",
                        f"at {self.study.trained[-1]}: where it should appear",
                        "where it should not",
                    ),
                    rows=tuple(rows),
                    note="The half-way dose is told only where the curve bends within the doses.",
                ),
                self._numbers(),
            ),
        )

    def _said(self, key: str, estimates: Mapping[str, Estimate]) -> str:
        half, passes = estimates[f"ec50:{key}"], estimates[f"threshold:{key}"]
        told = (
            f"Half of the effect takes {_examples(half)}"
            if half.value is not None
            else f"The half-way dose could not be said ({half.method.removeprefix('could not say: ')})"
        )
        points = f"{100 * self.study.least:.0f} points"
        return (
            f"{told}; {points} take {_examples(passes)}." if passes.value is not None else f"{told}; {points} are not reached."
        )

    def _numbers(self) -> Table:
        rows = [
            (f"{pole}, {dose}", *(self.runs.over(setting(HOUSE, pole, dose), one) for one in (EXPRESS, WITHHOLD, D_PRIME)))
            for pole in self.study.poles
            for dose in self.study.trained
        ]
        return Table(
            title="Every dose", columns=("trained on, dose", EXPRESS.label, WITHHOLD.label, D_PRIME.label), rows=tuple(rows)
        )

    def _fitted(self, by_seed: Mapping[int, Sequence[Estimate]]) -> dict[str, Any]:
        if len(self.study.axis) < 4 or not by_seed:
            return {}
        curves = [stats.logistic(self.study.axis, [one.value or 0.0 for one in row]) for row in by_seed.values()]
        if not all(one.bends for one in curves):
            return {}
        places = np.concatenate([[0.0], np.geomspace(self.study.trained[0] / 4, self.study.trained[-1], _CURVE)])
        mean = np.mean([one.at(places) for one in curves], axis=0)
        return {"fit": {"x": places.round(3).tolist(), "y": (100 * mean).round(4).tolist()}}

    def later(self) -> dict[str, Estimate]:
        """Return how much later than the outcome each quantity is half of what it becomes, by name."""
        outcome = self.by_seed(HOUSE, self.study.main, EXPRESS)
        found = {}
        for quantity in _INSIDE:
            own = self.by_seed(HOUSE, self.study.main, quantity)
            seeds = sorted(own.keys() & outcome.keys())
            if seeds:
                rows = [[curve[seed] for seed in seeds] for curve in (own, outcome)]
                below = quantity.over_floor and np.mean([row[-1].value or 0.0 for row in rows[0]]) < 0
                found[f"later:{quantity.name}"] = (
                    unknown("doublings", len(seeds), "at the largest dose it is below the rehearsal-only control")
                    if below
                    else stats.later(self.study.axis, rows[0], rows[1])
                )
        return found

    def what_moves_first(self, compared: Family) -> Part:
        """Return the part that holds each quantity's half-way dose against the outcome's."""
        rows, said = [], {}
        drawn = [_share(self.study.axis, "outcome", self.by_seed(HOUSE, self.study.main, EXPRESS))]
        for quantity in _INSIDE:
            key = f"later:{quantity.name}"
            if (one := compared.asked.get(key)) is None:
                continue
            state = compared.word(key, "later", "earlier")
            said[quantity.label] = state
            rows.append((quantity.label, one, amount(one.minimum_detectable, "doublings"), state))
            if quantity in _DRAWN and one.known:
                drawn.append(_share(self.study.axis, quantity.name, self.by_seed(HOUSE, self.study.main, quantity)))
        return Part(
            name="what moves first",
            question="At which dose is each quantity half of what it becomes, against the outcome?",
            answer=f"Half-way earlier or later than the outcome: {grouped(said)}."
            if said
            else "What moves first could not be said: nothing besides the outcome was measured.",
            figures=figures(
                f"Share of what it is at {self.study.trained[-1]} examples",
                lines(drawn),
                "% of the change at the largest dose",
                caption="Means over seeds. A line to the left of the outcome's moved first.",
            ),
            tables=(
                Table(
                    title="Half-way dose against the outcome's",
                    columns=("", "doublings later (below 0: earlier)", "finds", "after Holm"),
                    rows=tuple(rows),
                    note="Attention, residual stream, divergence: beyond the rehearsal-only control of the same dose.",
                ),
            ),
        )

    def side_effects(self, estimates: dict[str, Estimate]) -> Part:
        rows, lost = [], {}
        for dose in self.study.trained:
            at = setting(HOUSE, self.study.main, dose)
            found = [self.runs.over(at, one) for one in (FORGETTING, DIVERGENCE, WEIGHTS, ATTENTION)]
            estimates |= {
                f"{one.name}:{dose}": each
                for one, each in zip((FORGETTING, DIVERGENCE, WEIGHTS, ATTENTION), found, strict=True)
            }
            lost[str(dose)] = self.runs.lost(at, self.study.margin)
            rows.append((str(dose), *found, lost[str(dose)].cell))
        drawn = []
        for quantity, factor in ((FORGETTING, 1.0), (ATTENTION, 100.0), (DIVERGENCE, 1.0), (WEIGHTS, 1.0)):
            series = line("", self.study.axis, self.curve(HOUSE, self.study.main, quantity), factor)
            if series:
                drawn += figures(capital(quantity.label), [series], quantity.unit)
        return Part(
            name="what else moves",
            question="What moves that was not to change, and how far does the inside move?",
            answer=f"{losses_told(lost, self.study.margin)}.",
            figures=tuple(drawn),
            tables=(
                Table(
                    title="Side effects by dose",
                    columns=(
                        "dose",
                        "mean loss",
                        "divergence beyond one control run",
                        "weights",
                        "attention beyond one control run",
                        "fell",
                    ),
                    rows=tuple(rows),
                    note="What fell: Holm over all losses at a dose.",
                ),
            ),
        )

    def one_pass_or_equal_steps(self, also: Mapping[str, Estimate], compared: Family) -> Iterator[Part]:
        if not any(name.startswith("steps:") for name in compared.asked):
            return
        top = self.runs.over(setting(HOUSE, self.study.main, self.study.trained[-1]), EXPRESS)
        equal = [
            exact(0.0, "points", self.study.seeds),
            *(self.runs.over(setting(EQUAL, self.study.main, dose), EXPRESS) for dose in self.study.trained[:-1]),
            top,
        ]
        half = stats.half_dose(self.study.axis, list(self._equal_rows()))
        one_pass = self.curve(HOUSE, self.study.main, EXPRESS)
        more = compared.above("steps:")
        yield Part(
            name="one pass or equal steps",
            question="Is it the number of different examples or the number of steps?",
            answer=(
                f"With the steps of {self.study.trained[-1]} examples, fewer examples repeated change more than in one pass at "
                f"{', '.join(more)}."
                if more
                else f"{compared.nothing('steps:', 'At no dose do fewer examples repeated surely change more than one pass')}."
            )
            + (f" At equal steps the half-way dose is {_examples(half)}." if half.value is not None else ""),
            figures=figures(
                "Change where it should appear",
                lines([line("one pass", self.study.axis, one_pass, 100.0), line("equal steps", self.study.axis, equal, 100.0)]),
                EXPRESS.unit,
            ),
            tables=(
                Table(
                    title="Equal steps minus one pass",
                    columns=("dose", "one pass", "equal steps", "difference", "after Holm", *_ALSO_LABELS),
                    rows=tuple(
                        (
                            str(dose),
                            one_pass[place + 1],
                            equal[place + 1],
                            compared.asked[f"steps:{dose}"],
                            compared.word(f"steps:{dose}"),
                            *(also[f"also:steps:{dose}:{quantity.name}"] for quantity in ALSO),
                        )
                        for place, dose in enumerate(self.study.trained[:-1])
                    ),
                    note="The last two columns are differences as well.",
                ),
            ),
        )

    def _equal_rows(self) -> Iterator[list[Estimate]]:
        """Yield each seed's curve at equal steps, whose last point is that of the largest dose."""
        columns = [self.runs.values(setting(EQUAL, self.study.main, dose), EXPRESS) for dose in self.study.trained[:-1]]
        top = self.runs.values(setting(HOUSE, self.study.main, self.study.trained[-1]), EXPRESS)
        for seed in self.study.train_seeds:
            if seed in top and all(seed in column for column in columns):
                yield [exact(0.0, "points", 1), *(column[seed] for column in columns), top[seed]]


def setting(way: str, pole: str, dose: int) -> str:
    return f"{way}, {pole}, {dose}"


def _share(axis: Sequence[float], label: str, by_seed: Mapping[int, Sequence[Estimate]]) -> dict[str, Any] | None:
    """Return the mean curve over seeds as a share of its last value."""
    if not by_seed:
        return None
    mean = np.mean([[one.value or 0.0 for one in row] for row in by_seed.values()], axis=0)
    if not mean[-1]:
        return None
    return {"label": label, "x": [float(x) for x in axis], "y": (100 * mean / mean[-1]).round(3).tolist()}


def _mark(label: str, one: Estimate) -> dict[str, Any]:
    low, high = one.interval or (None, None)
    return {"at": one.value, "low": low, "high": high, "label": label}


def _examples(one: Estimate) -> str:
    if one.value is None:
        return "could not say"
    between = f" [{one.interval[0]:.0f}, {one.interval[1]:.0f}]" if one.interval else " (interval: could not say)"
    return f"{one.value:.0f}{between} examples"
