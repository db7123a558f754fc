"""Activations: what is in the residual stream at the places that matter, and what does its change say when it is read out?

Of a conversation those are the place where the model decides (the last token of the context) and the rest of its decision; of
a text its first tokens and the rest. Only these are kept, layer by layer, while the rows go through the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from pydantic import Field

from palimpsest import ranks
from palimpsest.core.measurement import Measurement
from palimpsest.data.chat import Example
from palimpsest.data.render import Renderer
from palimpsest.measures._forward import Batch, ForwardMeasure, Predicted, Reader, Row, whole_rows
from palimpsest.measures._lens import Lens
from palimpsest.models.taps import streaming_blocks, watching

_FEWEST_ITEMS = 16


class Activations(ForwardMeasure):
    """The residual stream at chosen positions ("slots"), or its difference from an earlier measurement.

    Arrays: ``depth`` [depths] (0 is what enters the first block, d what leaves block d), ``item`` [items] (which of the set),
    ``present`` [items, slots] (a short answer has no later tokens). Texts: ``slots``.
    Without ``after``: ``residual`` [items, depths, slots, width] float32, 0 where not present.
    With ``after``: ``difference`` of the same shape, from the earlier model to this one, ``length`` [items, depths, slots]
    (that of the earlier model's residual stream) and ``cosine`` of the two; and what the mean difference says through the logit
    lens (see ``_lens``). Where shapes differ there is ``shape`` [2, 2] instead: blocks and width of the earlier model and of
    this one. Of a model whose residual stream can't be found there is only the text ``why``.
    """

    first_tokens: int = Field(default=5, ge=1)
    """So many tokens of a text are kept apart, from the first on."""
    items: int = Field(default=256, ge=8)
    """Largest number of items, spread evenly over the set."""
    depths: int = Field(default=13, ge=2)
    """Largest number of depths, spread evenly from the first to the last."""
    values: int = Field(default=2**24, gt=0)
    """Largest number of values kept of one set; of a wide model fewer items are kept."""
    lens: Lens = Lens()

    def rows(self, renderer: Renderer, items: Sequence[Example], context_length: int) -> list[Row]:
        return whole_rows(renderer, items, context_length)

    def reader(self, renderer: Renderer, items: Sequence[Example], rows: list[Row], after: Measurement | None) -> Reader:
        return _Reader(self, renderer, items, rows, after)

    def chosen_depths(self, layers: int) -> list[int]:
        """Return the depths that are kept of a model of so many blocks."""
        return sorted({round(one) for one in np.linspace(0, layers, min(self.depths, layers + 1))})

    def chosen_items(self, count: int, numbers_each: int) -> list[int]:
        """Return which of so many items are kept, when each has so many numbers."""
        most = max(min(self.items, self.values // numbers_each), _FEWEST_ITEMS)
        return sorted({round(one) for one in np.linspace(0, count - 1, min(most, count))})

    def numbers(self, items: int, layers: int, width: int) -> int:
        each = len(self.chosen_depths(layers)) * (self.first_tokens + 1) * width
        return each * len(self.chosen_items(items, each))


class _Reader(Reader):
    def __init__(
        self, measure: Activations, renderer: Renderer, items: Sequence[Example], rows: list[Row], after: Measurement | None
    ) -> None:
        self.measure, self.renderer, self.items, self.rows, self.after = measure, renderer, items, rows, after
        self.is_text = items[0].is_text
        first = measure.first_tokens
        self.slots = [*(f"token {one + 1}" for one in range(first)), "later tokens"] if self.is_text else ["decision", "answer"]
        self.batch: Batch | None = None
        self.found: dict[str, np.ndarray] = {}
        self.texts: dict[str, list[str]] = {}

    @contextmanager
    def watch(self, subject: Any) -> Iterator[None]:
        try:
            self._prepare(subject)
        except LookupError as error:
            self.texts["why"] = [str(error)]
            yield
            return
        with watching(subject.model, self._see, self.depths):
            yield
        if "why" not in self.texts:
            self._compare(subject)

    def begin(self, batch: Batch) -> None:
        self.batch = batch

    def end(self) -> None:
        self.batch = None

    def gather(self) -> None:
        if why := ranks.said_by_any(self.texts.get("why", [""])[0]):
            self.texts["why"] = [why]
            return
        self.residual, self.present = ranks.put_together(self.residual), ranks.put_together(self.present)

    def read(self, index: int, seen: Predicted) -> None:
        """What is looked for lies inside, not in the logits."""

    def finish(self) -> Measurement:
        if "why" in self.texts:
            return Measurement({"layers": np.zeros(1, dtype=np.int64)}, {"why": self.texts["why"]})
        texts = {"slots": self.slots, **self.texts}
        return Measurement({"depth": np.array(self.depths), "item": np.array(self.chosen), **self.found}, texts)

    def _prepare(self, subject: Any) -> None:
        self.layers, width = len(streaming_blocks(subject.model)), subject.model.config.get_text_config().hidden_size
        self.depths = self.measure.chosen_depths(self.layers)
        self.chosen = self.measure.chosen_items(len(self.items), len(self.depths) * len(self.slots) * width)
        self.place = {index: place for place, index in enumerate(self.chosen)}
        self.level = {depth: level for level, depth in enumerate(self.depths)}
        self.present = np.zeros((len(self.chosen), len(self.slots)), dtype=bool)
        self.residual = np.zeros((len(self.chosen), len(self.depths), len(self.slots), width), dtype=np.float32)

    def _spans(self, row: Row) -> list[tuple[int, int, int]]:
        """Return (slot, first position, position after the last) of what is kept of a row; its last token is not run."""
        last, count = len(row.tokens) - 1, self.measure.first_tokens
        if self.is_text:
            found = [*((one, one, one + 1) for one in range(count)), (count, count, last)]
        else:
            found = [(0, row.first - 1, row.first), (1, row.first, last)]
        return [one for one in found if one[1] < one[2] <= last]

    def _see(self, depth: int, stream: torch.Tensor) -> None:
        if self.batch is None or "why" in self.texts:
            return
        if stream.dim() != 3 or stream.shape[-1] != self.residual.shape[-1]:
            self.texts["why"] = [f"what leaves a block has shape {tuple(stream.shape)}, not (lines, tokens, hidden size)"]
            return
        kept, places, slots = [], [], []
        for line, index in self.batch.rows():
            if index in self.place:
                for slot, start, stop in self._spans(self.rows[index]):
                    kept.append(stream[line, self.batch.columns(line, index, start, stop)].float().mean(0))
                    places.append(self.place[index])
                    slots.append(slot)
        if kept:
            self.residual[places, self.level[depth], slots] = torch.stack(kept).cpu().numpy()
            self.present[places, slots] = True

    def _compare(self, subject: Any) -> None:
        """Turn what was read into what is kept: itself, or its difference from the earlier model's."""
        self.found = {"present": self.present}
        if self.after is None:
            self.found |= {"residual": self.residual, "layers": np.array([self.layers])}
            return
        if "why" in self.after.texts:
            self.texts["why"] = self.after.texts["why"]
            return
        before, layers = self.after.arrays["residual"], int(self.after.arrays["layers"][0])
        if before.shape != self.residual.shape or layers != self.layers:
            self.found["shape"] = np.array([[layers, before.shape[-1]], [self.layers, self.residual.shape[-1]]])
            return
        difference = self.residual - before
        one, other = (np.linalg.norm(array, axis=-1) for array in (before, self.residual))
        cosine = np.einsum("ndsw,ndsw->nds", before, self.residual) / np.maximum(one * other, 1e-30)
        self.found |= {"difference": difference, "length": one, "cosine": cosine}
        templates = [self.items[index].template for index in self.chosen]
        readings, texts = self.measure.lens.readings(subject, difference, self.present, templates)
        self.found |= readings
        self.texts |= texts
