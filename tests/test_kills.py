"""Kills: is anything lost when the program is ended at any moment, and does a byte of the result change?"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from nursery import Child, Nursery
from test_pipeline import behaviour, model  # noqa: F401  # fixtures

from palimpsest.core.seeds import python_stream
from palimpsest.store.atomic import TEMPORARY

pytestmark = pytest.mark.slow
KILLS = 20
RESULTS = ("report.html", "record.json")
Committed = dict[str, tuple[int, str]]


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    with Nursery(tmp_path) as one:
        yield one


@pytest.fixture
def commands(behaviour: Path, model: Path, tmp_path: Path) -> dict[str, tuple[object, ...]]:  # noqa: F811
    other = tiny.folder(tmp_path / "other", seed=1, max_position_embeddings=128)
    text = behaviour.parent / "text.txt"
    return {
        "run": ("run", behaviour, "--model", model, "--device", "cpu"),
        "diff": ("diff", model, other, "--behaviour", behaviour, "--text", text, "--device", "cpu"),
    }


def ended(child: Child) -> float:
    """Wait for a command that has to end well, and return its seconds."""
    assert child.wait(300) in (0, 2), child.told
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


@pytest.mark.parametrize("verb", ["run", "diff"])
def test_kills_lose_nothing_and_change_no_byte(
    verb: str, nursery: Nursery, commands: dict[str, tuple[object, ...]], tmp_path: Path
) -> None:
    """Every kill comes after a little more work than the last; so they fall on all of the run, and on resuming too."""
    calm = tmp_path / "calm" / "run"
    whole = ended(nursery.start(*commands[verb], "--folder", calm, cache=tmp_path / "calm cache"))
    dice = python_stream(0, "kills", verb)
    kills, round_ = 0, 0
    while kills < KILLS:
        round_ += 1
        folder, cache = tmp_path / f"killed {round_}" / "run", tmp_path / f"cache {round_}"
        there: Committed = {}
        while True:
            child = nursery.start(*commands[verb], "--folder", folder, cache=cache)
            time.sleep(dice.uniform(0, 2) * whole / 3 if kills < KILLS else 0)
            if kills < KILLS and child.kill():
                kills += 1
                found = committed(folder)
                assert there.items() <= found.items(), f"kill {kills}: what was committed is gone or was made again"
                there = found
                continue
            ended(child)
            break
        assert there.items() <= committed(folder).items()
        assert not leftovers(folder)
        for name in RESULTS:
            assert (folder / name).read_bytes() == (calm / name).read_bytes(), f"{name} differs after kills"
        print(f"{verb}: undisturbed {whole:.1f} s; round {round_}, {kills} kills")
