"""Sharing: which tokens do rows have in common, and how is each of them run only once?

Several options after one context, or several questions after the same examples, are rows of one *line*: what they begin with
stands in it once, and a token sees only those that come before it in its own row (tree attention: Miao et al. 2023, SpecInfer,
arXiv 2305.09781). That is right where attention alone mixes tokens. Recurrent layers read a line from left to right whatever
the mask says, so a model is tried on a small line first, and rows go through one by one where its predictions differ.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from palimpsest.models import reading

_ANY_WIDTH = 2**31
_SHARED = 0.5
"""A row joins a line when at least so much of it stands there already."""
_WIDEST = 2
"""A line is at most so many times as wide as its first row, because attention costs the square of it."""
_widths: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


@dataclass
class Line:
    """Rows that go through a model as one line of a batch.

    ``tokens`` [width] by column; ``columns`` of each of its rows, where its tokens stand [tokens of the row]; ``firsts``, the
    column that each of them predicts from first.
    """

    tokens: list[int] = field(default_factory=list)
    columns: dict[int, np.ndarray] = field(default_factory=dict)
    firsts: dict[int, int] = field(default_factory=dict)
    _parts: list[tuple[int, np.ndarray]] = field(default_factory=list)
    """Of each stretch of columns where it begins, and the columns that all of it sees before its own."""

    @property
    def width(self) -> int:
        return len(self.tokens)

    @property
    def is_plain(self) -> bool:
        """Whether it is nothing but one row."""
        return len(self._parts) == 1

    @property
    def trailing(self) -> int:
        """How many columns there are from the first one that predicts something."""
        return self.width - min(self.firsts.values())

    def add(self, row: Sequence[int], shared: int, like: int | None, members: Sequence[tuple[int, int]]) -> None:
        """Add a row, of which the first ``shared`` tokens are those of the row ``like``.

        Args:
            row: its tokens.
            shared: how many stand there already.
            like: one of the rows in which they do.
            members: of every row that has just these tokens, its number and the first place that predicts something.
        """
        path = self.columns[like][:shared] if like is not None else np.arange(0)
        columns = np.concatenate([path, np.arange(self.width, self.width + len(row) - shared)])
        if shared < len(row):
            self._parts.append((self.width, path))
        self.tokens += row[shared:]
        for index, first in members:
            self.columns[index], self.firsts[index] = columns, int(columns[first])

    @cached_property
    def positions(self) -> np.ndarray:
        """Return the place of each column in its own row [width]."""
        found = np.zeros(self.width, dtype=np.int64)
        for columns in self.columns.values():
            found[columns] = np.arange(len(columns))
        return found

    def sees(self) -> np.ndarray:
        """Return which columns each column sees, of its own row up to itself [width, width]."""
        found = np.zeros((self.width, self.width), dtype=np.bool_)
        ends = [begin for begin, _ in self._parts[1:]] + [self.width]
        for (begin, path), end in zip(self._parts, ends, strict=True):
            found[begin:end, path] = True
            found[begin:end, begin:end] = np.tri(end - begin, dtype=np.bool_)
        return found

    def predicting(self) -> set[int]:
        """Return the columns that predict something."""
        found: set[int] = set()
        for index, columns in self.columns.items():
            found.update(columns[np.searchsorted(columns, self.firsts[index]) :].tolist())
        return found


def lines_of(inputs: Sequence[Sequence[int]], firsts: Sequence[int], widest: int, whole_context: bool) -> list[Line]:
    """Return rows as lines, in which what rows begin with together stands once.

    Args:
        inputs: the tokens of each row that are run; a row without any is left out.
        firsts: the first place of each that predicts something.
        widest: how wide a line of several rows may be; at 0 only rows of the very same tokens come together.
        whole_context: rows come together only when they predict from the same place after the same tokens.
    """
    members: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for index, (row, first) in enumerate(zip(inputs, firsts, strict=True)):
        if len(row) > first:
            members.setdefault(tuple(row), []).append((index, first))
    lines: list[Line] = []
    before: tuple[int, ...] = ()
    for row in sorted(members) if widest else members:
        shared = _common(before, row)
        like = members[before][0][0] if before else None
        enough = _SHARED * len(row)
        if whole_context and before:
            places = {first for _, first in (*members[before], *members[row])}
            enough = max(enough, max(places) + 1) if len(places) == 1 else len(row) + 1
        room = min(widest, _WIDEST * len(lines[-1].columns[next(iter(lines[-1].columns))])) if lines else 0
        if like is None or shared < enough or lines[-1].width + len(row) - shared > room:
            lines.append(Line())
            shared, like = 0, None
        lines[-1].add(row, shared, like, members[row])
        before = row
    return lines


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens two rows begin with together."""
    most = min(len(one), len(other))
    if one[:most] == other[:most]:
        return most
    return next(place for place in range(most) if one[place] != other[place])


