"""Checkpoint: how does a run that was killed at any moment go on as if nothing had happened?

A checkpoint is a folder of safetensors and JSON (no pickle), written as a whole or not at all, and sealed (``store/seal``).
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from palimpsest import ranks
from palimpsest.store.atomic import remove_folder

_PREFIX = "checkpoint-"


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, oldest first; none is half-written, but one may be damaged since."""
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
    ranks.let_go(model)
    kept = model.state_dict(keep_vars=True).keys()
    tensors: dict[str, torch.Tensor] = dict(model.named_parameters())
    tensors.update((name, buffer) for name, buffer in model.named_buffers() if name in kept)
    return {name: tensor.detach() for name, tensor in tensors.items()}


def whole_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return what ``model_tensors`` does, each tensor whole; of a sharded model every rank has to ask.

    It is rank 0 that gets them, in the machine's memory; no device ever holds more than one of them.
    """
    return _kept_by_the_first(model_tensors(model))


def _kept_by_the_first(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    kept = {}
    for name, tensor in tensors.items():
        found = ranks.whole(tensor).contiguous()
        if ranks.own() == 0:
            kept[name] = found if ranks.count() == 1 else found.cpu()
    return kept


def save_model(model: nn.Module, file: Path) -> None:
    """Write a model's tensors; of a sharded model every rank has to call it, and the first one writes."""
    tensors = whole_tensors(model)
    if ranks.own() == 0:
        save_file(tensors, file)


def load_model(model: nn.Module, file: Path) -> None:
    """Copy saved tensors into a model, in place."""
    with torch.no_grad(), safe_open(file, framework="pt") as saved:
        for name, tensor in model_tensors(model).items():
            ranks.copy_into(tensor, saved.get_tensor(name))


def save_optimizer(optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Write an optimizer's state: tensors to optimizer.safetensors, everything else to optimizer.json.

    Of a sharded model every rank has to call it, and the first one writes.
    """
    state = optimizer.state_dict()
    tensors, plain = {}, {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{index}/{key}"] = value
            else:
                plain[f"{index}/{key}"] = value
    found = _kept_by_the_first(tensors)
    if ranks.own():
        return
    save_file(found, folder / "optimizer.safetensors")
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
