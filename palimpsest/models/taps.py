"""Taps: what passes through the layers?

Context managers that see, or replace, the residual stream of any decoder of the transformers library. Depth 0 is what enters
the first block (token embeddings with whatever is added to them), depth d is what leaves the d-th block. Hooks are taken off
again however the ``with`` block ends, and seeing does not change a number.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

See = Callable[[int, torch.Tensor], None]
"""Called with a depth and the residual stream there, shape [lines, width of the padded batch, hidden size]."""


Where = Callable[[], torch.Tensor | None]
"""Returns where to add, 1 or 0 [lines, width of the padded batch], or ``None`` for everywhere."""


def blocks(model: nn.Module) -> list[nn.Module]:
    """Return the blocks of a model's text decoder, in order.

    They are the module list whose length is ``num_hidden_layers``; of several such lists (a vision tower, experts inside a
    block), the one with the most parameters.

    Raises:
        LookupError: the model has no such list.
    """
    config: Any = model.config
    count = config.get_text_config().num_hidden_layers
    lists = [one for one in model.modules() if isinstance(one, nn.ModuleList) and len(one) == count]
    if not lists:
        raise LookupError(f"{type(model).__name__} has no list of {count} blocks, so its residual stream can't be found")
    # counting takes longer than a small pass, and few models have two such lists
    return list(lists[0] if len(lists) == 1 else max(lists, key=lambda one: sum(part.numel() for part in one.parameters())))


_TRIED: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
"""Of each model that was tried, why its residual stream can't be read; empty where it can."""
_TRIAL = 3


@torch.no_grad()
def streaming_blocks(model: nn.Module) -> list[nn.Module]:
    """Return a model's blocks, once a small pass has shown that each is run and hands on one vector a token.

    ProphetNet's hand on further streams behind the first, so a place in its stream is no place in the text.

    Raises:
        LookupError: as ``blocks``; or the blocks don't hand on one vector a token.
    """
    found = blocks(model)
    if model not in _TRIED:
        counts: list[int] = []
        with ExitStack() as stack:
            for block in found:
                stack.callback(block.register_forward_hook(lambda *given: counts.append(_stream(given[2]).shape[1])).remove)
            _pass_nothing(model, _TRIAL, next(model.parameters()).device)
        whole = counts == [_TRIAL] * len(found)
        _TRIED[model] = "" if whole else f"the blocks of {type(model).__name__} don't hand on one vector a token, each once"
    if why := _TRIED[model]:
        raise LookupError(why)
    return found


@contextmanager
def watching(model: nn.Module, see: See, depths: Collection[int] | None = None) -> Iterator[None]:
    """Show the residual stream of every forward pass inside the ``with`` block.

    Args:
        model: a causal language model.
        see: called at each depth of each pass; it must copy what it keeps, and must not write into the tensor.
        depths: at which; by default all, 0 to the number of blocks.

    Raises:
        LookupError: as ``streaming_blocks``.
    """
    found = streaming_blocks(model)
    wanted = range(len(found) + 1) if depths is None else depths
    with ExitStack() as stack:
        for depth in wanted:
            if depth == 0:
                handle = found[0].register_forward_pre_hook(_seen_before(see), with_kwargs=True)
            else:
                handle = found[depth - 1].register_forward_hook(_seen_after(see, depth))
            stack.callback(handle.remove)
        yield


@contextmanager
def replacing(model: nn.Module, depth: int, values: torch.Tensor) -> Iterator[None]:
    """Put given values in the place of what leaves the ``depth``-th block (1 to the number of blocks).

    Args:
        model: a causal language model.
        depth: after how many blocks.
        values: shape [lines, positions, hidden size], that of the passes inside the ``with`` block.
    """

    def replaced(stream: torch.Tensor) -> torch.Tensor:
        if stream.shape != values.shape:
            raise ValueError(f"the residual stream has shape {tuple(stream.shape)}, what replaces it {tuple(values.shape)}")
        return values.to(stream)

    with _changing(model, depth, replaced):
        yield


