"""Full disk: is it told in words, is what was committed kept, and does the same command go on once there is room?"""

# ruff: noqa: F401, F811  # fixtures are imported by name
from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from disks import mounted
from nursery import Child, Nursery
from spine import Commands, Committed, behaviour, commands, committed, ended, model, nursery, same_results

from palimpsest.core.seeds import python_stream

pytestmark = pytest.mark.slow
HITS = 5


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 MiB, or a skip where this process may not mount one."""
    with mounted(tmp_path / "disk", "size=128m") as place:
        yield place


def fill(place: Path) -> Path:
    """Write a file until there is no room, and return it."""
    ballast = place / "ballast"
    with ballast.open("ab", buffering=0) as file:
        for size in (2**20, 2**12):
            try:
                while True:
                    file.write(os.urandom(size))
            except OSError:
                continue
    return ballast


def is_told(child: Child, reason: str) -> None:
    assert child.wait() == 3, child.told
    assert reason in child.told and "error: " in child.told, child.told
    assert "Traceback" not in child.told, child.told


@pytest.mark.parametrize("verb", ["run", "diff"])
def test_a_disk_that_fills_up(verb: str, nursery: Nursery, commands: Commands, disk: Path, tmp_path: Path) -> None:
    """At random moments; what is there then must be whole, and be taken up by the same command when there is room again."""
    calm = tmp_path / "calm" / "run"
    whole = ended(nursery.start(*commands[verb], "--folder", calm, cache=tmp_path / "calm cache"))
    dice = python_stream(0, "full disk", verb)
    hits, turn, reasons = 0, 0, set()
    while hits < HITS:
        turn += 1
        folder, cache = disk / f"{turn}" / "run", disk / f"cache {turn}"
        there: Committed = {}
        while True:
            child = nursery.start(*commands[verb], "--folder", folder, cache=cache)
            while not (folder / "spec.json").exists() and child.wait(0) is None:
                time.sleep(0.01)
            until = time.monotonic() + dice.uniform(0, 2) * whole / 4
            while time.monotonic() < until and child.wait(0) is None:
                time.sleep(0.01)
            full = hits < HITS and child.wait(0) is None
            while full and child.wait(0.02) is None:
                ballast = fill(disk)
            if full:
                ballast.unlink()
            if child.wait(1200) != 3:
                break
            hits += 1
            is_told(child, "free")
            reasons.add(child.told.strip().replace(str(disk), "DISK").splitlines()[-1])
            found = committed(folder)
            assert there.items() <= found.items(), "what was committed is gone or was made again"
            there = found
        ended(child)
        assert there.items() <= committed(folder).items()
        same_results(folder, calm)
        print(f"{verb}: turn {turn}, {hits} times full; told: {sorted(reasons)}")


def test_a_file_that_may_not_grow(nursery: Nursery, commands: Commands, tmp_path: Path) -> None:
    """Where nothing can be mounted: the system refuses to write a file beyond a size, wherever that falls in the run."""
    calm, folder, cache = tmp_path / "calm" / "run", tmp_path / "limited" / "run", tmp_path / "cache"
    ended(nursery.start(*commands["run"], "--folder", calm, cache=tmp_path / "calm cache"))
    told = 4096  # what it says goes into a file too
    sizes = sorted({max(file.stat().st_size, told) for file in calm.rglob("*") if file.is_file()})
    there: Committed = {}
    for share in (0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
        child = nursery.start(*commands["run"], "--folder", folder, cache=cache, largest_file=sizes[int(share * len(sizes))])
        if child.wait(1200) == 3:
            is_told(child, "can't be written")
        assert child.code in (0, 2, 3), child.told
        found = committed(folder)
        assert there.items() <= found.items()
        there = found
    ended(nursery.start(*commands["run"], "--folder", folder, cache=cache))
    assert there.items() <= committed(folder).items()
    same_results(folder, calm)
