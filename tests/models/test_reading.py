"""Trials of a model: rounding is let pass, and what is read wrongly is not."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch

from palimpsest.models import reading


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rounding_is_let_pass_whatever_the_size_of_the_vocabulary(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    logits = 0.6 * torch.randn(8, 151_936, generator=draw)
    rounding = (1e-4 if dtype == torch.float32 else 0.016) * 0.6 * torch.randn(logits.shape, generator=draw)
    assert reading.agree(logits + rounding, logits, dtype)
    assert not reading.agree(logits + 10 * rounding, logits, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_wrong_token_of_many_is_seen(dtype: torch.dtype) -> None:
    logits = torch.randn(50, 100, generator=torch.Generator().manual_seed(0))
    other = logits.clone()
    other[7] = other[7].roll(1)
    assert not reading.agree(other, logits, dtype)
    other[7] = torch.nan
    assert not reading.agree(other, logits, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3"])
def test_a_model_that_is_blind_to_the_mask_takes_no_padding(kind: str, dtype: torch.dtype) -> None:
    model: Any = tiny.model(kind).to(dtype)
    assert reading.takes_padding(model, 0)
    own = model.forward

    def blind(input_ids: Any, attention_mask: Any = None, position_ids: Any = None, use_cache: Any = None) -> Any:
        seen = None if attention_mask is None else torch.ones_like(attention_mask)
        return own(input_ids=input_ids, attention_mask=seen, position_ids=position_ids, use_cache=use_cache)

    model.forward = blind
    assert not reading.takes_padding(model, 0)


@pytest.mark.parametrize("positions", [11, 16, 40])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_trials_stay_within_the_positions_that_a_model_has(kind: str, positions: int) -> None:
    """GPT-2's positions are a table: one beyond its end is an error of the library."""
    name = {"gpt2": "n_positions", "llama": "max_position_embeddings"}[kind]
    model = tiny.model(kind, **{name: positions})
    assert not reading.sees_ahead(model)
    assert reading.takes_padding(model, 0)
    assert reading.writes_as_it_reads(model) and reading.writes_as_it_reads(model, 0)
