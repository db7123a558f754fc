"""Records: what is a remembered mistake, a judged answer, a seed?

Plain frozen data, which the store keeps and gives back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from palimpsest.data.chat import Message, Pole

Outcome = Literal["passed", "failed", "disputed", "unknown"]


@dataclass(frozen=True)
class Correction:
    """One remembered mistake."""

    id: int
    behaviour: str
    pole: Pole
    said: str
    wrong: str
    better: str | None
    importance: float
    covered: int
    """Watched situations that it covers, its own with them."""
    failed: int
    """How many of these went wrong."""
    scenario: int

    @property
    def strength(self) -> str:
        """Importance in words: essential from 0.8, strong from 0.5."""
        return "essential" if self.importance >= 0.8 else "strong" if self.importance >= 0.5 else "weak"


class Failure(NamedTuple):
    """A failed conversation as a seed for new examples."""

    messages: tuple[Message, ...]
    """What stood before the answer."""
    pole: Pole
    correction: Correction


@dataclass(frozen=True)
class Judged:
    """What was found about one answer."""

    outcome: Outcome
    reason: str
    """What was wrong, or why nothing could be said."""
    behaviour: str | None = None
    pole: Pole | None = None
    how: str | None = None
    """How it was known where the conversation belongs."""
    better: str | None = None


@dataclass(frozen=True)
class Watched:
    """One assistant turn with what was found about it."""

    key: str
    asked: str
    """Digest of who was asked, so that what nobody could judge is judged again when somebody else is asked."""
    time: float | None
    before: tuple[tuple[str, str], ...]
    """Role and text of what stands before it."""
    said: str
    judged: Judged


class Entry(NamedTuple):
    """One conversation with what was found in it."""

    key: str
    source: str
    time: float | None
    turns: tuple[Watched, ...]
