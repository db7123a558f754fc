"""Gates: what do gated delta layers let go of, and how strongly do they write, at the tokens of named spans?

At each token a state is multiplied by the decay exp(-exp(A) softplus(a + b)), and what the token binds is written with a
strength between 0 and 1. Both depend on the token alone as the layer sees it: their change says what the layer makes of it.

Gated delta rule: Yang et al. 2024, arXiv 2412.06464.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pydantic import Field

from palimpsest.core.measurement import Measurement
from palimpsest.data.chat import ItemSet
from palimpsest.measures._contexts import STATELESS, Context, alike, contexts, fill, refused, unreadable
from palimpsest.measures._measure import Budget, Measure, Progress
from palimpsest.measures._recurrent import states, tapped
from palimpsest.models.reading import UNREADABLE

GATES = ("decay", "write")
REST = "rest"
"""All tokens of a context that are not the direction's."""
_OWN = "direction"
_HEADS = 32
"""About so many heads, for a forecast."""
_STATES_ONLY = "this model keeps states, but not by gated delta rules: it has no decay and no write strength to read"


class Gates(Measure):
    """Mean decay and write strength of every gated delta layer's heads on the tokens of each span of the context.

    ``start`` [items + 1]: item i was read if ``start[i + 1] > start[i]``. ``layer`` [layers]; [items read, layers, heads]:
    ``decay:SPAN`` and ``write:SPAN``, both between 0 and 1, NaN on items without that span; the span ``rest`` are all tokens
    outside of ``direction``. Texts: ``why`` (why nothing could be read).
    """

    items: int = Field(default=128, gt=0)
    """How many items of a set are read, spread over its templates."""

    def numbers(self, items: int, layers: int, width: int) -> int:
        return 2 * len(GATES) * min(items, self.items) * layers * _HEADS

    @torch.no_grad()
    def take(self, subject: Any, items: ItemSet, budget: Budget, after: Measurement | None, progress: Progress) -> Measurement:
        read = contexts(subject.renderer, items.items, self.items, budget.context)
        there = {context.index for context in read}
        start = np.cumsum([0, *(int(index in there) for index in range(len(items.items)))]).astype(np.int64)
        why = (refused(subject.model) or self._why(subject, read)) if read else "no item has two tokens of context"
        if why:
            return Measurement({"start": np.zeros_like(start)}, {"why": [why]})
        reader = _Reader(read)
        done = 0
        for batch in alike(read, budget.tokens):
            reader.places = batch
            with tapped(subject.model, reader):
                fill(subject.model, torch.tensor([read[place].tokens for place in batch], device=subject.device))
            progress(done := done + len(batch), len(read))
        shapes = {next(iter(kept.values())).shape for kept in reader.kept.values()}
        if len(shapes) != 1:
            return Measurement({"start": np.zeros_like(start)}, {"why": ["its gated delta layers differ in their heads"]})
        layers = sorted(reader.kept)
        arrays = {name: np.stack([reader.kept[layer][name] for layer in layers], axis=1) for name in reader.kept[layers[0]]}
        return Measurement({"start": start, "layer": np.array(layers), **arrays})

    def _why(self, subject: Any, read: list[Context]) -> str:
        """Return why a model can't be read, after trying it on one context, or nothing."""
        probe = _Reader(read[:1])
        probe.places = [0]
        try:
            with tapped(subject.model, probe):
                cache = fill(subject.model, torch.tensor([read[0].tokens], device=subject.device))
        except UNREADABLE as error:
            return unreadable(subject.model, error)
        return "" if probe.kept else _STATES_ONLY if states(cache) else STATELESS


class _Reader:
    """Keeps each item's mean gates on each span; ``places`` are the items of the pass that is running."""

    def __init__(self, read: list[Context]) -> None:
        self.read_items = read
        self.names = (*sorted({name for context in read for name in context.spans}), REST)
        self.places: list[int] = []
        self.kept: dict[int, dict[str, np.ndarray]] = {}

    def read(self, layer: int, rule: Any, arguments: tuple[Any, ...], options: dict[str, Any], state: torch.Tensor) -> None:
        for gate, values in (("decay", options["g"].float().exp()), ("write", options["beta"].float())):
            numbers = values.double().cpu().numpy()
            for name in self.names:
                kept = self.kept.setdefault(layer, {})
                array = kept.setdefault(f"{gate}:{name}", np.full((len(self.read_items), numbers.shape[-1]), np.nan))
                for line, place in enumerate(self.places):
                    inside = _inside(self.read_items[place], name)
                    if inside.any():
                        array[place] = numbers[line, inside].mean(0)


def _inside(context: Context, name: str) -> np.ndarray:
    """Return which tokens of a context belong to a span: bool [tokens]."""
    low, high = context.spans.get(_OWN if name == REST else name, (0, 0))
    inside = np.zeros(len(context.tokens), dtype=bool)
    inside[low:high] = True
    return ~inside if name == REST else inside
