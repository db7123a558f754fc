"""Study: which question needs many runs, and what do they say together?

A study is one module in ``palimpsest/studies``. It says which runs to make (``points``), turns what they left into an answer
(``collect``), and makes worlds whose answer is known (``simulate``). It starts nothing: ``palimpsest.study_runner`` carries the
points out, each in its own folder and by the very path of ``palimpsest run``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import numpy as np
from pydantic import AfterValidator, Field, model_validator

from palimpsest.behaviour import Behaviour
from palimpsest.core import discover, docstrings
from palimpsest.core.estimate import Estimate
from palimpsest.core.spec import Spec
from palimpsest.data.mixture import counts_for
from palimpsest.request import Request
from palimpsest.store.account import Part
from palimpsest.store.record import RunRecord, StepLog
from palimpsest.training.settings import TrainingSettings

PACKAGE = "palimpsest.studies"
Grid = Literal["default", "full"]
GRIDS: tuple[Grid, ...] = ("default", "full")


class Point(Spec):
    """One run of a study: what differs from the behaviour as its file has it."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$", max_length=80)
    """Its folder's name."""
    setting: str
    """What is told of it, the same for every training seed."""
    seed: int = Field(ge=0)
    behaviour: dict[str, Any] = {}
    """Fields of the behaviour that differ (``dose``, ``express_share`` ...)."""
    training: dict[str, Any] = {}
    """Training settings that differ."""
    request: dict[str, Any] = {}
    """Fields of the request that differ (``audits`` ...)."""
    after: str = ""
    """The point whose tuned model this one starts from; the study's own model where it is empty."""
    control: str = ""
    """The point whose rehearsal-only model serves here too, so that a setting has one control and not one a seed."""

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def needs(self) -> tuple[str, ...]:
        """The points that have to be done before."""
        return tuple(name for name in (self.after, self.control) if name)


@dataclass(frozen=True)
class Reading:
    """What a study reads of one finished run (first and only seed)."""

    estimates: Mapping[str, Estimate]
    """By ``audit.estimate``."""
    steps: tuple[StepLog, ...] = ()
    """Of the tuned model's training."""
    headline: str = ""


def reading(record: RunRecord) -> Reading:
    """Return what a study reads of a run's record."""
    first = record.seeds[0]
    return Reading(
        estimates={f"{audit}.{name}": one for audit, result in first.results.items() for name, one in result.estimates.items()},
        steps=next((one.steps for one in record.training if one.role == "tuned"), ()),
        headline=record.verdict.headline,
    )


Results = Mapping[str, Reading]
"""Readings by the points' names; a point that failed has none."""


@dataclass(frozen=True)
class Told:
    """A study's answer, as the account tells it."""

    headline: str
    sure: str
    reasons: tuple[str, ...]
    parts: tuple[Part, ...]
    estimates: dict[str, Estimate]


def _rise(given: tuple[Any, ...]) -> tuple[Any, ...]:
    if sorted(set(given)) != list(given):
        raise ValueError("the values must rise, none twice")
    return given


_T = TypeVar("_T")
Rising = Annotated[tuple[_T, ...], AfterValidator(_rise)]
"""Values that rise: the places of an axis."""
Count = Annotated[int, Field(ge=1)]


class Study(Spec, ABC):
    """One question about a method, answered by a grid of runs; frozen, its fields are its parameters.

    The docstring's sections Question, Method, Reads, Null, Limits and Reference are printed by the report.
    """

    primary: ClassVar[tuple[str, ...]]
    """Beginnings of the names of the estimates whose coverage is tested and over which Holm is applied."""

    model: str = "pocket"
    """A Hugging Face folder, a hub id, or ``pocket``."""
    behaviour: Behaviour
    seeds: int = Field(default=3, ge=1, le=100)
    """Training seeds of every setting; the held-out items are the same with all of them."""
    seed: int = Field(default=0, ge=0, lt=2**31 - 100)
    """The first training seed, and that of the held-out items."""
    held_out: int = Field(default=96, ge=8, le=100_000)
    """Held-out items a pole."""
    capability_items: int = Field(default=64, ge=8)
    """Held-out items of each capability."""
    documents: int = Field(default=32, ge=8)
    """Documents of each general text."""
    device: str = "auto"
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"

    @abstractmethod
    def points(self, grid: Grid) -> tuple[Point, ...]:
        """Return the runs, those that others need before them."""

    @abstractmethod
    def collect(self, results: Results, grid: Grid) -> Told:
        """Tell what the finished runs say; pure: the same results, the same bytes."""

    @abstractmethod
    def simulate(self, rng: np.random.Generator) -> dict[str, Reading]:
        """Make the readings of the default grid in a world whose answer is known."""

    @abstractmethod
    def truth(self) -> dict[str, float]:
        """Return the true values of estimates in the world that ``simulate`` draws from."""

    @model_validator(mode="after")
    def _has_distinct_points(self) -> Self:
        for grid in GRIDS:
            names = [point.name for point in self.points(grid)]
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"every run must be another one, found twice: {', '.join(twice)}")
        return self

    @property
    def train_seeds(self) -> tuple[int, ...]:
        return tuple(range(self.seed, self.seed + self.seeds))

    @property
    def settings(self) -> TrainingSettings:
        """The behaviour's own training settings."""
        return TrainingSettings.read(dict(self.behaviour.training), "'training'")

    def steps(self, dose: int) -> int:
        """Return how many optimizer steps one pass over so many examples has."""
        return max(1, math.ceil(self.rows(dose) / self.settings.rows_per_step))

    def rows(self, dose: int) -> int:
        """Return how many rows so many examples make with their rehearsal."""
        return counts_for(dose, self.settings.rehearsal_share, self.behaviour.express_share).rows

    def at_the_steps_of(self, most: int, dose: int) -> dict[str, Any]:
        """Return the training settings by which fewer examples are repeated for as many steps as ``most`` have in one pass."""
        steps = self.steps(most)
        epochs = math.ceil(steps / self.steps(dose))
        return {"max_steps": steps, **({"num_train_epochs": epochs, "allow_repeats": True} if epochs > 1 else {})}

    def request(self, point: Point, base: str = "", controls: Mapping[str, str] | None = None) -> Request:
        """Return the request of one point.

        Args:
            point: which.
            base: the model to start from; the study's own by default.
            controls: models of other points that serve as controls, by role.

        Raises:
            UserError: an override names no field, or has a value that the field can't have.
        """
        where = f"run '{point.name}'"
        own = dict(self.behaviour)
        changed = {
            "held_out": self.held_out,
            "controls": (),
            "control_seeds": 1,
            **point.behaviour,
            "training": {**self.behaviour.training, **point.training},
        }
        data = {
            "kind": "run",
            "base": base or self.model,
            "behaviour": Behaviour.read({**own, **changed}, where),
            "seed": self.seed,
            "training_seed": point.seed,
            "device": self.device,
            "dtype": self.dtype,
            "documents": self.documents,
            "capability_items": self.capability_items,
            "controls": dict(controls or {}),
            **point.request,
        }
        return Request.read(data, where)

    def sections(self) -> dict[str, str]:
        """Return the sections of the docstring by title, each as one paragraph a line."""
        found = docstrings.sections(type(self).__doc__ or "")
        return {title: " ".join(body.split()) for title, body in found.items()}


def find(name: str) -> type[Study]:
    """Return the study of that name.

    Raises:
        UserError: there is none, with the nearest name.
    """
    return discover.find(PACKAGE, name, Study)


def names() -> tuple[str, ...]:
    """Return the names of all studies."""
    return discover.names(PACKAGE)
