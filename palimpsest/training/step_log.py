"""Step log: what happened in each optimizer step?

One JSON line a step, with the fields of ``palimpsest.store.record.StepLog``. Numbers stay on the device until they are flushed,
so that a GPU need not wait for them; a flush checks them, so no checkpoint is ever written after a step that went wrong.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from palimpsest.core import launch
from palimpsest.core.errors import UserError
from palimpsest.data.mixture import SOURCES
from palimpsest.store.atomic import cannot_write, write_bytes
from palimpsest.training.apollo import Movement


@dataclass(frozen=True)
class Pending:
    """One step whose numbers are still on the device."""

    step: int
    learning_rate: float
    numbers: torch.Tensor
    """(4,) summed loss of each source in nats, then the gradient norm before clipping."""
    weights: list[float]
    """Loss weight of each source."""
    rows: list[int]
    limits: list[torch.Tensor] = field(default_factory=list)
    """What the norm-growth limiter multiplied each matrix's update by, where there is a limiter."""
    moved: dict[str, Movement] = field(default_factory=dict)
    """How every parameter moved, in steps in which that was watched."""


class StepLog:
    """The log of one run, continued at a step."""

    def __init__(self, path: Path, step: int) -> None:
        """Cut the log to the steps that a checkpoint holds, and that of the modules beside it (``modules.jsonl``).

        Args:
            path: the log.
            step: how many steps it is to hold.

        Raises:
            UserError: the log lacks some of them.
        """
        self.path, self.modules = path, path.with_name("modules.jsonl")
        self.pending: list[Pending] = []
        lines = path.read_bytes().splitlines(keepends=True)[:step] if path.exists() else []
        if len(lines) < step or not all(line.endswith(b"\n") for line in lines):
            raise UserError(
                f"{path} must hold the {step} steps of the checkpoint beside it, found {len(lines)}; "
                f"put it back, or remove {path.parent} to train again"
            )
        self.last: dict[str, Any] = json.loads(lines[-1]) if lines else {"examples": 0, "loss": None}
        self._hashed: dict[str, Any] = {}
        if not self.writes:
            return
        for file, kept in ((path, b"".join(lines)), (self.modules, _modules_until(self.modules, step))):
            write_bytes(file, kept)
            self._hashed[file.name] = hashlib.sha256(kept)

    def hashes(self) -> dict[str, str]:
        """Return the hash of each log's content by name: of what was written, whatever the disk gives back."""
        return {name: value.hexdigest() for name, value in self._hashed.items()}

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes it; the others only check their numbers."""
        return launch.own() == 0

    def moved(self, limits: Sequence[torch.Tensor], movements: Mapping[str, Movement]) -> None:
        """Add to the last step what its optimizer says of it."""
        self.pending[-1].limits.extend(limits)
        self.pending[-1].moved.update(movements)

    def add(self, step: Pending) -> None:
        self.pending.append(step)

    def flush(self) -> None:
        """Fetch, check and write what is pending.

        Raises:
            UserError: a loss or a gradient is not finite, naming the step; or the log can't be written.
        """
        if not self.pending:
            return
        values = torch.stack([step.numbers for step in self.pending]).tolist()
        lines: list[str] = []
        modules: list[str] = []
        try:
            for step, numbers in zip(self.pending, values, strict=True):
                lines.append(json.dumps(self._line(step, numbers)) + "\n")
                if step.moved:
                    modules.append(json.dumps({"step": step.step, "modules": _by_module(step.moved)}) + "\n")
        finally:
            self.pending = []
            if self.writes:
                self._append(self.path, "".join(lines))
                self._append(self.modules, "".join(modules))

    def _line(self, step: Pending, numbers: list[float]) -> dict[str, Any]:
        *sums, norm = numbers
        bad = [name for name, value in (("loss", sum(sums)), ("gradient norm", norm)) if not math.isfinite(value)]
        if bad:
            raise UserError(
                f"training stopped at step {step.step}: the {' and the '.join(bad)} must be finite, found "
                f"loss {sum(sums) / sum(step.weights):g}, gradient norm {norm:g}. The last good checkpoint is kept. "
                f"Try a lower learning rate (it was {step.learning_rate:g}) or max_grad_norm 1."
            )
        losses = {
            f"loss_{source}": total / weight if weight else None
            for source, total, weight in zip(SOURCES, sums, step.weights, strict=True)
        }
        rows = {f"rows_{source}": count for source, count in zip(SOURCES, step.rows, strict=True)}
        tokens = {f"tokens_{source}": weight for source, weight in zip(SOURCES, step.weights, strict=True)}
        self.last = {
            "step": step.step,
            "examples": self.last["examples"] + rows["rows_express"] + rows["rows_withhold"],
            "learning_rate": step.learning_rate,
            "gradient_norm": norm,
            "loss": sum(sums) / sum(step.weights),
            **losses,
            **rows,
            **tokens,
            "limited": sum(float(limit) < 1 for limit in step.limits) / len(step.limits) if step.limits else None,
            "update_to_weight": _ratio(list(step.moved.values())) if step.moved else None,
        }
        return self.last

    def _append(self, path: Path, text: str) -> None:
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise cannot_write(path, error) from error
        self._hashed[path.name].update(text.encode())

    def settle(self) -> None:
        """Flush to the disk, so that a checkpoint never knows of steps that the log lost."""
        self.flush()
        for path in () if not self.writes else (self.path, self.modules):
            try:
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            except OSError as error:  # some file systems only now notice that there is no room
                raise cannot_write(path, error) from error


def altered(path: Path, step: int, hashes: Mapping[str, str]) -> list[str]:
    """Say which of the logs are not what they were when they held so many steps; steps that are lost are told elsewhere.

    Args:
        path: the log of steps.
        step: how many steps they held.
        hashes: what ``StepLog.hashes`` returned then.
    """
    lines = path.read_bytes().splitlines(keepends=True)[:step] if path.exists() else []
    if len(lines) < step:
        return []
    try:
        now = {path.name: b"".join(lines), "modules.jsonl": _modules_until(path.with_name("modules.jsonl"), step)}
    except (ValueError, LookupError, TypeError):
        return ["modules.jsonl can't be read"]
    return [
        f"{name} is not what was written (its checksum differs)"
        for name, content in now.items()
        if hashlib.sha256(content).hexdigest() != hashes.get(name)
    ]


def _modules_until(path: Path, step: int) -> bytes:
    """Return the whole lines of the modules' log up to a step."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return b"".join(line for line in lines if line.endswith(b"\n") and json.loads(line)["step"] <= step)


def _by_module(moved: Mapping[str, Movement]) -> dict[str, dict[str, float | None]]:
    """Return by how much each module moved against its own size, and what its limiter did."""
    modules: dict[str, list[Movement]] = {}
    for name, movement in moved.items():
        modules.setdefault(name.rpartition(".")[0] or name, []).append(movement)
    return {
        name: {
            "update_to_weight": _ratio(parts),
            "limited_to": min((float(part.limited) for part in parts if part.limited is not None), default=None),
        }
        for name, parts in modules.items()
    }


def _ratio(moved: Sequence[Movement]) -> float | None:
    """Return the norm of an update over that of the weights; ``None`` where these are 0."""
    update, weight = (math.hypot(*(float(getattr(one, side)) for one in moved)) for side in ("update", "weight"))
    return update / weight if weight else None
