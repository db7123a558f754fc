"""Side by side: how are we and a peer measured so that nothing but the two programs differs?

A benchmark is a module with two functions and one last line, ``side_by_side.main(__doc__, measure, plan)``:

- ``measure(**arguments)`` is run in a process of its own, because only there can peak memory be read. It does the work of one
  contender once and returns numbers by name; ``seconds`` is what is raced for, and a ``Meter`` takes it.
- ``plan(bench)`` says which contenders race (``bench.race``), how cost grows (``bench.growth``), and what the least possible is
  (``bench.floor``, from operations and bytes at this machine's measured rates).

Contenders take turns, in the opposite order every second time; a repeat is one turn of each, and the ratio is taken within a
repeat, so that what else the machine does hits both. A table shows the median and, in brackets, the smallest and the largest.
Results go to ``docs/benchmarks/NAME.json``, and ``benchmarks/all.py`` draws ``docs/benchmarks.md`` from them.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Self

RESULTS = Path(__file__).parents[1] / "docs" / "benchmarks"
REPEATS = 3
_SENTINEL = "side_by_side: "
Numbers = dict[str, float]


class Meter:
    """CPU seconds of this process, and by how much its peak memory rose, inside a ``with``.

    Memory rises above what was held at the beginning, so the model has to be loaded before, and its gradients made where both
    contenders need them.
    """

    def __enter__(self) -> Self:
        self._peak, self._began = peak_mebibytes(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.process_time() - self._began
        self.mebibytes = peak_mebibytes() - self._peak


def peak_mebibytes() -> float:
    """Return the most memory that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def matrix_rate(rows: int = 1024, inner: int = 1024, columns: int = 1024, seconds: float = 1.0) -> float:
    """Return operations a second of a float32 matrix product of these sizes, on torch's threads: the best of many."""
    import torch

    one, other = torch.randn(rows, inner), torch.randn(inner, columns)
    return 2.0 * rows * inner * columns / _best(lambda: one @ other, seconds)


def memory_rate(mebibytes: int = 256, seconds: float = 1.0) -> float:
    """Return bytes a second that are read and written while a tensor larger than any cache is scaled in place."""
    import torch

    held = torch.ones(mebibytes * 2**18)
    return 2.0 * held.numel() * 4 / _best(lambda: held.mul_(1.0), seconds)


def _best(work: Callable[[], object], seconds: float) -> float:
    """Return the CPU seconds of the fastest of as many repeats as fit; CPU time, because other processes may want the core."""
    import torch

    work()
    end, found = time.monotonic() + seconds, []
    while not found or time.monotonic() < end:
        began = time.process_time()
        work()
        found.append((time.process_time() - began) / torch.get_num_threads())
    return min(found)


