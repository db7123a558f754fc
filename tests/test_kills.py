"""Kills: is anything lost when the program is ended at any moment, and does a byte of the result change?"""

# ruff: noqa: F401, F811  # fixtures are imported by name
from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from nursery import Child, Nursery
from spine import Commands, Committed, behaviour, commands, committed, ended, model, nursery, same_results

from palimpsest.core.seeds import python_stream

pytestmark = pytest.mark.slow
KILLS, INTERRUPTS = 20, 6
A_DAY = 24 * 3600.0
DATED = "Today is {{ strftime_now('%Y-%m-%d') }}. {% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"


def disturbed(
    start: Callable[[Path, Path], Child], end: Callable[[Child], bool], times: int, calm: Path, whole: float, tmp_path: Path
) -> None:
    """Start a command again and again, end it each time, and hold what is left against an undisturbed run.

    Every end comes after a little more work than the last; so they fall on all of the run, and on resuming too.

    Args:
        start: starts it in a folder with a cache.
        end: ends it, and says whether it was still running.
        times: how often it is ended.
        calm: the folder of the undisturbed run.
        whole: how many seconds that took.
        tmp_path: where the others may lie.
    """
    dice = python_stream(0, "kills", calm.parent.name, end.__name__)
    ends, round_ = 0, 0
    while ends < times:
        round_ += 1
        folder, cache = tmp_path / f"ended {round_}" / "run", tmp_path / f"cache {round_}"
        there: Committed = {}
        while True:
            child = start(folder, cache)
            time.sleep(dice.uniform(0.1, 2) * whole / 3 if ends < times else 0)
            if ends < times and end(child):
                ends += 1
                found = committed(folder)
                assert there.items() <= found.items(), f"end {ends}: what was committed is gone or was made again"
                there = found
                continue
            ended(child)
            break
        assert there.items() <= committed(folder).items()
        same_results(folder, calm)
        print(f"{calm.parent.name}: undisturbed {whole:.1f} s; round {round_}, ended {ends} times by {end.__name__}")


def interrupt(child: Child) -> bool:
    """As Ctrl-C does; it has to say how to go on."""
    was_running = child.interrupt()
    assert not was_running or "the same command goes on where this one stopped" in child.told, child.told
    assert "Traceback" not in child.told, child.told
    return was_running


@pytest.mark.parametrize("verb", ["run", "diff"])
def test_kills_and_interrupts_lose_nothing_and_change_no_byte(
    verb: str, nursery: Nursery, commands: Commands, tmp_path: Path
) -> None:
    calm = tmp_path / verb / "run"
    whole = ended(nursery.start(*commands[verb], "--folder", calm, cache=tmp_path / "calm cache"))

    def start(folder: Path, cache: Path) -> Child:
        return nursery.start(*commands[verb], "--folder", folder, cache=cache)

    disturbed(start, Child.kill, KILLS, calm, whole, tmp_path / "killed")
    disturbed(start, interrupt, INTERRUPTS, calm, whole, tmp_path / "interrupted")


@pytest.mark.parametrize("verb", ["run", "diff"])
def test_a_clock_that_is_set_back_changes_nothing(verb: str, nursery: Nursery, commands: Commands, tmp_path: Path) -> None:
    """A laptop whose battery was empty: what was written lies in the future, and the date of a template is another one."""
    for name, seed in (("model", 0), ("other", 1)):
        tiny.folder(tmp_path / name, seed=seed, max_position_embeddings=192, chat_template=DATED)
    calm, folder = tmp_path / "calm" / "run", tmp_path / "set back" / "run"
    whole = ended(nursery.start(*commands[verb], "--folder", calm, cache=tmp_path / "calm cache"))
    there: Committed = {}
    for days, share in ((0, 0.3), (-1, 0.5), (-400, 0.4)):
        child = nursery.start(*commands[verb], "--folder", folder, cache=tmp_path / "cache", clock=days * A_DAY)
        time.sleep(share * whole)
        child.kill()
        found = committed(folder)
        assert there.items() <= found.items(), f"{days} days: what was committed is gone or was made again"
        there = found
    assert there, "nothing was committed before the clock was set back"
    ended(nursery.start(*commands[verb], "--folder", folder, cache=tmp_path / "cache", clock=-2 * A_DAY))
    assert there.items() <= committed(folder).items()
    same_results(folder, calm)


@pytest.mark.parametrize(
    ("verb", "edited"), [("run", "text.txt"), ("run", "yes.jsonl"), ("run", "b.yaml"), ("diff", "text.txt")]
)
def test_a_file_that_is_edited_between_resumes_is_told_and_nothing_is_lost(
    verb: str, edited: str, nursery: Nursery, commands: Commands, behaviour: Path, tmp_path: Path
) -> None:
    calm, folder, file = tmp_path / "calm" / "run", tmp_path / "edited" / "run", behaviour.parent / edited
    whole = ended(nursery.start(*commands[verb], "--folder", calm, cache=tmp_path / "calm cache"))
    child = nursery.start(*commands[verb], "--folder", folder, cache=tmp_path / "cache")
    time.sleep(0.5 * whole)
    assert child.kill() and (folder / "spec.json").exists(), child.told
    there, before = committed(folder), file.read_bytes()
    changed = before.replace(b"blue", b"grey").replace(b"dose: 24", b"dose: 20")
    assert changed != before
    file.write_bytes(changed)
    refused = nursery.start(*commands[verb], "--folder", folder, cache=tmp_path / "cache")
    assert refused.wait(120) == 3, refused.told
    assert "holds another run" in refused.told and committed(folder) == there
    file.write_bytes(before)
    ended(nursery.start(*commands[verb], "--folder", folder, cache=tmp_path / "cache"))
    assert there.items() <= committed(folder).items()
    same_results(folder, calm)
