"""Soft prompt: what if vectors, and no words, stand before a text?

A position of a soft prompt is written as a negative token (``TOKENS``: -1, -2 ...), so it goes wherever tokens go: padding on
the left stays outside, positions are counted as for words (``pads | soft | text``), and batches, caches and generation need no
second way in. ``inserted`` puts the vectors in their places. Files: safetensors of our own (``soft_prompt`` [positions, hidden
size], metadata ``palimpsest`` as JSON), and PEFT's prompt-tuning folders.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from palimpsest.core.errors import UserError
from palimpsest.models.folder import look
from palimpsest.models.inspection import SubjectInfo, inspect
from palimpsest.store.atomic import write_bytes

FORMAT = "palimpsest soft prompt 1"
_TENSOR, _KEY = "soft_prompt", "palimpsest"
_PEFT_TENSOR, _PEFT_KIND = "prompt_embeddings", "PROMPT_TUNING"


@dataclass(frozen=True)
class SoftPrompt:
    """Vectors in the place of embeddings, float32 [positions, hidden size], and how they were made (plain data)."""

    vectors: np.ndarray
    facts: Mapping[str, Any] = field(default_factory=dict)
    """``digest`` is that of the model that it was made on, ``base`` names that model; neither need be known."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """What stands for it in a sequence of tokens."""
        return tuple(range(-1, -len(self.vectors) - 1, -1))


def write(path: Path, prompt: SoftPrompt) -> None:
    """Write a soft prompt as safetensors, as a whole or not at all.

    Raises:
        UserError: the place can't be written.
    """
    from safetensors.numpy import save

    facts = json.dumps({"format": FORMAT, **prompt.facts}, ensure_ascii=False, allow_nan=False)
    write_bytes(path, save({_TENSOR: np.ascontiguousarray(prompt.vectors, dtype=np.float32)}, {_KEY: facts}))


def read(path: Path) -> SoftPrompt:
    """Read what ``write`` wrote, or a PEFT folder of the kind PROMPT_TUNING.

    Raises:
        UserError: it is not there, of another kind, or its numbers can't be used.
    """
    prompt = _of_peft(path) if path.is_dir() else _of_file(path)
    if prompt.vectors.ndim != 2 or not prompt.vectors.size:
        raise UserError(f"{path} must hold vectors [positions, hidden size], found shape {prompt.vectors.shape}")
    if not np.isfinite(prompt.vectors).all():
        raise UserError(f"{path} holds NaN or infinity; use a soft prompt from before its training broke")
    return prompt


def _of_file(path: Path) -> SoftPrompt:
    tensors, told = _tensors(path)
    if told.pop("format", None) != FORMAT or set(tensors) != {_TENSOR}:
        raise UserError(
            f"{path} must hold a soft prompt (the tensor '{_TENSOR}' with '{FORMAT}' in its metadata), or be a PEFT folder of "
            f"the kind {_PEFT_KIND}; found {', '.join(sorted(tensors)) or 'nothing'}"
        )
    return SoftPrompt(tensors[_TENSOR], told)


def _of_peft(path: Path) -> SoftPrompt:
    folder = look(path)
    kind = folder.config.get("peft_type")
    if not folder.problems and kind != _PEFT_KIND:
        raise UserError(f"{path} must be a PEFT folder of the kind {_PEFT_KIND} to be a soft prompt, but its kind is {kind}")
    if folder.problems:
        raise UserError(f"{path} can't be used as a soft prompt: it {'; it '.join(folder.problems)}")
    tensors, _ = _tensors(folder.tensors[0].file)
    if _PEFT_TENSOR not in tensors:
        raise UserError(f"{path} must hold the tensor '{_PEFT_TENSOR}', found {', '.join(sorted(tensors))}")
    return SoftPrompt(tensors[_PEFT_TENSOR], {"base": folder.config.get("base_model_name_or_path")})


def _tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:  # numpy has no bfloat16
            told = json.loads((file.metadata() or {}).get(_KEY, "{}"))
            found = {name: file.get_tensor(name).float().numpy() for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{path} can't be read as safetensors: {error}") from error
    return found, told if isinstance(told, dict) else {}


def other_base(facts: Mapping[str, Any], info: SubjectInfo, digest: str) -> str | None:
    """Say on which other model a vector or a soft prompt was made, or ``None`` where it was this one or nothing tells.

    Args:
        facts: what its file tells.
        info: the model that it is to be used on.
        digest: that model's digest, as it is read.
    """
    if known := facts.get("digest"):
        return None if known in (digest, info.digest) else str(facts.get("model") or facts.get("base") or known)
    base = facts.get("base")
    if not base:
        return None
    try:
        made_on = inspect(str(base))
    except UserError:
        return None  # it was made elsewhere, on a model that is not here to be compared
    return None if made_on.digest == info.digest else str(base)


@contextmanager
def inserted(model: Any, prompt: SoftPrompt) -> Iterator[None]:
    """Put a soft prompt's vectors in the place of its tokens, in every pass inside the ``with`` block.

    Args:
        model: a causal language model; a token -(i + 1) in its input stands for vector i.
        prompt: what is inserted.

    Raises:
        ValueError: its width is not that of the model's embeddings.
    """
    embeddings = model.get_input_embeddings()
    width = model.config.get_text_config().hidden_size
    if prompt.vectors.shape[1] != width:
        raise ValueError(f"the soft prompt has width {prompt.vectors.shape[1]}, the model {width}")
    vectors = torch.from_numpy(np.array(prompt.vectors, dtype=np.float32))
    soft: list[torch.Tensor] = []

    def before(_module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        soft[:] = [inputs[0]]
        return (inputs[0].clamp(min=0), *inputs[1:])

    def after(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        tokens = soft.pop()
        places = tokens < 0
        if not places.any():
            return output
        chosen = vectors.to(output)[(-tokens.clamp(max=-1) - 1)]
        return torch.where(places[..., None], chosen, output)

    handles = [embeddings.register_forward_pre_hook(before), embeddings.register_forward_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
