"""Decisions: what does the model expect next where it decides?

Only the first token of each decision, where ``distributions`` keeps every token of a text.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from palimpsest.core.measurement import Measurement
from palimpsest.data.chat import Example
from palimpsest.data.render import Renderer
from palimpsest.measures._forward import ForwardMeasure, Reader, Row, whole_rows
from palimpsest.measures._steering import Cells


class Decisions(ForwardMeasure):
    """Log-probabilities of the first decision token.

    Arrays: ``log_probability`` [items, cells] float32, ``log_rest`` [items] (of all other tokens), ``token`` [items, cells]
    (left out when the cells are the whole vocabulary in order). With ``after`` the cells are those of the earlier measurement.
    """

    cells: int = Field(default=1024, gt=0)

    def rows(self, renderer: Renderer, items: Sequence[Example], context_length: int) -> list[Row]:
        return whole_rows(renderer, items, context_length)

    def reader(self, renderer: Renderer, items: Sequence[Example], rows: list[Row], after: Measurement | None) -> Reader:
        return Cells([1] * len(rows), self.cells, after.arrays.get("token") if after else None)
