"""Transcripts: is every shape read, is bad input told whole and before any work, and what is one conversation?"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from palimpsest.core.errors import UserError
from palimpsest.memory.transcripts import Conversation, check, read_one
from tests.memory import talks

LOG = Path(__file__).parent / "logs" / "zstandard.eval"


def read(path: Path, **how: Any) -> list[Conversation]:
    return list(check([path], **how))


def said(conversation: Conversation) -> list[tuple[str, str]]:
    return [(turn.role, turn.text) for turn in conversation.turns]


@pytest.mark.parametrize(
    "line",
    [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}, {"role": "assistant", "content": "b"}]},
        {"prompt": "a", "completion": "b"},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        {"instruction": "a", "output": "b"},
    ],
)
def test_every_shape_says_the_same(line: dict[str, Any], tmp_path: Path) -> None:
    (found,) = read(talks.write(tmp_path / "a.jsonl", [line]))
    assert said(found) == [("user", "a"), ("assistant", "b")]
    (listed,) = read(talks.write(tmp_path / "a.json", [[line]]))
    assert said(listed) == said(found)
    assert said(read_one(json.dumps(line), "it")) == said(found)


def test_roles_of_chat_services_and_calls_of_tools(tmp_path: Path) -> None:
    messages = [
        {"role": "developer", "content": "be kind"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "tool", "content": "42"},
        {"role": "assistant", "content": "b"},
    ]
    (found,) = read(talks.write(tmp_path / "a.jsonl", [{"messages": messages}]))
    assert said(found) == [("system", "be kind"), ("user", "a"), ("assistant", ""), ("tool", "42"), ("assistant", "b")]


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("2026-11-21T20:00:00Z", 1_795_291_200), ("2026-11-21T22:00:00+02:00", 1_795_291_200), (1_795_291_200, 1_795_291_200),
     (1_795_291_200_000, 1_795_291_200), ("2026-11-21", 1_795_219_200)],
)  # fmt: skip
def test_times(given: Any, seconds: float, tmp_path: Path) -> None:
    (found,) = read(talks.write(tmp_path / "a.jsonl", [talks.talk("a", "b", timestamp=given)]))
    assert found.time == seconds


def test_labels_of_the_line_go_to_every_answer_unless_messages_have_their_own(tmp_path: Path) -> None:
    answer = {"role": "assistant", "content": "b"}
    line = {"messages": [{"role": "user", "content": "a"}, answer, {"role": "user", "content": "c"}, answer], "pole": "express"}
    own = {**line, "messages": [*line["messages"][:3], {**answer, "pole": "withhold"}]}
    first, second = read(talks.write(tmp_path / "a.jsonl", [line, own]))
    assert [turn.pole for turn in first.turns] == [None, "express", None, "express"]
    assert [turn.pole for turn in second.turns] == [None, None, None, "withhold"]


def test_a_conversation_with_an_id_may_grow(tmp_path: Path) -> None:
    short = talks.talk("a", "b", number=1)
    grown = {**short, "messages": [*short["messages"], {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]}
    other = talks.talk("another opening", "b", number=1)
    keys = [one.key for one in read(talks.write(tmp_path / "a.jsonl", [short, grown, other]))]
    assert keys[0] == keys[1] != keys[2]


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    good = talks.talk("a", "b")
    bad = [
        "{half", '{"messages": []}', '{"messages": [{"role": "asistant", "content": "b"}]}', "[1]",
        json.dumps({**good, "pole": "expres"}), json.dumps({**good, "timestamp": "yesterday"}),
        '{"prompt": "a", "chosen": "b", "rejected": "c"}', json.dumps({**good, "timestamp": 1e300}), '{"text": "a"}',
        '"\\ud800"',
    ]  # fmt: skip
    path = talks.write(tmp_path / "a.jsonl", [good, *bad, good])
    with pytest.raises(UserError) as told:
        check([path, tmp_path / "missing.jsonl"])
    text = str(told.value)
    assert all(f"line {number}:" in text for number in range(2, 12)) and "line 12" not in text
    assert "missing.jsonl" in text and "--skip-unreadable" in text
    assert "Did you mean 'assistant'?" in text and "Did you mean 'express'?" in text and "not JSON" in text
    found = check([path], skip_unreadable=True)
    assert len(list(found)) == found.conversations == 2
    assert "10 lines can't be read" in found.told[0]


def test_a_last_line_that_is_being_written_is_left_for_next_time(tmp_path: Path) -> None:
    whole = json.dumps(talks.talk("a", "b"))
    path = tmp_path / "a.jsonl"
    path.write_text(whole + "\n" + whole[: len(whole) // 2])
    found = check([path])
    assert len(list(found)) == 1 and "still being written" in found.told[0]
    path.write_text(whole[: len(whole) // 2] + "\n" + whole + "\n")
    with pytest.raises(UserError, match="line 1: not JSON"):
        check([path])


def test_what_is_added_between_the_two_readings_is_left_for_next_time(tmp_path: Path) -> None:
    path = talks.write(tmp_path / "a.jsonl", [talks.talk("a", "b")])
    found = check([path])
    with path.open("a") as stream:
        stream.write("{half")
    assert len(list(found)) == 1


@pytest.mark.parametrize(
    ("content", "match"),
    [(b"", "no conversation"), (b"\n\n", "no conversation"), (b'[{"messages": [', "cut off"), (b"\xff\xfe{}", "not UTF-8"),
     (b"PK\x03\x04nothing", "not JSON|zip archive")],
)  # fmt: skip
def test_files_that_hold_no_conversation(content: bytes, match: str, tmp_path: Path) -> None:
    for suffix in ("jsonl", "json"):
        path = tmp_path / f"a.{suffix}"
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"(?s){match}|not JSON|not UTF-8"):
            check([path])


def test_folders_are_read_however_deep(tmp_path: Path) -> None:
    talks.write(tmp_path / "a" / "b" / "c.jsonl", [talks.talk("a", "b")])
    talks.write(tmp_path / "a" / "notes.txt", ["no transcript"])
    assert check([tmp_path, tmp_path / "a"]).conversations == 1
    with pytest.raises(UserError, match="holds no \\.jsonl"):
        check([(tmp_path / "empty").mkdir() or tmp_path / "empty"])


# inspect logs


def test_a_log_packed_with_zstandard_as_inspect_writes_it() -> None:
    found = read(LOG)
    assert len(found) == 6 and len({one.key for one in found}) == 6
    assert {turn.text.split()[0] for one in found for turn in one.turns if turn.role == "assistant"} == {"Okay,", "Maybe"}
    assert all(one.turns[1].pole == "express" and one.turns[1].behaviour == "directions" and one.time for one in found)
    assert found[0].turns[1].better == "Okay, I lift"


def sample(**more: Any) -> dict[str, Any]:
    messages = [
        {"id": "1", "role": "user", "content": "attachment://a1", "source": "input"},
        {
            "id": "2",
            "role": "assistant",
            "content": [{"type": "reasoning", "reasoning": "secret"}, {"type": "text", "text": "b"}],
        },
    ]
    return {"id": 1, "epoch": 1, "input": "a", "target": "x", "messages": messages, "attachments": {"a1": "a"},
            "uuid": "u", "started_at": "2026-11-21T20:00:00+00:00", "metadata": {"pole": "withhold"}, **more}  # fmt: skip


def archive(path: Path, samples: list[Any], header: str = "header.json") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for number, one in enumerate(samples):
            made.writestr(f"samples/{number}_epoch_1.json", json.dumps(one))
        made.writestr(header, json.dumps({"version": 2, "status": "success", "eval": {"eval_id": "e"}}))
    return path


def test_both_forms_of_a_log_say_the_same(tmp_path: Path) -> None:
    packed = read(archive(tmp_path / "a.eval", [sample()]))
    log = {"version": 2, "status": "success", "eval": {"eval_id": "e"}, "samples": [sample()]}
    flat = read(talks.write(tmp_path / "a.json", [log]))
    assert said(packed[0]) == said(flat[0]) == [("user", "a"), ("assistant", "b")]
    assert packed[0].key == flat[0].key and packed[0].turns[1].pole == "withhold"


def test_a_sample_without_messages_has_its_output(tmp_path: Path) -> None:
    bare = {**sample(), "messages": [], "output": {"choices": [{"message": {"role": "assistant", "content": "c"}}]}}
    assert said(read(archive(tmp_path / "a.eval", [bare]))[0]) == [("user", "a"), ("assistant", "c")]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_log_that_is_cut_off(share: float, tmp_path: Path) -> None:
    path = tmp_path / "a.eval"
    content = LOG.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match="cut off, or still being written"):
        check([path])


def test_a_log_with_a_damaged_sample(tmp_path: Path) -> None:
    content = bytearray(LOG.read_bytes())
    middle = zipfile.ZipFile(LOG).getinfo("samples/1_epoch_1.json").header_offset + 120
    content[middle : middle + 40] = bytes(40)
    (tmp_path / "a.eval").write_bytes(bytes(content))
    with pytest.raises(UserError, match="can't be unpacked"):
        check([tmp_path / "a.eval"])


def test_a_zip_that_is_no_log_and_a_log_without_samples(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="without the header or the samples"):
        check([archive(tmp_path / "a.eval", [sample()], header="other.json")])
    with pytest.raises(UserError, match=r"holds no samples \(status: error\)"):
        check([talks.write(tmp_path / "a.json", [{"version": 2, "status": "error", "eval": {}, "samples": []}])])
