"""Foresight: what would a run do and take, as a user reads it before it starts?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from palimpsest.core import roles
from palimpsest.core.machine import in_words
from palimpsest.reach import ASSUMED, COLUMNS, NOTE, Reach

_UNSURE = 2.5
"""The time may as well be so many times less or more."""


@dataclass(frozen=True)
class TrainingWork:
    """One training run."""

    role: str
    seed: int
    rows: int
    steps: int
    tokens: int


@dataclass(frozen=True)
class MeasuringWork:
    """One pass over one set of items on one model."""

    role: str
    models: int
    """How many models play this role (one for each training seed)."""
    items_name: str
    measures: tuple[str, ...]
    items: int
    tokens: int
    """Tokens read by one model."""
    steps: int
    """Forward passes of one model."""
    dice: int = 0
    """Draws of one random number for each word of the vocabulary."""
    weights: float = 0.0
    """Operations on weights, where they are what is read."""
    processes: int = 1
    """So many divide the passes among them."""


@dataclass(frozen=True)
class AuditWork:
    """One audit: what it reads, or why it can't answer."""

    name: str
    cost: str
    needs: int
    why_not: str = ""


@dataclass(frozen=True)
class Space:
    """Bytes that are needed and free; ``None`` where the free amount can't be told."""

    needed: int
    least: int
    """With the smallest batches."""
    free: int | None
    processes: int = 1
    """So many share the work, and this is what each of them needs."""


@dataclass(frozen=True)
class Foreseen:
    """What a run would do and take."""

    models: dict[str, int]
    """Parameters of each model that is there, by role."""
    training: tuple[TrainingWork, ...]
    measuring: tuple[MeasuringWork, ...]
    audits: tuple[AuditWork, ...]
    seconds: float
    device: str
    memory: Space
    disk: Space
    problems: tuple[str, ...]
    reach: tuple[Reach, ...] = ()
    """What it could show with so many templates."""

    @property
    def between(self) -> tuple[float, float]:
        """Seconds that it takes at least and at most, if all goes as foreseen."""
        return self.seconds / _UNSURE, self.seconds * _UNSURE

    def plain(self) -> dict[str, Any]:
        """Return everything as data for JSON."""
        return {**asdict(self), "seconds_between": list(self.between)}

    @property
    def time(self) -> str:
        """The time in words."""
        unit, name = next((one for one in _UNITS if self.seconds >= 1.5 * one[0]), _UNITS[-1])
        low, high = self.between
        return f"about {_rounded(self.seconds / unit)} {name}, between {_rounded(low / unit)} and {_rounded(high / unit)}"

    def tables(self) -> Iterator[tuple[tuple[str, ...], list[tuple[str, ...]]]]:
        """Yield (columns, rows) to be shown."""
        yield ("model", "parameters"), [(role, f"{count:,}") for role, count in self.models.items()]
        if self.training:
            rows = [(one.role, str(one.seed), f"{one.rows:,}", f"{one.steps:,}", f"{one.tokens:,}") for one in self.training]
            yield ("training", "seed", "rows", "steps", "tokens"), rows
        if self.measuring:
            yield (
                ("measuring", "models", "on", "items", "tokens", "what"),
                [
                    (one.role, str(one.models), one.items_name, f"{one.items:,}", f"{one.tokens:,}", ", ".join(one.measures))
                    for one in self.measuring
                ],
            )
        rows = [(one.name, one.cost, str(one.needs) if not one.why_not else f"can't say: {one.why_not}") for one in self.audits]
        yield ("audit", "costs", "measurements"), rows
        if self.reach:
            yield ("could show", *COLUMNS[1:], "spread from"), [(*one.cells, one.source) for one in self.reach]

    def sentences(self) -> Iterator[str]:
        """Yield what the numbers of ``reach`` mean, and time, memory and disk in words."""
        if self.reach:
            yield f"could show: {NOTE[0].lower()}{NOTE[1:]}"
        if any(one.source == "assumed" for one in self.reach):
            yield f"{ASSUMED}; a run's own report has the measured spread"
        yield f"time: {self.time} (a rough estimate; what is committed already is not done again)"
        controls = roles.controls(work.role for work in self.training)
        if len(controls) == 1:
            yield "controls: 1 run of training on rehearsal alone, against which nothing is tested (control_seeds: 3 for that)"
        elif controls:
            further = sum(work.tokens for work in self.training if work.role in controls[1:])
            share = 100 * further / max(sum(work.tokens for work in self.training), 1)
            yield (
                f"controls: {len(controls)} runs of training on rehearsal alone, to know how far these lie apart; all but the "
                f"first are {share:.0f}% of what is trained (control_seeds: 1 leaves them out, and the tests against them)"
            )
        for name, space in (("memory", self.memory), ("disk", self.disk)):
            free = "could not say what is free" if space.free is None else f"{in_words(space.free)} free"
            each = f" in each of {space.processes} processes" if space.processes > 1 else ""
            yield f"{name}: about {in_words(space.needed)} needed{each}, {free}"
        if self.memory.processes > 1:
            yield "Not counted: the time to gather weights, and the whole model in the first process's memory as it is saved."


_UNITS = ((3_600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))


def _rounded(value: float) -> str:
    """Return one digit that counts: nobody should read more out of an estimate like this."""
    if value >= 10:
        return str(round(value / 10) * 10) if value >= 20 else str(round(value))
    return f"{value:.0f}" if value >= 1.5 else f"{value:.1f}".removesuffix(".0")
