"""Tiny: random models of several classes, with a tokenizer, as Hugging Face folders; and the real ones, where they are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<s>", "</s>")
SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
KINDS: dict[str, dict[str, Any]] = {
    "llama": SHAPE,
    "qwen3": {**SHAPE, "head_dim": 8},
    "gemma3_text": {**SHAPE, "head_dim": 8, "sliding_window": 16},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "gpt_neox": {key: value for key, value in SHAPE.items() if key != "num_key_value_heads"},
    "mixtral": {**SHAPE, "num_local_experts": 4},
    "qwen3_5_text": {
        **SHAPE, "head_dim": 8, "linear_num_value_heads": 4, "linear_num_key_heads": 2,
        "linear_key_head_dim": 8, "linear_value_head_dim": 8, "layer_types": ["linear_attention", "full_attention"],
    },
}  # fmt: skip


def tokenizer(extra: tuple[str, ...] = (), chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer without merges: 256 bytes, three special tokens, and the extra ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = {token: index for index, token in enumerate([*SPECIAL, *alphabet, *extra])}
    built = Tokenizer(models.BPE(vocab=tokens, merges=[]))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=built, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    made.chat_template = chat_template
    return made


def model(kind: str = "llama", seed: int = 0, vocabulary: int = 259, **settings: Any) -> Any:
    """Return a random model in evaluation mode, leaving torch's random state as it was."""
    config = CONFIG_MAPPING[kind](
        vocab_size=vocabulary, pad_token_id=0, bos_token_id=1, eos_token_id=2, **{**KINDS[kind], **settings}
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = AutoModelForCausalLM.from_config(config).eval()
        for name, parameter in made.named_parameters():
            if name.endswith("bias") or "norm" in name:  # away from 0 and 1, so that leaving one out shows
                torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.2)
            else:
                torch.nn.init.normal_(parameter, std=0.3)
    return made


def folder(path: Path, kind: str = "llama", seed: int = 0, chat_template: str | None = None, **settings: Any) -> Path:
    """Save a random model and its tokenizer, and return the folder."""
    model(kind, seed, **settings).save_pretrained(path)
    tokenizer(chat_template=chat_template).save_pretrained(path)
    return path


def real(name: str) -> Path:
    """Return the folder of a real model, or skip the test where the shared data are not there."""
    shared = Path(os.environ.get("PALIMPSEST_SHARED") or Path(__file__).parents[2] / "shared")
    path = shared / "data" / "models" / name
    if not path.is_dir():
        pytest.skip(f"the real model {name} is not there ({path}); set PALIMPSEST_SHARED to the folder that holds data/models")
    return path
