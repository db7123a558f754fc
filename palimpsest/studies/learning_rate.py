"""Learning rate: between which rates is there enough change and not too much, with each optimizer?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from palimpsest.audit import Table
from palimpsest.core import stats
from palimpsest.core.estimate import Estimate, unknown
from palimpsest.core.wording import capital
from palimpsest.store.account import Part
from palimpsest.studies._family import Family, Losses, family, opposite
from palimpsest.studies._readings import (
    BEHAVIOUR_AUDITS,
    EXPRESS,
    FORGETTING,
    LOSS,
    WITHHOLD,
    Quantity,
    Runs,
    figures,
    line,
    lines,
)
from palimpsest.studies._study import Count, Grid, Point, Reading, Results, Rising, Study, Told

TOO_LITTLE, RIGHT, TOO_MUCH, OPEN = "too little", "as intended", "too much", "not decided"


class LearningRate(Study):
    """A sweep of the learning rate at the doses of a practical plan, with each optimizer.

    Question:
        At which learning rates does the behaviour change enough, and from which on does it overshoot or forget?
    Method:
        The behaviour is trained at each dose with its own learning rate times each factor. A rate is *too much* where something
        loses more than the forgetting margin (0.05 nats a token) or the behaviour spills (it rises where it should not by more
        than a fifth of the rise where it should and of the least effect), *too little* where the rise where it should appear is
        below the least effect (40 points), and *as intended* where it is above it and neither happens; each by the whole
        interval over seeds (of many losses, the worst is tested as one of all: Holm at each rate), else not decided. The window
        is the range of rates that are as intended. The best rates of two optimizers (largest mean rise among those not too
        much) are compared at the largest dose, paired by seed; each seed is read at the rate that is best for the other seeds.
    Reads:
        `judgement`, `outcome` and `forgetting` of every run on the same held-out items.
    Null:
        No difference between optimizers at their own best rates (t interval over seeds, Holm).
    Limits:
        The unit is the training seed. Which rates are too much is judged on the runs that are then compared. The schedule is
        the behaviour's own and ends with each dose.
    Reference:
        Zhu et al. 2024, arXiv 2412.05270 (APOLLO, ranges of rates); Holm 1979.
    """

    primary: ClassVar = ("optimizer:",)

    factors: Rising[Annotated[float, Field(gt=0)]] = Field(default=(0.25, 0.5, 1.0, 2.0, 4.0, 8.0), min_length=2)
    """Times the behaviour's own learning rate."""
    doses: Rising[Count] = Field(default=(20, 50, 200), min_length=1)
    """At which the behaviour's own optimizer is swept; the others at the largest."""
    optimizers: tuple[str, ...] = ("apollo", "apollo_mini", "adamw")
    least: float = Field(default=0.40, gt=0, le=1)
    """Rise that counts as enough, as in the verdict."""
    spill: float = Field(default=0.20, gt=0, le=1)
    """Movement where it should not appear, as a share of that where it should, that is still conditional."""
    margin: float = Field(default=0.05, gt=0)
    """Rise in loss (nats a token) that counts as forgetting."""

    @property
    def rates(self) -> tuple[float, ...]:
        return tuple(float(f"{factor * self.settings.learning_rate:.6g}") for factor in self.factors)

    @property
    def house(self) -> str:
        return self.settings.optim

    @property
    def ways(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.house, *self.optimizers)))

    def _sweeps(self, grid: Grid) -> list[tuple[str, int]]:
        """Return (optimizer, dose) of every sweep."""
        if grid == "full":
            return [(way, dose) for way in self.ways for dose in self.doses]
        return [
            *((self.house, dose) for dose in self.doses),
            *((way, self.doses[-1]) for way in self.ways if way != self.house),
        ]

    def points(self, grid: Grid) -> tuple[Point, ...]:
        return tuple(
            Point(
                name=f"{way.lower()}-{dose}-rate-{rate:g}-s{seed}".replace("+", ""),
                setting=_setting(way, dose, rate),
                seed=seed,
                behaviour={"dose": dose},
                training={"optim_args": {}, "optim": way, "learning_rate": rate},
                request={"audits": BEHAVIOUR_AUDITS},
            )
            for way, dose in self._sweeps(grid)
            for rate in self.rates
            for seed in self.train_seeds
        )

    def collect(self, results: Results, grid: Grid) -> Told:
        runs = Runs(self.points(grid), results)
        sweeps = self._sweeps(grid)
        states = {sweep: [self.state(runs, _setting(*sweep, rate)) for rate in self.rates] for sweep in sweeps}
        estimates: dict[str, Estimate] = {}
        best = {way: self._best(runs, way, states[way, self.doses[-1]]) for way in self.ways if (way, self.doses[-1]) in states}
        for way, rate in best.items():
            if way != self.house and rate is not None and best[self.house] is not None:
                for quantity in (EXPRESS, FORGETTING):
                    estimates[f"optimizer:{way}:{quantity.name}"] = self._less_house(runs, way, states, quantity)
        compared = family(estimates)
        for sweep in sweeps:
            for rate in self.rates:
                estimates[f"rise:{sweep[0]}:{sweep[1]}:{rate:g}"] = runs.over(_setting(*sweep, rate), EXPRESS)
        windows = {sweep: self._window(runs, sweep, states[sweep]) for sweep in sweeps}
        parts = [self._part(runs, sweep, states[sweep], windows[sweep]) for sweep in sweeps]
        if len(self.ways) > 1:
            parts.append(self._optimizers(runs, best, compared))
        return Told(
            headline=f"With {self.house} and {self.doses[-1]} examples: {windows[self.house, self.doses[-1]]}",
            sure=f"over {self.seeds} training seeds on the same held-out items; of the optimizers: {compared.told}",
            reasons=tuple(f"{way}, {dose} examples: {windows[way, dose]}" for way, dose in sweeps),
            parts=tuple(parts),
            estimates=estimates,
        )

    def state(self, runs: Runs, at: str) -> str:
        """Return on which side of the window a setting lies."""
        rise = runs.over(at, EXPRESS)
        if rise.value is None:
            return OPEN
        lost = self._too_much(runs, at)
        if lost.lost:
            return TOO_MUCH
        enough = runs.beyond(at, EXPRESS, self.least).above(0.0)
        if enough is False:
            return TOO_LITTLE
        return RIGHT if enough and not lost.undecided else OPEN

    def _too_much(self, runs: Runs, at: str) -> Losses:
        """Return what makes a setting too much where it is above 0: every loss beyond the margin, and the spill.

        It spills where both hold: it rises by more than the share of what it should, and of what would be enough.
        """
        spill, past = opposite(runs.conditional(at, self.spill)), runs.beyond(at, WITHHOLD, self.spill * self.least)
        if (spill.value or 0.0) > 0 and (past.p_value or 0.0) > (spill.p_value or 0.0):
            spill = past
        return Losses(Family({**runs.lost(at, self.margin).beyond.asked, "spill": spill}))

    def _best(self, runs: Runs, way: str, states: Sequence[str], without: int | None = None) -> float | None:
        """Return the rate with the largest mean rise of those not too much, over all seeds but one."""
        rises = {}
        for rate, state in zip(self.rates, states, strict=True):
            values = runs.values(_setting(way, self.doses[-1], rate), EXPRESS)
            others = [one.value or 0.0 for seed, one in values.items() if seed != without]
            if state != TOO_MUCH and others:
                rises[rate] = sum(others) / len(others)
        return max(rises, key=lambda rate: rises[rate]) if rises else None

    def _less_house(
        self, runs: Runs, way: str, states: Mapping[tuple[str, int], Sequence[str]], quantity: Quantity
    ) -> Estimate:
        """Return an optimizer less the behaviour's own; each seed is read at the rate that is best for the other seeds."""
        columns: list[dict[int, Estimate]] = []
        for one in (way, self.house):
            rates = {seed: self._best(runs, one, states[one, self.doses[-1]], seed) for seed in self.train_seeds}
            at = {seed: runs.values(_setting(one, self.doses[-1], rate), quantity) for seed, rate in rates.items() if rate}
            columns.append({seed: values[seed] for seed, values in at.items() if seed in values})
        both = sorted(columns[0].keys() & columns[1].keys())
        if not both:
            return unknown("points", 1, "1 seed, 2 are needed")
        own, house = ([column[seed] for seed in both] for column in columns)
        return stats.paired(own, house, own[0].unit)

    def _window(self, runs: Runs, sweep: tuple[str, int], states: Sequence[str]) -> str:
        rises = Family({f"{rate:g}": runs.over(_setting(*sweep, rate), EXPRESS) for rate in self.rates})
        if all(state == OPEN for state in states):
            return rises.nothing(says="at no rate is it decided").replace("Inconclusive", "inconclusive")
        named = dict(zip(self.rates, states, strict=True))
        right = [rate for rate, state in named.items() if state == RIGHT]
        little = [rate for rate, state in named.items() if state == TOO_LITTLE]
        much = [rate for rate, state in named.items() if state == TOO_MUCH]
        sides = [f"too little up to {max(little):g}"] if little else []
        sides += [f"too much from {min(much):g} on"] if much else []
        span = f"at {right[0]:g}" if len(right) == 1 else f"at {', '.join(f'{rate:g}' for rate in right)}"
        found = f"as intended {span}" if right else "at no rate surely as intended"
        return f"{found}; {', '.join(sides)}" if sides else found

    def _part(self, runs: Runs, sweep: tuple[str, int], states: Sequence[str], window: str) -> Part:
        rows, way, dose = [], *sweep
        for rate, state in zip(self.rates, states, strict=True):
            at = _setting(way, dose, rate)
            found = [runs.over(at, one) for one in (EXPRESS, WITHHOLD, FORGETTING)]
            rows.append((f"{rate:g}", *found, runs.lost(at, self.margin).cell, state))
        curve = [[runs.over(_setting(way, dose, rate), one) for rate in self.rates] for one in (EXPRESS, WITHHOLD)]
        series = lines(line(label, self.factors, found, 100.0) for label, found in zip(("appear", "not"), curve, strict=True))
        return Part(
            name=f"{way}, {dose} examples",
            question=f"Which learning rates are right for {way} with {dose} examples?",
            answer=f"{capital(window)}.",
            figures=figures(
                "Change from the base model",
                series,
                "points: appear = where it should; not = where not",
                x_label=f"times {self.settings.learning_rate:g}, the behaviour's own rate",
            ),
            tables=(
                Table(
                    title="Rates",
                    columns=("rate", EXPRESS.label, WITHHOLD.label, "mean loss", "fell", ""),
                    rows=tuple(rows),
                ),
            ),
        )

    def _optimizers(self, runs: Runs, best: dict[str, float | None], compared: Family) -> Part:
        rows = []
        for way in self.ways:
            rate = best.get(way)
            at = _setting(way, self.doses[-1], rate) if rate is not None else ""
            name = f"optimizer:{way}:express"
            one = compared.asked.get(name)
            rows.append(
                (way, "none" if rate is None else f"{rate:g}", runs.over(at, EXPRESS), runs.over(at, FORGETTING), one,
                 compared.asked.get(f"optimizer:{way}:loss"), compared.word(name) if one else "")
            )  # fmt: skip
        said = [f"{way} {compared.word(name)}" for way in self.ways if (name := f"optimizer:{way}:express") in compared.asked]
        return Part(
            name="optimizers at their best rates",
            question="Does an optimizer change more than the behaviour's own, each at its best rate?",
            answer=f"Against {self.house} with {self.doses[-1]} examples: {', '.join(said)}."
            if said
            else "There is nothing to compare.",
            tables=(
                Table(
                    title="Best rates that are not too much",
                    columns=(
                        "optimizer",
                        "rate",
                        EXPRESS.label,
                        "mean loss",
                        f"less {self.house}",
                        f"mean loss less {self.house}",
                        "after Holm",
                    ),
                    rows=tuple(rows),
                ),
            ),
        )

    def simulate(self, rng: np.random.Generator) -> dict[str, Reading]:
        shifts = {seed: rng.normal(0.0, 0.02) for seed in self.train_seeds}
        found = {}
        for point in self.points("default"):
            rise = (
                self._world(point.training["learning_rate"], point.behaviour["dose"])
                + shifts[point.seed]
                + rng.normal(0.0, 0.01)
            )
            loss = 0.002 * (point.training["learning_rate"] / self.settings.learning_rate) ** 2
            values = {
                EXPRESS.keys[0]: stats.mean(rise + rng.normal(0.0, 0.05, 24), np.arange(24), unit="points"),
                WITHHOLD.keys[0]: stats.mean(rng.normal(-0.1, 0.05, 24), np.arange(24), unit="points"),
                f"{LOSS}text": stats.mean(loss + rng.normal(0.0, 0.01, 24), np.arange(24), unit="nats/token"),
            }
            found[point.name] = Reading(values)
        return found

    def _world(self, rate: float, dose: int) -> float:
        return 0.7 / (1 + (0.7 * self.settings.learning_rate * 200 / (rate * dose)) ** 2)

    def truth(self) -> dict[str, float]:
        return {f"rise:{self.house}:{dose}:{rate:g}": self._world(rate, dose) for dose in self.doses for rate in self.rates}


def _setting(way: str, dose: int, rate: float) -> str:
    return f"{way}, {dose}, {rate:g}"
