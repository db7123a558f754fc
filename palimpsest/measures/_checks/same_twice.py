"""Same twice: does the same pass give the same bytes again?"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from palimpsest.core.checkup import Answer
from palimpsest.measures._checks._check import Check
from palimpsest.measures._checks._patient import Patient, apart


class SameTwice(Check):
    """One batch, read twice."""

    def look(self, patient: Patient) -> Iterator[Answer]:
        rows = [patient.row(index) for index in range(4)]
        one, other = (patient.read(rows, range(4), together=True) for _ in range(2))
        if all(torch.equal(one[index], other[index]) for index in one):
            yield self.answer("ok", "the same pass twice", "the same bytes")
            return
        yield self.answer(
            "failed",
            "the same pass twice",
            f"log-probabilities differ by up to {max(apart(one[index], other[index]) for index in one):.2g} nats",
            "a resumed run has other bytes than an undisturbed one, and a model against itself differs by so much",
        )
