"""Mixture: which rows go into which batch, so that every share holds exactly?

*Dose* is the number of behaviour examples, both poles. *Rehearsal share* is rehearsal rows over all rows. The plan is a pure
function of (counts, batch size, seed). Shares are rounded on running totals, not batch by batch: what does not fit into one
batch is carried over to the next, and nothing is ever more than one row off.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Literal, NamedTuple

from palimpsest.core.errors import UserError
from palimpsest.core.seeds import python_stream

RowSource = Literal["express", "withhold", "rehearsal"]
SOURCES: tuple[RowSource, ...] = ("express", "withhold", "rehearsal")


class Counts(NamedTuple):
    """Rows of each source in one run."""

    express: int
    withhold: int
    rehearsal: int

    @property
    def dose(self) -> int:
        return self.express + self.withhold

    @property
    def rows(self) -> int:
        return self.dose + self.rehearsal

    @property
    def rehearsal_share(self) -> float:
        """Share as delivered; 0 where there are no rows at all."""
        return self.rehearsal / self.rows if self.rows else 0.0

    def as_rehearsal_only(self) -> Counts:
        """Return the control of this run: as many rows, hence as many steps, all of them rehearsal."""
        return Counts(0, 0, self.rows)


class RowRef(NamedTuple):
    """One row of one source, by its place from 0."""

    source: RowSource
    place: int


def counts_for(dose: int, rehearsal_share: float, express_share: float = 0.5) -> Counts:
    """Return how many rows of each source make up a dose.

    The poles are the nearest whole rows (a tie goes to express), the rehearsal rows those whose share is nearest, so that
    the delivered share is less than half a row off: ``counts_for(18, 0.25)`` is 9 + 9 + 6.

    Raises:
        UserError: a share outside its range, or a negative dose.
    """
    if dose < 0:
        raise UserError(f"the dose must be 0 or more examples, found {dose}")
    if not 0 <= rehearsal_share < 1:
        raise UserError(
            f"the rehearsal share must be at least 0 and below 1, found {rehearsal_share}; "
            "for rehearsal alone use the control 'rehearsal_only'"
        )
    if not 0 <= express_share <= 1:
        raise UserError(f"the express share must be between 0 and 1, found {express_share}")
    share = _exact(rehearsal_share)
    express = _nearest(dose * _exact(express_share))
    return Counts(express, dose - express, _nearest(dose * share / (1 - share)))


def plan_batches(counts: Counts, batch_size: int, seed: int, epochs: int = 1) -> list[list[RowRef]]:
    """Return the rows of every batch, in order.

    Each row appears exactly once an epoch; all batches but an epoch's last have ``batch_size`` rows. After any number of
    batches rehearsal is at most half a row from its share and each pole less than one; inside a batch every source has its
    share rounded up or down. In the first epoch the rows of a source come in their own order, so that a smaller dose is the
    beginning of a larger one; later epochs shuffle them. The seed places the sources inside a batch.

    Raises:
        UserError: no rows, or a batch size below 1.
    """
    if batch_size < 1:
        raise UserError(f"a batch must have at least 1 row, found {batch_size}")
    if counts.rows == 0:
        raise UserError("there is nothing to train on: no behaviour examples and no rehearsal rows")
    batches: list[list[RowRef]] = []
    for epoch in range(epochs):
        order = {source: _order(counts, source, seed, epoch) for source in SOURCES}
        before = Counts(0, 0, 0)
        for end in [*range(batch_size, counts.rows, batch_size), counts.rows]:
            after = _totals(counts, end)
            batch = [
                RowRef(source, order[source][position])
                for source, low, high in zip(SOURCES, before, after, strict=True)
                for position in range(low, high)
            ]
            python_stream(seed, "batch", len(batches)).shuffle(batch)
            batches.append(batch)
            before = after
    return batches


def _totals(counts: Counts, rows: int) -> Counts:
    """Return how many rows of each source belong to the first ``rows`` rows."""
    rehearsal = _nearest(Fraction(rows * counts.rehearsal, counts.rows))
    behaviour = rows - rehearsal
    express = _nearest(Fraction(behaviour * counts.express, counts.dose)) if counts.dose else 0
    return Counts(express, behaviour - express, rehearsal)


def _order(counts: Counts, source: RowSource, seed: int, epoch: int) -> list[int]:
    order = list(range(getattr(counts, source)))
    if epoch:
        python_stream(seed, "epoch", epoch, source).shuffle(order)
    return order


def _exact(share: float) -> Fraction:
    """Return the decimal number that was written (0.1 is a tenth, not the nearest binary fraction)."""
    return Fraction(str(share))


def _nearest(value: Fraction) -> int:
    return int(value + Fraction(1, 2))
