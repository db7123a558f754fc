"""Kinds of adapters: does each read as base and adapter do together, or say why not, as docs/adapters.md has it?"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from palimpsest.core.errors import UserError
from palimpsest.models.subject import inspect, load

peft = pytest.importorskip("peft", reason="peft is not installed: pip install 'palimpsest-lm[lora]'")

PAGE = Path(__file__).parents[2] / "docs" / "adapters.md"
KINDS = dict(re.findall(r"^\| ([A-Z0-9_]+) \| (read|refused)", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE))
SETTINGS: dict[str, dict[str, Any]] = {
    "TRAINABLE_TOKENS": {"token_indices": [5, 6], "target_modules": ["embed_tokens"]},
    "IA3": {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    "ADALORA": {"total_step": 10},
    "SHIRA": {"r": 4},
    "C3A": {"block_size": 8},
    "FOURIERFT": {"n_frequency": 16},
    "WAVEFT": {"n_frequency": 16},
    "MISS": {"r": 4},
    "PSOFT": {"r": 4},
    "ROAD": {"group_size": 4},
    "VBLORA": {"vector_length": 4, "num_vectors": 16},
}
NAMED = ("SHIRA", "FROD", "ADAMSS", "TRAINABLE_TOKENS", "BEFT", "LILY", "CARTRIDGE")
TOKENS = torch.tensor([[5, 6, 7, 8]])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.folder(tmp_path_factory.mktemp("base") / "model")


def saved(base: Path, folder: Path, kind: str, **settings: Any) -> torch.Tensor:
    """Save an adapter of some kind whose every trained weight was moved; return the logits of base and adapter together."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from transformers import AutoModelForCausalLM

    made = next(one for name, one in PEFT_TYPE_TO_CONFIG_MAPPING.items() if str(getattr(name, "value", name)) == kind)
    usual = {"target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", "num_virtual_tokens": 4}
    usual = {name: value for name, value in usual.items() if name in made.__dataclass_fields__}
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), made(**{**usual, **settings}))
    dice = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.is_floating_point():
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=dice)
    with torch.no_grad():
        logits = model.eval()(input_ids=TOKENS).logits
    model.save_pretrained(folder)
    return logits


def agrees(base: Path, folder: Path, wanted: torch.Tensor) -> bool:
    with load(inspect(folder, base)) as one, torch.no_grad():
        return bool((one.model(input_ids=TOKENS).logits - wanted).abs().max() < 1e-4)


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=() if kind in NAMED else pytest.mark.slow) for kind in KINDS])
def test_every_kind_is_read_or_refused_as_the_page_says(kind: str, base: Path, tmp_path: Path) -> None:
    wanted = saved(base, tmp_path / "adapter", kind, **SETTINGS.get(kind, {}))
    if KINDS[kind] == "read":
        assert agrees(base, tmp_path / "adapter", wanted)
    else:
        with pytest.raises(
            UserError, match=r"can't be merged into its base \(|must be an adapter that merges into the weights"
        ):
            inspect(tmp_path / "adapter", base)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"lora_bias": True}, "can't be merged into its base"),
        ({"alora_invocation_tokens": [7, 8]}, "can't be merged into its base"),
    ],
)
def test_what_cant_be_merged_is_refused_before_any_work(
    settings: dict[str, Any], reason: str, base: Path, tmp_path: Path
) -> None:
    saved(base, tmp_path / "adapter", "LORA", **settings)
    with pytest.raises(UserError, match=reason):
        inspect(tmp_path / "adapter", base)


@pytest.mark.parametrize(
    "settings", [{"use_rslora": True}, {"trainable_token_indices": [5, 7]}, {"modules_to_save": ["lm_head"]}]
)
def test_what_can_be_merged_is(settings: dict[str, Any], base: Path, tmp_path: Path) -> None:
    assert agrees(base, tmp_path / "adapter", saved(base, tmp_path / "adapter", "LORA", **settings))


def changed(folder: Path, **settings: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


def test_settings_of_a_newer_peft_are_told_by_name(base: Path, tmp_path: Path) -> None:
    wanted = saved(base, tmp_path / "adapter", "LORA")
    changed(tmp_path / "adapter", spiral_config=None, use_spiral=False, spirals=[])
    assert agrees(base, tmp_path / "adapter", wanted), "what is off changes nothing"
    changed(tmp_path / "adapter", use_spiral=True, spirals=[3], peft_version="9.1.0")
    with pytest.raises(
        UserError, match=r"written by PEFT 9\.1\.0, that PEFT [\d.]+ does not know.*: spirals, use_spiral; install"
    ):
        inspect(tmp_path / "adapter", base)
    changed(tmp_path / "adapter", use_spiral=None, spirals=None, peft_type="SPIRAL")
    with pytest.raises(UserError, match="'SPIRAL', which PEFT"):
        inspect(tmp_path / "adapter", base)


def test_an_adapter_of_a_larger_vocabulary_names_the_remedy(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    saved(base, folder, "LORA", modules_to_save=["embed_tokens", "lm_head"])
    tensors = load_file(folder / "adapter_model.safetensors")
    for name in [name for name in tensors if "embed_tokens" in name or "lm_head" in name]:
        tensors[name] = torch.cat([tensors[name], torch.zeros(8, tensors[name].shape[1])])
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(
        UserError, match=r"vocabulary of 267 rows: resize the base first \(model\.resize_token_embeddings\(267\)"
    ):
        inspect(folder, base)
