"""Measure: what can be read off one model on given items?

A measure is one module in ``palimpsest/measures``; its fields are its parameters. It sees one subject at a time and returns
arrays. What only reads a forward pass derives from ``ForwardMeasure``, so that all of them share one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from palimpsest.core import discover
from palimpsest.core.measurement import Measurement
from palimpsest.core.spec import Spec
from palimpsest.data.chat import Example, ItemSet
from palimpsest.data.render import Renderer

PACKAGE = "palimpsest.measures"
Progress = Callable[[int, int], None]
"""Called with (rows done, rows in all)."""


@dataclass(frozen=True)
class Budget:
    """How much goes through the model at once. It is part of every cache key: both models see the same batches."""

    context: int
    """Longest sequence that every model of the comparison takes."""
    tokens: int = 8_192
    logits: int = 2**26
    """Largest number of logits held at once (positions x vocabulary)."""

    def halved(self) -> Budget:
        return Budget(self.context, max(self.tokens // 2, 1), max(self.logits // 2, 1))

    @property
    def smallest(self) -> bool:
        return self.tokens <= 64


@dataclass(frozen=True)
class Row:
    """One sequence to run: the model predicts ``tokens[first:]``, each from everything before it."""

    tokens: tuple[int, ...]
    first: int

    @property
    def predicted(self) -> int:
        return len(self.tokens) - self.first


class Measure(Spec, ABC):
    """One way to read a model."""

    @abstractmethod
    def take(self, subject: Any, items: ItemSet, budget: Budget, after: Measurement | None, progress: Progress) -> Measurement:
        """Measure the items on a subject (``palimpsest.models.subject.Subject``), in their order."""


class ForwardMeasure(Measure):
    """A measure that reads logits. Measures of the same ``row_kind`` have the same rows and share one forward pass."""

    row_kind: ClassVar[str] = "whole"

    @abstractmethod
    def rows(self, renderer: Renderer, items: Sequence[Example], context_length: int) -> list[Row]:
        """Return the sequences to run."""

    @abstractmethod
    def reader(self, renderer: Renderer, items: Sequence[Example], rows: list[Row], after: Measurement | None) -> Reader:
        """Return what collects the arrays over one pass."""

    def take(self, subject: Any, items: ItemSet, budget: Budget, after: Measurement | None, progress: Progress) -> Measurement:
        return take_together(subject, items, [(self, after)], budget, progress)[0]


class Reader(ABC):
    """Collects what one measure wants from a forward pass, row by row."""

    @abstractmethod
    def read(self, index: int, logits: torch.Tensor, log_normaliser: torch.Tensor, targets: torch.Tensor) -> None:
        """Take one row.

        Args:
            index: which row.
            logits: float32 [predicted, vocabulary].
            log_normaliser: their logsumexp [predicted].
            targets: the tokens that came [predicted].
        """

    @abstractmethod
    def finish(self) -> Measurement:
        """Return everything that was read."""


def load(name: str, parameters: dict[str, Any]) -> Measure:
    """Return the measure of that name with these parameters."""
    return discover.find(PACKAGE, name, Measure).read(parameters, f"the parameters of measure '{name}'")


def take_together(
    subject: Any,
    items: ItemSet,
    measures: Sequence[tuple[ForwardMeasure, Measurement | None]],
    budget: Budget,
    progress: Progress,
) -> list[Measurement]:
    """Take several forward measures that run the same rows in one pass, each with what it starts from."""
    from palimpsest.measures._forward import run_rows

    rows = measures[0][0].rows(subject.renderer, items.items, budget.context)
    readers = [measure.reader(subject.renderer, items.items, rows, after) for measure, after in measures]
    run_rows(subject, rows, readers, budget, progress)
    return [reader.finish() for reader in readers]


def whole_rows(renderer: Renderer, items: Sequence[Example], context_length: int) -> list[Row]:
    """Return each item as one row; a bare text is cut to the context, a conversation must fit."""
    rows = []
    for item in items:
        encoded = renderer.encode(item)
        limit = context_length if item.messages[0].role == "text" else len(encoded.tokens)
        last = max((i for i, weight in enumerate(encoded.weights[:limit]) if weight >= 1.0), default=encoded.decision - 1)
        rows.append(Row(encoded.tokens[: last + 1], encoded.decision))
    return rows
