"""Formats: does the same conversation come out of every shape?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from palimpsest.core.errors import UserError
from palimpsest.data.user_files import read_conversations

OURS = {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4."}]}
SAME: dict[str, dict[str, Any]] = {
    "prompt and completion": {"prompt": "2 + 2?", "completion": "4.", "id": 7},
    "prompt and completion as messages": {"prompt": OURS["messages"][:1], "completion": OURS["messages"][1:]},
    "ShareGPT": {"id": "x", "conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4."}]},
    "ShareGPT with other names": {"conversations": [{"from": "user", "value": "2 + 2?"}, {"from": "model", "value": "4."}]},
    "Alpaca": {"instruction": "2 + 2?", "input": "", "output": "4."},
    "Alpaca without input": {"instruction": "2 + 2?", "output": "4."},
}


def read(tmp_path: Path, *lines: Any) -> Any:
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_conversations(path)[0]


@pytest.mark.parametrize("name", SAME)
def test_every_shape_gives_the_same_conversation(name: str, tmp_path: Path) -> None:
    (wanted,), (found,) = read(tmp_path, OURS), read(tmp_path, SAME[name])
    assert found.messages == wanted.messages
    assert found.decisions == wanted.decisions


def test_alpaca_keeps_input_system_and_history(tmp_path: Path) -> None:
    line = {"system": "Be brief.", "history": [["Hi.", "Hello."]], "instruction": "Add.", "input": "2 and 2", "output": "4."}
    (found,) = read(tmp_path, line)
    assert [(one.role, one.content) for one in found.messages] == [
        ("system", "Be brief."),
        ("user", "Hi."),
        ("assistant", "Hello."),
        ("user", "Add.\n\n2 and 2"),
        ("assistant", "4."),
    ]
    assert [span.message for span in found.decisions] == [4]


def test_share_gpt_keeps_its_system_text_and_our_keys(tmp_path: Path) -> None:
    (found,) = read(tmp_path, {"system": "Be brief.", "template": "sum", **SAME["ShareGPT"]})
    assert found.messages[0].role == "system"
    assert found.template == "sum"


def test_a_json_list_is_read_like_lines(tmp_path: Path) -> None:
    path = tmp_path / "alpaca.json"
    path.write_text(json.dumps([SAME["Alpaca"], SAME["Alpaca"], {"instruction": "3 + 3?", "output": "6."}], indent=2))
    found = read_conversations(path)
    assert (len(found.examples), found.duplicates) == (2, 1)
    assert found.examples[1].source == "alpaca.json:3"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            {"conversations": [{"from": "humen", "value": "Hi"}]},
            "message 1 of 'conversations' has the role 'humen', which is not known",
        ),
        ({"conversations": [{"from": "humen", "value": "Hi"}]}, "Did you mean 'human'"),
        (
            {"conversations": [{"from": "human", "value": "Hi"}, {"from": "function_call", "value": "f()"}]},
            "message 2 of 'conversations' must hold a call of a function as JSON",
        ),
        ({"conversations": [{"value": "Hi"}]}, "must hold 'role' and 'content' (or 'from' and 'value')"),
        ({"conversations": "Hi"}, "must be a list of messages, found str"),
        ({"conversations": [{"from": "human", "value": 3}]}, "must have a text or a list of parts as its content, found int"),
        ({"prompt": 3, "completion": "a"}, "'prompt' must be a text, found int"),
        ({"prompt": "a", "completion": ""}, "nothing in it learns"),
        ({"instruction": "a", "output": None}, "holds a question and no answer"),
        ({"instruction": "a", "output": "b", "history": [["x"]]}, "entry 1 of 'history' must be a pair"),
        ({"ask": "a", "reply": "b"}, "must hold 'messages', 'prompt' and 'completion'"),
    ],
)
def test_what_does_not_fit_is_told_with_its_line(line: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as told:
        read(tmp_path, OURS, line)
    assert "line 2: " in str(told.value)
    assert reason in str(told.value)


PAIR = {"prompt": "2 + 2?", "chosen": "4.", "rejected": "5."}


@pytest.mark.parametrize(
    "line",
    [
        PAIR,
        {"prompt": OURS["messages"][:1], "chosen": OURS["messages"][1:], "rejected": [{"role": "assistant", "content": "5."}]},
        {"chosen": OURS["messages"], "rejected": [OURS["messages"][0], {"role": "assistant", "content": "5."}]},
        {**OURS, "rejected": "5."},
    ],
)
def test_pairs_become_a_conversation_with_a_worse_answer(line: dict[str, Any], tmp_path: Path) -> None:
    (found,) = read(tmp_path, line)
    assert [one.content for one in found.messages] == ["2 + 2?", "4."]
    assert found.rejected == "5."


def test_pairs_about_different_questions_are_refused(tmp_path: Path) -> None:
    other = [{"role": "user", "content": "3 + 3?"}, {"role": "assistant", "content": "5."}]
    with pytest.raises(UserError, match="must begin with the same messages"):
        read(tmp_path, {"chosen": OURS["messages"], "rejected": other})


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-32-be"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_encodings_that_say_so_are_read_alike(encoding: str, ends: str, tmp_path: Path) -> None:
    marks = {"utf-16-le": "\ufeff", "utf-32-be": "\ufeff"}
    lines = [OURS, {"prompt": "Où\u2028 ça?", "completion": "Là.\x85"}]
    text = marks.get(encoding, "") + ends.join(json.dumps(line, ensure_ascii=False) for line in lines) + ends
    path = tmp_path / "chats.jsonl"
    path.write_bytes(text.encode(encoding))
    examples = read_conversations(path).examples
    assert [[message.content for message in example.messages] for example in examples] == [
        ["2 + 2?", "4."],
        ["Où\u2028 ça?", "Là.\x85"],
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (json.dumps(OURS).encode("utf-16-le") + b"\n\0", "zero bytes; is it UTF-16"),
        (b"\xff\xfe" + json.dumps(OURS).encode("utf-16-le") + b"x", "is not the UTF-16 that it begins as"),
        (b"PAR1\x15\x04", "is a Parquet file"),
        (b"\x1f\x8b\x08\0\0", "compressed (gzip)"),
        (b"PK\x03\x04rest", "is a zip archive"),
        (b'{"messages": [{"role": "user", "content": "a", "role": "user"}]}\n{}', "the key 'role' stands twice"),
    ],
)
def test_what_is_no_text_or_says_two_things_is_told(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError) as told:
        read_conversations(path)
    assert reason in str(told.value)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("key", ["data", "rows", "train", ""])
def test_a_list_may_lie_in_an_object(name: str, indent: int | None, key: str, tmp_path: Path) -> None:
    lines = [OURS, SAME["Alpaca"], {"instruction": "3 + 3?", "output": "6."}]
    path = tmp_path / name
    path.write_text(json.dumps({"version": "1.0", key: lines} if key else lines, indent=indent))
    assert [example.decision for example in read_conversations(path).examples] == ["4.", "6."]


@pytest.mark.parametrize("indent", [None, 2])
def test_one_conversation_alone_is_one(indent: int | None, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({**OURS, "tools": [{"type": "function", "function": {"name": "f"}}]}, indent=indent))
    (found,) = read_conversations(path).examples
    assert found.tools == ({"type": "function", "function": {"name": "f"}},)


def test_what_was_left_out_is_told(tmp_path: Path) -> None:
    same = {"prompt": "Q", "chosen": "A", "rejected": "A"}
    bad = [{**SAME["prompt and completion"], "label": label} for label in (False, 0, "false", "bad")]
    path = tmp_path / "chats.jsonl"
    lines = [OURS, OURS, PAIR, same, *bad, {"prompt": "3 + 3?", "completion": "6.", "label": True, "score": 0.5}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = read_conversations(path)
    assert [example.decision for example in found.examples] == ["4.", "6."]
    assert found.told == (
        "chats.jsonl: 2 duplicate lines were left out.",
        "chats.jsonl: 4 of 9 lines are marked as bad (label or weight) and were left out.",
        "chats.jsonl: 1 of 9 pairs hold two equal answers and were left out.",
        "chats.jsonl: nothing was read from score.",
    )


def test_a_file_of_bad_answers_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="all 2 lines are marked as bad"):
        read(tmp_path, {"prompt": "a", "completion": "b", "label": False}, {"prompt": "c", "completion": "d", "weight": 0})


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({**OURS, "question": "something else?"}, "'question' carries meaning that would be lost"),
        ({**OURS, "context": "A passage."}, "'context' carries meaning"),
        ({**OURS, "temlate": "x"}, "'temlate' is no known column. Did you mean 'template'?"),
        ({**OURS, "chekc": {}, "optoins": {"a": "b"}}, "Did you mean 'options'?"),
        ({"prompt": "a", "completion": "b", "system": "S", "system_prompt": "T"}, "both hold a system text, and they differ"),
        ({"messages": [{"role": "system", "content": "S"}, *OURS["messages"]], "system": "T"}, "holds another one"),
        ({"prompt": "x y", "chosen": [*OURS["messages"]], "rejected": [*OURS["messages"]]}, "it differs"),
        ({"prompt": "a", "chosen": 3, "rejected": "b"}, "'chosen' must be a text or a list of messages"),
        ({**OURS, "tools": "none"}, "'tools' must be a list of functions"),
        ({"prompt": "a", "completion": "b", "label": 3}, "'label' must say whether the answer is good"),
    ],
)
def test_a_column_with_meaning_is_never_dropped(line: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as told:
        read(tmp_path, OURS, line)
    assert reason in str(told.value)


@pytest.mark.parametrize("name", ["id", "prompt_id", "score", "source", "input_ids", "template_id", "Label", "languages"])
def test_a_column_without_meaning_is_left_aside_and_told(name: str, tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text(
        json.dumps({**OURS, name: "x"}) + "\n" + json.dumps(SAME["ShareGPT"] | {name: "y", "id": None}).replace("2 + 2", "3")
    )
    assert read_conversations(path).told == (f"chats.jsonl: nothing was read from {name}.",)
