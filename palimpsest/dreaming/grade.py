"""Grade: is this the right answer to this scenario?"""

from __future__ import annotations

from palimpsest.behaviour import Behaviour
from palimpsest.data.chat import Example, Pole


def passes(behaviour: Behaviour, example: Example, pole: Pole, answer: str) -> bool:
    """Return whether an answer is right by the check (the behaviour's, or the example's own): it fires where it should only."""
    return behaviour.shown(example, answer) == (pole == "express")


def failure(behaviour: Behaviour, pole: Pole) -> str:
    """Say which check failed and how, for an answer that is not right."""
    found = "did not fire where it should" if pole == "express" else "fired where it should not"
    return f"the check '{behaviour.check.kind}' {found}"


def good(behaviour: Behaviour, example: Example, pole: Pole, answer: str) -> bool:
    """Return whether an answer may be trained on: right by the behaviour's check and by the scenario's own, if it has one."""
    return passes(behaviour, example, pole, answer) and (example.check is None or example.check.passes(answer))
