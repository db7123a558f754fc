"""Readings: which quantity of a run does a study read, and what is it over training seeds?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from palimpsest.core import stats
from palimpsest.core.curves import curve
from palimpsest.core.estimate import Estimate, exact, unknown
from palimpsest.store.account import Figure
from palimpsest.studies._family import Family, Losses
from palimpsest.studies._study import Point, Reading, Results

BEHAVIOUR_AUDITS = ("outcome", "judgement", "forgetting")
LOSS = "forgetting.loss_change:"


@dataclass(frozen=True)
class Quantity:
    """A number that every run has, if it was measured; a change from the base model, so that it is 0 at dose 0."""

    name: str
    label: str
    unit: str
    """Of the figure's axis, in words."""
    keys: tuple[str, ...]
    """Estimates of a reading by ``audit.estimate``; the first that is there is taken."""
    pick: Callable[[Reading], Estimate | None] | None = None
    """Read it in another way."""
    over_floor: bool = False
    """A distance less the control's: below 0 it is no movement of its own."""

    def of(self, reading: Reading) -> Estimate | None:
        """Return this quantity of one run, or ``None`` where it was not measured."""
        if self.pick is not None:
            return self.pick(reading)
        found = (reading.estimates.get(key) for key in self.keys)
        return next((one for one in found if one is not None and one.value is not None), None)


def losses_of(reading: Reading) -> dict[str, Estimate]:
    """Return the change in loss of each capability and text of one run."""
    return {key.removeprefix(LOSS): one for key, one in reading.estimates.items() if key.startswith(LOSS)}


def mean_loss(reading: Reading) -> Estimate | None:
    """Return the mean change in loss over everything that was not to change."""
    return mean_of(losses_of(reading).values())


def mean_of(losses: Iterable[Estimate]) -> Estimate | None:
    """Return the mean of changes in loss, each over its own items."""
    found = [one for one in losses if one.value is not None]
    return stats.joined([(1 / len(found), one) for one in found], "nats/token") if found else None


EXPRESS = Quantity(
    "express",
    "where it should appear",
    "change where it should appear (points)",
    ("judgement.express_change", "outcome.express_change"),
)
WITHHOLD = Quantity(
    "withhold", "where it should not", "change where it should not appear (points)", ("judgement.withhold_change",)
)
ATTENTION = Quantity(
    "attention",
    "attention",
    "% that goes elsewhere, beyond one control run",
    ("attention_shift.distance_over_floor", "attention_shift.distance"),
    over_floor=True,
)
CONFLICT = Quantity(
    "conflict",
    "attention on the conflict",
    "% on the conflict, beyond one control run",
    ("attention_shift.conflict_over_floor", "attention_shift.conflict_shift"),
)
RESIDUAL = Quantity(
    "residual",
    "residual stream",
    "% of its length, beyond one control run",
    ("activation_shift.shift_over_floor",),
    over_floor=True,
)
D_PRIME = Quantity("d_prime", "told apart", "change of d'", ("judgement.d_prime_change",))
DIVERGENCE = Quantity(
    "divergence",
    "divergence",
    "nats a token on general text, beyond one control run",
    ("divergence.kl_over_floor", "divergence.kl"),
    over_floor=True,
)
WEIGHTS = Quantity("weights", "weights", "% of the norm of the weights", ("weight_change.relative_change",))
FORGETTING = Quantity("loss", "mean loss", "mean change of what was not to change (nats a token)", (), mean_loss)


