"""Code length: how many bits does it take to tell the examples to a model that learns from each after it was told?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from palimpsest.audit import Table
from palimpsest.core import stats
from palimpsest.core.estimate import Estimate, exact, unknown
from palimpsest.core.wording import shown
from palimpsest.store.account import Part
from palimpsest.store.record import StepLog
from palimpsest.studies._readings import figures, line, lines
from palimpsest.studies._study import Reading


def part(trained: Sequence[int], readings: Callable[[int], Sequence[Reading]], estimates: dict[str, Estimate]) -> Part:
    """Return the part of the account on code length.

    Args:
        trained: the doses.
        readings: gives the finished runs of a dose, one pass each.
        estimates: gets the code length of each dose.
    """
    rows, curve = [], []
    for dose in trained:
        lengths = [code_length(one.steps) for one in readings(dose)]
        total = [sum(bits) for bits, _ in lengths if bits]
        each = [sum(bits) / max(1, sum(count)) for bits, count in lengths if bits]
        last = [_last(bits, count) for bits, count in lengths if bits]
        found = [
            stats.across_seeds([exact(one, unit) for one in values]) if values else unknown(unit, 0, "no step log")
            for values, unit in ((total, "bits"), (each, "bits an example"), (last, "bits an example"))
        ]
        estimates[f"code_length:{dose}"] = found[0]
        curve.append(found[1])
        rows.append((str(dose), *found))
    figure = line("", trained, curve)
    whole, last = (shown(rows[-1][column], change=False).sentence for column in (1, 3))
    return Part(
        name="code length",
        question="How many bits does it take to tell the examples to the model, each told before it is learnt?",
        answer=f"All {trained[-1]} examples: {whole}; in the last quarter of the steps {last}.",
        figures=figures("Bits an example, mean over the run", lines([figure]), "bits an example"),
        tables=(
            Table(
                title="Prequential code length of one pass",
                columns=("dose", "all examples", "mean", "last quarter"),
                rows=tuple(rows),
                note="Decision tokens of both poles, scored before they are learnt from; rehearsal is left out.",
            ),
        ),
    )


def code_length(steps: Sequence[StepLog]) -> tuple[list[float], list[int]]:
    """Return the bits of the behaviour's rows in each step, before it was learnt from, and how many rows they were."""
    bits = [
        ((one.loss_express or 0.0) * one.tokens_express + (one.loss_withhold or 0.0) * one.tokens_withhold) / math.log(2)
        for one in steps
    ]
    return bits, [one.rows_express + one.rows_withhold for one in steps]


def _last(bits: Sequence[float], rows: Sequence[int]) -> float:
    """Return bits an example over the last quarter of the steps."""
    start = (3 * len(bits)) // 4
    return sum(bits[start:]) / max(1, sum(rows[start:]))
