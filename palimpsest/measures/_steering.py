"""Steering: what is read of rows while a vector is added to the residual stream, and without one?

Readers that several measures share, and the rows that they read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from palimpsest import ranks
from palimpsest.core.measurement import Measurement
from palimpsest.data.chat import Example
from palimpsest.data.render import Renderer
from palimpsest.measures._forward import Batch, Predicted, Reader, Row, run_rows
from palimpsest.measures._measure import Budget, Progress
from palimpsest.models.taps import adding, watching


class Streams(Reader):
    """Keeps the mean residual stream over a span of each row.

    ``values`` [rows, depths, width], 0 for rows without a span.

    Args:
        spans: first position and the one after the last, of each row.
        depths: after how many blocks.
    """

    def __init__(self, spans: Sequence[tuple[int, int] | None], depths: Sequence[int]) -> None:
        self.spans, self.depths = spans, depths
        self.level = {depth: level for level, depth in enumerate(depths)}
        self.batch: Batch | None = None
        self.why = ""
        self.values = np.zeros((0, 0, 0), dtype=np.float32)

    @contextmanager
    def watch(self, subject: Any) -> Iterator[None]:
        width = subject.model.config.get_text_config().hidden_size
        self.values = np.zeros((len(self.spans), len(self.depths), width), dtype=np.float32)
        with watching(subject.model, self._see, self.depths):
            yield

    def begin(self, batch: Batch) -> None:
        self.batch = batch

    def end(self) -> None:
        self.batch = None

    def gather(self) -> None:
        if why := ranks.said_by_any(self.why):
            raise LookupError(why)
        self.values = ranks.put_together(self.values)

    def _see(self, depth: int, stream: torch.Tensor) -> None:
        if self.batch is None:
            return
        if stream.dim() != 3 or stream.shape[-1] != self.values.shape[-1]:
            self.why = f"what leaves a block has shape {tuple(stream.shape)}, not (lines, tokens, hidden size)"
            return
        kept, rows = [], []
        for line, index in self.batch.rows():
            if (span := self.spans[index]) is not None:
                kept.append(stream[line, self.batch.columns(line, index, *span)].float().mean(0))
                rows.append(index)
        if kept:
            self.values[rows, self.level[depth]] = torch.stack(kept).cpu().numpy()

    def read(self, index: int, seen: Predicted) -> None:
        """What is looked for lies inside, not in the logits."""

    def finish(self) -> Measurement:
        return Measurement({"residual": self.values})


class Added(Reader):
    """Adds a vector after a block, from the place where each row decides (the last token of its context) on.

    It comes before readers that look inside, which then see what was added.

    Args:
        rows: what is run.
        depth: after how many blocks.
        vector: shape (width,).
    """

    def __init__(self, rows: Sequence[Row], depth: int, vector: np.ndarray) -> None:
        self.rows, self.depth, self.vector = rows, depth, torch.from_numpy(vector.astype(np.float32))
        self.places = torch.zeros(1, 1)

    @contextmanager
    def watch(self, subject: Any) -> Iterator[None]:
        with adding(subject.model, self.depth, self.vector.to(subject.device), lambda: self.places):
            yield

    def begin(self, batch: Batch) -> None:
        self.places = torch.zeros(len(batch.lines), batch.width)
        for line, index in batch.rows():
            row = self.rows[index]
            self.places[line, batch.columns(line, index, row.first - 1, len(row.tokens) - 1)] = 1.0

    def end(self) -> None:
        self.places = torch.zeros(1, 1)

    def read(self, index: int, seen: Predicted) -> None:
        """It only adds."""

    def finish(self) -> Measurement:
        return Measurement({})


class Answers(Reader):
    """Keeps the log-probability of each row's answer, ``log_probability`` [rows]."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.log_probability = np.full(len(rows), np.nan)

    def read(self, index: int, seen: Predicted) -> None:
        self.log_probability[index] = seen.log_probability.sum(dtype=np.float64)

    def finish(self) -> Measurement:
        return Measurement({"log_probability": self.log_probability})


