"""Checkpoint: is there always a whole one or none, without pickle?"""

import errno
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from training_kit import bytes_of, small_model

from palimpsest.core.errors import UserError
from palimpsest.training import checkpoint as store


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "checkpoint-1"
    with store.whole_folder(target) as folder:
        (folder / "a").write_text("old")
        assert not target.exists()
    with pytest.raises(KeyboardInterrupt), store.whole_folder(target) as folder:
        (folder / "a").write_text("new")
        raise KeyboardInterrupt
    assert bytes_of(tmp_path) == {"checkpoint-1/a": b"old"}
    with store.whole_folder(target) as folder:
        (folder / "a").write_text("new")
    assert bytes_of(tmp_path) == {"checkpoint-1/a": b"new"}
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def test_a_full_disk_is_told_and_the_old_file_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "training.json"
    store.write_whole(target, "old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(UserError, match=r"training.json can't be written: No space left on device. Free some space"):
        store.write_whole(target, "new")
    with pytest.raises(UserError, match="No space left"), store.whole_folder(tmp_path / "model") as folder:
        (folder / "a").write_text("x")
    assert bytes_of(tmp_path) == {"training.json": b"old"}


def test_the_newest_are_kept_and_leftovers_removed(tmp_path: Path) -> None:
    for step in (9, 10, 100, 11):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / ".unfinished-checkpoint-200").mkdir()
    (tmp_path / ".unfinished-x.json").touch()
    store.remove_leftovers(tmp_path)
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
