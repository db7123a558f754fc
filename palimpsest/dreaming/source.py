"""Source: where do fresh scenarios come from?

A source is one module in ``palimpsest/dreaming/sources``; its file name is the name that ``--source`` takes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from palimpsest.core import discover
from palimpsest.data.chat import Example, Pole
from palimpsest.dreaming.records import Area, Proposal
from palimpsest.planning import Plan

PACKAGE = "palimpsest.dreaming.sources"


@dataclass(frozen=True)
class Wish:
    """What is asked of a source: scenarios of one pole for one cycle."""

    cycle: int
    pole: Pole
    count: int
    """About how many will be used; more may be drawn, because some are refused."""
    templates: tuple[str, ...] = ()
    """Stay with these (edge cases); all where there are none."""

    @property
    def area(self) -> Area:
        return "edge" if self.templates else "broad"

    @property
    def use(self) -> str:
        """The name of the random stream."""
        return f"dream {self.cycle} {self.area} {self.pole}"


class ScenarioSource(ABC):
    """One source, opened.

    Args:
        argument: what stands after the colon.
        plan: the behaviour, its materials and the model's tokenizer.

    Raises:
        UserError: it can't be used.
    """

    takes: ClassVar[str] = ""
    """What its argument is, in words; empty where it takes none."""

    def __init__(self, argument: str, plan: Plan) -> None:
        self.argument, self.plan = argument, plan
        assert plan.request.behaviour is not None, "a dream always has a behaviour"
        self.behaviour = plan.request.behaviour

    def ready(self) -> None:  # noqa: B027  # most sources are ready once they are open
        """See that it can be asked now.

        Raises:
            UserError: it can't.
        """

    @abstractmethod
    def propose(self, wish: Wish) -> Iterator[Proposal]:
        """Yield scenarios until nobody wants more or it has none left.

        Raises:
            UserError: it can't be read or asked any more.
        """

    def proposal(self, example: Example, wish: Wish, origin: dict[str, str | int], *, answered: bool = True) -> Proposal:
        """Return an example as a proposal of this source."""
        complete = self.behaviour.complete(example, wish.pole)
        name = type(self).__module__.rsplit(".", 1)[-1]
        return Proposal(example=complete, source=name, origin=origin, answered=answered, area=wish.area)

    def close(self) -> None:  # noqa: B027  # most sources hold nothing
        """Give back what it holds."""


def names() -> tuple[str, ...]:
    """Return the names of all sources."""
    return discover.names(PACKAGE)


def find(name: str) -> type[ScenarioSource]:
    """Return the source of that name.

    Raises:
        UserError: there is none.
    """
    return discover.find(PACKAGE, name, ScenarioSource)