@contextmanager
def adding(model: nn.Module, depth: int, vector: torch.Tensor, where: Where | None = None) -> Iterator[None]:
    """Add a vector to what leaves the ``depth``-th block, in every pass inside the ``with`` block.

    What is watched at this depth or later, from inside this block, is seen with the vector in it.

    Args:
        model: a causal language model.
        depth: after how many blocks, 1 to their number.
        vector: shape [hidden size].
        where: asked in each pass where to add it; by default at every token.

    Raises:
        LookupError: as ``streaming_blocks``.
    """

    def added(stream: torch.Tensor) -> torch.Tensor:
        places = where() if where else None
        return stream + (vector.to(stream) if places is None else places.to(stream)[..., None] * vector.to(stream))

    with _changing(model, depth, added):
        yield


@contextmanager
def _changing(model: nn.Module, depth: int, change: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Put what ``change`` makes of the residual stream behind the ``depth``-th block in its place."""

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        new = change(_stream(output))
        return new if isinstance(output, torch.Tensor) else (new, *output[1:])

    handle = streaming_blocks(model)[depth - 1].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def read_out(model: nn.Module, vectors: torch.Tensor, at_once: int = 64) -> torch.Tensor:
    """Return what the model would predict if vectors were its last residual stream: the logit lens (nostalgebraist 2020).

    They go through the model's own tail, so the final norm, the head, its bias, scaling and soft caps are those of this
    architecture, whatever they are.

    Args:
        model: a causal language model.
        vectors: shape [vectors, hidden size].
        at_once: how many are read in one pass; at most the model's context.

    Returns:
        Logits, float32, shape [vectors, vocabulary].
    """
    found, last = [], len(blocks(model))
    with _passing_through(model):
        for part in vectors.split(at_once):
            with replacing(model, last, part[None]):
                found.append(_pass_nothing(model, len(part), part.device).logits[0].float())
    return torch.cat(found)


def _pass_nothing(model: nn.Module, length: int, device: torch.device) -> Any:
    nothing = torch.zeros(1, length, dtype=torch.long, device=device)
    return model(input_ids=nothing, attention_mask=torch.ones_like(nothing), use_cache=False)


@contextmanager
def _passing_through(model: nn.Module) -> Iterator[None]:
    """Let blocks hand on what they are given, in the type that they return: nobody reads what they would make of it.

    A block that returns anything else beside the residual stream is run as ever.
    """
    found = blocks(model)
    returned: dict[int, Any] = {}
    with ExitStack() as stack:
        for place, block in enumerate(found):
            stack.callback(block.register_forward_hook(_kept_in(returned, place)).remove)
        _pass_nothing(model, 1, next(model.parameters()).device)
    with ExitStack() as stack:
        for place, block in enumerate(found):
            output = returned.get(place)
            if isinstance(output, torch.Tensor) or (
                isinstance(output, tuple) and not any(one is not None for one in output[1:])
            ):
                stack.enter_context(_handing_on(block, output))
        yield


@contextmanager
def _handing_on(block: nn.Module, output: Any) -> Iterator[None]:
    """Put in the place of a block's own forward pass one that returns its input, in the shape and type of ``output``."""
    own, dtype = block.__dict__.get("forward"), _stream(output).dtype

    def hand_on(*inputs: Any, **named: Any) -> Any:
        stream = (inputs[0] if inputs else named["hidden_states"]).to(dtype)
        return stream if isinstance(output, torch.Tensor) else (stream, *output[1:])

    block.forward = hand_on
    try:
        yield
    finally:
        if own is None:
            del block.forward
        else:
            block.forward = own


def _kept_in(found: dict[int, Any], place: int) -> Callable[..., None]:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        found[place] = output

    return hook


def _seen_before(see: See) -> Callable[..., None]:
    def hook(_module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        see(0, inputs[0] if inputs else named["hidden_states"])

    return hook


def _seen_after(see: See, depth: int) -> Callable[..., None]:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        see(depth, _stream(output))

    return hook


def _stream(output: Any) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output[0]
