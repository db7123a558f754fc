"""Dose response: how much changes with how many examples, and what moves first?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from palimpsest.core import stats
from palimpsest.core.estimate import exact
from palimpsest.core.seeds import numpy_stream
from palimpsest.studies import _code_length
from palimpsest.studies._claims import Claims
from palimpsest.studies._dose_parts import BOTH, CLEAR, EQUAL, HOUSE, WAYS, DoseParts, setting
from palimpsest.studies._dose_settings import comparisons, every_setting, other_settings
from palimpsest.studies._family import family
from palimpsest.studies._readings import (
    ATTENTION,
    BEHAVIOUR_AUDITS,
    DIVERGENCE,
    EXPRESS,
    LOSS,
    WEIGHTS,
    WITHHOLD,
    Runs,
)
from palimpsest.studies._study import Count, Grid, Point, Reading, Results, Rising, Study, Told

_INSIDE = ("attention_shift", "activation_shift", "divergence", "weight_change")


class DoseResponse(Study):
    """Effect, side effects and inner change at every dose, with the dose at which each is half of what it becomes.

    Question:
        How many examples does the change take, what else moves with them, and does the inside move before the outcome?
    Method:
        The behaviour is trained at each dose from the same base model: the examples of a small dose are the first of a larger
        one, and the held-out items are the same in all runs. Dose 0 is the base itself, so every change is 0 there. Both poles
        and the express pole alone, at the behaviour's own settings; then, at three doses, one factor at a time (the context
        frozen or full, the optimizer), and all doses again at equal steps: fewer examples repeated until as many optimizer
        steps are done as the largest dose has. A three-parameter logistic in the logarithm of the dose, 0 at dose 0, is
        fitted to each seed; its half-way dose (EC50) is told only where it lies inside the doses and four fifths of the fitted
        rise were seen; a step between two doses may be anywhere between them.
        The threshold is where the effect passes the stated least effect. *What moves first*: the dose at which a quantity is
        half of what it is at the largest dose, against that of the outcome, in doublings, paired by seed; attention,
        residual stream and divergence are taken beyond the rehearsal-only control of the same dose (one for all seeds), and
        nothing is said of one that ends below it.
        Four claims of a practical plan are held against the runs. *10 find it*: the outcome rises by more than `found` (2
        points). *50 smooth it*: the rise where the behaviour should not appear is below a fifth of the rise where it should,
        and where it should it has risen. *200 verify it*: it rises by at least the least effect (40 points) and stays below
        that fifth. *1000 reshape*: some ability or text loses more than the forgetting margin (0.05 nats a token). Each holds
        or fails at its dose after Holm over the four (of 16 abilities, the worst is tested as one of 16), and else is not
        decided; and each is false in its number where a smaller dose of the grid does it already (tested from its own down).
        Code length: in a run of one pass every example is scored before it is learnt from. Summed over all steps are the loss
        of the express and of the withhold rows, each times its tokens (decision tokens only; rehearsal is left out; the rows of
        one batch are scored by the same weights), in bits.
    Reads:
        `judgement`, `outcome`, `forgetting` and the step log of every run; at the behaviour's own settings `attention_shift`,
        `activation_shift`, `divergence` and `weight_change`.
    Null:
        No change at any dose; no comparison between settings other than 0 (paired by seed, Holm over the study's comparisons,
        the minimum detectable effect beside every null). What is lost at a dose: Holm over all abilities and texts there.
    Limits:
        The unit is the training seed: with three, only large differences are decided. The held-out items are shared by all
        runs, so every interval is widened by their error; what two settings share of it is not stored, so that of a difference
        is an upper bound. Each dose has a learning
        rate schedule of its own that ends with it, so a larger dose is also a longer one: hence the reading at equal steps.
        There the last batch of each pass is a step too, however small, so that a small dose sees up to a fifth fewer rows.
    Reference:
        Miller 2024, arXiv 2411.00640; Holm 1979; Donoway et al. 2025 (logistic in the log, prequential code length);
        Souly et al. 2025 (absolute count, not share).
    """

    primary: ClassVar = ("later:", "way:", "poles:", "steps:")

    doses: Rising[Annotated[int, Field(ge=0)]] = Field(default=(0, 10, 20, 50, 100, 200, 500, 1000), min_length=2)
    """Behaviour examples of a run; 0 is added."""
    compared: Rising[Count] = (50, 100, 200)
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

    @property
    def trained(self) -> tuple[int, ...]:
        """The doses that are trained."""
        return tuple(dose for dose in self.doses if dose)

    @property
    def axis(self) -> tuple[int, ...]:
        return (0, *self.trained)

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
        for dose in self.trained[:-1]:
            yield from self._seeds(EQUAL, self.main, dose, self.at_the_steps_of(self.trained[-1], dose))

    def _one_factor(self) -> Iterator[Point]:
        for way, training in self.ways().items():
            for dose in self.compared_doses():
                yield from self._seeds(way, self.main, dose, training)

    def _every_way(self) -> Iterator[Point]:
        for name in WAYS:
            for context in ("frozen", "full"):
                for pole in self.poles:
                    for dose in self.trained:
                        yield from self._seeds(
                            f"{name}, {context} context", pole, dose, {**self._way(name), "context": context}
                        )

    def ways(self) -> dict[str, dict[str, Any]]:
        """Return what differs from the behaviour's own settings in one factor."""
        own = self.settings
        other = "full" if own.context == "frozen" else "frozen"
        house = "lora" if own.lora else own.optim
        ways = {f"{other} context": {"context": other}}
        return ways | {name: self._way(name) for name in WAYS if name != house}

    def _way(self, name: str) -> dict[str, Any]:
        plain = {"optim_args": {}, "lora": None, **WAYS[name]}
        return {**plain, "learning_rate": self.settings.learning_rate * self.lora_rate} if name == "lora" else plain

    def compared_doses(self) -> tuple[int, ...]:
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
        tells = DoseParts(self, runs)
        claims = Claims(runs, self.trained, lambda dose: setting(HOUSE, self.main, dose), self)
        estimates = {**tells.later(), **comparisons(tells, grid)}
        compared = family(estimates, self.primary)
        outcome = tells.outcome(estimates)
        moves_first = tells.what_moves_first(compared)
        side_effects = tells.side_effects(estimates)
        parts = (
            outcome,
            claims.part(estimates),
            moves_first,
            side_effects,
            *tells.one_pass_or_equal_steps(estimates, compared),
            *other_settings(estimates, compared),
            *(every_setting(tells, estimates) if grid == "full" else ()),
            _code_length.part(self.trained, lambda dose: list(runs.of(setting(HOUSE, self.main, dose)).values()), estimates),
        )
        return Told(
            headline=outcome.answer.rstrip("."),
            sure=f"over {self.seeds} training seeds on the same held-out items; {compared.told}",
            reasons=(*claims.reasons, side_effects.answer.rstrip("."), moves_first.answer.rstrip(".")),
            parts=parts,
            estimates=estimates,
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
            values[WEIGHTS.keys[0]] = exact(0.03 * dose**0.5, "% of the norm")
            values[f"{LOSS}text"] = stats.mean(rng.normal(1e-4 * dose, 0.01, clusters), np.arange(clusters), unit="nats/token")
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


def _name(way: str, pole: str, dose: int, seed: int) -> str:
    slug = way.replace(",", "").replace(" ", "-")
    return f"{slug}-{'both' if pole == BOTH else 'express'}-{dose}-s{seed}"


def _pole(pole: str) -> dict[str, Any]:
    return {"express_share": 1.0} if pole == CLEAR else {}
