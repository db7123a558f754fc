"""Store: does the graph hold what it should, does it refuse what is not its own, and is anything lost?"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from palimpsest import behaviour as behaviours
from palimpsest.core.errors import UserError
from palimpsest.memory import schema
from palimpsest.memory.likeness import likeness, situation
from palimpsest.memory.store import COVERS, Memory
from palimpsest.memory.surface import surface
from palimpsest.memory.transcripts import read_one
from palimpsest.memory.trend import trend
from palimpsest.memory.watch import Summary, watch
from tests.memory import talks

ASKED = "Would you be so kind and tell me where the {} of the garden is?"
RUDE = "Hey! Where's the {} at the garden, quick!"


@pytest.fixture
def polite(tmp_path: Path) -> Any:
    return behaviours.load(talks.polite(tmp_path / "behaviour"))


def look(tmp_path: Path, polite: Any, *lines: Any, name: str = "a.jsonl", **how: Any) -> Summary:
    return watch([talks.write(tmp_path / name, lines)], tmp_path / "memory", [polite], **how)


def dump(folder: Path) -> list[Any]:
    """Return all that a memory says, but for the times at which it was surfaced."""
    with Memory.open(folder) as memory:
        names = ("node", "behaviour", "scenario", "correction", "link", "conversation", "turn")
        return [sorted(memory._all(f"SELECT * FROM {name}"), key=str) for name in names]


def test_the_graph_of_two_failures_and_a_right_answer(tmp_path: Path, polite: Any) -> None:
    found = look(
        tmp_path,
        polite,
        talks.talk(ASKED.format("old lamp"), "There.", number=0, better="Gladly: there."),
        talks.talk(ASKED.format("new lamp"), "Over there.", number=1, better="No."),
        talks.talk(ASKED.format("big lamp"), "Gladly, there.", number=2),
        talks.talk(RUDE.format("lamp"), "There.", number=3, pole="withhold"),
    )
    counts = found.judged[("polite", "express")]
    assert (counts.watched, counts.failed, counts.known_before) == (3, 2, 1)
    assert (found.judged[("polite", "withhold")].failed, found.already, dict(found.unknown)) == (0, 0, {})
    with Memory.open(tmp_path / "memory") as memory:
        assert memory.counts() == {
            "conversation": 4, "turn": 4, "behaviour": 1, "scenario": 2, "correction": 2, "link": 5, "surfacing": 0
        }  # fmt: skip
        later, first = sorted(memory.corrections("polite"), key=lambda one: -one.id)
        assert (first.said, first.wrong, first.better, later.better) == ("There.", "gruffness", "Gladly: there.", None)
        assert (first.covered, first.failed, later.covered, later.failed) == (3, 2, 2, 1)
        assert first.importance == (2 + 1) / (3 + 2) and later.importance == (1 + 1) / (2 + 2) and first.strength == "strong"
        ((near, weight),) = memory.links(later.scenario, "like")
        expected = likeness(*(situation([ASKED.format(thing)]) for thing in ("old lamp", "new lamp")))
        assert near == first.scenario and weight == pytest.approx(expected) and expected >= COVERS
        assert memory.links(first.id, "arose in") == [(first.scenario, first.importance)]
        assert memory.links(first.id, "of")[0][1] == first.importance


def test_seeds_for_the_dream_loop(tmp_path: Path, polite: Any) -> None:
    tools = [
        {"role": "user", "content": "Be so kind"},
        {"role": "tool", "content": "42"},
        {"role": "assistant", "content": "No"},
    ]
    look(
        tmp_path,
        polite,
        talks.talk(ASKED.format("boat"), "There.", number=0),
        talks.talk(ASKED.format("boat"), "No.", number=1),
        talks.talk(RUDE.format("wheel"), "Gladly!", number=2, pole="withhold"),
        {"messages": tools, "pole": "express", "behaviour": "polite"},
    )
    with Memory.open(tmp_path / "memory") as memory:
        found = memory.failures("polite", 10)
        assert [(one.pole, one.messages[-1].content) for one in found] == [
            ("express", ASKED.format("boat")), ("withhold", RUDE.format("wheel"))
        ]  # fmt: skip
        assert found[0].messages[0].role == "user" and found[0].correction.importance > found[1].correction.importance
        assert memory.failures("polite", 1) == found[:1]
        with pytest.raises(UserError, match="knows no behaviour 'polit'\\. Did you mean 'polite'"):
            memory.failures("polit", 1)


def test_the_same_lines_add_nothing(tmp_path: Path, polite: Any) -> None:
    lines = [talks.talk(ASKED.format(f"lamp {number}"), "There.", number=number) for number in range(5)]
    look(tmp_path, polite, *lines, *lines)
    before = dump(tmp_path / "memory")
    assert look(tmp_path, polite, *lines[::-1], name="other.jsonl").already == 5
    assert dump(tmp_path / "memory") == before


def test_a_conversation_that_went_on_adds_only_its_new_answer(tmp_path: Path, polite: Any) -> None:
    short = talks.talk(ASKED.format("boat"), "There.", number=1)
    more = [{"role": "user", "content": ASKED.format("bell")}, {"role": "assistant", "content": "Gladly!"}]
    look(tmp_path, polite, short)
    found = look(tmp_path, polite, {**short, "messages": [*short["messages"], *more]})
    assert found.already == 1 and found.judged[("polite", "express")].watched == 1
    with Memory.open(tmp_path / "memory") as memory:
        assert memory.counts()["conversation"] == 1 and memory.corrections("polite")[0].covered == 1


def test_what_could_not_be_judged_is_judged_when_somebody_can(tmp_path: Path, polite: Any) -> None:
    line = talks.talk(ASKED.format("boat"), "There.", number=1, behaviour="kind")
    assert sum(look(tmp_path, polite, line).unknown.values()) == 1
    assert look(tmp_path, polite, line).already == 1
    kind = polite.model_copy(update={"name": "kind"})
    found = watch([tmp_path / "a.jsonl"], tmp_path / "memory", [polite, kind])
    assert found.judged[("kind", "express")].failed == 1


def test_a_text_that_acts_is_only_text(tmp_path: Path, polite: Any) -> None:
    hostile = "Would you '; DROP TABLE turn; -- \" OR * NEAR( be so kind \x1b[31m\x00 ${x} {{x}} 運ぶ"
    look(tmp_path, polite, talks.talk(hostile, "'); DELETE FROM node; --", number=0), talks.talk(hostile, "No", number=1))
    with Memory.open(tmp_path / "memory") as memory:
        assert memory.corrections()[0].failed == 2 and memory.messages(memory.corrections()[0].scenario)[0][1] == hostile


# what is not ours


def test_folders_that_hold_something_else(tmp_path: Path, polite: Any) -> None:
    line = talks.talk(ASKED.format("boat"), "There.")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    path = talks.write(tmp_path / "a.jsonl", [line])
    with pytest.raises(UserError, match=r"is no memory: it holds thesis\.tex"):
        watch([path], tmp_path / "full", [polite])
    assert [one.name for one in (tmp_path / "full").iterdir()] == ["thesis.tex"]
    with pytest.raises(UserError, match="is a file"):
        watch([path], path, [polite])
    with pytest.raises(UserError, match="holds no memory; make one with `palimpsest watch"):
        Memory.open(tmp_path / "missing")


def made(folder: Path, statement: str) -> Path:
    with Memory.open(folder, "write"):
        pass
    connection = sqlite3.connect(folder / schema.NAME)
    connection.execute(statement)
    connection.commit()
    connection.close()
    return folder


@pytest.mark.parametrize("use", ["read", "write"])
@pytest.mark.parametrize(
    ("statement", "match"),
    [("PRAGMA user_version = 99", "newer Palimpsest .version 99"), ("PRAGMA application_id = 7", "another program"),
     ("PRAGMA user_version = 0", "version 0 of its form")],
)  # fmt: skip
def test_files_of_others(tmp_path: Path, use: Any, statement: str, match: str) -> None:
    with pytest.raises(UserError, match=match):
        Memory.open(made(tmp_path / "m", statement), use)


@pytest.mark.parametrize("use", ["read", "write"])
def test_a_file_that_is_no_database_or_is_damaged(tmp_path: Path, use: Any) -> None:
    (tmp_path / schema.NAME).write_bytes(b"this is no database, however long it may be. " * 50)
    with pytest.raises(UserError, match="damaged or no memory"):
        Memory.open(tmp_path, use)
    folder = tmp_path / "m"
    with Memory.open(folder, "write"):
        pass
    content = (folder / schema.NAME).read_bytes()
    (folder / schema.NAME).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="damaged or no memory"), Memory.open(folder, use) as memory:
        memory.corrections()


DAMAGES = {
    "a bit": lambda whole, at, rng: whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :],
    "a sector of zeros": lambda whole, at, rng: whole[:at] + bytes(len(whole[at : at + 512])) + whole[at + 512 :],
    "a cut": lambda whole, at, rng: whole[:at],
    "noise": lambda whole, at, rng: whole[:at] + rng.randbytes(len(whole[at : at + 64])) + whole[at + 64 :],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_anywhere_is_told_or_changes_nothing(tmp_path: Path, polite: Any, damage: str) -> None:
    rng = random.Random(damage)
    words = ("old", "new", "big", "red", "lamp", "door", "bench", "rose", "wall", "shed", "path", "pond")
    asked = [ASKED.format(f"{rng.choice(words)} {rng.choice(words)} {number}") for number in range(40)]
    talked = [talks.talk(one, rng.choice(("There.", "Gladly, there.")), number=at) for at, one in enumerate(asked)]
    look(tmp_path, polite, *talked)
    whole = (tmp_path / "memory" / schema.NAME).read_bytes()
    now = read_one(asked[0], "now")

    def said() -> tuple[str, str]:
        found = surface(tmp_path / "memory", now, again=True)
        return repr(trend(tmp_path / "memory", windows=2)), repr([(one.correction, one.score) for one in found])

    right, told = said(), 0
    for _ in range(20):
        (tmp_path / "memory" / schema.NAME).write_bytes(DAMAGES[damage](whole, rng.randrange(len(whole)), rng))
        try:
            assert said() == right
        except UserError as error:
            told += 1
            assert schema.NAME in str(error)
    assert told >= 1, "some of it is where something stands"


def test_one_whose_writer_was_killed_is_read_though_it_is_not_sealed(tmp_path: Path, polite: Any) -> None:
    look(tmp_path, polite, talks.talk(ASKED.format("lamp"), "There.", number=0))
    with Memory.open(tmp_path / "memory", "write") as memory:
        memory.know("other", "d", "q")
        copied = tmp_path / "copy"
        shutil.copytree(tmp_path / "memory", copied)  # as it lies when the process is killed here
    with Memory.open(copied) as memory:
        assert memory.behaviours() == ("other", "polite")
    with Memory.open(copied, "write") as memory:
        memory.know("third", "d", "q")
    with Memory.open(copied) as memory:
        assert memory.behaviours() == ("other", "polite", "third")
        assert memory._all("SELECT sealed = commits FROM seal") == [(1,)]


def test_one_whose_making_was_cut_off_is_made_again(tmp_path: Path) -> None:
    (tmp_path / schema.NAME).write_bytes(b"")
    with pytest.raises(UserError, match="empty memory"):
        Memory.open(tmp_path)
    with Memory.open(tmp_path, "write") as memory:
        assert memory.counts()["correction"] == 0
    with Memory.open(tmp_path) as memory:
        assert memory.corrections() == []


def test_a_full_disk_is_told(tmp_path: Path, polite: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with Memory.open(tmp_path / "m", "write") as memory:
        memory._db.execute("PRAGMA max_page_count = 1")
        with pytest.raises(UserError, match="the disk is full"):
            for number in range(200):
                memory.know(f"b{number}", "d", "q" * 4_000)


# other processes

WATCH = """
import sys
from pathlib import Path
from palimpsest import behaviour
from palimpsest.memory import watch
watch._COMMIT_SECONDS = float(sys.argv[4])
watch.watch([Path(sys.argv[1])], Path(sys.argv[2]), [behaviour.load(sys.argv[3])])
"""
HOLD = """
import sys
from palimpsest.memory.store import Memory
with Memory.open(sys.argv[1], "write") as memory:
    if len(sys.argv) > 2:
        memory._run("BEGIN IMMEDIATE")
    print("open", flush=True)
    sys.stdin.readline()
