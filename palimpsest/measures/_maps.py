"""Maps: what is kept of an attention map, so that a long context costs no more than a short one?

A map is reduced in the hook that sees it and then dropped: of the base its largest keys and what lies outside of them, of a
model that is held against it the share of attention that goes elsewhere, and of both the mass on named spans and how
concentrated it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from palimpsest.core.measurement import Measurement
from palimpsest.models.quiet import quiet

_ROOM = 2**28
"""Largest number of bytes that the base's keys and weights take up for one set of items; fewer keys are kept beyond it."""
_KEY_BYTES = 8
TOP = 0.1
"""The share of the keys whose mass is called the top."""


@dataclass(frozen=True)
class Reading:
    """One item as it is read.

    ``tokens`` [tokens] up to the last query's target; the model runs ``tokens[:first - 1]`` as context and then ``queries``
    tokens from there on, whose maps are read: the first of them predicts ``tokens[first]``.
    """

    index: int
    """Which item of the set."""
    tokens: tuple[int, ...]
    first: int
    queries: int
    spans: dict[str, tuple[int, int]]

    @property
    def context(self) -> int:
        """Number of tokens that are run without being read."""
        return self.first - 1

    def alike(self, other: Reading) -> bool:
        """Whether both can go through together without padding."""
        return (self.context, self.queries) == (other.context, other.queries)


@contextmanager
def eager(model: Any) -> Iterator[bool]:
    """Switch a model to eager attention, which alone returns maps, and back again; yields whether it could be switched."""
    config = model.config
    parts = {name: sub for name in config.sub_configs if (sub := getattr(config, name, None)) is not None} | {"": config}
    before = {name: part._attn_implementation for name, part in parts.items()}
    with quiet():
        try:
            model.set_attn_implementation("eager")
            yield config._attn_implementation == "eager"
        finally:
            model.set_attn_implementation({name: kind for name, kind in before.items() if kind is not None})
            for name in before:  # a part that the model never built was given none, which it may not be asked for by name
                if before[name] is None:
                    parts[name]._attn_implementation = None


