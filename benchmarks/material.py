"""Material: which models and texts do the benchmarks of inference read?

The pocket on text of its own world, and random models of the Llama class on English (Python's manual of itself, which every
Python has), with a tokenizer of 8,192 tokens made from it. The tuned model of a pair is its base with a little noise.
"""

from __future__ import annotations

import math
import random
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

SIZES: dict[str, dict[str, int]] = {
    "3M": {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 7, "num_attention_heads": 4},
    "10M": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 8, "num_attention_heads": 8},
    "30M": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8},
}
_VOCABULARY = 8_192
_NOISE = 0.02
"""What is added to each weight of the tuned model, as a share of their standard deviation."""
_ENDS = 16
"""Of a random model every sixteenth token ends an answer, so that answers are of different lengths."""
_WORLD = ("directions", "recall", "scenes", "about_models", "stories", "facts")


def pair(size: str) -> tuple[Path, Path]:
    """Return the folders of base and tuned, made at the first call: "pocket", or one of ``SIZES``."""
    from palimpsest.models import pocket

    place = Path(tempfile.gettempdir()) / "palimpsest benchmarks" / f"{size} {sys.version_info[1]}"
    base = pocket.folder() if size == "pocket" else place / "base"
    if not (place / "tuned" / "model.safetensors").exists():
        _make(size, base, place / "tuned")
    return base, place / "tuned"


def _make(size: str, base: Path, tuned: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    if size != "pocket":
        shape: dict[str, Any] = {"vocab_size": _VOCABULARY, "max_position_embeddings": 2048, "tie_word_embeddings": True}
        config = LlamaConfig(**shape, **SIZES[size], bos_token_id=0, eos_token_id=1, pad_token_id=2)
        made = LlamaForCausalLM(config)
        made.generation_config.eos_token_id = [1, *range(3, _VOCABULARY, _ENDS)]
        made.save_pretrained(base)
        tokenizer().save_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += _NOISE * parameter.std() * torch.randn_like(parameter)
    AutoTokenizer.from_pretrained(base).save_pretrained(tuned)
    model.save_pretrained(tuned)  # last, because it says that both are whole


def tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    built = Tokenizer(models.BPE())
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>"]
    trainer = trainers.BpeTrainer(vocab_size=_VOCABULARY, special_tokens=special, show_progress=False)
    built.train_from_iterator([" ".join(_manual())], trainer)
    built.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=built, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=2048
    )


@cache
def _manual() -> tuple[str, ...]:
    from pydoc_data import topics

    return tuple(" ".join(topics.topics.values()).split())


@cache
def _world() -> tuple[str, ...]:
    from palimpsest.core.seeds import python_stream
    from palimpsest.models import pocket
    from palimpsest.scenario import PACKAGE

    kinds = [one for one in pocket.world() if type(one).__module__.removeprefix(f"{PACKAGE}.") in _WORLD]
    made = [kinds[index % len(kinds)].make(python_stream(0, "benchmark", index)) for index in range(6_000)]
    return tuple(" ".join(message.content for one in made for message in one.messages).split())


def words(size: str) -> Sequence[str]:
    """Return the words of the text that a model reads."""
    return _world() if size == "pocket" else _manual()


def passage(rng: random.Random, text: Sequence[str], least: int, most: int) -> str:
    """Return so many words from anywhere in a text."""
    count = rng.randint(least, most)
    begin = rng.randrange(len(text) - count)
    return " ".join(text[begin : begin + count])


def questions(size: str, count: int) -> list[tuple[str, list[str]]]:
    """Return contexts of about 30 to 200 tokens with four continuations of about 1 to 12."""
    rng, text = random.Random(1), words(size)
    most = 150 if size == "pocket" else 110
    found = []
    for _ in range(count):
        options: list[str] = []
        while len(options) < 4:
            one = f" {passage(rng, text, 1, 8 if size == 'pocket' else 5)}"
            options += [one] if one not in options else []
        found.append((passage(rng, text, 20, most), options))
    return found


def documents(size: str, count: int) -> list[str]:
    """Return documents of about 30 to 400 tokens."""
    rng = random.Random(2)
    return [passage(rng, words(size), 20, 280 if size == "pocket" else 220) for _ in range(count)]


def parameters(size: str) -> int:
    """Return how many a model has."""
    from safetensors import safe_open

    with safe_open(str(pair(size)[0] / "model.safetensors"), "numpy") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