"""


def lines(count: int) -> list[Any]:
    return [talks.talk(ASKED.format(f"thing {number % 50} of {number}"), "There.", number=number) for number in range(count)]


def test_kills_lose_nothing_and_change_nothing(tmp_path: Path, polite: Any) -> None:
    kill_often(tmp_path, count=60, kills=2)


@pytest.mark.slow
def test_many_kills_lose_nothing_and_change_nothing(tmp_path: Path, polite: Any) -> None:
    kill_often(tmp_path, count=200, kills=10)


def kill_often(tmp_path: Path, count: int, kills: int) -> None:
    file, behaviour = talks.write(tmp_path / "a.jsonl", lines(count)), tmp_path / "behaviour" / "polite.yaml"
    watch([file], tmp_path / "calm", [behaviours.load(behaviour)])
    killed, there = 0, 0
    while killed < kills:
        child = talks.start(WATCH, file, tmp_path / "killed", behaviour, 0.0)
        wanted = there + (count - there) // (kills - killed + 1)
        while child.poll() is None and entered(tmp_path / "killed") < wanted:
            time.sleep(0.03)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        assert child.returncode == -signal.SIGKILL, "it must be killed while it works"
        killed += 1
        now = entered(tmp_path / "killed")
        assert there <= now and wanted <= now < count, "what was committed is there"
        there = now
    child = talks.start(WATCH, file, tmp_path / "killed", behaviour, 0.5)
    assert child.wait(300) == 0, child.communicate()
    assert dump(tmp_path / "killed") == dump(tmp_path / "calm")


def entered(folder: Path) -> int:
    try:
        with Memory.open(folder) as memory:
            return memory.counts()["turn"]
    except UserError:
        return 0


def test_a_second_writer_is_refused_and_readers_go_on(tmp_path: Path, polite: Any) -> None:
    file = talks.write(tmp_path / "a.jsonl", lines(5))
    watch([file], tmp_path / "m", [polite])
    first = talks.start(HOLD, tmp_path / "m")
    assert first.stdout is not None and first.stdout.readline() == "open\n"
    more = talks.write(tmp_path / "b.jsonl", lines(8))
    with pytest.raises(UserError, match=f"is being written by process {first.pid} on"):
        watch([more], tmp_path / "m", [polite])
    assert entered(tmp_path / "m") == 5
    first.communicate("\n")
    watch([more], tmp_path / "m", [polite])
    assert entered(tmp_path / "m") == 8


def test_a_short_write_waits_and_then_gives_up(tmp_path: Path, polite: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "BUSY_SECONDS", 0.2)
    watch([talks.write(tmp_path / "a.jsonl", lines(5))], tmp_path / "m", [polite])
    holder = talks.start(HOLD, tmp_path / "m", "in the middle of a write")
    assert holder.stdout is not None and holder.stdout.readline() == "open\n"
    with Memory.open(tmp_path / "m", "write", alone=False) as memory:
        one = memory.corrections()[0].id
        with pytest.raises(UserError, match=r"another process writes .* did not let go within 0\.2 s"):
            memory.surfaced("talk", 0.0, [(one, 0.5, "why")])
        holder.communicate("\n")
        memory.surfaced("talk", 0.0, [(one, 0.5, "why")])
        assert [each.id for each in memory.surfaced_in("talk")] == [one]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_can_be_read(tmp_path: Path, polite: Any) -> None:
    watch([talks.write(tmp_path / "a.jsonl", lines(3))], tmp_path / "m", [polite])
    (tmp_path / "m").chmod(0o555)
    try:
        assert entered(tmp_path / "m") == 3
    finally:
        (tmp_path / "m").chmod(0o755)
