"""Hybrid weights: with which weights does the training of the embedded model with recurrent layers begin?

The library draws decays so fast that most states are gone after one token; here they start slow, as in the published layer.
A gated delta layer binds what its convolution hands it: with a key from some tokens back and a value from here, the state
finds at a later mention what followed the first. So the first layers' heads start as such bindings, over the distances of the
world's wordings, and the first attention layer's heads look a few tokens back and say what was found there. Everything else is
random, and training is free to change all of it.

Gated delta rule: Yang, Kautz and Hatamizadeh 2024, arXiv 2412.06464.
"""

from __future__ import annotations

import math
from typing import Any

import torch

_CONSTANT = 6.0
"""Value of the embeddings' first number, the same for every token: what open gates and heads that measure distance read."""
_FINAL_SCALE = 0.08
"""Weight of the last norm: keeps the output of the tied embedding, whose numbers are about 1, near a uniform guess."""
_HALF_LIVES = (64.0, 512.0)
"""Tokens after which a state has lost half of what it held: of a layer's first and last head, on a log scale between them."""
_BINDINGS = (((3, 0), (0, 1)), ((1, 0), (0, 3)), ((2, 0), (0, 2)))
"""For the heads of each of the first layers: how many tokens back the key and the value of a binding stand."""
_SMALL = 0.3
"""Scale of what goes into a convolution: so near 0 its SiLU is almost a straight line, and tokens stay at right angles."""
_OPEN = 2.0
"""What open gates start at, before their sigmoid or SiLU."""
_CARRIED = 1.6
_DISTANCES = (4, 3, 5, 6)
"""So far back the heads of the first attention layer look: from where an answer is given to what was asked about."""
_DISTANCE_PAIRS = 3
_SHARPNESS = 1.9
"""Scale of the queries and of the keys, whose norms would otherwise keep a head from looking at one place."""


def draw(model: Any, theta: float, generator: torch.Generator) -> None:
    """Draw the weights of a fresh Qwen3.5 in place.

    Args:
        model: with tied embeddings and float32 weights.
        theta: the base of the rotary angles.
        generator: where all random numbers come from.
    """
    kinds, layers = model.config.layer_types, model.model.layers
    with torch.no_grad():
        _random(model, generator)
        width = model.config.hidden_size
        size = layers[0].linear_attn.head_v_dim
        reads, writes = _basis(size, width, generator), _basis(size, width, generator)
        for layer in (layer.linear_attn for layer, kind in zip(layers, kinds, strict=True) if kind == "linear_attention"):
            _decay_slowly(layer)
            _open(layer.in_proj_z.weight, width)
        for number, bindings in enumerate(_BINDINGS):
            for head, (key, value) in zip(range(layers[number].linear_attn.num_v_heads), bindings, strict=False):
                into = writes if (key, value) == _BINDINGS[0][0] else _basis(size, width, generator)
                _bind(layers[number].linear_attn, head, key, value, reads, into, generator)
        _look_back(layers[kinds.index("full_attention")].self_attn, theta, writes, reads)


def _random(model: Any, generator: torch.Generator) -> None:
    for name, value in model.named_parameters():
        if any(part in name for part in ("o_proj", "down_proj", "out_proj")):
            value.zero_()
        elif "conv1d" in name:
            value.copy_(0.2 * torch.randn(value.shape, generator=generator))
            value[..., -1] = 1.0
        elif value.ndim == 2:
            scale = 1.0 if "embed" in name else value.shape[1] ** -0.5
            value.copy_(scale * torch.randn(value.shape, generator=generator))
    model.model.embed_tokens.weight[:, 0] = _CONSTANT
    model.model.norm.weight.fill_(_FINAL_SCALE - 1.0)  # the library adds 1


def _constant(width: int) -> float:
    """Return the embeddings' first number as a layer sees it, after its norm."""
    return _CONSTANT / math.sqrt((_CONSTANT**2 + width - 1) / width)


def _decay_slowly(layer: Any) -> None:
    """Give the heads their half-lives: the state is multiplied by exp(-exp(A_log) softplus(a + dt_bias)) at each token."""
    shortest, longest = map(math.log, _HALF_LIVES)
    for head in range(layer.num_v_heads):
        half_life = math.exp(shortest + (longest - shortest) * head / max(layer.num_v_heads - 1, 1))
        layer.A_log[head] = 0.0
        layer.dt_bias[head] = math.log(math.expm1(math.log(2.0) / half_life))
    layer.in_proj_a.weight.mul_(_SMALL)
    layer.in_proj_b.weight.mul_(_SMALL)


def _open(gate: torch.Tensor, width: int) -> None:
    gate.mul_(_SMALL)
    gate[:, 0] = _OPEN / _constant(width)


def _bind(
    layer: Any, head: int, key: int, value: int, reads: torch.Tensor, writes: torch.Tensor, generator: torch.Generator
) -> None:
    """Make a head bind the token ``key`` back to the one ``value`` back, and note what is bound to the present token.

    Where the key is the present token itself, each mention writes before it reads: it is written half, so that half of what
    was bound before is still found.
    """
    width, size, taps = layer.hidden_size, layer.head_k_dim, layer.conv1d.weight
    match = _SMALL * _basis(size, width, generator)
    places = [part * layer.key_dim + head * size for part in range(3)]
    for place, rows, back in zip(places, (match, match, _SMALL * reads), (0, key, value), strict=True):
        layer.in_proj_qkv.weight[place : place + size] = rows
        taps[place : place + size] = 0.0
        taps[place : place + size, 0, taps.shape[-1] - 1 - back] = 1.0
    layer.in_proj_b.weight[head, 0] = (_OPEN if key else 0.0) / _constant(width)
    layer.out_proj.weight[:, head * size : (head + 1) * size] = _CARRIED / _OPEN * writes.T


def _look_back(layer: Any, theta: float, reads: torch.Tensor, writes: torch.Tensor) -> None:
    """Make each head attend some tokens back (constant keys, and queries turned by that distance) and say what was found."""
    size, groups = layer.head_dim, layer.num_key_value_groups
    turned = layer.config.rope_parameters["partial_rotary_factor"] * size
    layer.k_proj.weight.zero_()
    for pair in range(_DISTANCE_PAIRS):
        layer.k_proj.weight[pair::size, 0] = 1.0
    for head, distance in zip(range(layer.config.num_attention_heads), _DISTANCES, strict=False):
        start = 2 * size * head  # the library keeps each head's queries and then its output gate
        layer.q_proj.weight[start : start + size] = 0.0
        for pair in range(_DISTANCE_PAIRS):
            angle = distance * theta ** (-2 * pair / turned)
            layer.q_proj.weight[start + pair, 0] = math.cos(angle)
            layer.q_proj.weight[start + pair + int(turned) // 2, 0] = -math.sin(angle)
        _open(layer.q_proj.weight[start + size : start + 2 * size], layer.q_proj.in_features)
        layer.v_proj.weight[size * (head // groups) : size * (head // groups + 1)] = reads
        layer.o_proj.weight[:, size * head : size * (head + 1)] = _CARRIED * writes.T
    layer.q_norm.weight.fill_(_SHARPNESS - 1.0)
    layer.k_norm.weight.fill_(_SHARPNESS - 1.0)


def _basis(size: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """Return ``size`` random orthonormal directions, none of which reads the constant number."""
    square, _ = torch.linalg.qr(torch.randn(width, size, generator=generator))
    rows = square.T.contiguous()
    rows[:, 0] = 0.0
    return rows
