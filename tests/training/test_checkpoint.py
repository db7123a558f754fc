"""Checkpoint: does everything come back that a run goes on from, without pickle?"""

import random
from pathlib import Path

import numpy as np
import torch
from training_kit import small_model

from palimpsest.training import checkpoint as store


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (9, 10, 100, 11):
        (tmp_path / f"checkpoint-{step}").mkdir()
    store.rotate(tmp_path, 2)
    assert [store.step_of(path) for path in store.checkpoints(tmp_path)] == [11, 100]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-100", "checkpoint-11"]


def test_random_state_comes_back(tmp_path: Path) -> None:
    random.gauss(0, 1)
    np.random.standard_normal()
    store.save_random_state(tmp_path)
    first = [random.gauss(0, 1), np.random.standard_normal(3).tolist(), torch.rand(3).tolist()]
    store.load_random_state(tmp_path)
    assert first == [random.gauss(0, 1), np.random.standard_normal(3).tolist(), torch.rand(3).tolist()]


def test_tied_weights_and_buffers_survive(tmp_path: Path) -> None:
    model, other = small_model(0), small_model(1)
    model.register_buffer("kept", torch.arange(3.0))
    other.register_buffer("kept", torch.zeros(3))
    assert "lm_head.weight" not in store.model_tensors(model)
    store.save_model(model, tmp_path / "model.safetensors")
    store.load_model(other, tmp_path / "model.safetensors")
    for name, tensor in store.model_tensors(model).items():
        assert torch.equal(tensor, store.model_tensors(other)[name])
    assert other.lm_head.weight is other.model.embed_tokens.weight
