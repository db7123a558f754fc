"""Rehearsal: how much of it keeps how much, and is only that forgotten which is not rehearsed?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from palimpsest.audit import Table
from palimpsest.core import stats
from palimpsest.core.estimate import Estimate, unknown
from palimpsest.store.account import Figure, Part
from palimpsest.studies._family import Family, family, losses_told
from palimpsest.studies._readings import (
    BEHAVIOUR_AUDITS,
    EXPRESS,
    FORGETTING,
    LOSS,
    WITHHOLD,
    Runs,
    figures,
    line,
    lines,
    losses_of,
    mean_of,
)
from palimpsest.studies._study import Count, Grid, Point, Reading, Results, Rising, Study, Told


class Rehearsal(Study):
    """Forgetting of every capability at several shares of rehearsal, and with one group of them left out of it.

    Question:
        How much rehearsal keeps what was not to change, and does leaving something out of it lose only that?
    Method:
        The same behaviour examples are trained with each share of rehearsal rows (of all rows). Each share is compared with the
        largest, paired by training seed. Then the targeted version: at one share the spared capabilities are left out of
        rehearsal, whose rows go to the others, and still measured. Difference in differences: the mean loss of the spared ones,
        without less with their rehearsal, less the same of all others; above 0, leaving them out costs them more than the rest.
    Reads:
        `judgement`, `outcome` and `forgetting` of every run on the same held-out items.
    Null:
        No difference between shares; a difference in differences of 0 (interval over seeds and items, Holm over the study's
        comparisons, the minimum detectable effect beside every null). What is lost at a share: Holm over all losses there.
    Limits:
        The unit is the training seed. More rehearsal is also more steps. A capability that nothing forgets can't show what its
        rehearsal is for.
    Reference:
        Holm 1979; Robins 1995 (rehearsal); Luo et al. 2023, arXiv 2308.08747 (forgetting in tuning).
    """

    primary: ClassVar = ("share:", "targeted:")

    shares: Rising[Annotated[float, Field(ge=0, lt=1)]] = Field(default=(0.0, 0.01, 0.05, 0.25, 0.40, 0.50), min_length=2)
    """Rehearsal rows over all rows."""
    doses: Rising[Count] = Field(default=(200, 400), min_length=1)
    """Behaviour examples."""
    spared: tuple[str, ...] = ("sums_two", "sums_three")
    """Capabilities that the targeted version leaves out of rehearsal; none for no targeted version."""
    targeted_share: float = Field(default=0.25, gt=0, lt=1)
    """Share of the targeted version."""
    margin: float = Field(default=0.05, gt=0)
    """Rise in loss (nats a token) that counts as forgetting."""

    @property
    def left_out(self) -> tuple[str, ...]:
        """What the targeted version leaves out; by default only where the model has it."""
        return self.spared if "spared" in self.model_fields_set or "pocket" in Path(self.model).name else ()

    def points(self, grid: Grid) -> tuple[Point, ...]:
        found = [
            self._point(dose, share, seed) for dose in self._doses(grid) for share in self.shares for seed in self.train_seeds
        ]
        if self.left_out:
            known = {point.name for point in found}
            for dose in self._doses(grid):
                for seed in self.train_seeds:
                    plain = self._point(dose, self.targeted_share, seed)
                    found += [plain] if plain.name not in known else []
                    found.append(self._point(dose, self.targeted_share, seed, self.left_out))
        return tuple(found)

    def _doses(self, grid: Grid) -> tuple[int, ...]:
        return self.doses if grid == "full" else self.doses[:1]

    def _point(self, dose: int, share: float, seed: int, spared: Sequence[str] = ()) -> Point:
        without = "-without" if spared else ""
        return Point(
            name=f"{dose}-share-{100 * share:g}{without}-s{seed}",
            setting=_setting(dose, share, bool(spared)),
            seed=seed,
            behaviour={"dose": dose, **({"rehearsal_weights": dict.fromkeys(spared, 0)} if spared else {})},
            training={"rehearsal_share": share},
            request={"audits": BEHAVIOUR_AUDITS},
        )

    def collect(self, results: Results, grid: Grid) -> Told:
        runs = Runs(self.points(grid), results)
        estimates: dict[str, Estimate] = {}
        most = self.shares[-1]
        for dose in self._doses(grid):
            for share in self.shares[:-1]:
                pair = _setting(dose, share), _setting(dose, most)
                estimates[f"share:{dose}:{share:g}"] = runs.paired(*pair, FORGETTING, self.margin)
            if self.left_out:
                spared, others, apart = self._targeted(runs, dose)
                estimates |= {f"targeted:{dose}": apart, f"spared:{dose}": spared, f"others:{dose}": others}
        compared = family(estimates, self.primary)
        parts = []
        for dose in self._doses(grid):
            parts.append(self._shares(runs, dose, compared))
            parts += [self._targeted_part(runs, dose, estimates, compared)] if self.left_out else []
        return Told(
            headline=parts[0].answer.split(". ")[0].rstrip("."),
            sure=f"over {self.seeds} training seeds on the same held-out items; {compared.told} and all losses at a share",
            reasons=tuple(part.answer.rstrip(".") for part in parts),
            parts=tuple(parts),
            estimates=estimates,
        )

    def _shares(self, runs: Runs, dose: int, compared: Family) -> Part:
        rows, lost = [], {}
        for share in self.shares:
            at, name = _setting(dose, share), f"share:{dose}:{share:g}"
            lost[f"{100 * share:g}%"] = runs.lost(at, self.margin)
            rows.append(
                (f"{100 * share:g}%", *(runs.over(at, each) for each in (EXPRESS, WITHHOLD, FORGETTING)),
                 compared.asked.get(name),
                 compared.word(name, "more is lost", "less is lost") if name in compared.asked else "",
                 lost[f"{100 * share:g}%"].cell)
            )  # fmt: skip
        worse = [f"{100 * float(share):g}%" for share in compared.above(f"share:{dose}:")]
        answer = losses_told(lost, self.margin)
        more = f" The mean loss is higher than with {100 * self.shares[-1]:g}% at {', '.join(worse)}." if worse else ""
        return Part(
            name=f"share of rehearsal, {dose} examples",
            question="How much rehearsal keeps how much of what was not to change?",
            answer=f"{answer}.{more}",
            figures=self._curves(runs, dose),
            tables=(
                Table(
                    title="Shares",
                    columns=(
                        "rehearsal",
                        EXPRESS.label,
                        WITHHOLD.label,
                        "mean loss",
                        f"minus that at {100 * self.shares[-1]:g}%",
                        "after Holm",
                        "fell",
                    ),
                    rows=tuple(rows),
                ),
                Table(
                    title="Change in loss of each",
                    columns=("", *(f"{100 * share:g}%" for share in self.shares)),
                    rows=tuple((name, *row) for name, row in self._losses(runs, dose).items()),
                ),
            ),
        )

    def _losses(self, runs: Runs, dose: int) -> dict[str, list[Estimate | None]]:
        """Return each capability's change in loss at every share."""
        columns = [runs.losses(_setting(dose, share)) for share in self.shares]
        return {name: [column.get(name) for column in columns] for name in dict.fromkeys(key for one in columns for key in one)}

    def _curves(self, runs: Runs, dose: int) -> tuple[Figure, ...]:
        axis, nothing = [100 * share for share in self.shares], unknown("nats/token", 0, "it was not measured")
        losses = {name: [one or nothing for one in row] for name, row in self._losses(runs, dose).items()}
        worst = sorted(losses, key=lambda name: -(losses[name][0].value or 0.0))[:3]
        mean = [runs.over(_setting(dose, share), FORGETTING) for share in self.shares]
        return figures(
            "Change in loss",
            lines([line("mean", axis, mean), *(line(name, axis, losses[name]) for name in worst)]),
            "change in loss (nats a token)",
            caption="Mean over all, and the three that change most at the smallest share. Bars: 95% intervals.",
            x_label="rehearsal rows over all rows (%)",
        )

    def _targeted(self, runs: Runs, dose: int) -> tuple[Estimate, Estimate, Estimate]:
        """Return what leaving out costs the spared ones, what it costs the others, and the difference, over seeds."""
        with_, without = (runs.of(_setting(dose, self.targeted_share, out)) for out in (False, True))
        costs: dict[bool, list[Estimate]] = {True: [], False: []}
        for seed in sorted(with_.keys() & without.keys()):
            for spared, column in costs.items():
                pair = [self._mean(one[seed], spared) for one in (without, with_)]
                column.append(stats.joined([(1.0, pair[0]), (-1.0, pair[1])], "nats/token"))
        spared, others = (stats.two_level(column, "nats/token") for column in costs.values())
        return spared, others, stats.paired(costs[True], costs[False], "nats/token")

    def _mean(self, reading: Reading, spared: bool) -> Estimate:
        """Return the mean change in loss of the spared capabilities, or of everything else."""
        chosen = [one for name, one in losses_of(reading).items() if (name in self.left_out) == spared]
        return mean_of(chosen) or unknown("nats/token", 0, "it was not measured")

    def _targeted_part(self, runs: Runs, dose: int, estimates: Mapping[str, Estimate], compared: Family) -> Part:
        key = f"targeted:{dose}"
        one, spared = estimates[key], ", ".join(self.left_out)
        state = compared.word(key, "they lose more than the rest", "they lose less than the rest")
        both = [runs.losses(_setting(dose, self.targeted_share, out)) for out in (False, True)]
        rows = [
            (name, "left out" if name in self.left_out else "rehearsed", change, both[1].get(name))
            for name, change in both[0].items()
        ]
        rows.sort(key=lambda row: row[1] != "left out")
        return Part(
            name=f"left out of rehearsal, {dose} examples",
            question=f"Without {spared} in the rehearsal, does only that fall?",
            answer=f"{spared} left out of {100 * self.targeted_share:g}% rehearsal: {state}.",
            tables=(
                Table(
                    title="What leaving out costs (loss without minus with)",
                    columns=("the ones left out", "the others", "difference in differences", "after Holm"),
                    rows=((estimates[f"spared:{dose}"], estimates[f"others:{dose}"], one, state),),
                ),
                Table(
                    title="Change in loss from the base",
                    columns=("", "in the targeted version", "all rehearsed", "some left out"),
                    rows=tuple(rows),
                ),
            ),
        )

    def simulate(self, rng: np.random.Generator) -> dict[str, Reading]:
        shifts = {seed: rng.normal(0.0, 0.002) for seed in self.train_seeds}
        found = {}
        for point in self.points("default"):
            share, without = point.training["rehearsal_share"], "rehearsal_weights" in point.behaviour
            values = {
                EXPRESS.keys[0]: stats.mean(0.6 + rng.normal(0.0, 0.05, 24), np.arange(24), unit="points"),
                WITHHOLD.keys[0]: stats.mean(rng.normal(-0.1, 0.05, 24), np.arange(24), unit="points"),
            }
            for name in (*self.left_out, "copying", "recall"):
                loss = _world(share) + (0.2 if without and name in self.left_out else 0.0) + shifts[point.seed]
                loss += rng.normal(0.0, 0.002)
                values[f"{LOSS}{name}"] = stats.mean(loss + rng.normal(0.0, 0.002, 24), np.arange(24), unit="nats/token")
            found[point.name] = Reading(values)
        return found

    def truth(self) -> dict[str, float]:
        dose, most = self.doses[0], self.shares[-1]
        shares = {f"share:{dose}:{share:g}": _world(share) - _world(most) for share in self.shares[:-1]}
        return {**shares, f"targeted:{dose}": 0.2}


def _world(share: float) -> float:
    return 0.3 * 2.0 ** (-share / 0.05)


def _setting(dose: int, share: float, without: bool = False) -> str:
    return f"{dose}, {100 * share:g}% rehearsal{', some left out' if without else ''}"
