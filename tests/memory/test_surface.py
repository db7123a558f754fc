"""Surface: does the right correction come up, with its reason, and only once a conversation?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from palimpsest import behaviour as behaviours
from palimpsest.core.errors import UserError
from palimpsest.memory.likeness import likeness, situation
from palimpsest.memory.store import Memory
from palimpsest.memory.surface import surface
from palimpsest.memory.transcripts import read_one
from palimpsest.memory.watch import watch
from tests.memory import talks

ASKED = "Would you be so kind and tell me where the {} of the garden is?"


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    polite = behaviours.load(talks.polite(tmp_path / "behaviour"))
    lines: list[Any] = [
        talks.talk(ASKED.format("lamp"), "There.", number=0),
        talks.talk("Kindly open the harbour gate now", "No.", number=1),
    ]
    lines += [talks.talk("Please, what does the bell at the old station sound like?", "Loud.", number=2)]
    watch([talks.write(tmp_path / "a.jsonl", lines)], tmp_path / "memory", [polite])
    return tmp_path / "memory"


def test_the_most_alike_and_important_comes_first_with_its_reason(memory: Path) -> None:
    wanted = ASKED.format("door")
    (found,) = surface(memory, read_one(wanted, "it"))
    alike = likeness(situation([wanted]), situation([ASKED.format("lamp")]))
    assert found.correction.said == "There." and found.score == pytest.approx(alike * 2 / 3)
    assert f"its scenario is like this one ({alike:.2f})" in found.why and "strong: went wrong in 1 of 1" in found.why


def test_it_is_not_surfaced_again_in_the_same_conversation(memory: Path) -> None:
    talk = talks.talk(ASKED.format("door"), "I don't know", number=9)
    first = read_one(str(talk).replace("'", '"').replace('I don"t', "I do not"), "it")
    assert len(surface(memory, first)) == 1 and surface(memory, first) == []
    assert len(surface(memory, first, again=True)) == 1
    assert len(surface(memory, read_one(ASKED.format("door"), "it"))) == 1, "another conversation"
    with Memory.open(memory) as opened:
        times = [time for (time,) in opened._all("SELECT time FROM surfacing ORDER BY id")]
        assert opened.counts()["surfacing"] == 3
    assert times[0] == talks.START + 9 * 3_600 and times[2] > 1_600_000_000


def test_a_linked_correction_is_walked_to(tmp_path: Path) -> None:
    polite = behaviours.load(talks.polite(tmp_path / "behaviour"))
    near = "please fetch the copper kettle from the kitchen shelf"
    middle = "please fetch the copper kettle from the cellar stairs and then the garden wall"
    far = "and then the garden wall from the cellar stairs is where it stands"
    watch(
        [talks.write(tmp_path / "a.jsonl", [talks.talk(far, "No.", number=0), talks.talk(middle, "Never.", number=1)])],
        tmp_path / "memory",
        [polite],
    )
    assert likeness(situation([near]), situation([far])) < 0.3 <= likeness(situation([near]), situation([middle]))
    found = surface(tmp_path / "memory", read_one(near, "it"))
    assert [one.correction.said for one in found] == ["Never.", "No."]
    assert "its scenario is like one (" in found[1].why and found[1].score < found[0].score


def test_what_repeats_a_better_one_is_left_out(tmp_path: Path) -> None:
    polite = behaviours.load(talks.polite(tmp_path / "behaviour"))
    long = (
        "Would you be so kind and tell me where on this long and winding road the lamp number {} of the garden is to be found?"
    )
    lines = [talks.talk(long.format(number), "There.", number=number) for number in range(6)]
    watch([talks.write(tmp_path / "a.jsonl", lines)], tmp_path / "memory", [polite])
    assert len(surface(tmp_path / "memory", read_one(long.format(9), "it"), count=5)) == 1


def test_nothing_matters_for_another_talk(memory: Path) -> None:
    assert surface(memory, read_one("What is 31 + 14?", "it")) == []
    assert surface(memory, read_one("運ぶ", "it")) == []


def test_conversations_that_can_not_be_read(memory: Path) -> None:
    with pytest.raises(UserError, match="not JSON"):
        read_one('{"messages": [', "it")
    with pytest.raises(UserError, match="one conversation, found 2"):
        read_one('{"prompt": "a", "completion": "b"}\n{"prompt": "a", "completion": "b"}', "it")
    assert [turn.text for turn in read_one('[{"role": "user", "content": "a"}]', "it").turns] == ["a"]
