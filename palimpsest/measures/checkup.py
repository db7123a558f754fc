"""Checkup: what could spoil this model's numbers, and does it here?"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from palimpsest.core.checkup import Answer
from palimpsest.core.errors import UserError
from palimpsest.core.measurement import Measurement, Need
from palimpsest.data.chat import ItemSet
from palimpsest.measures._checks import _check, finite
from palimpsest.measures._checks._patient import Patient, probe
from palimpsest.measures._measure import Budget, Measure, Progress

ITEMS = probe()


class Checkup(Measure):
    """The answers of every check that answers the same each time, as JSON, one a check (``core.checkup.Answer``).

    Texts: ``answers``.

    Raises:
        UserError: the model gives no numbers, so that nothing could be measured on it.
    """

    source: str = Field(default_factory=_check.source)
    """Digest of the checks, which are found in their folder and so are no imports of this module."""

    def take(self, subject: Any, items: ItemSet, budget: Budget, after: Measurement | None, progress: Progress) -> Measurement:
        answers = _check.check_up(Patient(subject))
        for answer in answers:
            if answer.found.startswith(finite.NOT_A_NUMBER):
                raise UserError(f"{subject.info.name} must give numbers, and gives {answer.found}; {answer.follows}")
        return Measurement({}, {"answers": [answer.model_dump_json() for answer in answers]})


def need(role: str) -> Need:
    """Return the need for the checkup of a role's model."""
    return Need(measure="checkup", role=role, items=ITEMS.name)


def answers(found: Measurement) -> tuple[Answer, ...]:
    """Return what a stored checkup says."""
    return tuple(Answer.model_validate_json(one) for one in found.texts["answers"])
