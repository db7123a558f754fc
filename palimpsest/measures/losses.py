"""Losses: how surprised is the model by the decision tokens of each item?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from palimpsest.core.measurement import Measurement
from palimpsest.data.chat import Example
from palimpsest.data.render import Renderer
from palimpsest.measures._forward import ForwardMeasure, Predicted, Reader, Row, whole_rows


class Losses(ForwardMeasure):
    """Negative log-probability of each decision token, and whether it was the most likely one.

    Arrays: ``nats`` and ``correct`` [tokens in all], ``start`` [items + 1]: item i owns ``start[i]:start[i + 1]``.
    An item whose tokens are all correct is what greedy decoding would have written.
    """

    def rows(self, renderer: Renderer, items: Sequence[Example], context_length: int) -> list[Row]:
        return whole_rows(renderer, items, context_length)

    def reader(self, renderer: Renderer, items: Sequence[Example], rows: list[Row], after: Measurement | None) -> Reader:
        return _Reader(rows)


class _Reader(Reader):
    def __init__(self, rows: list[Row]) -> None:
        self.start = np.cumsum([0, *(row.predicted for row in rows)])
        self.nats = np.full(self.start[-1], np.nan, dtype=np.float32)
        self.correct = np.zeros(self.start[-1], dtype=np.bool_)

    def read(self, index: int, seen: Predicted) -> None:
        place = slice(self.start[index], self.start[index + 1])
        self.nats[place] = -seen.log_probability
        self.correct[place] = seen.correct

    def finish(self) -> Measurement:
        return Measurement({"nats": self.nats, "correct": self.correct, "start": self.start.astype(np.int64)})
