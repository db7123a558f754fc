"""Distributions: what does the model expect next, at each position of a text?

Holding a full distribution at every position of a large vocabulary takes too much room, so the base is kept at its most likely
tokens and the tuned model is read at the same ones. Everything else is one rest cell; a divergence over the coarser cells is a
lower bound of the full one, and exact where the vocabulary fits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from pydantic import Field

from palimpsest.core.measurement import Measurement
from palimpsest.data.chat import Example
from palimpsest.data.render import Renderer
from palimpsest.measures._forward import ForwardMeasure, Predicted, Reader, Row, rounding, whole_rows


class Distributions(ForwardMeasure):
    """Log-probabilities at the most likely tokens of each position.

    Arrays: ``token`` [positions, cells] int32 (left out when the cells are the whole vocabulary in order),
    ``log_probability`` [positions, cells] float32, ``log_rest`` [positions], ``target`` [positions] (the token that came),
    ``start`` [items + 1], ``length`` [items] (how many positions there are, read or not), ``vocabulary`` (ids of all tokens
    named, with texts ``vocabulary``), ``rounding`` [] (the nats by which rounding may move a log-probability; NaN in half
    precision, where as much can be a change). With ``after`` the cells are those of the earlier measurement.
    """

    cells: int = Field(default=1024, gt=0)
    positions: int = Field(default=8_192, gt=0)
    """Largest number of positions that are kept: an equal share of each item, from its beginning."""

    def rows(self, renderer: Renderer, items: Sequence[Example], context_length: int) -> list[Row]:
        return whole_rows(renderer, items, context_length)

    def reader(self, renderer: Renderer, items: Sequence[Example], rows: list[Row], after: Measurement | None) -> Reader:
        return _Reader(renderer, rows, self.cells, self.positions, after)


class _Reader(Reader):
    def __init__(self, renderer: Renderer, rows: list[Row], cells: int, positions: int, after: Measurement | None) -> None:
        self.length = np.array([row.predicted for row in rows], dtype=np.int64)
        self.start = np.concatenate([[0], np.cumsum(equal_shares(self.length, positions))])
        self.renderer, self.cells, self.after = renderer, cells, after
        self.token: np.ndarray | None = None
        self.log_probability: np.ndarray | None = None
        self.log_rest = np.full(self.start[-1], -np.inf, dtype=np.float32)
        self.target = np.zeros(self.start[-1], dtype=np.int32)
        self.size, self.rounding = 0.0, math.nan

    @contextmanager
    def watch(self, subject: Any) -> Iterator[None]:
        yield
        if subject.model.dtype in (torch.float32, torch.float64):
            self.rounding = rounding(subject.model, self.size)

    def read(self, index: int, seen: Predicted) -> None:
        low, high = int(self.start[index]), int(self.start[index + 1])
        if low == high:
            return
        log_p = seen.logits[: high - low] - seen.log_normaliser[: high - low, None]
        vocabulary = log_p.shape[-1]
        if self.log_probability is None:
            self.size = float((log_p - log_p.mean(-1, keepdim=True)).abs().max())
            self.log_probability = np.zeros((self.start[-1], min(self.cells, vocabulary)), dtype=np.float32)
            if self.cells < vocabulary:
                self.token = np.zeros(self.log_probability.shape, dtype=np.int32)
        if self.token is not None:
            if self.after is None:
                cells = log_p.topk(self.cells, dim=-1).indices
            else:
                cells = torch.from_numpy(self.after.arrays["token"][low:high].astype(np.int64)).to(log_p.device)
            self.token[low:high] = cells.cpu().numpy()
            log_p = log_p.gather(-1, cells)
            rest = (1.0 - log_p.double().exp().sum(-1)).clamp(min=1e-12)
            self.log_rest[low:high] = rest.log().float().cpu().numpy()
        self.log_probability[low:high] = log_p.cpu().numpy()
        self.target[low:high] = seen.targets[: high - low].cpu().numpy()

    def finish(self) -> Measurement:
        assert self.log_probability is not None, "there must be at least one position"
        arrays = {
            "log_probability": self.log_probability,
            "log_rest": self.log_rest,
            "target": self.target,
            "start": self.start.astype(np.int64),
            "length": self.length,
            "rounding": np.array(self.rounding),
        }
        known = np.arange(self.log_probability.shape[1]) if self.token is None else np.unique(self.token)
        known = np.union1d(known, self.target)
        arrays["vocabulary"] = known.astype(np.int64)
        texts = {"vocabulary": self.renderer.token_texts(known.tolist())}
        return Measurement(arrays if self.token is None else {**arrays, "token": self.token}, texts)


def equal_shares(lengths: np.ndarray, most: int) -> np.ndarray:
    """Return how much of each is kept, of ``most`` in all: the same of all that are long enough, the shorter ones whole."""
    if lengths.sum() <= most:
        return lengths
    low, high = 0, int(lengths.max())
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if np.minimum(lengths, middle).sum() <= most else (low, middle)
    kept = np.minimum(lengths, low)
    longer = np.flatnonzero(lengths > low)
    kept[longer[: most - kept.sum()]] += 1
    return kept
