"""Parameters: streamed from files or spooled from a loaded model, the same tensors; and where each lies."""

from __future__ import annotations

import json
import shutil

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from palimpsest.core.errors import UserError
from palimpsest.models import parameters as module
from palimpsest.models import subject
from palimpsest.models.layout import PARTS, layout, located
from palimpsest.models.parameters import parameters, streams


def read(info, work):
    return {name: value.clone() for name, value in parameters(info, work)}


def adapted(base, path, rank=4):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(r=rank, lora_alpha=16, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(path)
    return path


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_streamed_is_what_loading_gives(kind, tmp_path):
    info = subject.inspect(tiny.folder(tmp_path / kind, kind))
    assert streams(info) == (kind not in ("mixtral", "gpt_neox"))
    found = read(info, tmp_path / "work")
    with subject.load(info) as one:
        wanted = dict(one.model.named_parameters())
        assert list(found) == sorted(wanted)
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_both_ways_give_equal_tensors(kind, tmp_path, monkeypatch):
    info = subject.inspect(tiny.folder(tmp_path / kind, kind))
    streamed = read(info, tmp_path / "work")
    monkeypatch.setattr(module, "streams", lambda _: False)
    spooled = read(info, tmp_path / "work")
    assert list(streamed) == list(spooled)
    assert all(torch.equal(streamed[name], spooled[name]) for name in streamed)


def test_tied_weights_come_once_whatever_they_are_called_in_the_file(tmp_path):
    path = tiny.folder(tmp_path / "tied", tie_word_embeddings=True)
    info = subject.inspect(path)
    found = read(info, tmp_path / "work")
    assert "lm_head.weight" not in found and len(found) == len(info.shapes)
    assert sum(value.numel() for value in found.values()) == info.parameters
    shutil.copytree(path, tmp_path / "renamed")
    weights = load_file(path / "model.safetensors")
    weights["lm_head.weight"] = weights.pop("model.embed_tokens.weight")
    save_file(weights, tmp_path / "renamed" / "model.safetensors", {"format": "pt"})
    other = subject.inspect(tmp_path / "renamed")
    again = read(other, tmp_path / "work")
    assert not streams(other)
    assert all(torch.equal(found[name], again[name]) for name in found)


def test_shards_and_half_precision_are_streamed_as_stored(tmp_path):
    path = tmp_path / "shards"
    model = tiny.model().to(torch.bfloat16)
    model.save_pretrained(path, max_shard_size="20KB")
    tiny.tokenizer().save_pretrained(path)
    assert len(list(path.glob("*.safetensors"))) > 2
    info = subject.inspect(path)
    found = read(info, tmp_path / "work")
    assert streams(info)
    assert all(value.dtype is torch.bfloat16 for value in found.values())
    assert all(torch.equal(found[name], value) for name, value in model.named_parameters())


def test_an_adapter_is_merged(tmp_path):
    base = tiny.folder(tmp_path / "base")
    info = subject.inspect(adapted(base, tmp_path / "adapter"))
    assert not streams(info)
    found = read(info, tmp_path / "work")
    before = read(subject.inspect(base), tmp_path / "work")
    moved = {name for name in found if not torch.equal(found[name], before[name])}
    assert moved == {name for name in before if "q_proj" in name or "down_proj" in name}


def test_a_spool_that_a_kill_left_is_replaced_and_one_that_is_given_up_removed(tmp_path):
    info = subject.inspect(tiny.folder(tmp_path / "mixtral", "mixtral"))
    work = tmp_path / "work"
    work.mkdir()
    (work / "000000.safetensors").write_bytes(b"half")
    reading = parameters(info, work)
    next(reading)
    reading.close()
    assert not work.exists()


def test_files_that_changed_are_told(tmp_path):
    path = tiny.folder(tmp_path / "model")
    info = subject.inspect(path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "rope_theta": 5.0}))
    with pytest.raises(UserError, match="changed while the program ran"):
        next(parameters(info, tmp_path / "work"))


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_every_weight_has_its_place(kind):
    found = located(tiny.model(kind))
    assert {one.part for one in found.values()} <= set(PARTS) - {"other"}
    assert {one.layer for one in found.values()} == {None, 0, 1}
    for name, one in found.items():
        if "embed" in name or "wte" in name or "wpe" in name:
            assert (one.part, one.layer) == ("embeddings", None)
        if "norm" in name or "ln_" in name:
            assert one.part == "norm"
        if "lm_head" in name:
            assert (one.part, one.layer) == ("head", None)
        if ".mlp." in name or "experts" in name:
            assert one.part == "mlp"
    projections = {one.kind for one in found.values() if one.part == "attention"}
    fused = {"attention qkv", "attention o"}
    assert projections == (fused if kind in ("gpt2", "gpt_neox") else {f"attention {one}" for one in "qkvo"})
    recurrent = {name for name, one in found.items() if one.part == "recurrent"}
    assert recurrent == {name for name in found if "linear_attn" in name and "norm" not in name}


def test_layout_of_a_folder_names_the_weights_that_are_read(tmp_path):
    info = subject.inspect(tiny.folder(tmp_path / "mixtral", "mixtral"))
    assert layout(info).keys() == read(info, tmp_path / "work").keys() == dict(info.shapes).keys()
