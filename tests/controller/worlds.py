"""Worlds: dose-response worlds whose answer is known, in which the controller is tried without a model.

A world says how far both poles and one ability move at given settings; a seed adds the luck of a training run, an audit the
luck of its items. What an audit shows is judged by the real verdict.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from palimpsest.audit import Finding
from palimpsest.controller.attempts import Attempt, Seen, seen
from palimpsest.controller.decision import Decision, begin, decide
from palimpsest.controller.settings import Bounds, Budget, Settings
from palimpsest.core.estimate import Estimate, unknown
from palimpsest.verdict import Thresholds, judge

THRESHOLDS = Thresholds()
START = Settings(dose=20, express_share=0.5, learning_rate=2e-4, rehearsal_share=0.2)
BOUNDS = Bounds(learning_rate=(5e-5, 8e-4), rehearsed=("sums", "stories", "options"))
BUDGET = Budget(attempts=20)


@dataclass(frozen=True)
class Moved:
    """What is true of one trained model: rise in both poles (shares of 1), rise in loss of one ability (nats)."""

    express: float
    withhold: float
    loss: float

    def label(self) -> str:
        """What the verdict would say if it knew the truth."""
        if self.express < THRESHOLDS.reached:
            return "too_little"
        if self.withhold > THRESHOLDS.spill * self.express:
            return "overshoot"
        return "forgetting" if self.loss > 0.05 else "as_intended"


World = Callable[[Settings], Moved]


def curve(dose: float, half: float, top: float = 0.68, steep: float = 2.0) -> float:
    return top / (1.0 + (half / dose) ** steep)


def strength(settings: Settings) -> float:
    """Examples and learning rate do the same."""
    return settings.dose * settings.learning_rate / 2e-4


def easy(settings: Settings) -> Moved:
    return Moved(curve(strength(settings), 40), 0.0, 0.0)


def slow(settings: Settings) -> Moved:
    """More than the bound of examples would be needed: the learning rate has to be raised."""
    return Moved(curve(strength(settings), 1500), 0.0, 0.0)


def hard(settings: Settings) -> Moved:
    """Both poles rise together at first and part later; one ability falls unless it is rehearsed."""
    reach = strength(settings)
    parted = curve(reach, 90, 1.0, 4.0)
    weight = settings.rehearsal_weights.get("options", 1) * settings.rehearsal_share / 0.2
    return Moved(curve(reach, 90), (1 - parted) * curve(reach, 90) - 0.3 * parted, 0.0008 * reach / weight)


def narrow(settings: Settings) -> Moved:
    """As intended only between two doses: above, it spills."""
    return Moved(curve(strength(settings), 80), curve(strength(settings), 260, 0.68, 4.0), 0.0)


def unwithheld(settings: Settings) -> Moved:
    """It spills unless most examples are of where it should not appear."""
    share = settings.express_share
    rise = curve(strength(settings) * share * 2, 60)
    return Moved(rise, rise * max(0.0, 1.6 * share - 0.55), 0.0)


def impossible(settings: Settings) -> Moved:
    """The two situations can't be told apart."""
    rise = curve(strength(settings), 80)
    return Moved(rise, rise, 0.0)


def forgetful(settings: Settings) -> Moved:
    """Nothing but few examples keeps an ability, and few are too little."""
    return Moved(curve(strength(settings), 80), 0.0, 0.002 * strength(settings))


def borderline(settings: Settings) -> Moved:
    """It comes to just what counts as enough, and no further."""
    return Moved(curve(strength(settings), 40, 0.40), 0.0, 0.0)


def immovable(settings: Settings) -> Moved:
    return Moved(0.02, 0.0, 0.0)


WORLDS: dict[str, World] = {
    "easy": easy, "slow": slow, "hard": hard, "narrow": narrow, "unwithheld": unwithheld,
    "impossible": impossible, "forgetful": forgetful, "borderline": borderline, "immovable": immovable,
}  # fmt: skip
CAN_BE_HAD = ("easy", "slow", "hard", "narrow", "unwithheld")


@dataclass
class Simulation:
    """One search in one world."""

    world: World
    rng: np.random.Generator
    luck: float = 0.03
    """Standard deviation of what a training seed adds to each pole."""
    noise: float = 0.02
    """Standard error of an audit's items."""
    bounds: Bounds = BOUNDS
    budget: Budget = BUDGET
    start: Settings = START
    attempts: list[Attempt] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    truths: list[Moved] = field(default_factory=list)
    seeds: dict[int, np.ndarray] = field(default_factory=dict)

    def run(self) -> Simulation:
        self.decisions.append(begin(self.start))
        while (wanted := self.decisions[-1]).next is not None:
            seed = sum(one.purpose == "confirm" for one in self.attempts) + 1 if wanted.purpose == "confirm" else 0
            self.truths.append(self.trained(wanted.next, seed))
            number = len(self.attempts) + 1
            self.attempts.append(
                Attempt(
                    number=number,
                    purpose=wanted.purpose,
                    settings=wanted.next,
                    training_seed=seed,
                    block=number - 1,
                    seen=self.audit(self.truths[-1]),
                    seconds=30.0,
                )
            )
            self.decisions.append(decide(self.attempts, self.bounds, self.budget, THRESHOLDS))
        return self

    def trained(self, settings: Settings, seed: int) -> Moved:
        """The same seed has the same luck at all settings, growing with what is learnt."""
        if seed not in self.seeds:
            self.seeds[seed] = self.rng.normal(0, self.luck, 2)
        moved, luck = self.world(settings), self.seeds[seed]
        size = min(max(moved.express, 0.0) / 0.4, 1.0)
        return Moved(moved.express + size * luck[0], moved.withhold + size * luck[1], moved.loss)

    def audit(self, moved: Moved) -> Seen:
        express, withhold, loss = (
            value + self.rng.normal(0, self.noise * scale)
            for value, scale in ((moved.express, 1.0), (moved.withhold, 1.0), (moved.loss, 0.2))
        )
        findings = (
            Finding(tag="outcome", statement="rise", estimate=known(express, "points", self.noise)),
            Finding(tag="withheld", statement="rise elsewhere", estimate=known(withhold, "points", self.noise)),
            Finding(tag="spill", statement="spill", estimate=self._spill(express, withhold)),
            Finding(
                tag="forgetting",
                statement="options",
                subject="options",
                estimate=known(loss, "nats/token", self.noise / 5, 0.05),
            ),
        )
        return seen(judge(findings, THRESHOLDS, intended=True), findings)

    def _spill(self, express: float, withhold: float) -> Estimate:
        if abs(express) < 3 * self.noise:
            return unknown("share", 24, "the interval of what it is divided by holds 0")
        return known(withhold / express, "share", self.noise * math.hypot(1, withhold / express) / abs(express))

    @property
    def stop(self) -> str:
        return self.decisions[-1].stop or ""

    @property
    def chosen(self) -> int | None:
        """Place of the attempt whose model is the result."""
        return len(self.attempts) - 2 if self.stop == "confirmed" else None


def known(value: float, unit: str, error: float, margin: float | None = None) -> Estimate:
    low, high = value - 1.96 * error, value + 1.96 * error
    inside = None if margin is None else -margin < value - 1.645 * error and value + 1.645 * error < margin
    return Estimate(value=value, unit=unit, n=24, interval=(low, high), method="simulated", margin=margin, equivalent=inside)
