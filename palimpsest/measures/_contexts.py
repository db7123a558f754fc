"""Contexts: which items' contexts are run ahead of their decisions, and how?

The context runs without its last token into a cache; that token belongs to the decision, whose first token it chooses.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, zip_longest
from typing import Any

import torch
from transformers import DynamicCache

from palimpsest.core.errors import first_line
from palimpsest.data.chat import Example
from palimpsest.data.render import Renderer

STATELESS = "this model has no layer that keeps a state"


@dataclass(frozen=True)
class Context:
    """One item's context, of two tokens or more."""

    index: int
    """Which item of the set."""
    tokens: tuple[int, ...]
    spans: dict[str, tuple[int, int]]


def contexts(renderer: Renderer, items: Sequence[Example], most: int, length: int) -> list[Context]:
    """Return the contexts of at most ``most`` items, spread over their templates, in the items' order.

    Args:
        renderer: makes tokens.
        items: with or without a decision; one that has none, or a context longer than ``length`` tokens, is left out.
        most: how many.
        length: longest context with its decision, in tokens.
    """
    found = []
    for index in spread([item.template for item in items], most):
        encoded = renderer.encode(items[index])
        if 1 < encoded.decision < length:
            spans = {name: span for name, span in encoded.spans.items() if span[1] <= encoded.decision}
            found.append(Context(index, encoded.prompt, spans))
    return found


def spread(templates: Sequence[str], most: int) -> list[int]:
    """Return at most so many indices, in order, as evenly from each template as there are items."""
    places: dict[str, list[int]] = {}
    for index, template in enumerate(templates):
        places.setdefault(template, []).append(index)
    rounds = [index for one in zip_longest(*places.values()) for index in one if index is not None]
    return sorted(rounds[:most])


def alike(found: Sequence[Context], tokens: int) -> Iterator[list[int]]:
    """Yield the places of contexts of one length, of at most so many tokens together: nothing is padded."""
    order = sorted(range(len(found)), key=lambda place: (len(found[place].tokens), place))
    for length, group in groupby(order, key=lambda place: len(found[place].tokens)):
        members, size = list(group), max(tokens // length, 1)
        yield from (members[start : start + size] for start in range(0, len(members), size))


def fill(model: Any, tokens: torch.Tensor) -> DynamicCache:
    """Return the cache that a pass over contexts [batch, tokens] fills."""
    cache = DynamicCache(config=model.config)
    keep = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    positions = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
    model(
        input_ids=tokens,
        attention_mask=torch.ones_like(tokens),
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        **keep,
    )
    return cache


def refused(model: Any) -> str:
    """Return why a model's contexts can't be run ahead of its decisions, or nothing."""
    missing = sorted({"past_key_values", "position_ids"} - set(inspect.signature(model.forward).parameters))
    return (
        f"{type(model).__name__} takes no {' and no '.join(missing)}, so a context can't be run ahead of a decision"
        if missing
        else ""
    )


def unreadable(model: Any, error: Exception) -> str:
    """Return in words why a model could not be read; an error of memory is raised again, because less may fit.

    Raises:
        Exception: memory ran out.
    """
    if isinstance(error, torch.OutOfMemoryError) or "memory" in str(error).lower():
        raise error
    return f"{type(model).__name__} can't run a decision over a cached context ({type(error).__name__}: {first_line(error)})"
