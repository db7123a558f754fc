"""Spine: a small run and a small diff as commands, and what of them has to outlast kills, full disks and each other."""

# ruff: noqa: F401, F811  # fixtures are imported by name
from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from nursery import Child, Nursery
from test_pipeline import behaviour, model

from palimpsest.store.atomic import TEMPORARY

RESULTS = ("report.html", "record.json")
DONE = (0, 2)
"""Exit codes of a command that did its work, whatever its verdict."""
Commands = dict[str, tuple[object, ...]]
Committed = dict[str, tuple[int, str]]


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    with Nursery(tmp_path) as one:
        yield one


@pytest.fixture
def commands(behaviour: Path, model: Path, tmp_path: Path) -> Commands:
    other = tiny.folder(tmp_path / "other", seed=1, max_position_embeddings=128)
    text = behaviour.parent / "text.txt"
    return {
        "run": ("run", behaviour, "--model", model, "--device", "cpu"),
        "diff": ("diff", model, other, "--behaviour", behaviour, "--text", text, "--device", "cpu"),
    }


def ended(child: Child) -> float:
    """Wait for a command that has to end well, and return its seconds."""
    assert child.wait(1200) in DONE, child.told
    return time.monotonic() - child.started


def committed(folder: Path) -> Committed:
    """Return inode and digest of everything that is there to stay: whole measurements and trained models."""
    markers = list(folder.glob("measurements/[0-9a-f]*.json"))
    files = [*markers, *(marker.with_suffix(".safetensors") for marker in markers)]
    for trained in folder.glob("training/*/training.json"):
        files += [trained, *trained.parent.glob("model/*"), trained.with_name("steps.jsonl")]
    return {
        str(file.relative_to(folder)): (file.stat().st_ino, hashlib.sha256(file.read_bytes()).hexdigest())
        for file in files
        if not file.name.startswith(TEMPORARY)
    }


def leftovers(folder: Path) -> list[Path]:
    return sorted(folder.rglob(f"*{TEMPORARY}*"))


def same_results(folder: Path, calm: Path) -> None:
    for name in RESULTS:
        assert (folder / name).read_bytes() == (calm / name).read_bytes(), f"{name} differs from that of an undisturbed run"
    assert not leftovers(folder)