@contextmanager
def watched(model: Any, queries: int, read: Callable[[int, torch.Tensor, int | None], None]) -> Iterator[None]:
    """Hand every attention map of the passes inside the block to ``read``, and take the hooks off again.

    ``read`` gets the layer (counted from 0), the map [batch, heads, queries, keys] and the layer's sliding window, if any.
    """
    handles = []
    for name, module in model.named_modules():
        number = re.search(r"(?<=\.)\d+(?=\.)", f".{name}.")
        if number and re.search("attention|attn", type(module).__name__.lower()):
            handles.append(module.register_forward_hook(partial(_seen, int(number[0]), queries, read)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _seen(layer: int, queries: int, read: Callable[..., None], module: Any, _: Any, output: Any) -> None:
    for part in output[1:] if isinstance(output, tuple) else ():
        if isinstance(part, torch.Tensor) and part.ndim == 4 and part.shape[2] == queries:
            window = getattr(module, "sliding_window", None)
            read(layer, part, window if isinstance(window, int) else None)
            return


class MapReader:
    """Collects what is kept of the maps of one model on one set of items.

    Args:
        readings: the items that are read.
        queries: largest number of queries of an item.
        keys: how many of the base's largest keys are kept for each query.
        maps: how many maps a query has (layers times heads), for the room that they take.
        after: the base's measurement, where this model is held against it.
    """

    def __init__(self, readings: Sequence[Reading], queries: int, keys: int, maps: int, after: Measurement | None) -> None:
        self.readings, self.queries = readings, queries
        longest = max(one.context + one.queries for one in readings)
        room = _ROOM // (len(readings) * queries * max(maps, 1) * _KEY_BYTES)
        self.keys = min(keys, longest, max(room, 8))
        self.spans = sorted({name for one in readings for name in one.spans})
        self.kept: dict[int, dict[str, np.ndarray]] = {}
        self.after = _by_layer(after) if after is not None else None
        self.batch: _Batch | None = None
        self.between: dict[int, list[np.ndarray]] | None = None
        """While heads are matched: the distances of every head from every one of the base's, by layer."""
        self.order: dict[int, np.ndarray] = {}
        """Of layers whose heads stand in another order: which of them stands for each of the base's."""

    def match(self, read: Callable[[list[int]], None], places: Sequence[int]) -> None:
        """Find by which order the heads of each layer are those of the base, before anything is kept.

        Another order than that of the numbers is taken only where it leaves less than half of the distance: training moves
        heads, but does not turn one into another, so a head that is near to another of the base was moved there as a whole.

        Args:
            read: reads some readings, as for all of them later.
            places: a few readings.
        """
        if self.after is None:
            return
        self.between = {}
        for place in places:
            read([place])
        orders = {layer: _order(np.mean(costs, axis=0)) for layer, costs in self.between.items()}
        self.order, self.between = {layer: order for layer, order in orders.items() if order is not None}, None

    def begin(self, places: Sequence[int], width: int, queries: int, device: str) -> None:
        """Say which readings the next pass holds, padded to a context of ``width`` and to ``queries``."""
        self.batch = _Batch(places, [self.readings[place] for place in places], width, queries, device)

    def read(self, layer: int, maps: torch.Tensor, window: int | None) -> None:
        """Reduce one layer's maps [batch, heads, queries, keys] of the pass that was begun."""
        batch = self.batch
        if batch is None or layer in batch.done:
            return
        batch.done.add(layer)
        maps = maps.float()
        if self.between is not None:
            if self._comparable(layer, maps):
                self.between.setdefault(layer, []).append(batch.between(maps, self.after[layer]))  # type: ignore[index]
            return
        if layer in self.order:
            maps = maps[:, self.order[layer].tolist()]
        found = batch.concentration(maps, window)
        for name in self.spans:
            found[f"mass:{name}"] = batch.mass(maps, name)
        if self.after is None:
            found |= batch.largest(maps, self.keys)
        elif self._comparable(layer, maps):
            found["distance"] = batch.distance(maps, self.after[layer])
        kept = self.kept.setdefault(layer, {})
        for name, values in found.items():
            if name not in kept:
                shape = (len(self.readings), maps.shape[1], self.queries, *values.shape[3:])
                kept[name] = np.full(shape, -1 if name == "key" else np.nan, _DTYPES.get(name, np.float32))
            for line, place in enumerate(batch.places):
                count = self.readings[place].queries
                kept[name][place, :, :count] = values[line, :, :count].cpu().numpy()

    def _comparable(self, layer: int, maps: torch.Tensor) -> bool:
        """Whether the base's maps of a layer were kept, and it has as many heads."""
        return self.after is not None and layer in self.after and self.after[layer]["key"].shape[1] == maps.shape[1]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return everything that was kept: [items read, layers, heads, queries, ...], ``layer`` and ``reordered`` [layers]."""
        if not self.kept:
            return {}
        layers = sorted(self.kept)
        common = set.intersection(*(set(self.kept[layer]) for layer in layers))
        found = {name: _stacked([self.kept[layer][name] for layer in layers]) for name in sorted(common)}
        reordered = {} if self.after is None else {"reordered": np.array([layer in self.order for layer in layers])}
        return {"layer": np.array(layers), **reordered, **found}


def _order(distance: np.ndarray) -> np.ndarray | None:
    """Return which head stands for each of the base's [heads], of mean distances [heads of the base, heads]; or ``None``."""
    if not np.isfinite(distance).all():
        return None
    rows, order = linear_sum_assignment(distance)
    near, by_number = distance[rows, order].sum(), np.trace(distance)
    return order if 2 * near < by_number and by_number > _SAME * len(order) else None


_SAME = 1e-3
"""Heads whose maps differ by less are the same by number."""
_DTYPES: dict[str, Any] = {"key": np.int32}


class _Batch:
    """Where everything lies in the maps of one pass."""

    def __init__(self, places: Sequence[int], readings: Sequence[Reading], width: int, queries: int, device: str) -> None:
        self.places, self.readings, self.width, self.device = list(places), readings, width, device
        self.columns = width + queries
        self.padding = torch.tensor([width - one.context for one in readings], device=device)
        context = torch.tensor([one.context for one in readings], device=device)
        self.seen = context[:, None] + 1 + torch.arange(queries, device=device)
        """[batch, queries] how many tokens each query may look at."""
        self.done: set[int] = set()

    def mass(self, maps: torch.Tensor, span: str) -> torch.Tensor:
        """Return the mass on a span [batch, heads, queries]; NaN for items without it."""
        offset = self.columns - maps.shape[-1]
        inside = torch.zeros(len(self.readings), maps.shape[-1], device=maps.device)
        for line, one in enumerate(self.readings):
            if span in one.spans:
                low, high = (max(self.width - one.context + end - offset, 0) for end in one.spans[span])
                inside[line, low:high] = 1.0
            else:
                inside[line] = torch.nan
        return torch.einsum("bhqk,bk->bhq", maps, inside)

    def concentration(self, maps: torch.Tensor, window: int | None) -> dict[str, torch.Tensor]:
        """Return the Gini coefficient of a map's weights over the keys that it may look at, and the mass on the top tenth."""
        seen = self.seen.clamp(max=min(window or maps.shape[-1], maps.shape[-1]))[:, None].float()
        ordered = maps.sort(-1, descending=True).values.double()
        rank = torch.arange(1, maps.shape[-1] + 1, device=maps.device)
        total = ordered.sum(-1).clamp(min=1e-12)
        gini = (seen + 1) / seen - 2 * (ordered * rank).sum(-1) / (seen * total)
        top = (ordered * (rank <= torch.ceil(TOP * seen)[..., None])).sum(-1) / total
        return {"gini": gini.clamp(min=0.0), "top_tenth": top}

    def largest(self, maps: torch.Tensor, count: int) -> dict[str, torch.Tensor]:
        """Return the largest keys as places in the item's tokens, their weights, and the mass outside of them."""
        weight, column = maps.topk(min(count, maps.shape[-1]), dim=-1)
        key = column + (self.columns - maps.shape[-1]) - self.padding[:, None, None, None]
        there = (key >= 0) & (key < self.seen[:, None, :, None])
        weight, key = weight.where(there, 0.0), key.where(there, -1)
        missing = (0, count - weight.shape[-1])
        weight, key = (torch.nn.functional.pad(part, missing, value=fill) for part, fill in ((weight, 0.0), (key, -1)))
        return {"key": key, "weight": weight, "outside": _outside(weight)}

    def distance(self, maps: torch.Tensor, earlier: dict[str, np.ndarray]) -> torch.Tensor:
        """Return the total variation distance from the base's maps [batch, heads, queries], over its keys and the rest.

        A single head of the base is held against all.
        """
        queries = maps.shape[2]
        key, before = (
            torch.from_numpy(earlier[name][self.places][:, :, :queries]).to(maps.device) for name in ("key", "weight")
        )
        column = key.long() + self.padding[:, None, None, None] - (self.columns - maps.shape[-1])
        there = (key >= 0) & (column >= 0) & (column < maps.shape[-1])
        columns = column.clamp(0, maps.shape[-1] - 1).expand(-1, maps.shape[1], -1, -1)
        after = maps.gather(-1, columns).where(there, 0.0)
        moved = (after.double() - before.double()).abs().sum(-1) + (_outside(after) - _outside(before)).abs()
        return moved / 2

    def between(self, maps: torch.Tensor, earlier: dict[str, np.ndarray]) -> np.ndarray:
        """Return how far each head is from each of the base's, mean over batch and queries [heads of the base, heads]."""
        heads = range(maps.shape[1])
        each = [self.distance(maps, {name: values[:, head : head + 1] for name, values in earlier.items()}) for head in heads]
        return np.stack([np.nanmean(one.cpu().numpy(), axis=(0, 2)) for one in each])


def _outside(weight: torch.Tensor) -> torch.Tensor:
    """Return the mass that is on no kept key; also that of an attention sink, which is no token."""
    return 1.0 - weight.double().sum(-1)


def _by_layer(measured: Measurement) -> dict[int, dict[str, np.ndarray]]:
    if "weight" not in measured.arrays:
        return {}
    return {
        int(layer): {name: measured.arrays[name][:, place] for name in ("key", "weight")}
        for place, layer in enumerate(measured.arrays["layer"])
    }


def _stacked(parts: list[np.ndarray]) -> np.ndarray:
    """Stack layers on axis 1; one with fewer heads than others is filled up with what means "nothing"."""
    heads = max(part.shape[1] for part in parts)
    fill = -1 if parts[0].dtype.kind == "i" else np.nan
    widths = [[(0, 0), (0, heads - part.shape[1]), *[(0, 0)] * (part.ndim - 2)] for part in parts]
    return np.stack([np.pad(part, width, constant_values=fill) for part, width in zip(parts, widths, strict=True)], axis=1)
