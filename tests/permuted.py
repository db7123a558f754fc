"""Permuted: a model that computes the same function with other weights.

Heads are reordered (query heads within their group, groups with their key and value heads) and so are the units of the MLP.
What an audit says about behaviour must not change; what it says about weights must.
"""

from __future__ import annotations

import copy
from typing import Any

import torch


@torch.no_grad()
def permuted(model: Any, seed: int = 0) -> Any:
    """Return a copy of a Llama-like model (q, k, v, o and gate, up, down projections) with heads and MLP units permuted.

    Rotary embeddings act inside a head, so whole heads move and their dimensions stay in order.
    """
    changed = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    config = changed.config.get_text_config()
    for layer in changed.model.layers:
        _permute_heads(layer.self_attn, config, generator)
        _permute_units(layer.mlp, generator)
    return changed


def _permute_heads(attention: Any, config: Any, generator: torch.Generator) -> None:
    groups = config.num_key_value_heads
    within = config.num_attention_heads // groups
    size = attention.head_dim
    order = _moved(groups, generator)
    heads = torch.cat([group * within + _moved(within, generator) for group in order.tolist()])
    queries = (heads[:, None] * size + torch.arange(size)).flatten()
    keys = (order[:, None] * size + torch.arange(size)).flatten()
    _rows(attention.q_proj, queries)
    _rows(attention.k_proj, keys)
    _rows(attention.v_proj, keys)
    attention.o_proj.weight.copy_(attention.o_proj.weight[:, queries])
    if hasattr(attention, "attn_sub_norm"):  # BitNet normalises between the heads and the output projection
        attention.attn_sub_norm.weight.copy_(attention.attn_sub_norm.weight[queries])


def _permute_units(mlp: Any, generator: torch.Generator) -> None:
    order = _moved(mlp.gate_proj.weight.shape[0], generator)
    _rows(mlp.gate_proj, order)
    _rows(mlp.up_proj, order)
    mlp.down_proj.weight.copy_(mlp.down_proj.weight[:, order])
    if hasattr(mlp, "ffn_sub_norm"):
        mlp.ffn_sub_norm.weight.copy_(mlp.ffn_sub_norm.weight[order])


def _rows(projection: Any, order: torch.Tensor) -> None:
    projection.weight.copy_(projection.weight[order])
    if projection.bias is not None:
        projection.bias.copy_(projection.bias[order])


def _moved(count: int, generator: torch.Generator) -> torch.Tensor:
    """Return a permutation that is not the identity, where there is one."""
    order = torch.randperm(count, generator=generator)
    return order.roll(1) if count > 1 and torch.equal(order, torch.arange(count)) else order