class Bench:
    """One benchmark: runs its contenders, prints what came out, keeps it for the page.

    Args:
        script: the benchmark's file.
        title: its first line.
        repeats: turns of each contender.
    """

    def __init__(self, script: Path, title: str, repeats: int) -> None:
        self.script, self.repeats = script, repeats
        self.kept: dict[str, Any] = {
            "name": script.stem,
            "title": title,
            "date": datetime.date.today().isoformat(),
            "machine": machine(),
            "tables": [],
            "growth": [],
            "remarks": [],
        }
        print(f"{title}\n\n{self.kept['machine']}\n", flush=True)

    def race(
        self,
        table: str,
        label: str,
        contenders: Mapping[str, Mapping[str, Any]],
        *,
        numbers: Mapping[str, str] | None = None,
        goals: Mapping[str, tuple[str, float]] | None = None,
        floor: float | None = None,
    ) -> dict[str, list[Numbers]]:
        """Let contenders take turns at one piece of work, print a row, and return every turn's numbers.

        Args:
            table: title of the table that the row belongs to.
            label: what the work is.
            contenders: the arguments of ``measure`` by name; ours comes first, and ratios are each other one's over ours.
            numbers: what is compared, with its unit (by default seconds and peak memory).
            goals: for a number, the contender that it is held against and the least ratio that is wanted.
            floor: the least seconds that this work could take; told with how far ours is from it.
        """
        numbers = numbers or {"seconds": "s", "mebibytes": "MiB"}
        turns: dict[str, list[Numbers]] = {name: [] for name in contenders}
        for repeat in range(self.repeats):
            for name in list(contenders)[:: 1 if repeat % 2 == 0 else -1]:
                turns[name].append(self.apart(contenders[name]))
        ours, *others = contenders
        row = {"": label}
        for key, unit in numbers.items():
            for name in contenders:
                row[f"{name} ({unit})"] = _spread([turn[key] for turn in turns[name] if key in turn])
            for name in others:
                told = _ratios(turns[ours], turns[name], key)
                row[f"{unit}: {name} / {ours}"] = _spread(told, "x")
                if goals and key in goals and goals[key][0] == name and told:
                    wanted = goals[key][1]
                    row[f"{unit}: goal"] = f"{wanted:g}x {'reached' if median(told) >= wanted else 'missed'}"
        if floor is not None:
            row["floor (s)"] = _number(floor)
            row["ours / floor"] = _spread([turn["seconds"] / floor for turn in turns[ours]], "x")
        self._keep(table, row)
        return turns

    def apart(self, arguments: Mapping[str, Any]) -> Numbers:
        """Measure once in a process of its own.

        Raises:
            RuntimeError: it failed; the message holds what it said.
        """
        command = [sys.executable, str(self.script), "--one", json.dumps(dict(arguments))]
        done = subprocess.run(command, capture_output=True, text=True, env=surroundings())
        for line in reversed(done.stdout.splitlines()):
            if line.startswith(_SENTINEL):
                return json.loads(line.removeprefix(_SENTINEL))
        raise RuntimeError(f"{self.script.name} {dict(arguments)} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")

    def growth(
        self, title: str, axis: str, series: Mapping[str, Sequence[tuple[float, float]]], unit: str = "CPU seconds"
    ) -> None:
        """Keep how cost grows, for a figure on log axes.

        Args:
            title: what is done.
            axis: what grows.
            series: (amount, cost) of each contender, by name.
            unit: what the cost is counted in.
        """
        self.kept["growth"].append(
            {"title": title, "axis": axis, "unit": unit, "series": {k: list(v) for k, v in series.items()}}
        )
        for name, points in series.items():
            print(f"{title}, {name}: " + ", ".join(f"{x:g}: {_number(y)}" for x, y in points), flush=True)

    def row(self, table: str, row: Mapping[str, str]) -> None:
        """Add a row of text to a table, where there is nothing to race."""
        self._keep(table, dict(row))

    def remark(self, text: str) -> None:
        """Add a sentence: what the peer was given, what the floor is made of."""
        self.kept["remarks"].append(text)
        print(text, flush=True)

    def finish(self) -> None:
        """Write what was found."""
        RESULTS.mkdir(parents=True, exist_ok=True)
        path = RESULTS / f"{self.script.stem}.json"
        path.write_text(json.dumps(self.kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"\nkept in {path}")

    def _keep(self, table: str, row: dict[str, str]) -> None:
        known = {one["title"]: one for one in self.kept["tables"]}
        if table not in known:
            self.kept["tables"].append(known.setdefault(table, {"title": table, "rows": []}))
        rows = known[table]["rows"]
        rows.append(row)
        fresh = len(rows) == 1 or list(rows[-2]) != list(row)
        print("\n".join(([f"\n{table}\n"] if len(rows) == 1 else []) + markdown([row])[0 if fresh else 2 :]), flush=True)


def markdown(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Return a table as lines of markdown; a cell that a row lacks is empty."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns), *([row.get(key, "") for key in columns] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def surroundings() -> dict[str, str]:
    """Return the environment of a measurement: one thread, no network."""
    return {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "WANDB_MODE": "disabled",
    }


def machine() -> str:
    """Return what this ran on, in one line; the rates are of one thread."""
    code = "import side_by_side as s, torch; print(s.matrix_rate(), s.memory_rate(), torch.__version__)"
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, env=surroundings(), check=True
    ).stdout.split()
    names = [line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")]
    threads = surroundings()["OMP_NUM_THREADS"]
    return (
        f"{names[0] if names else 'unknown processor'}, {os.cpu_count()} cores, {threads} thread(s) a measurement, "
        f"torch {told[2]}; "
        f"measured {float(told[0]) / 1e9:.0f} GFLOP/s in a float32 product of 1024 x 1024 matrices, "
        f"{float(told[1]) / 2**30:.1f} GiB/s through memory"
    )


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def main(
    told: str | None, measure: Callable[..., Numbers], plan: Callable[[Bench], None], arguments: Iterable[str] | None = None
) -> None:
    """Run a benchmark, or one measurement of it."""
    script = Path(sys.argv[0]).resolve()
    parser = argparse.ArgumentParser(description=told, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=REPEATS, help="turns of each contender")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args(None if arguments is None else list(arguments))
    if given.one:
        print(_SENTINEL + json.dumps(measure(**json.loads(given.one))), flush=True)
        return
    bench = Bench(script, (told or script.stem).splitlines()[0], given.repeats)
    plan(bench)
    bench.finish()


def _ratios(ours: Sequence[Numbers], others: Sequence[Numbers], key: str) -> list[float]:
    return [other[key] / max(own[key], 1e-9) for own, other in zip(ours, others, strict=True) if key in own and key in other]


def _spread(found: Sequence[float], mark: str = "") -> str:
    if not found:
        return ""
    return f"{_number(median(found))}{mark} ({_number(min(found))} to {_number(max(found))})"


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
