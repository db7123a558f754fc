"""Two processes: do they share a cache without harm, and does one run folder belong to one of them at a time?"""

# ruff: noqa: F401, F811  # fixtures are imported by name
from __future__ import annotations

import time
from pathlib import Path

import pytest
from nursery import Nursery
from spine import DONE, Commands, behaviour, commands, ended, model, nursery, same_results

from palimpsest.core.seeds import python_stream

pytestmark = pytest.mark.slow


def test_two_on_one_cache(nursery: Nursery, commands: Commands, tmp_path: Path) -> None:
    """The same work in two folders at once, so that both write the same entries; in every second round one is killed."""
    calm = tmp_path / "calm" / "run"
    whole = ended(nursery.start(*commands["diff"], "--folder", calm, cache=tmp_path / "calm cache"))
    dice = python_stream(0, "two on one cache")
    for turn in range(4):
        folders, cache = [tmp_path / f"{turn} {side}" / "run" for side in "ab"], tmp_path / f"cache {turn}"
        first, second = (nursery.start(*commands["diff"], "--folder", folder, cache=cache) for folder in folders)
        if turn % 2:
            while not any(cache.glob("*/*")):
                time.sleep(0.001)
            time.sleep(dice.uniform(0, 0.3) * whole)
            assert first.kill()
            first = nursery.start(*commands["diff"], "--folder", folders[0], cache=cache)
        for child, folder in ((first, folders[0]), (second, folders[1])):
            ended(child)
            same_results(folder, calm)


def test_a_run_beside_a_diff_on_one_cache(nursery: Nursery, commands: Commands, tmp_path: Path) -> None:
    """They share the base model's measurements."""
    for verb in ("run", "diff"):
        ended(nursery.start(*commands[verb], "--folder", tmp_path / "calm" / verb / "run", cache=tmp_path / f"{verb} cache"))
    children = {
        verb: nursery.start(*commands[verb], "--folder", tmp_path / "both" / verb / "run", cache=tmp_path / "cache")
        for verb in ("run", "diff")
    }
    for verb, child in children.items():
        ended(child)
        same_results(tmp_path / "both" / verb / "run", tmp_path / "calm" / verb / "run")


def test_one_folder_is_one_processs_at_a_time(nursery: Nursery, commands: Commands, tmp_path: Path) -> None:
    calm, folder, cache = tmp_path / "calm" / "run", tmp_path / "shared" / "run", tmp_path / "cache"
    ended(nursery.start(*commands["run"], "--folder", calm, cache=tmp_path / "calm cache"))
    first = nursery.start(*commands["run"], "--folder", folder, cache=cache)
    while not (folder / "spec.json").exists():
        assert first.wait(0) is None, first.told
        time.sleep(0.01)
    second = nursery.start(*commands["run"], "--folder", folder, cache=cache)
    assert second.wait(1200) == 3, "a second process must be refused"
    assert (
        f"is being written by process {first.pid} on" in second.told and "wait for it, or choose another folder" in second.told
    )
    assert "Traceback" not in second.told
    assert first.kill(), "the first must not have been harmed"
    assert (folder / "lock").exists()
    ended(nursery.start(*commands["run"], "--folder", folder, cache=cache))
    same_results(folder, calm)


def test_a_cache_that_is_cleaned_all_the_time(nursery: Nursery, commands: Commands, tmp_path: Path) -> None:
    from palimpsest.store.cache import Cache

    calm, folder, cache = tmp_path / "calm" / "run", tmp_path / "cleaned" / "run", tmp_path / "cache"
    ended(nursery.start(*commands["diff"], "--folder", calm, cache=tmp_path / "calm cache"))
    child = nursery.start(*commands["diff"], "--folder", folder, cache=cache)
    while child.wait(0) is None:
        Cache(cache).clean()
    assert child.wait() in DONE, child.told
    same_results(folder, calm)
