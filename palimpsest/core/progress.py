"""Progress: what is happening, how far is it, and what should the user know?

Nothing below the command line prints; it tells one of these.
"""

from __future__ import annotations

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
