"""Reading: can rows of unlike length go through a model side by side, and does no token see a later one?

Both are tried on the loaded model, because no configuration tells: some classes ignore the mask, some count positions in a way
of their own, and some read to the left and to the right. What a model says of one row on its own is the truth that padded rows
are held against.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import torch

from palimpsest.models.quiet import quiet

UNREADABLE = (RuntimeError, TypeError, AttributeError, ValueError, NotImplementedError, LookupError, AssertionError)
"""What a class raises that can't be read in some way; it must not end the whole run."""
_ROW, _LONGER, _LONGEST, _SHORTER = 13, 40, 2_200, 24
"""Tokens of the rows that are tried: of the ordinary one; of the one that another is padded to, which goes beyond a window of
the model's if it can; by how many tokens at most the padded one is shorter."""
_TAIL, _WRITTEN = 8, 4
"""Of so many tokens the logits are compared; so many are written in a trial."""
_WINDOWS = re.compile(r"window|topk|chunk")
"""Fields of a configuration that may say from which length on a model reads otherwise."""
_AGREEMENT = {torch.float32: 1e-3, torch.float64: 1e-5}
_LOOSE_AGREEMENT = 0.05
"""By how much logits may differ, in standard deviations of the logits: any of them, or in half precision those of a token, root
mean square. There two ways to compute the same attention differ by 0.016 in 28 random layers, but by 0.075 at one of 151,936
logits; positions that are off by half make 0.3."""
_LIKELIEST = 2
"""The likeliest of many logits may differ by so many times that."""


