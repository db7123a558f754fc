"""Batch size: does a row get the same answer alone as among others?

Another batch size takes other matrix kernels, which round differently; a mixture of experts may even choose other experts.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from palimpsest.core.checkup import Answer
from palimpsest.measures._checks._check import Check
from palimpsest.measures._checks._patient import Patient, apart


class BatchSize(Check):
    """The same row alone and in batches of several sizes, all rows of one length: nothing is padded."""

    sizes: tuple[int, ...] = Field(default=(2, 5, 16), min_length=1)

    def look(self, patient: Patient) -> Iterator[Answer]:
        rows = [patient.row(index) for index in range(max(self.sizes))]
        off = [
            apart(patient.alone, patient.read(rows[:size], [0], together=True)[0]) for size in self.sizes if size <= len(rows)
        ]
        yield self.difference(
            f"batches of {', '.join(map(str, self.sizes))}, as audits read",
            max(off, key=_size),
            patient.rounding,
            "numbers depend on what is read together; both models of a pair are read in the same batches, but two runs with "
            "other batches can't be compared beyond this",
        )
        lines = [row.tokens[:-1] for row in rows]
        yield self.difference(
            f"a batch of {len(lines)}, the model called plainly",
            apart(patient.call(lines[:1])[0], patient.call(lines)[0]),
            patient.rounding,
            "another tool's numbers depend on its batch size by so much",
        )


def _size(value: float) -> float:
    return value if value == value else float("inf")
