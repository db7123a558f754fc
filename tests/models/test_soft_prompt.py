"""Soft prompts: are their files read as they were written, and refused where they are something else?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
from safetensors.numpy import save_file

from palimpsest.core.errors import UserError
from palimpsest.models.soft_prompt import SoftPrompt, inserted, other_base, read, write
from palimpsest.models.subject import inspect, load

VECTORS = np.random.default_rng(0).normal(size=(3, 32)).astype(np.float32)


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "soft.safetensors"
    write(path, SoftPrompt(VECTORS, {"digest": "abc", "steps": 3}))
    found = read(path)
    assert np.array_equal(found.vectors, VECTORS) and found.facts == {"digest": "abc", "steps": 3}
    assert found.tokens == (-1, -2, -3)


def test_what_is_no_soft_prompt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="can't be read as safetensors"):
        read(tmp_path / "missing.safetensors")
    save_file({"layer.0": VECTORS[0]}, tmp_path / "vector.safetensors")
    with pytest.raises(UserError, match=r"must hold a soft prompt.*found layer\.0"):
        read(tmp_path / "vector.safetensors")
    write(tmp_path / "broken.safetensors", SoftPrompt(np.full((2, 32), np.nan)))
    with pytest.raises(UserError, match="NaN"):
        read(tmp_path / "broken.safetensors")
    write(tmp_path / "flat.safetensors", SoftPrompt(VECTORS[0]))
    with pytest.raises(UserError, match="positions, hidden size"):
        read(tmp_path / "flat.safetensors")
    with pytest.raises(UserError, match=r"has no config\.json"):
        read(tmp_path)


def test_an_adapter_of_another_kind_is_refused(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(tiny.model(), peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    model.save_pretrained(tmp_path / "lora")
    with pytest.raises(UserError, match="PROMPT_TUNING to be a soft prompt, but its kind is LORA"):
        read(tmp_path / "lora")


def test_the_model_that_it_was_made_on_is_known_by_its_weights(tmp_path: Path) -> None:
    one, other = (inspect(tiny.folder(tmp_path / str(seed), seed=seed)) for seed in (0, 1))
    assert other_base({"digest": one.digest}, one, one.digest) is None
    assert other_base({"digest": one.digest, "model": "that one"}, other, other.digest) == "that one"
    assert other_base({"base": str(one.path)}, one, one.digest) is None
    assert other_base({"base": str(one.path)}, other, other.digest) == str(one.path)
    assert other_base({"base": str(tmp_path / "gone")}, one, one.digest) is None
    assert other_base({}, one, one.digest) is None


def test_another_width_is_refused(tmp_path: Path) -> None:
    subject = load(inspect(tiny.folder(tmp_path)))
    with pytest.raises(ValueError, match="width 8, the model 32"), inserted(subject.model, SoftPrompt(VECTORS[:, :8])):
        pass
