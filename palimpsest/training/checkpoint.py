"""Checkpoint: how does a run that was killed at any moment go on as if nothing had happened?

A checkpoint is a folder of safetensors and JSON (no pickle). It is written under a temporary name, flushed to the disk and
renamed, so there is either a whole one or none.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from palimpsest.core.errors import UserError

_TEMPORARY = ".unfinished-"
_PREFIX = "checkpoint-"


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Give a folder to write into that becomes ``target`` only when the block ends well, flushed to the disk.

    Raises:
        UserError: the disk is full or the place can't be written; nothing is left behind.
    """
    temporary = target.with_name(f"{_TEMPORARY}{target.name}")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        for path in (*sorted(temporary.rglob("*")), temporary):
            _flush(path)
        remove_folder(target)
        temporary.rename(target)
        _flush(target.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise cannot_write(target, error) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_whole(target: Path, text: str) -> None:
    """Write a text file so that either all of it is there or the one before.

    Raises:
        UserError: the disk is full or the place can't be written.
    """
    temporary = target.with_name(f"{_TEMPORARY}{target.name}")
    try:
        temporary.write_text(text, encoding="utf-8")
        _flush(temporary)
        temporary.replace(target)
        _flush(target.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise cannot_write(target, error) from error


def remove_folder(folder: Path) -> None:
    """Remove a folder so that it is never seen half removed."""
    if folder.exists():
        going = folder.with_name(f"{_TEMPORARY}old-{folder.name}")
        shutil.rmtree(going, ignore_errors=True)
        folder.rename(going)
        shutil.rmtree(going)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed run was writing."""
    for path in folder.glob(f"{_TEMPORARY}*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def cannot_write(path: Path, error: Exception) -> UserError:
    """Return what a user is told when a file can't be written."""
    why = getattr(error, "strerror", None) or str(error)
    return UserError(f"{path} can't be written: {why}. Free some space there or choose another folder.")


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def checkpoints(folder: Path) -> list[Path]:
    """Return the whole checkpoints in a folder, oldest first."""
    found = [path for path in folder.glob(f"{_PREFIX}*") if path.name.removeprefix(_PREFIX).isdecimal()]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """Return the number of optimizer steps that a checkpoint holds."""
    return int(checkpoint.name.removeprefix(_PREFIX))


def path_of(folder: Path, step: int) -> Path:
    """Return where the checkpoint of a step lies."""
    return folder / f"{_PREFIX}{step}"


def rotate(folder: Path, limit: int) -> None:
    """Remove the oldest checkpoints beyond the limit."""
    for path in checkpoints(folder)[:-limit]:
        remove_folder(path)


def model_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return parameters and persistent buffers by name, tied ones once."""
    kept = model.state_dict(keep_vars=True).keys()
    tensors: dict[str, torch.Tensor] = dict(model.named_parameters())
    tensors.update((name, buffer) for name, buffer in model.named_buffers() if name in kept)
    return {name: tensor.detach() for name, tensor in tensors.items()}


def save_model(model: nn.Module, file: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in model_tensors(model).items()}, file)


def load_model(model: nn.Module, file: Path) -> None:
    """Copy saved tensors into a model, in place."""
    saved = load_file(file)
    with torch.no_grad():
        for name, tensor in model_tensors(model).items():
            tensor.copy_(saved[name])


def save_optimizer(optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Write an optimizer's state: tensors to optimizer.safetensors, everything else to optimizer.json."""
    state = optimizer.state_dict()
    tensors, plain = {}, {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{index}/{key}"] = value.contiguous()
            else:
                plain[f"{index}/{key}"] = value
    save_file(tensors, folder / "optimizer.safetensors")
    write_json(folder / "optimizer.json", {"plain": plain, "param_groups": state["param_groups"]})


def load_optimizer(optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Bring back what ``save_optimizer`` wrote."""
    record = read_json(folder / "optimizer.json")
    state: dict[int, dict[str, Any]] = {}
    for place, value in (*load_file(folder / "optimizer.safetensors").items(), *record["plain"].items()):
        index, _, key = place.partition("/")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": record["param_groups"]})


def save_random_state(folder: Path) -> None:
    """Write the global random state of Python, numpy and torch (dropout reads it)."""
    python, generator = random.getstate(), np.random.get_state()
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors.update((f"cuda{index}", state) for index, state in enumerate(torch.cuda.get_rng_state_all()))
    save_file(tensors, folder / "random.safetensors")
    numpy = [part.tolist() if isinstance(part, np.ndarray) else part for part in generator]
    write_json(folder / "random.json", {"python": python, "numpy": numpy})


def load_random_state(folder: Path) -> None:
    """Bring back what ``save_random_state`` wrote."""
    record, tensors = read_json(folder / "random.json"), load_file(folder / "random.safetensors")
    version, words, gauss = record["python"]
    random.setstate((version, tuple(words), gauss))
    name, words, *rest = record["numpy"]
    np.random.set_state((name, np.array(words, dtype=np.uint32), *rest))
    torch.set_rng_state(tensors.pop("cpu"))
    if torch.cuda.is_available() and len(tensors) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([tensors[f"cuda{index}"] for index in range(len(tensors))])


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, sort_keys=True), encoding="utf-8")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
