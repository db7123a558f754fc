"""Start-up: how long until a command answers, and where does the demo's time go?

    python benchmarks/start_up.py [--repeats 5]

Commands are run as a user runs them, in a process of their own, beside the same command of peers; seconds are CPU seconds of
that process, because other processes may want the cores, and the clock on the wall is beside them. The demo is the real
``palimpsest run directions`` in an empty folder with an empty cache, once.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import side_by_side
from side_by_side import Bench, Numbers

COMMANDS = {"ours": "palimpsest", "inspect": "inspect", "lm-eval": "lm_eval", "trl": "trl"}
UNITS = {"seconds": "CPU s", "wall": "s on the clock", "mebibytes": "MiB"}
HELP, REPORT = 0.3, 2.0
"""Seconds that are wanted."""


def measure(command: list[str], cache: str = "") -> Numbers:
    """Run a command to its end and return what it took."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PALIMPSEST_CACHE": cache} if cache else dict(os.environ)
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode not in (0, 2):  # 2: it ran, and the verdict is not "as intended"
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "wall": time.monotonic() - began, "mebibytes": after.ru_maxrss / 1024}


def plan(bench: Bench) -> None:
    bin_folder = Path(sys.executable).parent
    known = {name: str(bin_folder / command) for name, command in COMMANDS.items() if (bin_folder / command).is_file()}
    turns = bench.race(
        "--help", "--help", {name: {"command": [command, "--help"]} for name, command in known.items()}, numbers=UNITS
    )
    held(bench, "--help", turns["ours"], HELP)
    ours = known["ours"]
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "demo"
        taken = bench.apart({"command": [ours, "run", "directions", "--folder", str(folder)], "cache": f"{work}/cache"})
        stages(bench, folder, taken)
        for name, command in {"report of the demo": ["report", str(folder)], "list": ["list"]}.items():
            turns = bench.race("Other commands", name, {"ours": {"command": [ours, *command]}}, numbers=UNITS)
            if command[0] == "report":
                held(bench, "report", turns["ours"], REPORT)


def held(bench: Bench, what: str, turns: list[Numbers], wanted: float) -> None:
    """Say whether a goal was reached, by CPU seconds."""
    found = sorted(turn["seconds"] for turn in turns)[len(turns) // 2]
    bench.remark(f"{what}: {found:.2f} CPU seconds, goal {wanted:g}: {'reached' if found <= wanted else 'missed'}.")


def stages(bench: Bench, folder: Path, taken: Numbers) -> None:
    """Add the demo's time by stage, as the run itself kept it."""
    kept = json.loads((folder / "timing.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    groups: dict[str, list[float]] = {}
    for stage, seconds in kept["stages_seconds"].items():
        group = groups.setdefault(_group(stage), [0.0, 0.0])
        group[0] += kept["stages_processor_seconds"][stage]
        group[1] += seconds
    groups["start of Python, end of the process"] = [
        taken["seconds"] - sum(group[0] for group in groups.values()),
        taken["wall"] - sum(group[1] for group in groups.values()),
    ]
    for name, (processor, wall) in groups.items():
        share = f"{100 * processor / taken['seconds']:.1f}%"
        bench.row("The demo by stage", {"": name, "CPU s": f"{processor:.2f}", "s on the clock": f"{wall:.2f}", "share": share})
    whole = {"": "all", "CPU s": f"{taken['seconds']:.1f}", "s on the clock": f"{taken['wall']:.1f}", "share": "100%"}
    bench.row("The demo by stage", whole)


def _group(stage: str) -> str:
    """Return what a stage is counted to: a model and its measures, whatever the items."""
    return stage.partition(" on ")[0] if stage.startswith("measuring") else stage


if __name__ == "__main__":
    side_by_side.main(__doc__, measure, plan)
