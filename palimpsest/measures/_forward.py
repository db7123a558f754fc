"""Forward: how do rows get through a model with as little work as possible?

Rows are batched by length and padded on the left, so that what is predicted lies flush at the right and only its logits are
computed. The last token of a row predicts nothing, so it is not run.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from palimpsest import ranks
from palimpsest.core.measurement import Measurement
from palimpsest.data.chat import Example, ItemSet
from palimpsest.data.render import Renderer
from palimpsest.measures._measure import Budget, Measure, Progress


@dataclass(frozen=True)
class Row:
    """One sequence to run: the model predicts ``tokens[first:]``, each from everything before it."""

    tokens: tuple[int, ...]
    first: int

    @property
    def predicted(self) -> int:
        return len(self.tokens) - self.first


@dataclass(frozen=True)
class Batch:
    """Which rows lie where in one forward pass: position p of line i is column ``width - lengths[i] + p``."""

    lines: Sequence[Sequence[int]]
    """The rows of each line; several where they differ only in their last token, which is not run."""
    lengths: Sequence[int]
    """Tokens of each line without its padding."""
    width: int

    def column(self, line: int, position: int) -> int:
        """Return where a position of a row lies in its padded line."""
        return self.width - self.lengths[line] + position


class Reader(ABC):
    """Collects what one measure wants from a forward pass, row by row.

    A reader may also look inside: ``watch`` is open around all passes, ``begin`` and ``end`` around each one that runs rows.
    What it hooks in must change no number and must rest outside ``begin`` and ``end``: other readers may use the model there.
    """

    def watch(self, subject: Any) -> AbstractContextManager[None]:
        """Return what is held open while the rows are run."""
        return nullcontext()

    def begin(self, batch: Batch) -> None:  # noqa: B027 - most readers do not look inside
        """Be told what the next forward pass holds."""

    def end(self) -> None:  # noqa: B027
        """Be told that this forward pass is over; its rows are read next."""

    def gather(self) -> None:  # noqa: B027
        """Bring together what each process saw inside: of the forward passes of several each sees its own only."""

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


def take_together(
    subject: Any,
    items: ItemSet,
    measures: Sequence[tuple[ForwardMeasure, Measurement | None]],
    budget: Budget,
    progress: Progress,
) -> list[Measurement]:
    """Take several forward measures that run the same rows in one pass, each with what it starts from."""
    rows = measures[0][0].rows(subject.renderer, items.items, budget.context)
    readers = [measure.reader(subject.renderer, items.items, rows, after) for measure, after in measures]
    run_rows(subject, rows, readers, budget, progress)
    return [reader.finish() for reader in readers]


def whole_rows(renderer: Renderer, items: Sequence[Example], context_length: int) -> list[Row]:
    """Return each item as one row; a bare text is cut to the context, a conversation must fit."""
    rows = []
    for item in items:
        encoded = renderer.encode(item)
        limit = context_length if item.is_text else len(encoded.tokens)
        last = max((i for i, weight in enumerate(encoded.weights[:limit]) if weight >= 1.0), default=encoded.decision - 1)
        rows.append(Row(encoded.tokens[: last + 1], encoded.decision))
    return rows


def plan(rows: list[Row], budget: Budget, vocabulary: int) -> list[list[list[int]]]:
    """Return batches of inputs, similar lengths together; an input is the list of rows that share it.

    Rows that differ only in their last token (several one-token options after one context) are run once.
    """
    sharing: dict[tuple[int, ...], list[int]] = {}
    for index, row in enumerate(rows):
        if row.predicted > 0:
            sharing.setdefault(row.tokens[:-1], []).append(index)
    order = sorted(sharing, key=lambda tokens: (len(tokens), sharing[tokens][0]))
    batches: list[list[list[int]]] = []
    current: list[list[int]] = []
    predicted = 0
    for tokens in order:
        longest = max(predicted, *(rows[index].predicted for index in sharing[tokens]))
        size = len(current) + 1
        if current and (size * len(tokens) > budget.tokens or size * longest * vocabulary > budget.logits):
            batches.append(current)
            current, longest = [], max(rows[index].predicted for index in sharing[tokens])
        current.append(sharing[tokens])
        predicted = longest
    return [*batches, current] if current else batches


@torch.no_grad()
def run_rows(subject: Any, rows: list[Row], readers: list[Reader], budget: Budget, progress: Progress) -> None:
    """Run all rows once and hand every reader each row's logits.

    Raises:
        torch.OutOfMemoryError: a batch did not fit; nothing of this pass is kept.
    """
    with ExitStack() as stack:
        for reader in readers:
            stack.enter_context(reader.watch(subject))
        _run(subject, rows, readers, budget, progress)


def _run(subject: Any, rows: list[Row], readers: list[Reader], budget: Budget, progress: Progress) -> None:
    accepted = inspect.signature(subject.model.forward).parameters
    done = 0
    for own, everybody, counts in ranks.turns(plan(rows, budget, subject.model.config.get_text_config().vocab_size)):
        passed = _pass(subject, rows, own, readers if counts else (), accepted)
        for rank, batch in enumerate(everybody):
            logits = ranks.from_rank(rank, passed)
            _hand_out(subject, rows, batch, logits, readers)
            done += sum(map(len, batch))
            progress(done, len(rows))
    for reader in readers:
        reader.gather()


def _pass(subject: Any, rows: list[Row], batch: list[list[int]], readers: Sequence[Reader], accepted: Any) -> torch.Tensor:
    """Return the logits of one batch where its lines predict something: float32 [lines, most predicted, vocabulary]."""
    inputs = [rows[sharing[0]].tokens[:-1] for sharing in batch]
    keep = max(rows[index].predicted for sharing in batch for index in sharing)
    where = Batch(batch, [len(one) for one in inputs], max(map(len, inputs)))
    for reader in readers:
        reader.begin(where)
    logits = subject.model(**_padded(inputs, keep, subject, accepted)).logits[:, -keep:].float()
    for reader in readers:
        reader.end()
    return logits


def _hand_out(subject: Any, rows: list[Row], batch: list[list[int]], logits: torch.Tensor, readers: list[Reader]) -> None:
    """Let every reader read every row of a batch."""
    normaliser = logits.logsumexp(-1)
    for line, sharing in enumerate(batch):
        for index in sharing:
            count = rows[index].predicted
            targets = torch.tensor(rows[index].tokens[rows[index].first :], device=subject.device)
            for reader in readers:
                reader.read(index, logits[line, -count:], normaliser[line, -count:], targets)


def _padded(inputs: list[tuple[int, ...]], keep: int, subject: Any, accepted: Any) -> dict[str, Any]:
    width = max(map(len, inputs))
    tokens = torch.full((len(inputs), width), subject.pad_token_id, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for line, one in enumerate(inputs):
        tokens[line, width - len(one) :] = torch.tensor(one)
        mask[line, width - len(one) :] = 1
    offered = {
        "position_ids": (mask.cumsum(-1) - 1).clamp(min=0).to(subject.device),
        "logits_to_keep": keep,
        "use_cache": False,
    }
    chosen = {name: value for name, value in offered.items() if name in accepted}
    return {"input_ids": tokens.to(subject.device), "attention_mask": mask.to(subject.device), **chosen}
