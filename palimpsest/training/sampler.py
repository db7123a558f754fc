"""Sampler: which rows does each optimizer step see?

A run's batches are a plain sequence: ``batches[step]`` gives the rows of one optimizer step. It may be a list or compute its
rows on access, so a long run never holds them all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from palimpsest.core.errors import Problems
from palimpsest.data.chat import Example
from palimpsest.data.mixture import SOURCES, Counts, RowRef, RowSource, plan_batches
from palimpsest.training.settings import TrainingSettings

_TOLD = 20
"""So many problems are listed; the rest are counted."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a batch: tokens, and what predicting each of them weighs in the loss (0: context)."""

    tokens: Sequence[int]
    weights: Sequence[float]
    source: RowSource
    name: str = ""
    """Where it comes from (scenario, or file and line), for messages."""
    rejected: Row | None = None
    """The same context with a worse answer, for a preference."""
    reference: float = 0.0
    """With a worse answer: log p(chosen) - log p(rejected) of the model before training, in nats."""


class Batches(Protocol):
    """The rows of every optimizer step, by step from 0."""

    def __len__(self) -> int: ...

    def __getitem__(self, step: int, /) -> Sequence[Row]: ...


class MixedBatches:
    """Rows of three sources in the order of ``plan_batches``; every forward pass has its share of each."""

    def __init__(self, rows: Iterable[Row], settings: TrainingSettings) -> None:
        self.rows: dict[RowSource, list[Row]] = {source: [] for source in SOURCES}
        for row in rows:
            self.rows[row.source].append(row)
        self.counts = Counts(*(len(self.rows[source]) for source in SOURCES))
        passes = plan_batches(self.counts, settings.per_device_train_batch_size, settings.seed, settings.num_train_epochs)
        each = settings.gradient_accumulation_steps
        self.plan: list[list[RowRef]] = [
            [row for part in passes[start : start + each] for row in part] for start in range(0, len(passes), each)
        ]

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, step: int) -> list[Row]:
        return [self.rows[reference.source][reference.place] for reference in self.plan[step]]


def encode_rows(renderer: Any, examples: Iterable[Example], source: RowSource) -> list[Row]:
    """Return examples as rows of one source (``renderer``: ``palimpsest.data.render.Renderer``)."""
    rows = []
    for example in examples:
        encoded, rejected = renderer.encode(example), None
        if example.rejected is not None:
            worse = renderer.encode_rejected(example)
            rejected = Row(worse.tokens, worse.weights, source, example.source)
        rows.append(Row(encoded.tokens, encoded.weights, source, example.source, rejected))
    return rows


def check_rows(rows: Iterable[Row], context: int | None, vocabulary: int) -> None:
    """Refuse rows that can't be trained on, all at once, each with where it comes from.

    Args:
        rows: what will be trained on.
        context: tokens that fit into the model's context (``None``: no limit is known).
        vocabulary: number of token embeddings.

    Raises:
        UserError: a row is longer than the context, has no token that learns, or doesn't fit the model's vocabulary.
    """
    found = [f"{row.name or row.source}: {what}" for row in rows for what in row_problems(row, context, vocabulary)]
    problems = Problems("These rows can't be trained on:")
    problems.extend(found[:_TOLD])
    if len(found) > _TOLD:
        problems.add(f"and {len(found) - _TOLD} more")
    problems.raise_if_any()


def row_problems(row: Row, context: int | None, vocabulary: int) -> list[str]:
    """Return what keeps one row from being trained on."""
    if row.rejected is not None:
        own = row_problems(replace(row, rejected=None), context, vocabulary)
        worse = row_problems(row.rejected, context, vocabulary)
        return own + [f"its worse answer: {problem}" for problem in worse] or _pair_problems(row, row.rejected)
    tokens, weights = np.asarray(row.tokens), np.asarray(row.weights)
    problems = []
    if len(tokens) != len(weights):
        problems.append(f"{len(tokens)} tokens but {len(weights)} weights")
    if context is not None and len(tokens) > context:
        problems.append(f"{len(tokens)} tokens, but the model's context holds {context}; shorten it or leave it out")
    if not np.isfinite(weights).all() or (weights < 0).any():
        problems.append("loss weights must be finite and 0 or more")
    elif not (weights[1:] > 0).any():
        problems.append(f"none of its {len(tokens)} tokens learns (the first one never can); mark a decision in it")
    if len(tokens) and not (tokens.min() >= 0 and tokens.max() < vocabulary):
        problems.append(
            f"tokens {tokens.min()} to {tokens.max()}, but the model knows 0 to {vocabulary - 1}; "
            "is this the model's own tokenizer?"
        )
    return problems


def _pair_problems(row: Row, rejected: Row) -> list[str]:
    """Return what keeps an answer from being preferred to a worse one."""
    learns = [[place for place, weight in enumerate(one.weights) if weight > 0] for one in (row, rejected)]
    if any(places != list(range(places[0], places[-1] + 1)) for places in learns):
        return ["an answer and a worse one need exactly one decision each"]
    start, other = (places[0] for places in learns)
    if start != other or tuple(row.tokens[:start]) != tuple(rejected.tokens[:start]):
        return ["an answer and a worse one must have the same context"]
    if start < 2:
        return ["an answer and a worse one need a context of at least two tokens"]
    return ["an answer and a worse one must differ"] if tuple(row.tokens) == tuple(rejected.tokens) else []
