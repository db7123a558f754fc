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
    found, duplicates = read_conversations(path)
    assert (len(found), duplicates) == (2, 1)
    assert found[1].source == "alpaca.json:3"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"conversations": [{"from": "humen", "value": "Hi"}]}, "turn 1 is from 'humen', which is no known role"),
        ({"conversations": [{"from": "humen", "value": "Hi"}]}, "Did you mean 'human'"),
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "function_call", "value": "f()"}]}, "turn 2 is from"),
        ({"conversations": [{"role": "user", "content": "Hi"}]}, "must hold 'from' and 'value'"),
        ({"conversations": "Hi"}, "must be a list of turns, found str"),
        ({"conversations": [{"from": "human", "value": 3}]}, "'value' must be a text, found int"),
        ({"prompt": 3, "completion": "a"}, "'prompt' must be a text or a list of messages, found int"),
        ({"prompt": "a", "completion": ""}, "nothing in it learns"),
        ({"instruction": "a", "output": None}, "'output' must be a text, found NoneType"),
        ({"instruction": "a", "output": "b", "history": [["x"]]}, "entry 1 of 'history' must be a pair"),
        ({"question": "a", "answer": "b"}, "must hold 'messages', 'prompt' and 'completion'"),
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
