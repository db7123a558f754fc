"""Fleet: commands started in several processes, as a user types them, and what came out beside one process's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

ACCELERATE = (
    *("-m", "accelerate.commands.launch", "--use_fsdp", "--fsdp_version", "2", "--num_processes", "2", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m", "palimpsest"),
)
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "palimpsest")
ALONE = ("-m", "palimpsest")


def start(launcher: tuple[str, ...], *words: object, cache: Path) -> subprocess.Popen[str]:
    """Start ``palimpsest WORDS`` alone or through a launcher, in a group of its own."""
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [sys.executable, *launcher, *map(str, words)],
        env={**environment, "PALIMPSEST_CACHE": str(cache), "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def done(launcher: tuple[str, ...], *words: object, cache: Path) -> tuple[int, str, str]:
    """Run a command to its end; return its exit code, what it printed and what it told."""
    child = start(launcher, *words, cache=cache)
    try:
        printed, told = child.communicate(timeout=1200)
    except BaseException:
        os.killpg(child.pid, signal.SIGKILL)
        raise
    return child.returncode, printed, told


def workers(child: subprocess.Popen[str]) -> list[int]:
    """Return the processes that a launcher started, by their number."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((place / "stat").read_text().rsplit(")", 1)[1].split()[1])
            variables = dict(one.split("=", 1) for one in (place / "environ").read_text().split("\0") if "=" in one)
        except (OSError, ValueError):
            continue
        if parent == child.pid and "RANK" in variables:
            found.append((int(variables["RANK"]), int(place.name)))
    return [pid for _, pid in sorted(found)]


def ended_within(child: subprocess.Popen[str], seconds: float) -> float:
    """Return after how many seconds a command ended."""
    begun = time.monotonic()
    child.wait(seconds)
    return time.monotonic() - begun


def measured(folder: Path) -> dict[str, dict[str, Any]]:
    """Return all arrays and texts of a run, by what was asked for."""
    found = {}
    for marker in folder.glob("measurements/*.json"):
        entry = json.loads(marker.read_text())
        if entry["about"]["need"]["measure"] == "checkup":
            continue
        need = json.dumps(entry["about"]["need"], sort_keys=True)
        found[need] = {**load_file(marker.with_suffix(".safetensors")), "texts": entry["texts"]}
    return found


def apart(one: Path, other: Path) -> Iterator[tuple[str, float]]:
    """Yield (measure, largest difference of its numbers) of each measurement of two runs; infinite where a text differs.

    The checkup is left out, whose text tells how fast the machine was.
    """
    first, second = measured(one), measured(other)
    assert first.keys() == second.keys()
    for need, arrays in first.items():
        worst = 0.0 if arrays["texts"] == second[need]["texts"] else np.inf
        for name, values in arrays.items():
            if name != "texts" and not np.array_equal(values, second[need][name], equal_nan=values.dtype.kind == "f"):
                worst = max(worst, float(np.nanmax(np.abs(values.astype(float) - second[need][name].astype(float)))))
        yield json.loads(need)["measure"], worst


def estimates(folder: Path) -> dict[str, dict[str, Any]]:
    """Return every estimate of a run by audit and name."""
    record = json.loads((folder / "record.json").read_text())
    return {
        f"{outcome['audit']}.{name}": estimate
        for outcome in record["seeds"][0]["outcomes"]
        for name, estimate in ((outcome["result"] or {}).get("estimates") or {}).items()
    }
