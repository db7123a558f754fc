"""Passes: is one pass over fresh examples better than several over fewer, at equal steps?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
from pydantic import Field

from palimpsest.audit import Table
from palimpsest.core import stats
from palimpsest.core.estimate import Estimate
from palimpsest.core.wording import capital
from palimpsest.store.account import Part
from palimpsest.studies._family import Family, family
from palimpsest.studies._readings import (
    BEHAVIOUR_AUDITS,
    EXPRESS,
    FORGETTING,
    LOSS,
    WITHHOLD,
    Quantity,
    Runs,
    figures,
    grouped,
    line,
    lines,
)
from palimpsest.studies._study import Count, Grid, Point, Reading, Results, Rising, Study, Told

_SAID = {
    EXPRESS: "change where it should appear",
    WITHHOLD: "change where it should not",
    FORGETTING: "loss of what was not to change",
}


class Passes(Study):
    """Several passes over fewer examples against one pass over fresh ones, with as many optimizer steps.

    Question:
        At equal optimizer steps, what is lost or gained by repeating fewer examples (rehearsal rows as well) than by one
        pass over fresh ones?
    Method:
        For each dose n: one pass over n examples, and k passes over the first n / k of them (a few less, so that their rows
        fill whole batches), each stopped after as many optimizer steps as the one pass has, with the same learning rate
        schedule; so all arms see as many rows, to within one batch. Rehearsal rows are repeated like the others.
        Differences to the one pass are paired by training seed.
    Reads:
        `judgement`, `outcome` and `forgetting` of every run on the same held-out items.
    Null:
        No difference (interval over seeds and items, Holm over all comparisons, the minimum detectable effect beside each).
    Limits:
        The unit is the training seed. Fewer examples are also fewer different templates of the scenario. Where no smaller
        number of examples fills whole batches, the last batch of each pass is a small one, and that arm sees fewer rows.
    Reference:
        Holm 1979; Miller 2024, arXiv 2411.00640.
    """

    primary: ClassVar = ("passes:",)

    doses: Rising[Count] = Field(default=(100, 200), min_length=1)
    """Examples of the one pass."""
    passes: Rising[Count] = Field(default=(2, 4, 8, 16), min_length=1)
    """How many passes over so many times fewer."""
    loss_margin: float = Field(default=0.05, gt=0)
    """Difference in mean loss (nats a token) that counts as none."""

    def points(self, grid: Grid) -> tuple[Point, ...]:
        doses = self.doses if grid == "default" else tuple(sorted({*self.doses, *(2 * dose for dose in self.doses)}))
        return tuple(
            Point(
                name=f"{count}-passes-{dose}-s{seed}",
                setting=_setting(dose, count),
                seed=seed,
                behaviour={"dose": self.fewer(dose, count)},
                training=self.at_the_steps_of(dose, self.fewer(dose, count)),
                request={"audits": BEHAVIOUR_AUDITS},
            )
            for dose in doses
            for count in self._counts
            for seed in self.train_seeds
        )

    def fewer(self, dose: int, count: int) -> int:
        """Return the examples of one of several passes: about ``dose / count``, whose rows fill whole batches.

        The last batch of a pass is a step too, however small: at equal steps, an arm with small ones would see fewer rows.
        """
        most, batch = dose // count, self.settings.rows_per_step
        if count == 1:
            return dose
        counts = range(most, max(most - batch, 0), -1)
        return next((one for one in counts if self.rows(one) % batch == 0), most)

    @property
    def _counts(self) -> tuple[int, ...]:
        return tuple(sorted({1, *self.passes}))

    def collect(self, results: Results, grid: Grid) -> Told:
        points = self.points(grid)
        runs = Runs(points, results)
        doses = sorted({int(point.setting.split(",")[0]) for point in points})
        estimates: dict[str, Estimate] = {}
        for dose in doses:
            for count in self._counts[1:]:
                for quantity in _SAID:
                    margin = self.loss_margin if quantity is FORGETTING else None
                    one = runs.paired(_setting(dose, count), _setting(dose, 1), quantity, margin)
                    estimates[_key(quantity, dose, count)] = one
        compared = family(estimates)
        parts = [self._part(runs, dose, compared) for dose in doses]
        ways = len(doses) * (len(self._counts) - 1)
        surely = [f"{said} of {ways}" for said in _surely(compared)]
        told = (
            f"Several passes over fewer examples, held against one over fresh ones: surely {'; '.join(surely)} ways"
            if surely
            else compared.nothing(says="Between one pass over fresh examples and several over fewer no difference is decided")
        )
        return Told(
            headline=told,
            sure=f"over {self.seeds} training seeds on the same held-out items; {compared.told}",
            reasons=tuple(part.answer.rstrip(".") for part in parts),
            parts=tuple(parts),
            estimates=estimates,
        )

    def _part(self, runs: Runs, dose: int, compared: Family) -> Part:
        names = {count: f"{count} passes over {self.fewer(dose, count)}" for count in self._counts[1:]}
        keys = {quantity: {count: _key(quantity, dose, count) for count in names} for quantity in _SAID}
        states = {quantity: {count: compared.word(key) for count, key in own.items()} for quantity, own in keys.items()}
        said = [
            capital(f"{quantity.label}: {grouped({names[count]: state for count, state in own.items()})}")
            for quantity, own in states.items()
        ]
        series = lines(
            line(label, self._counts, [runs.over(_setting(dose, count), one) for count in self._counts], 100.0)
            for label, one in (("appear", EXPRESS), ("not", WITHHOLD))
        )
        return Part(
            name=f"{dose} examples",
            question=f"One pass over {dose} examples, or several over fewer, with as many steps?",
            answer=f"Against one pass over {dose}. {'. '.join(said)}.",
            figures=figures(
                "Change from the base model",
                series,
                "points: appear = where it should; not = where not",
                x_label=f"passes over {dose} / passes examples",
            ),
            tables=(
                Table(
                    title="Passes × examples, at equal steps",
                    columns=("", *(quantity.label for quantity in _SAID)),
                    rows=tuple(
                        (f"{count} × {self.fewer(dose, count)}", *(runs.over(_setting(dose, count), one) for one in _SAID))
                        for count in self._counts
                    ),
                ),
                Table(
                    title="Minus one pass",
                    columns=("passes", *(title for quantity in _SAID for title in (quantity.label, "after Holm"))),
                    rows=tuple(
                        (
                            str(count),
                            *(cell for one in _SAID for cell in (compared.asked[keys[one][count]], states[one][count])),
                        )
                        for count in names
                    ),
                ),
            ),
        )

    def simulate(self, rng: np.random.Generator) -> dict[str, Reading]:
        shifts = {seed: rng.normal(0.0, 0.03) for seed in self.train_seeds}
        found = {}
        for point in self.points("default"):
            count = int(point.name.split("-")[0])
            top = 0.5 + shifts[point.seed] - 0.02 * np.log2(count) + rng.normal(0.0, 0.02)
            values = {
                quantity.keys[0]: stats.mean(level + rng.normal(0.0, 0.05, 24), np.arange(24), unit="points")
                for quantity, level in ((EXPRESS, top), (WITHHOLD, -top / 2))
            }
            values[f"{LOSS}text"] = stats.mean(rng.normal(0.01, 0.02, 24), np.arange(24), unit="nats/token")
            found[point.name] = Reading(values)
        return found

    def truth(self) -> dict[str, float]:
        return {
            f"passes:express:{dose}:{count}": -0.02 * float(np.log2(count)) for dose in self.doses for count in self._counts[1:]
        }


def _key(quantity: Quantity, dose: int, count: int) -> str:
    return f"passes:{quantity.name}:{dose}:{count}"


def _surely(compared: Family) -> Iterator[str]:
    """Yield in how many ways each quantity is decided to be more, and to be less, than with one pass."""
    for quantity, what in _SAID.items():
        sides = [compared.side(name) for name in compared.members if name.startswith(f"passes:{quantity.name}:")]
        for side, more in ((True, "more"), (False, "less")):
            if count := sides.count(side):
                yield f"{more} {what} in {count}"


def _setting(dose: int, count: int) -> str:
    return f"{dose}, {count} {'pass' if count == 1 else 'passes'}"
