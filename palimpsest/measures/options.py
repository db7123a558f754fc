"""Options: how likely is each graded choice as the beginning of the answer?

A probability has less noise than one sampled answer: it is that answer's expectation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from palimpsest.core.measurement import Measurement
from palimpsest.data.chat import Example
from palimpsest.data.render import Renderer
from palimpsest.measures._forward import ForwardMeasure, Predicted, Reader, Row


class Options(ForwardMeasure):
    """Log-probability of every option text of every item, given the item's context.

    Arrays: ``log_probability`` [options in all], ``tokens`` (how many each has), ``within`` (the longest other option of its
    item that it begins with, token by token, or -1: who writes the longer one has begun with the shorter one too), ``start``
    [items + 1]. Texts: ``names`` [options in all]. Nothing is normalised: what the options of an item that are within no other
    add up to is the probability that an answer begins with any of them.
    """

    row_kind: ClassVar[str] = "options"

    def rows(self, renderer: Renderer, items: Sequence[Example], context_length: int) -> list[Row]:
        encoded = [renderer.encode_option(item, text) for item in items for text in item.options.values()]
        return [Row(one.tokens, one.decision) for one in encoded]

    def reader(self, renderer: Renderer, items: Sequence[Example], rows: list[Row], after: Measurement | None) -> Reader:
        return _Reader(items, rows)


class _Reader(Reader):
    def __init__(self, items: Sequence[Example], rows: Sequence[Row]) -> None:
        self.names = [name for item in items for name in item.options]
        self.start = np.cumsum([0, *(len(item.options) for item in items)]).astype(np.int64)
        self.log_probability = np.full(len(self.names), np.nan, dtype=np.float64)
        self.tokens = np.array([row.predicted for row in rows], dtype=np.int64)
        spans = zip(self.start[:-1], self.start[1:], strict=True)
        self.within = np.array(
            [_longest_beginning(rows, index, range(low, high)) for low, high in spans for index in range(low, high)],
            dtype=np.int64,
        )

    def read(self, index: int, seen: Predicted) -> None:
        self.log_probability[index] = seen.log_probability.sum(dtype=np.float64)

    def finish(self) -> Measurement:
        arrays = {"log_probability": self.log_probability, "tokens": self.tokens, "within": self.within, "start": self.start}
        return Measurement(arrays, {"names": self.names})


def _longest_beginning(rows: Sequence[Row], index: int, others: Sequence[int]) -> int:
    """Return which of the other rows is the longest beginning of a row, or -1; of two that are the same only the first has."""
    tokens = rows[index].tokens
    found = [
        other
        for other in others
        if other != index
        and tokens[: len(rows[other].tokens)] == rows[other].tokens
        and (len(rows[other].tokens) < len(tokens) or other > index)
    ]
    return max(found, key=lambda other: (len(rows[other].tokens), -other), default=-1)
