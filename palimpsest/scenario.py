"""Scenario: how are fresh examples made, so that none is ever used twice?

A scenario is one module in ``palimpsest/data/scenarios``; its file name is its name, its fields are the parameters a user
may set, its docstring's first line is its question.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from typing import ClassVar

from palimpsest.core import discover
from palimpsest.core.spec import Spec
from palimpsest.data.chat import Example

PACKAGE = "palimpsest.data.scenarios"


class Scenario(Spec, ABC):
    """A generator of examples; frozen, its fields are its parameters."""

    world: ClassVar[float] = 0.0
    """Share of the embedded model's pretraining rows; 0 for a scenario that is not of its world."""
    world_parameters: ClassVar[dict[str, object]] = {}
    """The parameters with which the embedded model was pretrained on it."""
    skills: ClassVar[dict[str, dict[str, object]]] = {}
    """What the embedded model's card scores: a skill's name and the scenario's parameters for it."""

    @abstractmethod
    def make(self, rng: random.Random) -> Example:
        """Make one example from the given random stream and nothing else."""

    def prepare(self) -> None:
        """Check what the scenario reads from outside (files).

        Raises:
            UserError: something it needs is missing or unreadable.
        """

    def templates(self) -> tuple[str, ...]:
        """Return the names of all templates where they form a fixed list; empty where each example is its own."""
        return ()


def load(name: str, parameters: dict[str, object] | None = None) -> Scenario:
    """Return the scenario of that name with these parameters.

    Raises:
        UserError: unknown scenario or parameter, or something it reads is missing.
    """
    scenario = discover.find(PACKAGE, name, Scenario).read(parameters or {}, f"the parameters of scenario '{name}'")
    scenario.prepare()
    return scenario


def names() -> tuple[str, ...]:
    """Return the names of all scenarios."""
    return discover.names(PACKAGE)
