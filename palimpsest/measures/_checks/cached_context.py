"""Cached context: does a model answer the same from a cache as in one pass?

Generated answers are written from a cache, and training with a frozen context reads from one.
"""

from __future__ import annotations

from collections.abc import Iterator

from palimpsest.core.checkup import Answer
from palimpsest.core.errors import UserError
from palimpsest.measures._checks._check import Check
from palimpsest.measures._checks._patient import Patient
from palimpsest.training.frozen_context import FrozenContext, disagreement


class CachedContext(Check):
    """The check that training with ``context: frozen`` makes before its first step, with its number."""

    def look(self, patient: Patient) -> Iterator[Answer]:
        about, follows = "a context in a cache against one pass", "train with context: full"
        objective = FrozenContext()
        objective.know(patient.model)
        try:
            off, allowed = disagreement(objective, patient.model)
        except UserError as error:
            yield self.answer("told", about, str(error).partition(";")[0], follows)
            return
        well = off <= allowed
        yield self.answer(
            "ok" if well else "failed",
            about,
            f"logits differ by {off:.2g} of their standard deviation (at most {allowed:g})",
            "" if well else f"{follows}, and read generated answers with care: they are written from a cache",
            value=off if off < float("inf") else None,
            tolerance=allowed,
            unit="SD of the logits",
        )
