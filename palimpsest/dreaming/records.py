"""Records: what is kept of a cycle, readable by a stranger?

All of it is plain and lies in the dream's folder: scenarios, answers, examples with where each comes from, and what each
cycle came to.
"""

from __future__ import annotations

from typing import Literal

from palimpsest.core.spec import Spec
from palimpsest.data.chat import Example, Pole

Area = Literal["broad", "edge"]


class Proposal(Spec):
    """One fresh scenario of a source."""

    example: Example
    """With its pole and its options."""
    source: str
    origin: dict[str, str | int]
    """What in the source it was: stream and index, file and line, writer and number."""
    answered: bool = True
    """Whether its answer is known to be good; else it is only what somebody said."""
    area: Area = "broad"

    @property
    def pole(self) -> Pole:
        assert self.example.pole is not None, "a proposal is always for one pole"
        return self.example.pole


class Refused(Spec):
    """A scenario that was not asked, and why."""

    reason: str
    pole: Pole
    source: str
    prompt: str
    like: str = ""
    """The prompt that it is too much like."""


class Scenarios(Spec):
    """The scenarios of one cycle."""

    proposals: tuple[Proposal, ...]
    refused: dict[str, int] = {}
    """How many were refused, by reason."""
    shown: tuple[Refused, ...] = ()
    """A few of them."""
    edge: dict[str, tuple[str, ...]] = {}
    """The templates where edge cases were looked for, by pole."""
    notes: tuple[str, ...] = ()


class Answers(Spec):
    """What the model said to the scenarios of one cycle, in their order."""

    said: tuple[str, ...]
    failed: tuple[bool, ...]


class Taken(Spec):
    """One example that was trained on, with where it comes from; one line of ``examples.jsonl``."""

    cycle: int
    pole: Pole
    kind: Literal["failure", "anchor", "fresh", "repeated"]
    """Why it was taken: the model failed it, it holds what was right already, or it was not asked how it was answered."""
    source: str
    origin: dict[str, str | int]
    template: str
    prompt: str
    said: str
    """What the model said."""
    failed: str
    """Which check failed and how; empty where none did."""
    answer: str
    """What it was trained to say."""
    answer_from: Literal["reference", "the model itself, with the instruction"]
    digest: str
    """Of the prompt; no two examples of a dream have the same one."""
    example: Example


class Cycle(Spec):
    """What one cycle came to."""

    cycle: int
    examples: int
    failures: int
    anchors: int
    rehearsal: int
    without_answer: int
    """Failures for which no good answer was found."""
    batches: int
    batches_of_one_pole: int
    model: str
    """Digest of the model after it."""
    labels: tuple[str, ...]
    """Of the verdict on it, on fresh items."""
    notes: tuple[str, ...] = ()
