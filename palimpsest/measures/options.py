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

    Arrays: ``log_probability`` [options in all], ``start`` [items + 1]. Texts: ``names`` [options in all].
    """

    row_kind: ClassVar[str] = "options"

    def rows(self, renderer: Renderer, items: Sequence[Example], context_length: int) -> list[Row]:
        encoded = [renderer.encode_option(item, text) for item in items for text in item.options.values()]
        return [Row(one.tokens, one.decision) for one in encoded]

    def reader(self, renderer: Renderer, items: Sequence[Example], rows: list[Row], after: Measurement | None) -> Reader:
        return _Reader(items)


class _Reader(Reader):
    def __init__(self, items: Sequence[Example]) -> None:
        self.names = [name for item in items for name in item.options]
        self.start = np.cumsum([0, *(len(item.options) for item in items)]).astype(np.int64)
        self.log_probability = np.full(len(self.names), np.nan, dtype=np.float64)

    def read(self, index: int, seen: Predicted) -> None:
        self.log_probability[index] = seen.log_probability.sum(dtype=np.float64)

    def finish(self) -> Measurement:
        return Measurement({"log_probability": self.log_probability, "start": self.start}, {"names": self.names})
