"""Dose response: how much changes with how many examples, and what moves first?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, field_validator

from palimpsest.audit import Table
from palimpsest.core import stats
from palimpsest.core.estimate import Estimate, exact, unknown
from palimpsest.core.seeds import numpy_stream
from palimpsest.core.wording import amount, shown
from palimpsest.data.mixture import counts_for
from palimpsest.store.account import Figure, Part
from palimpsest.store.record import StepLog
from palimpsest.studies._claims import Claims
from palimpsest.studies._readings import (
    ATTENTION,
    BEHAVIOUR_AUDITS,
    DIVERGENCE,
    EXPRESS,
    FORGETTING,
    WEIGHTS,
    WITHHOLD,
    Quantity,
    Runs,
    decided,
    line,
    lines,
    word,
)
from palimpsest.study import Grid, Point, Reading, Results, Study, Told
from palimpsest.training.settings import TrainingSettings

BOTH, CLEAR = "both poles", "only where it should appear"
HOUSE = "house"
EQUAL = "equal steps"
_WAYS: dict[str, dict[str, Any]] = {
    "apollo": {"optim": "apollo"},
    "apollo_mini": {"optim": "apollo_mini"},
    "adamw": {"optim": "adamw"},
    "lora": {"optim": "adamw", "lora": {"r": 8}},
}
_INSIDE = ("attention_shift", "divergence", "weight_change")
_CURVE = 48
"""Points of a fitted line."""


class DoseResponse(Study):
    """Effect, side effects and inner change at every dose, with the dose at which each is half of what it becomes.

    Question:
        How many examples does the change take, what else moves with them, and does the inside move before the outcome?
    Method:
        The behaviour is trained at each dose from the same base model: the examples of a small dose are the first of a larger
        one, and the held-out items are the same in all runs. Dose 0 is the base itself, so every change is 0 there. Both poles
        and the express pole alone, at the behaviour's own settings; then, at three doses, one factor at a time (the context
        frozen or full, the optimizer), and all doses again at equal steps: fewer examples repeated until as many optimizer
        steps are done as the largest dose has. A four-parameter logistic in the logarithm of the dose is fitted to each seed;
        its half-way dose (EC50) is told only where it lies inside the doses and four fifths of the fitted rise were seen.
        The threshold is where the effect passes the stated least effect. *What moves first*: the dose at which a quantity is
        half of what it is at the largest dose, against that of the outcome, in doublings, paired by seed; attention and
        divergence are taken beyond the rehearsal-only control of the same dose (trained once and shared by the seeds).
        Four claims of a practical plan are held against the runs. *10 find it*: the outcome rises by more than `found` (2
        points). *50 smooth it*: the rise where the behaviour should not appear is below a fifth of the rise where it should,
        and where it should it has risen. *200 verify it*: it rises by at least the least effect (40 points) and stays below
        that fifth. *1000 reshape*: some ability or text loses more than the forgetting margin (0.05 nats a token). Each holds
        at a dose where the whole interval over seeds says so, fails where the whole interval says the opposite, and else is
        not decided; and each is false in its number where a smaller dose of the grid does it already.
        Code length: in a run of one pass every example is scored before it is learnt from. Summed over all steps are the loss
        of the express and of the withhold rows, each times its tokens (decision tokens only; rehearsal is left out; the rows of
        one batch are scored by the same weights), in bits.
    Reads:
        `judgement`, `outcome`, `forgetting`, `attention_shift`, `divergence` and `weight_change` of every run, and its step log.
    Null:
        No change at any dose; no comparison between settings other than 0 (paired by seed, Holm over the study's comparisons,
        the minimum detectable effect beside every null).
    Limits:
        The unit is the training seed: with three, only large differences are decided. The held-out items are shared by all
        runs, so intervals over seeds speak of these items; the half-way dose alone is widened by them. Each dose has a learning
        rate schedule of its own that ends with it, so a larger dose is also a longer one: hence the reading at equal steps.
    Reference:
        Miller 2024, arXiv 2411.00640; Holm 1979; Donoway et al. 2025 (logistic in the log, prequential code length);
        Souly et al. 2025 (absolute count, not share).
    """

    primary: ClassVar = ("later:", "way:", "poles:", "steps:")

    doses: tuple[int, ...] = Field(default=(0, 10, 20, 50, 100, 200, 500, 1000), min_length=2)
    """Behaviour examples of a run; 0 is added."""
    compared: tuple[int, ...] = (50, 100, 200)
    """Doses at which one factor at a time is changed; those of them that are in ``doses``."""
    found: float = Field(default=0.02, gt=0, lt=1)
    """Rise (share of 1) beyond which the behaviour counts as found."""
    least: float = Field(default=0.40, gt=0, le=1)
    """Rise that counts as enough, as in the verdict."""
    spill: float = Field(default=0.20, gt=0, le=1)
    """Movement where it should not appear, as a share of that where it should, that is still conditional."""
    margin: float = Field(default=0.05, gt=0)
    """Rise in loss (nats a token) that counts as forgetting."""
    lora_rate: float = Field(default=10.0, gt=0)
    """Times the learning rate for an adapter, which starts at 0 and has few weights."""

    @field_validator("doses", "compared")
    @classmethod
    def _rises(cls, doses: tuple[int, ...]) -> tuple[int, ...]:
        if any(dose < 0 for dose in doses) or sorted(set(doses)) != list(doses):
            raise ValueError("doses must be 0 or more and rise, none twice")
        return doses

    @property
    def trained(self) -> tuple[int, ...]:
        """The doses that are trained."""
        return tuple(dose for dose in self.doses if dose)

    @property
    def axis(self) -> tuple[int, ...]:
        return (0, *self.trained)

    @property
    def settings(self) -> TrainingSettings:
        return TrainingSettings.read(dict(self.behaviour.training), "'training'")

    @property
    def poles(self) -> tuple[str, ...]:
        return (BOTH, CLEAR) if self.behaviour.withhold else (CLEAR,)

    @property
    def main(self) -> str:
        """The pole setting that the curves are about."""
        return self.poles[0]

    # ---------------------------------------------------------------- points

    def points(self, grid: Grid) -> tuple[Point, ...]:
        found = [*self._house(), *self._equal_steps()]
        found += self._every_way() if grid == "full" else self._one_factor()
        return tuple(found)

    def _house(self) -> Iterator[Point]:
        has_control = self.settings.rehearsal_share > 0
        for pole in self.poles:
            for dose in self.trained:
                first = _name(HOUSE, self.main, dose, self.train_seeds[0])
                for seed in self.train_seeds:
                    name = _name(HOUSE, pole, dose, seed)
                    own = {"controls": ("rehearsal_only",)} if name == first and has_control else {}
                    yield Point(
                        name=name,
                        setting=setting(HOUSE, pole, dose),
                        seed=seed,
                        behaviour={**_pole(pole), **own, "dose": dose},
                        request={"audits": (*BEHAVIOUR_AUDITS, *_INSIDE)},
                        control=first if name != first and has_control else "",
                    )

    def _equal_steps(self) -> Iterator[Point]:
        """The largest dose is the same with one pass, and is not trained twice."""
        most = self._steps(self.trained[-1]) if self.trained else 0
        for dose in self.trained[:-1]:
            epochs = math.ceil(most / self._steps(dose))
            training = (
                {"num_train_epochs": epochs, "allow_repeats": True, "max_steps": most} if epochs > 1 else {"max_steps": most}
            )
            yield from self._seeds(EQUAL, self.main, dose, training)

    def _steps(self, dose: int) -> int:
        share = 1.0 if self.main == CLEAR else self.behaviour.express_share
        rows = counts_for(dose, self.settings.rehearsal_share, share).rows
        return max(1, math.ceil(rows / self.settings.rows_per_step))

    def _one_factor(self) -> Iterator[Point]:
        for way, training in self._ways().items():
            for dose in self._compared():
                yield from self._seeds(way, self.main, dose, training)

    def _every_way(self) -> Iterator[Point]:
        for name, training in _WAYS.items():
            for context in ("frozen", "full"):
                for pole in self.poles:
                    for dose in self.trained:
                        yield from self._seeds(
                            f"{name}, {context} context", pole, dose, {**self._way(name), "context": context}
                        )

    def _ways(self) -> dict[str, dict[str, Any]]:
        """Return what differs from the behaviour's own settings in one factor."""
        own = self.settings
        other = "full" if own.context == "frozen" else "frozen"
        house = "lora" if own.lora else own.optim
        ways = {f"{other} context": {"context": other}}
        return ways | {name: self._way(name) for name in _WAYS if name != house}

    def _way(self, name: str) -> dict[str, Any]:
        plain = {"optim_args": {}, "lora": None, **_WAYS[name]}
        return {**plain, "learning_rate": self.settings.learning_rate * self.lora_rate} if name == "lora" else plain

    def _compared(self) -> tuple[int, ...]:
        return tuple(dose for dose in self.compared if dose in self.trained)

    def _seeds(self, way: str, pole: str, dose: int, training: dict[str, Any]) -> Iterator[Point]:
        for seed in self.train_seeds:
            yield Point(
                name=_name(way, pole, dose, seed),
                setting=setting(way, pole, dose),
                seed=seed,
                behaviour={**_pole(pole), "dose": dose},
                training=training,
                request={"audits": BEHAVIOUR_AUDITS},
            )

    # ---------------------------------------------------------------- collect

    def collect(self, results: Results, grid: Grid) -> Told:
        runs = Runs(self.points(grid), results)
        estimates: dict[str, Estimate] = {}
        claims = Claims(runs, self.trained, lambda dose: setting(HOUSE, self.main, dose), self)
        first, first_told = self._what_moves_first(runs, estimates)
        compared = self._comparisons(runs, grid)
        estimates |= compared
        holm = decided({name: one for name, one in estimates.items() if name.startswith(self.primary)})
        outcome, outcome_told = self._outcome(runs, estimates)
        parts = (
            outcome,
            claims.part(estimates),
            first(holm),
            self._side_effects(runs, estimates),
            self._one_pass_or_equal_steps(runs, compared, holm),
            *self._other_settings(compared, holm),
            self._code_length(runs, estimates),
        )
        return Told(
            headline=f"{outcome_told[0].upper()}{outcome_told[1:]}",
            sure=f"over {self.seeds} training seeds on the same held-out items; differences after Holm over {len(holm)} comparisons",
            reasons=(*claims.reasons, first_told(holm)),
            parts=tuple(part for part in parts if part is not None),
            estimates=estimates,
        )

    def _curve(self, runs: Runs, way: str, pole: str, quantity: Quantity) -> list[Estimate]:
        zero = exact(0.0, "points", self.seeds)
        return [zero, *(runs.over(setting(way, pole, dose), quantity) for dose in self.trained)]

    def _by_seed(self, runs: Runs, way: str, pole: str, quantity: Quantity) -> dict[int, list[Estimate]]:
        """Return each seed's curve, of the seeds that have a value at every dose."""
        columns = [runs.values(setting(way, pole, dose), quantity) for dose in self.trained]
        seeds = [seed for seed in self.train_seeds if columns and all(seed in column for column in columns)]
        return {seed: [exact(0.0, "points", 1), *(column[seed] for column in columns)] for seed in seeds}

    def _outcome(self, runs: Runs, estimates: dict[str, Estimate]) -> tuple[Part, str]:
        rows, drawn, marks = [], [], []
        for pole in self.poles:
            curve = self._curve(runs, HOUSE, pole, EXPRESS)
            by_seed = self._by_seed(runs, HOUSE, pole, EXPRESS)
            half = stats.half_dose(self.axis, list(by_seed.values()))
            passes = stats.threshold(self.axis, curve, self.least)
            key = "both" if pole == BOTH else "express"
            estimates |= {f"ec50:{key}": half, f"threshold:{key}": passes, f"top:{key}": curve[-1]}
            rows.append((pole, half, passes, curve[-1], runs.over(setting(HOUSE, pole, self.trained[-1]), WITHHOLD)))
            series = line("appear" if pole == self.main else "", self.axis, curve, 100.0)
            if series and pole == self.main:
                drawn.append({**series, **self._fitted(by_seed)})
                marks = [_mark("half", half)] if half.value is not None else []
            if self.behaviour.withhold:
                label = "not, both" if pole == BOTH else "not, 1 pole"
                drawn.append(line(label, self.axis, self._curve(runs, HOUSE, pole, WITHHOLD), 100.0))
        half, passes = (estimates[f"{name}:{'both' if self.main == BOTH else 'express'}"] for name in ("ec50", "threshold"))
        told = (
            f"half of the effect takes {_examples(half)}"
            if half.value is not None
            else f"the half-way dose could not be said ({half.method.removeprefix('could not say: ')})"
        )
        enough = (
            f"{100 * self.least:.0f} points take {_examples(passes)}"
            if passes.value is not None
            else f"{100 * self.least:.0f} points are not reached"
        )
        part = Part(
            name="dose and outcome",
            question="How much does the behaviour change with how many examples?",
            answer=f"{told[0].upper()}{told[1:]}; {enough}.",
            figures=_figures(
                "Change from the base model",
                "Bars: 95% t intervals over seeds. The line is the mean of the logistics fitted to each seed; dashed: its half-way dose "
                "with its interval."
                if marks
                else "Bars: 95% t intervals over seeds.",
                lines(drawn),
                "points: appear = where it should; not = where it should not",
                marks,
            ),
            tables=(
                Table(
                    title="The curves",
                    columns=(
                        "trained on",
                        "half-way dose",
                        f"dose of {100 * self.least:.0f} points",
                        f"at {self.trained[-1]}: where it should appear",
                        "where it should not",
                    ),
                    rows=tuple(rows),
                    note="The half-way dose is told only where the curve bends within the doses.",
                ),
                self._numbers(runs),
            ),
        )
        return part, f"{told}, {enough}"

    def _numbers(self, runs: Runs) -> Table:
        rows = [
            (f"{pole}, {dose}", *(runs.over(setting(HOUSE, pole, dose), one) for one in (EXPRESS, WITHHOLD)))
            for pole in self.poles
            for dose in self.trained
        ]
        return Table(title="Every dose", columns=("trained on, dose", EXPRESS.label, WITHHOLD.label), rows=tuple(rows))

    def _fitted(self, by_seed: Mapping[int, Sequence[Estimate]]) -> dict[str, Any]:
        if len(self.axis) < 4 or not by_seed:
            return {}
        curves = [stats.logistic(self.axis, [one.value or 0.0 for one in row]) for row in by_seed.values()]
        if not all(one.bends for one in curves):
            return {}
        places = np.concatenate([[0.0], np.geomspace(self.trained[0] / 4, self.trained[-1], _CURVE)])
        mean = np.mean([one.at(places) for one in curves], axis=0)
        return {"fit": {"x": places.round(3).tolist(), "y": (100 * mean).round(4).tolist()}}

    def _what_moves_first(self, runs: Runs, estimates: dict[str, Estimate]):
        outcome = self._by_seed(runs, HOUSE, self.main, EXPRESS)
        names, drawn = {}, [_share(self.axis, "outcome", outcome)]
        for quantity in (ATTENTION, DIVERGENCE, WEIGHTS, WITHHOLD):
            own = self._by_seed(runs, HOUSE, self.main, quantity)
            seeds = sorted(own.keys() & outcome.keys())
            if not seeds:
                continue
            rows = [[[each.value or 0.0 for each in curve[seed]] for seed in seeds] for curve in (own, outcome)]
            estimates[f"later:{quantity.name}"] = stats.later(self.axis, rows[0], rows[1])
            names[quantity.name] = quantity.label
            drawn.append(_share(self.axis, quantity.label, own))

        def told(holm: Mapping[str, bool]) -> str:
            found = {name: word(f"later:{name}", estimates[f"later:{name}"], holm, "later", "earlier") for name in names}
            if not found:
                return "what moves first could not be said: nothing besides the outcome was measured"
            return "against the outcome's half-way dose: " + ", ".join(
                f"{names[name]} {state}" for name, state in found.items()
            )

        def part(holm: Mapping[str, bool]) -> Part:
            rows = [
                (label, estimates[f"later:{name}"], amount(estimates[f"later:{name}"].minimum_detectable, "doublings"),
                 word(f"later:{name}", estimates[f"later:{name}"], holm, "later", "earlier"))
                for name, label in names.items()
            ]  # fmt: skip
            answer = told(holm)
            return Part(
                name="what moves first",
                question="At which dose is each quantity half of what it becomes, against the outcome?",
                answer=f"{answer[0].upper()}{answer[1:]}.",
                figures=_figures(
                    f"Share of what it is at {self.trained[-1]} examples",
                    "Means over seeds. A line to the left of the outcome's moved first.",
                    lines(drawn),
                    "% of the change at the largest dose",
                ),
                tables=(
                    Table(
                        title="Half-way dose against the outcome's",
                        columns=("", "doublings later (below 0: earlier)", "finds", "after Holm"),
                        rows=tuple(rows),
                        note="Attention and divergence are beyond the rehearsal-only control of the same dose, where there is one.",
                    ),
                ),
            )

        return part, told

    def _side_effects(self, runs: Runs, estimates: dict[str, Estimate]) -> Part:
        rows, largest = [], self.trained[-1]
        for dose in self.trained:
            at = setting(HOUSE, self.main, dose)
            found = [runs.over(at, one) for one in (FORGETTING, DIVERGENCE, WEIGHTS, ATTENTION)]
            estimates |= {
                f"{one.name}:{dose}": each
                for one, each in zip((FORGETTING, DIVERGENCE, WEIGHTS, ATTENTION), found, strict=True)
            }
            rows.append((str(dose), *found, ", ".join(runs.fell(at, self.margin)) or "none"))
        fell = rows[-1][-1]
        figures = []
        for quantity, factor in ((FORGETTING, 1.0), (ATTENTION, 100.0), (DIVERGENCE, 1.0), (WEIGHTS, 100.0)):
            series = line("", self.axis, self._curve(runs, HOUSE, self.main, quantity), factor)
            if series:
                unit = quantity.unit + (" (%)" if quantity is WEIGHTS else "")
                figures += _figures(
                    quantity.label[0].upper() + quantity.label[1:], "Bars: 95% t intervals over seeds.", [series], unit
                )
        return Part(
            name="what else moves",
            question="What moves that was not to change, and how far does the inside move?",
            answer=f"At {largest} examples, lost beyond {self.margin:g} nats a token with the whole interval over seeds: {fell}.",
            figures=tuple(figures),
            tables=(
                Table(
                    title="Side effects by dose",
                    columns=(
                        "dose",
                        "mean loss",
                        "divergence beyond the control",
                        "weights",
                        "attention beyond the control",
                        "fell",
                    ),
                    rows=tuple(rows),
                ),
            ),
        )

    def _comparisons(self, runs: Runs, grid: Grid) -> dict[str, Estimate]:
        """Return every difference between two settings, paired by seed, by name."""
        found: dict[str, Estimate] = {}
        for dose in self.trained[:-1]:
            found[f"steps:{dose}"] = runs.paired(setting(EQUAL, self.main, dose), setting(HOUSE, self.main, dose), EXPRESS)
        if len(self.poles) == 2:
            for dose in self.trained:
                found[f"poles:{dose}"] = runs.paired(setting(HOUSE, CLEAR, dose), setting(HOUSE, BOTH, dose), WITHHOLD)
        for way in self._ways() if grid == "default" else ():
            for dose in self._compared():
                found[f"way:{way}:{dose}"] = runs.paired(
                    setting(way, self.main, dose), setting(HOUSE, self.main, dose), EXPRESS
                )
                for quantity in (WITHHOLD, FORGETTING):
                    other = runs.paired(setting(way, self.main, dose), setting(HOUSE, self.main, dose), quantity)
                    found[f"also:{way}:{dose}:{quantity.name}"] = other
        if grid == "full":
            for name in _WAYS:
                for dose in self.trained:
                    pair = (setting(f"{name}, {context} context", self.main, dose) for context in ("frozen", "full"))
                    found[f"way:{name}, frozen less full:{dose}"] = runs.paired(*pair, EXPRESS)
        return found

    def _one_pass_or_equal_steps(self, runs: Runs, compared: Mapping[str, Estimate], holm: Mapping[str, bool]) -> Part | None:
        keys = [name for name in compared if name.startswith("steps:")]
        if not keys:
            return None
        top = runs.over(setting(HOUSE, self.main, self.trained[-1]), EXPRESS)
        equal = [
            exact(0.0, "points", self.seeds),
            *(runs.over(setting(EQUAL, self.main, dose), EXPRESS) for dose in self.trained[:-1]),
            top,
        ]
        half = stats.half_dose(self.axis, list(self._equal_rows(runs)))
        one_pass = self._curve(runs, HOUSE, self.main, EXPRESS)
        more = [name.split(":")[1] for name in keys if holm.get(name) and (compared[name].value or 0) > 0]
        return Part(
            name="one pass or equal steps",
            question="Is it the number of different examples or the number of steps?",
            answer=(
                f"With as many steps as {self.trained[-1]} examples have, fewer examples repeated change more than in one pass at "
                f"{', '.join(more)}."
                if more
                else "At no dose is a difference between one pass and equal steps decided."
            )
            + (f" At equal steps the half-way dose is {_examples(half)}." if half.value is not None else ""),
            figures=_figures(
                "Change where it should appear",
                "Bars: 95% t intervals over seeds.",
                lines([line("one pass", self.axis, one_pass, 100.0), line("equal steps", self.axis, equal, 100.0)]),
                EXPRESS.unit,
            ),
            tables=(
                Table(
                    title="Equal steps less one pass",
                    columns=("dose", "one pass", "equal steps", "difference", "after Holm"),
                    rows=tuple(
                        (
                            str(dose),
                            one_pass[place + 1],
                            equal[place + 1],
                            compared[f"steps:{dose}"],
                            word(f"steps:{dose}", compared[f"steps:{dose}"], holm),
                        )
                        for place, dose in enumerate(self.trained[:-1])
                    ),
                ),
            ),
        )

    def _equal_rows(self, runs: Runs) -> Iterator[list[Estimate]]:
        """Yield each seed's curve at equal steps, whose last point is that of the largest dose."""
        columns = [runs.values(setting(EQUAL, self.main, dose), EXPRESS) for dose in self.trained[:-1]]
        top = runs.values(setting(HOUSE, self.main, self.trained[-1]), EXPRESS)
        for seed in self.train_seeds:
            if seed in top and all(seed in column for column in columns):
                yield [exact(0.0, "points", 1), *(column[seed] for column in columns), top[seed]]

    def _other_settings(self, compared: Mapping[str, Estimate], holm: Mapping[str, bool]) -> Iterator[Part]:
        poles = {name: one for name, one in compared.items() if name.startswith("poles:")}
        if poles:
            more = [name.split(":")[1] for name in poles if holm.get(name) and (compared[name].value or 0) > 0]
            yield Part(
                name="one pole or both",
                question="What does teaching only where it should appear do where it should not?",
                answer=f"Taught alone it spills more than with both poles at {', '.join(more)} examples."
                if more
                else "No difference is decided.",
                tables=(
                    Table(
                        title="Where it should not appear: one pole less both",
                        columns=("dose", "difference", "after Holm"),
                        rows=tuple((name.split(":")[1], one, word(name, one, holm)) for name, one in poles.items()),
                    ),
                ),
            )
        ways = {name: one for name, one in compared.items() if name.startswith("way:")}
        if ways:
            told = [
                f"{name.removeprefix('way:').replace(':', ' at ')} {word(name, one, holm)}"
                for name, one in ways.items()
                if holm.get(name)
            ]
            rows = []
            for name, one in ways.items():
                way, _, dose = name.removeprefix("way:").rpartition(":")
                also = (compared.get(f"also:{way}:{dose}:{quantity.name}") for quantity in (WITHHOLD, FORGETTING))
                rows.append((f"{way}, {dose}", one, word(name, one, holm), *also))
            yield Part(
                name="one factor at a time",
                question="What do optimizer and frozen context change, at the same dose?",
                answer=("Where it should appear, against the behaviour's own settings: " + "; ".join(told) + ".")
                if told
                else "No difference is decided.",
                tables=(
                    Table(
                        title="Less the behaviour's own settings, paired by seed",
                        columns=("way, dose", EXPRESS.label, "after Holm", WITHHOLD.label, "mean loss"),
                        rows=tuple(rows),
                        note=f"LoRA (rank 8) at {self.lora_rate:g} times the learning rate.",
                    ),
                ),
            )

    def _code_length(self, runs: Runs, estimates: dict[str, Estimate]) -> Part:
        rows, curve = [], []
        for dose in self.trained:
            readings = list(runs.of(setting(HOUSE, self.main, dose)).values())
            lengths = [code_length(one.steps) for one in readings]
            total = [sum(bits) for bits, _ in lengths if bits]
            each = [sum(bits) / max(1, sum(count)) for bits, count in lengths if bits]
            last = [_last(bits, count) for bits, count in lengths if bits]
            found = [
                stats.across_seeds([exact(one, unit) for one in values]) if values else unknown(unit, 0, "no step log")
                for values, unit in ((total, "bits"), (each, "bits an example"), (last, "bits an example"))
            ]
            estimates[f"code_length:{dose}"] = found[0]
            curve.append(found[1])
            rows.append((str(dose), *found))
        figure = line("", self.trained, curve)
        return Part(
            name="code length",
            question="How many bits does it take to tell the examples to the model, each told before it is learnt?",
            answer=f"The first {self.trained[-1]} examples take {shown(rows[-1][1]).sentence}; what is learnt shows as a fall in bits an example.",
            figures=_figures(
                "Bits an example, mean over the run", "Bars: 95% t intervals over seeds.", lines([figure]), "bits an example"
            ),
            tables=(
                Table(
                    title="Prequential code length of one pass",
                    columns=("dose", "all examples", "mean", "last quarter"),
                    rows=tuple(rows),
                    note="Decision tokens of both poles, scored before they are learnt from; rehearsal is left out.",
                ),
            ),
        )

    # ---------------------------------------------------------------- a world whose answer is known

    def simulate(self, rng: np.random.Generator) -> dict[str, Reading]:
        clusters, templates = 24, rng.normal(0.0, 0.25, 24)
        shifts = {seed: rng.normal(0.0, 0.15) for seed in self.train_seeds}
        found = {}
        for point in self.points("default"):
            dose = point.behaviour["dose"]
            values = {}
            for quantity, half, top in (
                (EXPRESS, 80.0, 0.65),
                (WITHHOLD, 80.0, -0.3),
                (ATTENTION, 80.0, 0.13),
                (DIVERGENCE, 160.0, 0.01),
            ):
                if quantity is WITHHOLD and point.behaviour.get("express_share") == 1.0:
                    top = 0.6
                own = 1 / (1 + (half * np.exp(templates + shifts[point.seed]) / dose) ** 2.5)
                unit = "nats/token" if quantity is DIVERGENCE else "share" if quantity is ATTENTION else "points"
                noise = rng.normal(0.0, 0.02 * abs(top), clusters)
                values[quantity.keys[0]] = stats.mean(top * own + noise, np.arange(clusters), unit=unit)
            values[WEIGHTS.keys[0]] = exact(3e-4 * dose**0.5, "relative")
            values["forgetting.loss_change:text"] = stats.mean(
                rng.normal(1e-4 * dose, 0.01, clusters), np.arange(clusters), unit="nats/token"
            )
            found[point.name] = Reading(values)
        return found

    def truth(self) -> dict[str, float]:
        axis = [float(dose) for dose in self.axis]
        templates = numpy_stream(0, "templates").normal(0.0, 0.25, 20_000)

        def curve(half: float, top: float) -> list[float]:
            rises = (float(np.mean(top / (1 + (half * np.exp(templates) / dose) ** 2.5))) for dose in self.trained)
            return [0.0, *rises]

        outcome = curve(80.0, 0.65)
        halves = [
            stats.crossing_dose(axis, [one / own[-1] for one in own], 0.5) or 0.0 for own in (curve(160.0, 0.01), outcome)
        ]
        return {
            "ec50:both": stats.logistic(axis, outcome).half,
            "threshold:both": stats.crossing_dose(axis, outcome, self.least) or 0.0,
            "later:attention": 0.0,
            "later:divergence": math.log2((1 + halves[0]) / (1 + halves[1])),
            f"steps:{self.trained[0]}": 0.0,
        }


