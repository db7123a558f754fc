"""Kills: is anything lost when the program is ended at any moment, and does a byte of the result change?"""

# ruff: noqa: F401, F811  # fixtures are imported by name
from __future__ import annotations

import time
from pathlib import Path

import pytest
from nursery import Nursery
from spine import Commands, Committed, behaviour, commands, committed, ended, model, nursery, same_results

from palimpsest.core.seeds import python_stream

pytestmark = pytest.mark.slow
KILLS = 20


@pytest.mark.parametrize("verb", ["run", "diff"])
def test_kills_lose_nothing_and_change_no_byte(
    verb: str,
    nursery: Nursery,
    commands: Commands,
    tmp_path: Path,
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
        same_results(folder, calm)
        print(f"{verb}: undisturbed {whole:.1f} s; round {round_}, {kills} kills")
