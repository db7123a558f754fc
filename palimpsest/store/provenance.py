"""Provenance: with what was this made, so that someone else could make it again?

The stable part is the same for a run that was killed and resumed as for one that was not, and goes into the report; the
volatile part (when, how long, how much memory) is kept beside it.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from palimpsest.core import launch
from palimpsest.core.progress import Progress
from palimpsest.store.source import package_digest

_PACKAGES = ("palimpsest-lm", "torch", "transformers", "tokenizers", "safetensors", "peft", "accelerate", "numpy", "scipy")
_DECIDING = ("torch", "transformers", "tokenizers")
"""The packages whose version is part of a measurement's key."""


def packages(names: Sequence[str] = _PACKAGES) -> dict[str, str]:
    """Return the installed versions; a package that is not there is left out. Imports none of them."""
    return {name: found for name in names if (found := _version(name)) is not None}


@cache
def _version(name: str) -> str | None:
    """Return a package's version; every key asks for some, and each is a file to be read."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def deciding_packages() -> dict[str, str]:
    """Return the versions that a measurement's key covers."""
    return packages(_DECIDING)


def processor() -> str:
    """Return the name of the processor, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "Model")))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def device_name(device: str) -> str:
    """Return kind and name of the processor that ``device`` means; part of a measurement's key."""
    if device.split(":")[0] != "cuda":
        return f"{device.split(':')[0]}: {processor()}"
    import torch

    return f"cuda: {torch.cuda.get_device_name(device)}"


def threads() -> int:
    """Return how many threads torch computes with."""
    import torch

    return torch.get_num_threads()


def memory_bytes() -> int | None:
    """Return the machine's memory, or ``None`` where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def peak_memory_bytes() -> dict[str, int]:
    """Return the most memory that this process has held so far, and that torch has held on an accelerator."""
    found: dict[str, int] = {}
    if sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        found["process"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["accelerator"] = torch.cuda.max_memory_allocated()
    return found


def stable(
    device: str,
    seeds: Sequence[int],
    digests: Mapping[str, str],
    command: Sequence[str],
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what a report prints: nothing in it differs between a disturbed and an undisturbed run on one machine.

    Args:
        device: where models ran.
        seeds: the run's seeds.
        digests: by name, of subjects and items.
        command: the command line, without what only changes the display.
        extra: further plain data.
    """
    memory = memory_bytes()
    return {
        "packages": packages(),
        "source": package_digest(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "hardware": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "memory_gib": None if memory is None else round(memory / 2**30),
            "device": device_name(device),
        },
        "threads": threads(),
        "processes": launch.count(),
        "seeds": list(seeds),
        "digests": dict(sorted(digests.items())),
        "command": list(command),
        **(extra or {}),
    }


class Clock:
    """The volatile part: when this process started, how long its stages took, how much memory it held."""

    def __init__(self) -> None:
        self._wall, self._start = datetime.now(UTC), time.monotonic()
        self._stages: dict[str, float] = {}
        self._processor: dict[str, float] = {}

    def add(self, stage: str, seconds: float, processor_seconds: float = 0.0) -> None:
        """Add to the time of a stage: of the clock on the wall, and of the processor."""
        self._stages[stage] = self._stages.get(stage, 0.0) + seconds
        self._processor[stage] = self._processor.get(stage, 0.0) + processor_seconds

    def read(self) -> dict[str, Any]:
        """Return everything so far, as plain data; stages in the order in which they began."""
        return {
            "started": self._wall.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self._start, 3),
            "stages_seconds": {name: round(value, 3) for name, value in self._stages.items()},
            "stages_processor_seconds": {name: round(value, 3) for name, value in self._processor.items()},
            "peak_memory_bytes": peak_memory_bytes(),
            "host": socket.gethostname(),
            "process": os.getpid(),
        }


class Timed:
    """A progress that also takes the time of every stage.

    Args:
        inner: who is told.
    """

    def __init__(self, inner: Progress) -> None:
        self.inner, self.clock = inner, Clock()
        self._stage, self._began = "", (time.monotonic(), time.process_time())

    def begin(self, stage: str, total: int | None = None) -> None:
        self.end()
        self._stage = stage
        self.inner.begin(stage, total)

    def at(self, done: int, total: int) -> None:
        self.inner.at(done, total)

    def tell(self, message: str) -> None:
        self.inner.tell(message)

    def end(self) -> None:
        """Add the time since the last stage began to that stage; what lies before the first one counts to none."""
        now = time.monotonic(), time.process_time()
        if self._stage:
            self.clock.add(self._stage, now[0] - self._began[0], now[1] - self._began[1])
        self._stage, self._began = "", now

    def keep(self, folder: Path) -> None:
        """Add a line about this process to ``timing.jsonl`` of a run's folder; without room for it the run is no worse."""
        self.end()
        with suppress(OSError), (folder / "timing.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(self.clock.read()) + "\n")