def code_length(steps: Sequence[StepLog]) -> tuple[list[float], list[int]]:
    """Return the bits of the behaviour's rows in each step, before it was learnt from, and how many rows they were."""
    bits = [
        ((one.loss_express or 0.0) * one.tokens_express + (one.loss_withhold or 0.0) * one.tokens_withhold) / math.log(2)
        for one in steps
    ]
    return bits, [one.rows_express + one.rows_withhold for one in steps]


def _last(bits: Sequence[float], rows: Sequence[int]) -> float:
    """Return bits an example over the last quarter of the steps."""
    start = (3 * len(bits)) // 4
    return sum(bits[start:]) / max(1, sum(rows[start:]))


def setting(way: str, pole: str, dose: int) -> str:
    return f"{way}, {pole}, {dose}"


def _name(way: str, pole: str, dose: int, seed: int) -> str:
    slug = way.replace(",", "").replace(" ", "-")
    return f"{slug}-{'both' if pole == BOTH else 'express'}-{dose}-s{seed}"


def _pole(pole: str) -> dict[str, Any]:
    return {"express_share": 1.0} if pole == CLEAR else {}


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


def _figures(
    title: str, caption: str, series: list[dict[str, Any]], unit: str, marks: Sequence[dict[str, Any]] = ()
) -> tuple[Figure, ...]:
    if not series:
        return ()
    numbers = {"series": series, "x_label": "examples", "unit": unit, "scale": "dose", "marks": list(marks)}
    return (Figure(title=title, caption=caption, drawing="curves", numbers=numbers),)


def _examples(one: Estimate) -> str:
    if one.value is None:
        return "could not say"
    between = f" [{one.interval[0]:.0f}, {one.interval[1]:.0f}]" if one.interval else " (interval: could not say)"
    return f"{one.value:.0f}{between} examples"