class Cells(Reader):
    """Keeps log-probabilities of the most likely tokens at the first places of rows, or at those that another reader kept.

    ``log_probability`` [places, cells], ``log_rest`` [places], ``token`` [places, cells] (``None`` where the cells are the
    whole vocabulary in order).

    Args:
        places: how many places of each row are kept.
        most: how many cells.
        like: tokens [places, cells] that an earlier reader took, so that both can be compared.
    """

    def __init__(self, places: Sequence[int], most: int, like: np.ndarray | None = None) -> None:
        self.start = np.concatenate([[0], np.cumsum(places)]).astype(np.int64)
        self.most, self.like = most, like
        self.token: np.ndarray | None = None
        self.log_probability = np.zeros((0, 0), dtype=np.float32)
        self.log_rest = np.full(int(self.start[-1]), -np.inf)

    def read(self, index: int, seen: Predicted) -> None:
        low, high = int(self.start[index]), int(self.start[index + 1])
        if low == high:
            return
        log_p = seen.logits[: high - low] - seen.log_normaliser[: high - low, None]
        if not self.log_probability.size:
            count = min(self.most, log_p.shape[-1])
            self.log_probability = np.zeros((int(self.start[-1]), count), dtype=np.float32)
            self.token = np.zeros(self.log_probability.shape, dtype=np.int64) if count < log_p.shape[-1] else None
        if self.token is not None:
            cells = log_p.topk(self.most, -1).indices
            if self.like is not None:
                cells = torch.from_numpy(self.like[low:high]).to(log_p.device)
            self.token[low:high] = cells.cpu().numpy()
            log_p = log_p.gather(-1, cells)
            self.log_rest[low:high] = (1.0 - log_p.double().exp().sum(-1)).clamp(min=1e-12).log().cpu().numpy()
        self.log_probability[low:high] = log_p.cpu().numpy()

    def finish(self) -> Measurement:
        known = {} if self.token is None else {"token": self.token}
        return Measurement({"log_probability": self.log_probability, "log_rest": self.log_rest, **known})


def answer_rows(renderer: Renderer, items: Sequence[Example], longest: int) -> tuple[list[Row], np.ndarray]:
    """Return a row for each answer of each item, its first ``longest`` tokens, and where each item's rows start [items + 1].

    An item without options has one row: its reference answer.
    """
    rows, start = [], [0]
    for item in items:
        found = [renderer.encode_option(item, text) for text in item.options.values()] or [renderer.encode(item)]
        for one in found:
            last = max(i for i, weight in enumerate(one.weights) if weight >= 1.0) + 1
            rows.append(Row(one.tokens[: min(last, one.decision + longest)], one.decision))
        start.append(len(rows))
    return rows, np.array(start, dtype=np.int64)


class Passes:
    """Runs the same rows several times, telling of all passes as of one work.

    Args:
        subject: whose passes.
        rows: what is run.
        budget: how much at once.
        progress: who is told.
        count: how many passes there will be.
    """

    def __init__(self, subject: Any, rows: list[Row], budget: Budget, progress: Progress, count: int) -> None:
        self.subject, self.rows, self.budget, self.progress, self.count = subject, rows, budget, progress, count
        self.done = 0

    def run(self, readers: list[Reader], depth: int = 0, vector: np.ndarray | None = None) -> None:
        """Run all rows, with a vector added after so many blocks where one is given."""

        def tell(done: int, _total: int) -> None:
            self.progress(self.done * len(self.rows) + done, self.count * len(self.rows))

        added: list[Reader] = [] if vector is None else [Added(self.rows, depth, vector)]
        run_rows(self.subject, self.rows, [*added, *readers], self.budget, tell)
        self.done += 1


def spread(count: int, most: int) -> list[int]:
    """Return which of so many items are read: at most so many, evenly spread."""
    return sorted({round(one) for one in np.linspace(0, count - 1, min(most, count))})


def guarded(take: Callable[[], Mapping[str, np.ndarray]]) -> Measurement:
    """Return what was taken, or why a model's residual stream can't be found."""
    try:
        return Measurement(dict(take()), {})
    except LookupError as error:
        return Measurement({"layers": np.zeros(1, dtype=np.int64)}, {"why": [str(error)]})
