"""Progress: what is happening, how far is it, and what should the user know?

Nothing below the command line prints; it tells one of these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Progress(Protocol):
    """Hears how a run goes."""

    def begin(self, stage: str, total: int | None = None) -> None:
        """A stage starts; ``total`` units of work lie ahead, where that is known."""
        ...

    def at(self, done: int, total: int) -> None:
        """So much of the current stage is done."""
        ...

    def tell(self, message: str) -> None:
        """Something the user should know happened."""
        ...


class Silent:
    """A progress that nobody watches."""

    def begin(self, stage: str, total: int | None = None) -> None:
        pass

    def at(self, done: int, total: int) -> None:
        pass

    def tell(self, message: str) -> None:
        pass


@dataclass(frozen=True)
class Within:
    """A progress whose stages begin with the name of what they belong to: an attempt, a cycle."""

    inner: Progress
    name: str

    def begin(self, stage: str, total: int | None = None) -> None:
        self.inner.begin(f"{self.name}: {stage}", total)

    def at(self, done: int, total: int) -> None:
        self.inner.at(done, total)

    def tell(self, message: str) -> None:
        self.inner.tell(message)


@dataclass(frozen=True)
class Steps:
    """What training tells of its steps, as the progress of a stage."""

    inner: Progress

    def advance(self, step: int, total: int, loss: float) -> None:
        self.inner.at(step, total)

    def tell(self, message: str) -> None:
        self.inner.tell(message)
