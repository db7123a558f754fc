"""Checkup: can a model's numbers be trusted, and where not, what follows?

Plain data: what the checks of ``palimpsest/measures/_checks`` answer, and what a run keeps of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from palimpsest.core.spec import Spec

State = Literal["ok", "told", "failed", "could not say"]
STATES: tuple[State, ...] = ("failed", "told", "could not say", "ok")
"""In the order in which a reader wants them."""


class Answer(Spec):
    """What one check found.

    ``failed`` touches numbers; ``told`` is worth knowing and spoils none of ours.
    """

    check: str
    """The check's name: that of its module."""
    about: str
    """What was looked at, in a few words."""
    state: State
    found: str
    """What was found, with its number."""
    value: float | None = None
    """The number, where there is one that is finite."""
    tolerance: float | None = None
    """What the number may be at most."""
    unit: str = ""
    follows: str = ""
    """What follows from it; empty where all is well."""


def worst(answers: Iterable[Answer]) -> State:
    """Return the state that a reader has to know first."""
    return min((answer.state for answer in answers), key=STATES.index, default="could not say")


def sorted_by_state(answers: Iterable[Answer]) -> tuple[Answer, ...]:
    """Return answers with what failed first, and else in their order."""
    return tuple(sorted(answers, key=lambda answer: STATES.index(answer.state)))


def told(answers: Iterable[Answer], state: State = "failed") -> tuple[str, ...]:
    """Return the answers of one state as sentences."""
    return tuple(
        f"{answer.about}: {answer.found}{f'; {answer.follows}' if answer.follows else ''}"
        for answer in answers
        if answer.state == state
    )
