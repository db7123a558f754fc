"""Forward: how do rows get through a model with as little work as possible?

What rows begin with together is run once (see ``_sharing``). Lines are batched by length and padded on the left, so that what
is predicted lies flush at the right and only its logits are computed. The last token of a row predicts nothing, so it is not
run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch

from palimpsest import ranks
from palimpsest.core.measurement import Measurement
from palimpsest.data.chat import Example, ItemSet
from palimpsest.data.render import Renderer
from palimpsest.measures._measure import Budget, Measure, Progress
from palimpsest.measures._sharing import Line, lines_of, model_inputs, widest_line
from palimpsest.models import reading

_ANY = 2**31
_ROOM = 6.0
_CPU_TOKENS, _CPU_LOGITS = 2_048, 2**24
"""More at once is slower on a CPU, because what passes from layer to layer leaves its caches."""
_CPU_PASS, _PASS = 64, 4_096
"""What starting a pass costs, in columns that could be run meanwhile; an accelerator waits for Python."""


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
    """Which rows lie where in one forward pass."""

    lines: Sequence[Line]
    width: int

    def rows(self) -> Iterator[tuple[int, int]]:
        """Yield the line and the number of every row."""
        for place, line in enumerate(self.lines):
            yield from ((place, index) for index in line.columns)

    def columns(self, line: int, index: int, start: int, stop: int) -> slice | np.ndarray:
        """Return where the positions ``start`` to ``stop`` (exclusive) of a row lie in its padded line."""
        found = self.lines[line].columns[index][start:stop] + (self.width - self.lines[line].width)
        whole = len(found) and found[-1] - found[0] + 1 == len(found)
        return slice(int(found[0]), int(found[-1]) + 1) if whole else found


class Predicted:
    """What one row predicts.

    A number of each token is found for all rows of a pass at once: an accelerator stands still each time that one is asked for.

    Args:
        batch: of all rows of the pass.
        places: where among the positions of the pass.
        own: where among the predictions of all rows.
    """

    def __init__(self, batch: _Predictions, places: slice | np.ndarray, own: slice) -> None:
        self._batch, self._own = batch, own
        self._place = places if isinstance(places, slice) else torch.from_numpy(places).to(batch.logits.device)

    @property
    def logits(self) -> torch.Tensor:
        """Float32 [predicted, vocabulary]."""
        return self._batch.logits[self._place]

    @property
    def log_normaliser(self) -> torch.Tensor:
        """Their logsumexp [predicted]."""
        return self._batch.log_normaliser[self._place]

    @property
    def targets(self) -> torch.Tensor:
        """The tokens that came [predicted]."""
        return self._batch.targets[self._own]

    @property
    def log_probability(self) -> np.ndarray:
        """Of the tokens that came, in nats, float32 [predicted]."""
        return self._batch.log_probability[self._own]

    @property
    def correct(self) -> np.ndarray:
        """Whether they were the most likely ones, bool [predicted]."""
        return self._batch.correct[self._own]


class _Predictions:
    """What the rows of a pass predict.

    Args:
        logits: float32 [positions, vocabulary].
        place: of each prediction of every row, which of the positions it is made at.
        tokens: and what came.
    """

    def __init__(self, logits: torch.Tensor, place: np.ndarray, tokens: np.ndarray) -> None:
        self.logits = logits
        self._place, self.targets = torch.from_numpy(np.stack([place, tokens])).to(logits.device)

    @cached_property
    def log_normaliser(self) -> torch.Tensor:
        return self.logits.logsumexp(-1)

    @cached_property
    def log_probability(self) -> np.ndarray:
        return (self.logits[self._place, self.targets] - self.log_normaliser[self._place]).cpu().numpy()

    @cached_property
    def correct(self) -> np.ndarray:
        return (self.logits.argmax(-1)[self._place] == self.targets).cpu().numpy()


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
    def read(self, index: int, seen: Predicted) -> None:
        """Take what the row of that number predicts."""

    @abstractmethod
    def finish(self) -> Measurement:
        """Return everything that was read."""


def rounding(model: Any, size: float) -> float:
    """Return the nats by which rounding may move a log-probability of a model, in the type that it is run in.

    A sum of rounded numbers wanders off like a random walk: with the square root of the number of layers, and within a
    product, which is summed in float32, with that of its width; in steps of the type's precision at the size of the largest
    logit. The factor leaves room for the extremes of many thousand logits (docs/doctor.md has what was measured).

    Args:
        model: as it is in memory.
        size: its largest logit, from the mean of all.
    """
    config = model.config.get_text_config()
    layers, width = getattr(config, "num_hidden_layers", None) or 1, model.get_input_embeddings().weight.shape[-1]
    step = torch.finfo(model.dtype).eps + torch.finfo(torch.float32).eps * width**0.5
    return _ROOM * step * layers**0.5 * max(size, 1.0)


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


def plan(
    rows: list[Row],
    budget: Budget,
    vocabulary: int,
    widest: int = 0,
    whole_context: bool = False,
    padded: bool = True,
    pass_cost: int = 0,
) -> list[list[Line]]:
    """Return batches of lines, similar widths together.

    Args:
        rows: what is run; rows that differ only in their last token are always run once.
        budget: how much at once.
        vocabulary: logits of a position.
        widest: how wide a line of several rows may be (``_sharing.widest_line``).
        whole_context: rows share a line only when they decide at the same place after the same tokens.
        padded: whether lines of several widths may share a batch.
        pass_cost: what a pass costs beside its columns, in columns.
    """
    inputs = [row.tokens[:-1] for row in rows]
    lines = lines_of(inputs, [row.first - 1 for row in rows], widest, whole_context)
    lines.sort(key=lambda line: (line.width, min(line.columns)))
    return _cheapest(lines, budget, vocabulary, widest, padded, pass_cost)


def _cheapest(
    lines: Sequence[Line], budget: Budget, vocabulary: int, widest: int, padded: bool, pass_cost: int
) -> list[list[Line]]:
    """Cut lines, narrowest first, into batches so that columns run and what a pass costs on its own are fewest together."""
    widths, trailing = (np.array(found, dtype=np.int64) for found in ([x.width for x in lines], [x.trailing for x in lines]))
    plain = np.array([line.is_plain for line in lines])
    least, cut, low = np.zeros(len(lines) + 1), np.zeros(len(lines) + 1, dtype=np.int64), 0
    for end in range(1, len(lines) + 1):
        width = widths[end - 1]
        while (
            low < end - 1
            and (
                (end - low) * width > budget.tokens
                or (end - low) * trailing[low:end].max() * vocabulary > budget.logits
                or (not padded and widths[low] != width)
                # all lines of a batch are masked the same way, and that of several rows knows no sliding window
                or (width > widest and not plain[low:end].all())
            )
        ):
            low += 1
        costs = least[low:end] + width * (end - np.arange(low, end))
        cut[end] = low + int(costs.argmin())
        least[end] = costs.min() + pass_cost
    batches, end = [], len(lines)
    while end:
        batches.append(list(lines[cut[end] : end]))
        end = int(cut[end])
    return batches[::-1]


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
    inside = any(type(reader).begin is not Reader.begin for reader in readers)
    if subject.device == "cpu":
        budget = replace(budget, tokens=min(budget.tokens, _CPU_TOKENS), logits=min(budget.logits, _CPU_LOGITS))
    vocabulary = subject.model.config.get_text_config().vocab_size
    padded = subject.takes_padding
    cost = _CPU_PASS if subject.device == "cpu" else _PASS
    batches = plan(rows, budget, vocabulary, _ANY if padded else 0, inside, padded, cost)
    if any(not line.is_plain for lines in batches for line in lines):
        batches = plan(rows, budget, vocabulary, widest_line(subject), inside, pass_cost=cost)
    done = 0
    for own, everybody, counts in ranks.turns(batches):
        passed = _pass(subject, own, readers if counts else (), inside)
        for rank, lines in enumerate(everybody):
            _hand_out(rows, readers, lines, ranks.from_rank(rank, passed))
            done += sum(len(line.columns) for line in lines)
            progress(done, len(rows))
    for reader in readers:
        reader.gather()


def _pass(subject: Any, lines: list[Line], readers: Sequence[Reader], inside: bool) -> torch.Tensor:
    """Return the logits of all positions of a batch that predict something, float32 [positions, vocabulary]."""
    where = Batch(lines, max(line.width for line in lines))
    places = _predicting(where)
    kept, own = np.unique(places[1], return_inverse=True)
    keep = len(kept) if len(kept) == where.width - kept[0] else kept.tolist()
    line, column = torch.from_numpy(np.stack([places[0], own])).to(subject.device)
    for reader in readers:
        reader.begin(where)
    # who looks inside may ask the head for more, which is then not told
    with reading.head_at(subject.model, line, column, -1 if inside else len(kept)) as read:
        logits = subject.model(**model_inputs(lines, subject, keep)).logits
        if len(logits) == len(lines) and logits.shape[1] == where.width:  # a model that can't be asked for some columns
            logits = logits[:, kept]
        logits = read(logits)
    for reader in readers:
        reader.end()
    return logits.float()


def _predicting(where: Batch) -> np.ndarray:
    """Return line and column of all positions of a batch that predict something, in the order of both [2, positions]."""
    each = [
        np.arange(where.width - line.trailing, where.width)
        if line.is_plain
        else np.array(sorted(line.predicting())) + (where.width - line.width)
        for line in where.lines
    ]
    return np.stack([np.repeat(np.arange(len(each)), list(map(len, each))), np.concatenate(each)])


def _hand_out(rows: list[Row], readers: list[Reader], lines: list[Line], logits: torch.Tensor) -> None:
    """Give every reader the logits [positions, vocabulary] of each row of a batch."""
    where = Batch(lines, max(line.width for line in lines))
    place = np.zeros((len(lines), where.width), dtype=np.int64)
    place[*_predicting(where)] = np.arange(len(logits))
    held = [
        (index, place[line, where.columns(line, index, rows[index].first - 1, len(rows[index].tokens) - 1)])
        for line, index in where.rows()
    ]
    ends = np.cumsum([0, *(len(places) for _, places in held)])
    predictions = _Predictions(
        logits,
        np.concatenate([places for _, places in held]),
        np.concatenate([rows[index].tokens[rows[index].first :] for index, _ in held]),
    )
    for (index, found), low, high in zip(held, ends[:-1], ends[1:], strict=True):
        whole = found[-1] - found[0] + 1 == len(found)
        places = slice(int(found[0]), int(found[-1]) + 1) if whole else found
        seen = Predicted(predictions, places, slice(int(low), int(high)))
        for reader in readers:
            reader.read(index, seen)
