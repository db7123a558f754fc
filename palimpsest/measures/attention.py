"""Attention: where do decision tokens look, and how far is that from where another model looks?

Only eager attention returns its maps, and it rounds otherwise than what models run with. So this is a pass of its own: the
context runs without its last token under ordinary attention into a cache; then that token and the first decision tokens run
with eager attention over the cache, so that a map has a few rows however long the context is. That both ways give the same
predictions is measured on some items.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field
from transformers import DynamicCache

from palimpsest.core.errors import first_line
from palimpsest.core.measurement import Measurement
from palimpsest.data.chat import Example, ItemSet
from palimpsest.data.render import Renderer
from palimpsest.measures._contexts import spread
from palimpsest.measures._forward import Row, run_rows
from palimpsest.measures._kept import Kept
from palimpsest.measures._maps import MapReader, Reading, eager, watched
from palimpsest.measures._measure import Budget, Measure, Progress
from palimpsest.measures._recurrent import SpanShares, drift, sketch, states, tapped
from palimpsest.models.reading import UNREADABLE
from palimpsest.training.frozen_context import FrozenCache

_CHECKED = 16
"""On so many items the predictions are held against those of ordinary attention."""
_MATCHED = 8
"""On so many items the heads are matched with those of the model that it starts from."""
_CACHED = 4
"""A token in a cache takes about so many times the room of one that only passes through."""
_STATE_ROOM = 2**26
"""Largest number of bytes that states take up for one set of items; shorter sketches are kept beyond it."""


class Attention(Measure):
    """What the last context token and the first decision tokens attend to, and what recurrent layers hold of the context.

    ``start`` [items + 1]: item i was read if ``start[i + 1] > start[i]``. All others begin with the axis [items read].
    Attention, where the model has any: ``layer`` [layers]; [items read, layers, heads, queries]: ``gini`` and ``top_tenth``
    (the mass on the tenth of the keys that has most), ``mass:SPAN`` (NaN for items without that span), and with ``after`` the
    ``distance`` (total variation, 0 to 1) from that model's maps, and ``reordered`` [layers]: whether a layer's heads stand in
    another order than that model's; they are put into its order here. Without it ``outside`` (the mass on keys not kept) and,
    with one more axis [keys], ``key`` and ``weight``. Recurrent layers: ``recurrent_layer`` [layers]; [items read, layers,
    heads]: ``share:SPAN`` (of a span in the state; gated delta layers only) and, with ``after``, ``drift`` (1 - cosine of the
    states); without it ``state``, with one more axis. ``difference`` [items read] is the largest difference of a
    log-probability from ordinary attention in nats, NaN where it was not checked. Texts: ``read`` (attention that is ordinary
    here, type of the weights), ``why`` (why nothing could be read).
    """

    queries: int = Field(default=4, gt=0)
    """How many tokens are read: the last of the context, and the first ones of the decision but one fewer."""
    items: int = Field(default=128, gt=0)
    """How many items of a set are read, spread over its templates."""
    keys: int = Field(default=256, gt=0)
    """How many of the base's largest keys are kept for each query."""
    sketch: int = Field(default=256, gt=0)
    """How many numbers stand for one head's recurrent state."""

    def take(self, subject: Any, items: ItemSet, budget: Budget, after: Measurement | None, progress: Progress) -> Measurement:
        readings = list(self._readings(subject.renderer, items.items, budget.context))
        read = {reading.index for reading in readings}
        start = np.cumsum([0, *(int(index in read) for index in range(len(items.items)))]).astype(np.int64)
        texts = {"read": [str(subject.model.config._attn_implementation), str(subject.dtype)]}
        why = _refused(subject.model) if readings else "no item has two tokens of context"
        if not why:
            arrays, why = self._arrays(subject, readings, budget, after, progress)
            if arrays:
                return Measurement({"start": start, **arrays}, texts)
        return Measurement({"start": np.zeros_like(start)}, {**texts, "why": [why]})

    def _arrays(
        self, subject: Any, readings: list[Reading], budget: Budget, after: Measurement | None, progress: Progress
    ) -> tuple[dict[str, np.ndarray], str]:
        """Return what was read, or why nothing could be: an architecture that this can't read must not end the whole run."""
        name = type(subject.model).__name__
        try:
            passes = _Passes(self, subject, readings, after)
            passes.run(budget, progress)
        except UNREADABLE as error:
            if isinstance(error, torch.OutOfMemoryError) or "memory" in str(error).lower():
                raise
            return {}, f"{name} can't run a decision over a cached context ({type(error).__name__}: {first_line(error)})"
        return passes.arrays(), f"{name} returns no attention maps and keeps no recurrent states in its cache"

    def _readings(self, renderer: Renderer, items: Sequence[Example], context_length: int) -> Iterator[Reading]:
        for index in spread([item.template for item in items], self.items):
            encoded = renderer.encode(items[index])
            last = max((place for place, weight in enumerate(encoded.weights) if weight >= 1.0), default=encoded.decision - 1)
            tokens = encoded.tokens[: min(last + 1, context_length)]
            # a bare text has no decision: its last tokens are read
            first = encoded.decision if encoded.decision > 1 else len(tokens) - self.queries
            queries = min(self.queries, len(tokens) - first)
            if first > 1 and queries > 0:
                spans = {name: span for name, span in encoded.spans.items() if span[1] <= first}
                yield Reading(index, tokens[: first + queries], first, queries, spans)


