"""Pocket weights: with which weights does the embedded model's training begin?

A small transformer spends most of a short training on a plateau before it finds out how to look something up (attend from a
word to its earlier mention, or to what followed that). So the first weights hold the two kinds of heads that do this: heads
that look a fixed distance back, and heads that look for the same word or for what came after it; what the later ones find is
written where it makes that very word likelier. Everything else is random, and training is free to change all of it.
"""

from __future__ import annotations

import math
from typing import Any

import torch

_CONSTANT = 6.0
"""Value of the embeddings' first number, the same for every token: what heads that only look at distance read."""
_DISTANCE_PAIRS = 5
"""Rotary pairs (of the highest frequencies) that measure distance."""
_SHARPNESS = 5.0
_MATCH = 2.2
_CARRIED = 1.6
_FINAL_SCALE = 0.08
"""Weight of the last norm: keeps the output of the tied embedding, whose numbers are about 1, near a uniform guess."""


def draw(model: Any, theta: float, generator: torch.Generator) -> None:
    """Draw the weights of a fresh Llama in place.

    Layer 0's heads look 1, 2, 3 ... tokens back and note what they see there; layer 1's first head looks for the same token and
    its others for the token that such a note is on; layer 3's heads look 4, 3, 5, 6 ... tokens back and say what layer 1's
    fourth head found there; layer 4's say what stands there. Models with fewer layers have only the first of these.
    """
    layers, width = model.model.layers, model.config.hidden_size
    heads = model.config.num_attention_heads
    with torch.no_grad():
        _random(model, generator)
        notes = {}
        for head in range(heads):
            _look_back(layers[0], head, head + 1, theta, width, heads)
            notes[head] = _carry(layers[0], head, width, heads, generator)
        found = [_find(layers[1], head, notes.get(head - 1), width, heads, generator) for head in range(heads)]
        distances = [(4, 3)[head] if head < 2 else head + 3 for head in range(heads)]
        if len(layers) > 3:
            reads, writes = found[3]
            for head, distance in enumerate(distances):
                _look_back(layers[3], head, distance, theta, width, heads)
                _place(layers[3], head, writes, reads, width, heads)
        if len(layers) > 4:
            for head, distance in enumerate(distances):
                _look_back(layers[4], head, distance, theta, width, heads)
                reads = _basis(width // heads, width, generator)
                _place(layers[4], head, reads, reads, width, heads)


def _random(model: Any, generator: torch.Generator) -> None:
    for name, value in model.named_parameters():
        if "o_proj" in name or "down_proj" in name:
            value.zero_()
        elif value.ndim == 2:
            scale = 1.0 if "embed" in name else value.shape[1] ** -0.5
            value.copy_(scale * torch.randn(value.shape, generator=generator))
    model.model.embed_tokens.weight[:, 0] = _CONSTANT
    model.model.norm.weight.fill_(_FINAL_SCALE)


def _rows(head: int, width: int, heads: int) -> slice:
    size = width // heads
    return slice(head * size, (head + 1) * size)


def _look_back(layer: Any, head: int, distance: int, theta: float, width: int, heads: int) -> None:
    """Make a head attend ``distance`` tokens back: constant keys, and queries turned by that distance."""
    size = width // heads
    constant = _CONSTANT / math.sqrt((_CONSTANT**2 + width - 1) / width)
    strength = math.sqrt(_SHARPNESS * math.sqrt(size)) / constant
    query, key = torch.zeros(size), torch.zeros(size)
    for pair in range(min(_DISTANCE_PAIRS, size // 2)):
        angle = distance * theta ** (-2 * pair / size)
        key[pair] = strength
        query[pair], query[pair + size // 2] = strength * math.cos(angle), -strength * math.sin(angle)
    rows = _rows(head, width, heads)
    for weight, column in ((layer.self_attn.q_proj.weight, query), (layer.self_attn.k_proj.weight, key)):
        weight[rows] = 0.0
        weight[rows, 0] = column


def _carry(layer: Any, head: int, width: int, heads: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Make a head write what it sees into directions of its own; return (what it reads, where it writes)."""
    size = width // heads
    reads, writes = _basis(size, width, generator), _basis(size, width, generator)
    _place(layer, head, reads, writes, width, heads)
    return reads, writes


def _basis(size: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """Return ``size`` random directions, none of which reads the constant number."""
    rows = _orthonormal(size, width, generator)
    rows[:, 0] = 0.0
    return rows


def _place(layer: Any, head: int, reads: torch.Tensor, writes: torch.Tensor, width: int, heads: int) -> None:
    """Make a head read along some directions and write along others; along the same ones, it says the word that it sees."""
    rows = _rows(head, width, heads)
    layer.self_attn.v_proj.weight[rows] = reads
    layer.self_attn.o_proj.weight[:, rows] = _CARRIED * writes.T


def _find(
    layer: Any, head: int, note: tuple[torch.Tensor, torch.Tensor] | None, width: int, heads: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Make a head attend to the same token, or to the token that holds a note of the same token."""
    size = width // heads
    if note is None:
        reads = _basis(size, width, generator)
        note = (reads, reads)
    rows = _rows(head, width, heads)
    layer.self_attn.q_proj.weight[rows] = _MATCH * note[0]
    layer.self_attn.k_proj.weight[rows] = _MATCH * note[1]
    return _carry(layer, head, width, heads, generator)


def _orthonormal(count: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """Return ``count`` orthonormal rows of ``width`` numbers."""
    square, _ = torch.linalg.qr(torch.randn(width, count, generator=generator))
    return square.T.contiguous()