def _padded(rows: Sequence[Sequence[int]], padding: int, device: str) -> dict[str, torch.Tensor]:
    """Return rows as a batch padded on the left: ``input_ids``, ``attention_mask`` and ``position_ids`` [rows, longest]."""
    width = max(map(len, rows))
    tokens = torch.full((len(rows), width), padding, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for line, row in enumerate(rows):
        tokens[line, width - len(row) :] = torch.tensor(row)
        mask[line, width - len(row) :] = 1
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return {
        "input_ids": tokens.to(device),
        "attention_mask": mask.to(device),
        "position_ids": positions.to(device),
    }


def accepted(model: Any, offered: dict[str, Any]) -> dict[str, Any]:
    """Return those arguments that a model's forward pass takes."""
    known = inspect.signature(model.forward).parameters
    return {name: value for name, value in offered.items() if name in known}


def batches(order: Sequence[int], most: int, lengths: Sequence[int] | None = None) -> Iterator[list[int]]:
    """Yield what goes through together, in this order, at most so many at once; given ``lengths``, only what has one length."""
    for _, group in groupby(order, key=lambda index: lengths[index] if lengths else 0):
        members = list(group)
        yield from (members[low : low + most] for low in range(0, len(members), most))


@torch.no_grad()
def takes_padding(model: Any, padding: int) -> bool:
    """Return whether a row that is padded on the left gets the logits that it gets on its own.

    Sparse attention that picks a number of tokens (``index_topk``) lets padding compete for the places once a row is longer
    than that, which a short trial can't see, so such a model is not padded.
    """
    if getattr(model.config.get_text_config(), "index_topk", None):
        return False
    row = _trial(model, _beyond_windows(model))
    short = _end_of(row)
    tail = min(_TAIL, len(short))
    keep = {"logits_to_keep": tail}
    alone = _logits(model, {"input_ids": torch.tensor([short], device=model.device), **keep})[0, -tail:]
    try:
        together = _logits(model, {**_padded([row, short], padding, model.device), **keep})[1, -tail:]
    except UNREADABLE as error:
        if "memory" in str(error).lower():
            raise
        return False
    return agree(together, alone, model.dtype)


@torch.no_grad()
def writes_as_it_reads(model: Any, padding: int | None = None) -> bool:
    """Return whether ``generate`` writes the tokens that a plain call over everything before them finds likeliest.

    Args:
        model: a causal language model.
        padding: given this token, a shorter row is written beside the long one; else the long one alone.
    """
    row = _trial(model, _beyond_windows(model) - _WRITTEN)
    rows = [row] if padding is None else [row, _end_of(row)]
    given = _padded(rows, padding or 0, model.device)
    settings = {
        "max_new_tokens": _WRITTEN,
        "do_sample": False,
        "num_beams": 1,
        "pad_token_id": padding or 0,
        "eos_token_id": None,
    }
    try:
        with quiet():
            found = model.generate(input_ids=given["input_ids"], attention_mask=given["attention_mask"], **settings).tolist()
    except UNREADABLE as error:
        if "memory" in str(error).lower():
            raise
        return False
    return all(_likeliest(model, line[len(row) - len(one) :], len(one)) for line, one in zip(found, rows, strict=True))


def _likeliest(model: Any, tokens: Sequence[int], first: int) -> bool:
    """Whether each token from ``first`` on is, up to rounding, the likeliest of a plain call over those before it."""
    scores = trial_logits(model, tokens)[first - 1 : -1]
    chosen = scores.gather(-1, torch.tensor(tokens[first:], device=scores.device)[:, None])[:, 0]
    allowed = _AGREEMENT.get(model.dtype, _LIKELIEST * _LOOSE_AGREEMENT) * float(scores.std())
    return bool((scores.max(-1).values - chosen <= allowed).all())


def sees_ahead(model: Any) -> bool:
    """Return whether what a model expects after a token depends on tokens that come later."""
    row = _trial(model)
    one, two = (trial_logits(model, tokens)[:-2] for tokens in (row, [*row[:-2], row[0], row[1]]))
    return bool(torch.isfinite(one).all()) and not agree(one, two, model.dtype)


@torch.no_grad()
def trial_logits(model: Any, row: Sequence[int] | None = None) -> torch.Tensor:
    """Return the logits [tokens, vocabulary] of a few tokens, by default always the same ones, in a plain call."""
    return _logits(model, {"input_ids": torch.tensor([row or _trial(model)], device=model.device)})[0]


@contextmanager
def head_at(
    model: Any, lines: torch.Tensor, columns: torch.Tensor, width: int
) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
    """Let a model's head see some positions alone, as one row, where it would get so many columns of every line.

    What is yielded turns the logits of the model [lines, width, vocabulary] into those of the positions [positions,
    vocabulary], whether the head could be told or not.

    Args:
        model: a causal language model.
        lines: of each position [positions].
        columns: of each position, among those that the head would get [positions].
        width: how many it would get.
    """
    told: list[bool] = []

    def pick(_: Any, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if given[0].ndim != 3 or given[0].shape[1] != width:
            return None
        told.append(True)
        return given[0][lines, columns][None], *given[1:]

    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(pick) if head is not None else None
    try:
        yield lambda logits: logits[0] if told else logits[lines, columns]
    finally:
        if hook is not None:
            hook.remove()


def agree(one: torch.Tensor, other: torch.Tensor, dtype: torch.dtype) -> bool:
    """Return whether logits [..., vocabulary] are the same up to the rounding of this type; not where one holds no number."""
    off = (one.float() - other.float()).abs()
    allowed = float(other.float().std())
    if dtype in _AGREEMENT:
        return float(off.max()) <= _AGREEMENT[dtype] * allowed
    return float(off.square().mean(-1).sqrt().max()) <= _LOOSE_AGREEMENT * allowed


def _trial(model: Any, length: int = _ROW) -> list[int]:
    known = model.get_input_embeddings().weight.shape[0]
    length = min(length, _positions(model) or length)
    return [(7 * place * place + 3 * place + 1) % known for place in range(length)]


def _end_of(row: Sequence[int]) -> Sequence[int]:
    """Return the shorter row that is tried beside a row: its end."""
    return row[min(_SHORTER - _TAIL, len(row) // 2) :]


def _positions(model: Any) -> int | None:
    """Return how many positions a model has, where its configuration tells."""
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return longest if type(longest) is int and longest > 0 else None


def _beyond_windows(model: Any) -> int:
    """Return a length beyond which the model's way of reading, as its configuration tells, does not change; within limits."""
    config = model.config.get_text_config()
    sizes = [value for name, value in vars(config).items() if _WINDOWS.search(name) and type(value) is int]
    room = _positions(model) or _LONGEST
    if room <= _LONGER:
        return room
    return min(max([_LONGER, *(size + _SHORTER for size in sizes if size <= _LONGEST)]), room - _TAIL, _LONGEST)


def _logits(model: Any, offered: dict[str, Any]) -> torch.Tensor:
    return model(**accepted(model, {**offered, "use_cache": False})).logits.float()