def model_inputs(lines: Sequence[Line], subject: Any, keep: int | Sequence[int]) -> dict[str, Any]:
    """Return what a model is given: lines padded on the left, and of which columns its logits are wanted.

    Args:
        lines: of one batch.
        subject: whose model it is.
        keep: so many of the last columns, or these.
    """
    width = max(line.width for line in lines)
    tokens = torch.full((len(lines), width), subject.pad_token_id, dtype=torch.long)
    positions, mask = torch.zeros_like(tokens), torch.zeros_like(tokens)
    for place, line in enumerate(lines):
        tokens[place, width - line.width :] = torch.tensor(line.tokens)
        positions[place, width - line.width :] = torch.from_numpy(line.positions)
        mask[place, width - line.width :] = 1
    offered = {
        "position_ids": positions.to(subject.device),
        "logits_to_keep": keep if isinstance(keep, int) else torch.tensor(keep, device=subject.device),
        "use_cache": False,
    }
    if subject.takes_padding:
        seen = mask if all(line.is_plain for line in lines) else _tree_mask(lines, width, subject.model.dtype)
        offered |= {"attention_mask": seen.to(subject.device)}
    else:  # lines of one width, read as a plain call reads them
        del offered["position_ids"]
    return {"input_ids": tokens.to(subject.device), **reading.accepted(subject.model, offered)}


def _tree_mask(lines: Sequence[Line], width: int, dtype: torch.dtype) -> torch.Tensor:
    """Return what is added to attention scores [lines, 1, width, width]; padding sees itself, so that no row of it is empty."""
    seen = np.zeros((len(lines), 1, width, width), dtype=np.bool_)
    for place, line in enumerate(lines):
        begin = width - line.width
        seen[place, 0, begin:, begin:] = line.sees()
        seen[place, 0, range(begin), range(begin)] = True
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(torch.from_numpy(~seen), torch.finfo(dtype).min)


def widest_line(subject: Any) -> int:
    """Return how wide a line of several rows may be on this model; 0 where it must not hold several."""
    model = subject.model
    if model not in _widths:
        _widths[model] = _window(model.config.get_text_config()) if tried(lambda: _reads_trees(subject)) else 0
    return _widths[model]


def _window(config: Any) -> int:
    """Return how far back every layer sees: a given mask takes the place of a sliding window, so lines stay inside of it."""
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds - {"full_attention", "sliding_attention", "attention"}:
        return 0
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size", "window_size")]
    return min((window for window in windows if isinstance(window, int) and window > 0), default=_ANY_WIDTH)


@torch.no_grad()
def _reads_trees(subject: Any) -> bool:
    """Try whether a model predicts the same of rows in one line as of rows on their own."""
    model = subject.model
    if not {"position_ids", "logits_to_keep"} <= set(inspect.signature(model.forward).parameters):
        return False
    size = model.config.get_text_config().vocab_size
    draw = np.random.Generator(np.random.Philox(size)).integers(0, size, 32).tolist()
    inputs = [draw[:9], draw[:6] + draw[16:18], draw[20:26]]
    lines = lines_of(inputs, [3] * 3, _ANY_WIDTH, whole_context=True)
    assert len(lines) == 2, "two of the three begin with the same six tokens"
    found = model(**model_inputs(lines, subject, list(range(max(line.width for line in lines))))).logits
    for place, line in enumerate(lines):
        for index, columns in line.columns.items():
            alone = model(**model_inputs(lines_of([inputs[index]], [0], 0, False), subject, len(columns))).logits[0]
            if not reading.agree(found[place, columns + found.shape[1] - line.width], alone, model.dtype):
                return False
    return True


def tried(work: Callable[[], bool]) -> bool:
    """Return what a trial of a model found; what an architecture refuses to do is no agreement.

    Raises:
        torch.OutOfMemoryError: memory ran out, which says nothing of the architecture.
    """
    try:
        return work()
    except reading.UNREADABLE as error:
        if isinstance(error, torch.OutOfMemoryError) or "memory" in str(error).lower():
            raise
        return False
