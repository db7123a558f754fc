"""Padding: does a short row get the same answer beside a longer one?

Audits pad on the left and give positions; training pads on the right; other tools often pad on the left and leave positions to
the model, which classes with learned positions do not survive.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from palimpsest.core.checkup import Answer
from palimpsest.measures._checks._check import Check
from palimpsest.measures._checks._patient import Patient, apart

_SHARES = (1.0, 0.7, 0.4, 0.2)
"""Lengths of the rows, as shares of the longest."""


class Padding(Check):
    """Rows of four lengths in one batch, and each alone."""

    def look(self, patient: Patient) -> Iterator[Answer]:
        rows = [patient.row(index, max(round(share * patient.length), 2)) for index, share in enumerate(_SHARES)]
        every = range(len(rows))
        if not patient.subject.takes_padding:
            yield self.answer(
                "told",
                "padded on the left, as audits read",
                "a padded row does not get the answer that it gets alone",
                "audits read only rows of one length together, which is slower; another tool that pads gets other numbers",
            )
        alone, together = (patient.read(rows, every, together=kind) for kind in (False, True))
        yield self.difference(
            "padded on the left, as audits read",
            _largest([alone[index] for index in every], [together[index] for index in every]),
            patient.rounding,
            "short items are read wrongly beside long ones: don't trust numbers of items of unlike lengths",
        )
        lines = [row.tokens[:-1] for row in rows]
        plain = [patient.call([line])[0] for line in lines]
        yield self.difference(
            "padded on the right, as training reads",
            _largest(plain, patient.call(lines)),
            patient.rounding,
            "training in batches learns from wrong predictions of short rows: train one row at a time "
            "(per_device_train_batch_size: 1)",
        )
        yield self.difference(
            "padded on the left without positions, as some tools read",
            _largest(plain, patient.call(lines, left=True)),
            patient.rounding,
            "a tool that pads on the left without giving position_ids reads this model otherwise; audits give them",
            beyond="told",
        )


def _largest(some: Sequence, others: Sequence) -> float:
    off = [apart(one, other) for one, other in zip(some, others, strict=True)]
    return max(off) if all(value == value for value in off) else float("nan")