@dataclass(frozen=True)
class Runs:
    """The readings of a study by setting and seed."""

    points: Sequence[Point]
    results: Results

    def of(self, setting: str) -> dict[int, Reading]:
        """Return the finished runs of a setting by seed."""
        return {
            point.seed: self.results[point.name]
            for point in self.points
            if point.setting == setting and point.name in self.results
        }

    def values(self, setting: str, quantity: Quantity) -> dict[int, Estimate]:
        """Return a quantity of every finished run of a setting, by seed."""
        found = {seed: quantity.of(reading) for seed, reading in self.of(setting).items()}
        return {seed: one for seed, one in found.items() if one is not None}

    def over(self, setting: str, quantity: Quantity) -> Estimate:
        """Return a quantity over the seeds of a setting, with a t interval."""
        found = list(self.values(setting, quantity).values())
        return stats.two_level(found, found[0].unit) if found else unknown("", 0, "it was not measured")

    def beyond(self, setting: str, quantity: Quantity, level: float) -> Estimate:
        """Return a quantity over seeds less a fixed level, for a test against 0."""
        found = [less(one, level) for one in self.values(setting, quantity).values()]
        return stats.two_level(found, found[0].unit) if found else unknown("", 0, "it was not measured")

    def paired(self, setting: str, other: str, quantity: Quantity, margin: float | None = None) -> Estimate:
        """Return a setting less another, paired by seed, with the error of the items that both share."""
        one, two = self.values(setting, quantity), self.values(other, quantity)
        both = sorted(one.keys() & two.keys())
        unit = next((each.unit for each in one.values()), "")
        unit = "points" if unit == "share" else unit
        if not both:
            return unknown(unit, 0, "no seed has both")
        return stats.paired([one[seed] for seed in both], [two[seed] for seed in both], unit, margin)

    def conditional(self, setting: str, share: float) -> Estimate:
        """Return by how much the rise where it should not appear stays below a share of that where it should, over seeds."""
        express, withhold = self.values(setting, EXPRESS), self.values(setting, WITHHOLD)
        seeds = sorted(express.keys() & withhold.keys())
        if not seeds:
            return unknown("points", 0, "there is no pole where it should not appear")
        room = [stats.joined([(share, express[seed]), (-1.0, withhold[seed])], "points") for seed in seeds]
        return stats.two_level(room, "points")

    def losses(self, setting: str) -> dict[str, Estimate]:
        """Return the change in loss of each capability and text over seeds."""
        return {name: stats.two_level(column, "nats/token") for name, column in self._losses(setting).items()}

    def lost(self, setting: str, margin: float) -> Losses:
        """Return what is lost beyond a margin: every capability and text is tested as one of all."""
        columns = self._losses(setting).items()
        return Losses(
            Family({name: stats.two_level([less(one, margin) for one in column], "nats/token") for name, column in columns})
        )

    def _losses(self, setting: str) -> dict[str, list[Estimate]]:
        readings = [losses_of(one) for one in self.of(setting).values()]
        names = dict.fromkeys(name for one in readings for name in one)
        return {name: [one[name] for one in readings if name in one] for name in names}


def less(one: Estimate, level: float) -> Estimate:
    """Return a number of one run less a fixed level."""
    return stats.joined([(1.0, one), (-level, exact(1.0, one.unit))], one.unit)


def line(label: str, places: Sequence[float], found: Sequence[Estimate], factor: float = 1.0) -> dict[str, Any] | None:
    """Return a series of ``core.curves`` with bars; ``None`` where fewer than two places have a value."""
    known = [(x, one) for x, one in zip(places, found, strict=True) if one.value is not None]
    if len(known) < 2:
        return None
    return {**curve(label, [float(x) for x, _ in known], [one for _, one in known], factor), "points": True}


def lines(found: Iterable[dict[str, Any] | None]) -> list[dict[str, Any]]:
    """Return the series that there are."""
    return [one for one in found if one is not None]


def grouped(states: Mapping[str, str]) -> str:
    """Return "earlier: attention, weights; not decided: divergence" of each name's state."""
    names: dict[str, list[str]] = {}
    for name, state in states.items():
        names.setdefault(state, []).append(name)
    return "; ".join(f"{state}: {', '.join(same)}" for state, same in names.items())


def figures(
    title: str,
    series: list[dict[str, Any]],
    unit: str,
    *,
    caption: str = "Bars: 95% intervals over seeds and items.",
    x_label: str = "examples",
    marks: Sequence[dict[str, Any]] = (),
) -> tuple[Figure, ...]:
    """Return the figure of some curves over doses, or none where there is nothing to draw."""
    if not series:
        return ()
    numbers = {"series": series, "x_label": x_label, "unit": unit, "scale": "dose", "marks": list(marks)}
    return (Figure(title=title, caption=caption, drawing="curves", numbers=numbers),)
