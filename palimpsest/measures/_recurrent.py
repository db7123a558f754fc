"""Recurrent: what does a layer that keeps a state instead of keys hold of the context, and of whose tokens?

A gated delta rule is linear in the values that are written: S = sum_j M_j k_j b_j v_j^T, where M_j is what later tokens let
stand. So the state is exactly the sum of what each token contributes, and what a span contributes is the state that the same
keys, decays and gates make out of the span's values alone. Its share is <contribution, S> / <S, S>: over all tokens the shares
add up to 1, and one below 0 says that the span writes against the rest.

Gated delta rule: Yang et al. 2024, arXiv 2412.06464, equation 10.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch

from palimpsest.core.seeds import numpy_stream

_KERNEL = "torch_chunk_gated_delta_rule"
"""The function of transformers' modules through which every context of more than one token goes."""


class SpanShares:
    """The share of each span in the state of every gated delta layer: ``found[layer][span]`` [batch, heads]."""

    def __init__(self, inside: Mapping[str, torch.Tensor]) -> None:
        """``inside``: for each span 1 on its tokens and 0 elsewhere [batch, tokens], NaN on items that lack it."""
        self.inside = inside
        self.found: dict[int, dict[str, torch.Tensor]] = {}

    def read(self, layer: int, rule: Any, arguments: tuple[Any, ...], options: dict[str, Any], state: torch.Tensor) -> None:
        query, key, value, *rest = arguments
        size = state.double().square().sum((-1, -2))
        for name, inside in self.inside.items():
            chosen = inside.nan_to_num(0.0)[:, :, None, None].to(value)
            alone = rule(query, key, value * chosen, *rest, **{**options, "initial_state": None, "output_final_state": True})[1]
            share = (alone.double() * state.double()).sum((-1, -2)) / size
            self.found.setdefault(layer, {})[name] = share.where(~inside[:, :1].isnan(), torch.nan)


class RuleReader(Protocol):
    """Reads what every gated delta layer does with a context."""

    def read(self, layer: int, rule: Any, arguments: tuple[Any, ...], options: dict[str, Any], state: torch.Tensor) -> None:
        """Read one layer's call of the rule: with which arguments, and the state that it left."""
        ...


@contextmanager
def tapped(model: Any, reader: RuleReader) -> Iterator[None]:
    """Read every gated delta layer of the passes inside the block, and leave no trace."""
    current: list[int] = []
    handles, patched = [], {}
    for name, module in model.named_modules():
        home = sys.modules[type(module).__module__]
        number = re.search(r"(?<=\.)\d+(?=\.)", f".{name}.")
        if number and "deltanet" in type(module).__name__.lower() and hasattr(home, _KERNEL):
            handles.append(module.register_forward_pre_hook(lambda *_, layer=int(number[0]): current.append(layer)))
            patched[home.__name__] = home, getattr(home, _KERNEL)

    def tap(rule: Any) -> Any:
        def run(*arguments: Any, **options: Any) -> Any:
            output, state = rule(*arguments, **options)
            if state is not None and current:
                reader.read(current[-1], rule, arguments, options, state)
            return output, state

        return run

    try:
        for home, rule in patched.values():
            setattr(home, _KERNEL, tap(rule))
        yield
    finally:
        for home, rule in patched.values():
            setattr(home, _KERNEL, rule)
        for handle in handles:
            handle.remove()


def states(cache: Any) -> dict[int, torch.Tensor]:
    """Return the recurrent state of each layer of a filled cache: float32 [batch, heads, numbers]."""
    found = {}
    for number, layer in enumerate(cache.layers):
        parts = [part for part in (getattr(layer, "recurrent_states", None) or {}).values() if part is not None]
        if parts:
            heads = [part if part.ndim > 3 else part[:, None] for part in parts]
            found[number] = torch.cat([part.flatten(2) for part in heads], dim=-1).float()
    return found


def sketch(state: torch.Tensor, size: int, layer: int) -> torch.Tensor:
    """Return a short stand-in for a state, with the same products on average [batch, heads, size].

    Every number gets a random sign and falls at random into one of ``size`` sums of equally many (a count sketch: Charikar,
    Chen and Farach-Colton 2004). A state that is no longer than ``size`` is returned as it is. The same numbers are drawn for
    every model.
    """
    length = state.shape[-1]
    if length <= size:
        return state
    rng = numpy_stream(0, "recurrent", "sketch", layer, length)
    full = -(-length // size) * size
    order = torch.from_numpy(rng.permutation(full)).to(state.device)
    signs = torch.from_numpy(rng.choice(np.array([-1.0, 1.0], dtype=np.float32), full)).to(state.device)
    padded = torch.nn.functional.pad(state, (0, full - length))
    return (padded[..., order] * signs).reshape(*state.shape[:-1], size, -1).sum(-1)


def drift(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return 1 - cosine over the last axis, exactly 0 for the same numbers; NaN where a state is 0.

    It is half the squared distance of the two directions, which loses no digits where they are close.
    """
    one, two = before.astype(np.float64), after.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        one, two = (part / np.sqrt(np.square(part).sum(-1, keepdims=True)) for part in (one, two))
    return np.square(one - two).sum(-1) / 2
