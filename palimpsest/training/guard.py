"""Guard: may training begin, on which model exactly, and is the process left as it was found?"""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from palimpsest import ranks
from palimpsest.core.errors import Problems, UserError
from palimpsest.store.atomic import TEMPORARY, cannot_write, remove_leftovers
from palimpsest.training.checkpoint import model_tensors
from palimpsest.training.sampler import Row
from palimpsest.training.settings import TrainingSettings

_COPIES_A_CHECKPOINT = 3
"""Weights and two moments."""


def limits_of(model: Any) -> tuple[int | None, int]:
    """Return how many tokens fit into the context (``None``: unknown) and how many there are embeddings for."""
    config = model.config.get_text_config()
    return getattr(config, "max_position_embeddings", None), model.get_input_embeddings().weight.shape[0]


def check_steps(steps: int, settings: TrainingSettings) -> None:
    """Refuse a run without batches, or with fewer than ``max_steps`` asks for."""
    if steps == 0:
        raise UserError("there is nothing to train on: no batches were given")
    if settings.max_steps > steps:
        raise UserError(
            f"max_steps is {settings.max_steps}, but the rows fill only {steps} steps of {settings.rows_per_step}; "
            "give more examples, lower max_steps, or say allow_repeats: true with a higher num_train_epochs"
        )


def check_weights(model: nn.Module, when: str) -> None:
    """Refuse weights that are not finite, naming each tensor."""
    problems = Problems(f"The model's weights must be finite, {when}:")
    ranks.let_go(model)
    for name, tensor in model.named_parameters():
        wrong = tensor.numel() - int(ranks.whole(torch.isfinite(tensor.detach()).sum()))
        if wrong:
            problems.add(f"{name} holds {wrong} of {tensor.numel()} numbers that are not (NaN or infinite)")
    problems.raise_if_any()


def check_folder(model: nn.Module, folder: Path, settings: TrainingSettings) -> None:
    """Make the run's folder, or refuse one that can't be written or has too little room."""
    try:
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        probe = folder / f"{TEMPORARY}probe"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise cannot_write(folder, error) from error
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    needed = size * (1 + _COPIES_A_CHECKPOINT * (settings.save_total_limit + 1))
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder} needs room for {needed / 2**30:.1f} GiB (the model and {settings.save_total_limit + 1} checkpoints), "
            f"found {free / 2**30:.1f} GiB free; free some space or choose another folder"
        )


def make_ready(model: Any, settings: TrainingSettings) -> list[str]:
    """Check a model, bring its weights to float32, and return what the user should know."""
    check_weights(model, "before training")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError("at least one weight must be trainable, found all of them frozen (requires_grad is False)")
    device = next(model.parameters()).device
    if settings.bf16 and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UserError("bf16 must be supported by the GPU, and this one does not; leave bf16 out")
    kinds = {str(parameter.dtype).removeprefix("torch.") for parameter in model.parameters()}
    if kinds == {"float32"}:
        return []
    model.float()
    return [
        f"The weights were {', '.join(sorted(kinds))}; they were trained and saved in float32, because half precision loses "
        "small steps."
    ]


def digest_of_rows(rows: Sequence[Row]) -> str:
    """Return a content hash of rows: sources, tokens and weights."""
    state = hashlib.blake2b(digest_size=16)
    for row in rows:
        state.update(f"{row.source} {len(row.tokens)}\n".encode())
        state.update(np.asarray(row.tokens, dtype=np.int64).tobytes())
        state.update(np.asarray(row.weights, dtype=np.float32).tobytes())
        if row.rejected is not None:
            state.update(f"rejected {row.reference!r}\n".encode())
            state.update(np.asarray(row.rejected.tokens, dtype=np.int64).tobytes())
    return state.hexdigest()


def digest_of_weights(model: nn.Module) -> str:
    """Return a content hash of a model's tensors."""
    state = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model_tensors(model).items()):
        state.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        found = ranks.whole(tensor)
        if ranks.own() == 0:
            state.update(found.contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return ranks.decided(state.hexdigest)


@contextmanager
def left_as_found(model: Any) -> Iterator[None]:
    """Keep quiet, and restore what the Trainer changes outside of the weights.

    That is the global random state, the log level, and the model's mode, cache setting and forward (accelerate wraps it).
    """
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    verbosity, bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    use_cache, training, forward = model.config.use_cache, model.training, model.__dict__.get("forward")
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if gpus:
            torch.cuda.set_rng_state_all(gpus)
        transformers.logging.set_verbosity(verbosity)
        if bars:
            transformers.logging.enable_progress_bar()
        model.__dict__.pop("forward", None)
        model.__dict__.pop("_original_forward", None)
        if forward is not None:
            model.forward = forward
        model.config.use_cache = use_cache
        model.train(training)
        model.zero_grad(set_to_none=True)