class _Passes:
    """The passes over one set of items on one model."""

    def __init__(self, measure: Attention, subject: Any, readings: list[Reading], after: Measurement | None) -> None:
        self.measure, self.subject, self.readings, self.after = measure, subject, readings, after
        config = subject.model.config.get_text_config()
        maps = getattr(config, "num_hidden_layers", 1) * getattr(config, "num_attention_heads", 1)
        self.maps = MapReader(readings, measure.queries, measure.keys, maps, after)
        self.difference = np.full(len(readings), np.nan)
        self.recurrent: dict[int, dict[str, np.ndarray]] = {}
        keep = "logits_to_keep" in inspect.signature(subject.model.forward).parameters
        self.short_head = {"logits_to_keep": 1} if keep else {}

    @torch.no_grad()
    def run(self, budget: Budget, progress: Progress) -> None:
        ordinary = self._ordinary(budget)
        some = sorted({round(place) for place in np.linspace(0, len(self.readings) - 1, _MATCHED)})
        self.maps.match(lambda batch: self._read(batch, {}), some)
        done = 0
        for batch in _batches(self.readings, max(budget.tokens // _CACHED, 1), self.subject.takes_padding):
            self._read(batch, ordinary)
            done += len(batch)
            progress(done, len(self.readings))

    def _ordinary(self, budget: Budget) -> dict[int, torch.Tensor]:
        """Return the log-probabilities of some readings under ordinary attention in one pass [queries, vocabulary]."""
        checked = sorted({round(place) for place in np.linspace(0, len(self.readings) - 1, _CHECKED)})
        rows = [Row(self.readings[place].tokens, self.readings[place].first) for place in checked]
        kept = Kept()
        run_rows(self.subject, rows, [kept], budget, lambda *_: None)
        return {place: kept.found[number] for number, place in enumerate(checked)}

    def _read(self, batch: list[int], ordinary: dict[int, torch.Tensor]) -> None:
        readings = [self.readings[place] for place in batch]
        subject, model = self.subject, self.subject.model
        width, queries = max(one.context for one in readings), max(one.queries for one in readings)
        tokens, mask = _padded(readings, width, queries, subject.pad_token_id)
        tokens, mask = tokens.to(subject.device), mask.to(subject.device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        cache = DynamicCache(config=model.config)
        shares = SpanShares(_inside(readings, self.maps.spans, width, subject.device))
        with tapped(model, shares):
            model(
                input_ids=tokens[:, :width],
                attention_mask=mask[:, :width],
                position_ids=positions[:, :width],
                past_key_values=cache,
                use_cache=True,
                **self.short_head,
            )
        self._keep_states(batch, cache, shares)
        self.maps.begin(batch, width, queries, subject.device)
        with eager(model), watched(model, queries, self.maps.read):
            logits = model(
                input_ids=tokens[:, width:],
                attention_mask=mask,
                position_ids=positions[:, width:],
                past_key_values=FrozenCache(cache),
                use_cache=True,
            ).logits
        for line, place in enumerate(batch):
            if place in ordinary:
                found = logits[line, : self.readings[place].queries].float().log_softmax(-1)
                self.difference[place] = (found - ordinary[place]).abs().max().item()

    def _keep_states(self, batch: list[int], cache: Any, shares: SpanShares) -> None:
        found = states(cache)
        rows = len(self.readings) * sum(state.shape[1] for state in found.values())
        size = min(self.measure.sketch, max(_STATE_ROOM // (4 * max(rows, 1)), 8))
        for layer, state in found.items():
            kept = self.recurrent.setdefault(layer, {})
            values = {"state": sketch(state, size, layer)}
            values |= {f"share:{name}": share for name, share in shares.found.get(layer, {}).items()}
            for name, value in values.items():
                kept.setdefault(name, np.full((len(self.readings), *value.shape[1:]), np.nan, np.float32))
                kept[name][batch] = value.cpu().numpy()

    def arrays(self) -> dict[str, np.ndarray]:
        arrays = {**self.maps.arrays(), **self._recurrent_arrays()}
        return {**arrays, "difference": self.difference} if arrays else {}

    def _recurrent_arrays(self) -> dict[str, np.ndarray]:
        layers = sorted(self.recurrent)
        shapes = {self.recurrent[layer]["state"].shape for layer in layers}
        if len(shapes) != 1:  # none, or layers that can't be laid side by side
            return {}
        common = set.intersection(*(set(self.recurrent[layer]) for layer in layers))
        found = {name: np.stack([self.recurrent[layer][name] for layer in layers], axis=1) for name in sorted(common)}
        if self.after is not None:
            before = self.after.arrays.get("state")
            after = found.pop("state")
            if before is not None and before.shape == after.shape:
                found["drift"] = drift(before, after).astype(np.float32)
        return {"recurrent_layer": np.array(layers), **found}


def _refused(model: Any) -> str:
    """Return why a model can't be read, or nothing."""
    missing = {"past_key_values", "position_ids"} - set(inspect.signature(model.forward).parameters)
    if missing:
        return (
            f"{type(model).__name__} takes no {' and no '.join(sorted(missing))}, so a context can't be run ahead of a decision"
        )
    with eager(model) as could:
        return "" if could else f"{type(model).__name__} can't be switched to eager attention, which alone returns maps"


def _batches(readings: Sequence[Reading], tokens: int, padded: bool) -> Iterator[list[int]]:
    """Yield the readings that go through together, similar lengths side by side; without padding only those of one length."""
    batch: list[int] = []
    for place in sorted(range(len(readings)), key=lambda place: (readings[place].context, place)):
        one = readings[place]
        full = (len(batch) + 1) * (one.context + one.queries) > tokens
        if batch and (full or not (padded or one.alike(readings[batch[-1]]))):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _padded(readings: Sequence[Reading], width: int, queries: int, padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens and mask [batch, width + queries]: contexts padded on the left, what is read on the right."""
    tokens = torch.full((len(readings), width + queries), padding, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for line, one in enumerate(readings):
        place = slice(width - one.context, width + one.queries)
        tokens[line, place] = torch.tensor(one.tokens[: one.context + one.queries])
        mask[line, place] = 1
    return tokens, mask


def _inside(readings: Sequence[Reading], names: Sequence[str], width: int, device: str) -> dict[str, torch.Tensor]:
    """Return for each span 1 on its tokens [batch, width], NaN on items that lack it."""
    found = {}
    for name in names:
        inside = torch.zeros(len(readings), width)
        for line, one in enumerate(readings):
            if name in one.spans:
                low, high = (width - one.context + end for end in one.spans[name])
                inside[line, low:high] = 1.0
            else:
                inside[line] = torch.nan
        found[name] = inside.to(device)
    return found
