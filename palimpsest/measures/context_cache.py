"""Context cache: what does a model hand from a context to the decision after it?

Everything that crosses: of recurrent layers their states and the last tokens of their convolutions, of attention layers the
keys and values of every token. Another model's decision can then be run over it.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field

from palimpsest.core.measurement import Measurement
from palimpsest.data.chat import ItemSet
from palimpsest.measures._contexts import STATELESS, Context, contexts, fill, refused, unreadable
from palimpsest.measures._measure import Budget, Measure, Progress
from palimpsest.models.reading import UNREADABLE

RECURRENT, ATTENTION = "recurrent", "attention"
KINDS = (RECURRENT, ATTENTION)
_BYTES = 4
_A_LAYER = 64
"""About so many numbers for each of a layer's width are left of a context: a state, or keys and values of dozens of tokens."""
_FEWEST = 8
"""With fewer items nothing could be said of a difference, so none is kept."""


class ContextCache(Measure):
    """The cache after each context without its last token, in float32, of items that name options to decide between.

    ``start`` [items + 1]: item i was read if ``start[i + 1] > start[i]``. For each part (``KIND:LAYER:NAME:STATE``) the numbers
    of all items read, one after the other, and as ``shape:PART`` [items read, axes] how many there are.
    Texts: ``why`` (why nothing could be read).
    """

    items: int = Field(default=64, gt=0)
    """How many items of a set are read, spread over its templates."""
    room: int = Field(default=2**28, gt=0)
    """Largest number of bytes that are kept of one set; fewer items are read beyond it."""

    @torch.no_grad()
    def take(self, subject: Any, items: ItemSet, budget: Budget, after: Measurement | None, progress: Progress) -> Measurement:
        start = np.zeros(len(items.items) + 1, dtype=np.int64)
        read = contexts(subject.renderer, items.items, self.items, budget.context)
        read = [context for context in read if len(items.items[context.index].options) > 1 and len(context.tokens) > 2]
        why = refused(subject.model) if read else "these items name no options to decide between"
        if not why:
            read, why = self._fitting(subject, read)
        if why:
            return Measurement({"start": start}, {"why": [why]})
        kept = []
        for done, context in enumerate(read, start=1):
            kept.append(_parts(run(subject, context)))
            start[context.index + 1 :] += 1
            progress(done, len(read))
        return Measurement({"start": start, **_laid_out(kept)})

    def numbers(self, items: int, layers: int, width: int) -> int:
        return min(min(items, self.items) * layers * width * _A_LAYER, self.room // _BYTES)

    def _fitting(self, subject: Any, read: list[Context]) -> tuple[list[Context], str]:
        """Return the items of which there is room for everything, after trying the longest one, or why there are none."""
        longest = max(read, key=lambda context: len(context.tokens))
        try:
            found = _parts(run(subject, longest))
        except UNREADABLE as error:
            return [], unreadable(subject.model, error)
        if not any(part.startswith(RECURRENT) for part in found):
            return [], STATELESS
        size = _BYTES * sum(values.size for values in found.values())
        most = self.room // size
        if most < _FEWEST:
            return (
                [],
                f"what one context leaves takes {size / 2**20:,.0f} MiB, and {self.room / 2**20:,.0f} MiB are kept in all",
            )
        return read[:: -(-len(read) // most)], ""


def run(subject: Any, context: Context) -> Any:
    """Return the cache that a context without its last token leaves."""
    return fill(subject.model, torch.tensor([context.tokens[:-1]], device=subject.device))


def exchanged(cache: Any, other: Mapping[str, np.ndarray], place: int, kinds: Collection[str]) -> Any:
    """Return a view of a cache in which the parts of some kinds are another model's; the cache stays as it is.

    Args:
        cache: of one item.
        other: the arrays of a ``ContextCache`` of the other model.
        place: the item among those that were read.
        kinds: of ``KINDS``.

    Raises:
        ValueError: the other model's parts have other shapes.
    """
    found = copy.copy(cache)
    found.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in found.layers:
        for name, value in vars(layer).items():
            if isinstance(value, dict):
                setattr(layer, name, dict(value))
    for part, home, key in _places(found):
        if part.split(":")[0] not in kinds:
            continue
        if part not in other:
            raise ValueError(f"the other model keeps no {part}")
        old = home[key]
        shape = tuple(other[f"shape:{part}"][place].tolist())
        if shape != tuple(old.shape):
            raise ValueError(f"{part} must have the same shape in both models, found {tuple(old.shape)} and {shape}")
        sizes = np.prod(other[f"shape:{part}"], axis=1)
        first = int(sizes[:place].sum())
        values = other[part][first : first + int(sizes[place])].reshape(shape)
        home[key] = torch.from_numpy(values).to(device=old.device, dtype=old.dtype)
    return found


def _places(cache: Any) -> list[tuple[str, Any, Any]]:
    """Return every part of a cache: its name, and the mapping and the key under which it lies."""
    found = []
    for number, layer in enumerate(cache.layers):
        for name in ("recurrent_states", "conv_states"):
            states = getattr(layer, name, None) or {}
            found += [(f"{RECURRENT}:{number}:{name}:{key}", states, key) for key, state in states.items() if state is not None]
        for name in ("keys", "values"):
            if torch.is_tensor(getattr(layer, name, None)):
                found.append((f"{ATTENTION}:{number}:{name}:0", vars(layer), name))
    return found


def _parts(cache: Any) -> dict[str, np.ndarray]:
    return {part: home[key].float().cpu().numpy().copy() for part, home, key in _places(cache)}


def _laid_out(kept: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return each part of all items as one row of numbers, and their shapes."""
    arrays = {part: np.concatenate([one[part].ravel() for one in kept]) for part in kept[0]}
    return arrays | {f"shape:{part}": np.array([one[part].shape for one in kept]) for part in kept[0]}
