"""User files: is everything that can be wrong with them told, with its place, all at once?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palimpsest.core.errors import UserError
from palimpsest.data.material import Source
from palimpsest.data.text_files import documents, draw
from palimpsest.data.user_files import read_conversations


def turn(role: str, content: str, **rest: object) -> dict[str, object]:
    return {"role": role, "content": content, **rest}


def line(*turns: dict[str, object], **rest: object) -> str:
    return json.dumps({"messages": list(turns), **rest})


GOOD = line(turn("user", "Hello"), turn("assistant", "Hi there"))


def written(folder: Path, *lines: str | bytes) -> Path:
    path = folder / "chats.jsonl"
    path.write_bytes(b"\n".join(one if isinstance(one, bytes) else one.encode() for one in lines))
    return path


def refused(path: Path) -> str:
    with pytest.raises(UserError) as error:
        read_conversations(path)
    return str(error.value)


BAD = {
    "not json": ("{oops", "not JSON"),
    "not utf-8": (b'{"messages": "\xff"}', "not UTF-8: byte 0xff at column 15"),
    "half a character": ('{"messages": [{"role": "assistant", "content": "\\ud800"}]}', "half of a character"),
    "nested too deeply": ("[" * 100_000, "not JSON"),
    "a list": ("[1, 2]", "must be keys and values, found list"),
    "no messages": ("{}", "must hold 'messages', 'prompt' and 'completion'"),
    "empty messages": ('{"messages": []}', "must hold 'messages'"),
    "unknown key": (line(turn("assistant", "x"), temlate="a"), "'temlate' is no known column. Did you mean 'template'?"),
    "unknown role": (line(turn("robot", "x")), "message 1 of 'messages' has the role 'robot', which is not known"),
    "content is a number": (
        line(turn("assistant", 3)),
        "message 1 of 'messages' must have a text or a list of parts as its content, found int",
    ),  # type: ignore[arg-type]
    "nothing learns": (line(turn("user", "x")), "nothing in it learns"),
    "an unknown key of a turn": (line(turn("assistant", "x", contnt="a")), "'contnt' of a message is no known key"),
    "empty answer": (line(turn("user", "x"), turn("assistant", "")), "nothing in it learns"),
    "span outside": (line(turn("assistant", "four", spans=[[0, 9]])), "lies outside its message of 4 characters"),
    "span backwards": (line(turn("assistant", "four", spans=[[3, 2]])), "lies outside its message of 4 characters"),
    "bad check": (line(turn("assistant", "x"), check={"kind": "regex", "pattern": "("}), "not a regular expression"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_is_told_with_file_line_and_reason(name: str, tmp_path: Path) -> None:
    bad, reason = BAD[name]
    message = refused(written(tmp_path, GOOD, "", bad))
    assert "chats.jsonl" in message and "line 3: " in message and reason in message
    assert "pydantic" not in message


def test_all_bad_lines_are_told_at_once(tmp_path: Path) -> None:
    message = refused(written(tmp_path, *(bad for bad, _ in BAD.values())))
    assert all(f"line {number}: " in message for number in range(1, len(BAD) + 1))


def test_a_hopeless_file_is_told_shortly(tmp_path: Path) -> None:
    message = refused(written(tmp_path, *["{"] * 50))
    assert "line 20: " in message and "line 21: " not in message and "and 30 more lines" in message


@pytest.mark.parametrize(("content", "reason"), [("", "empty"), ("\n \n", "empty"), (f"{GOOD}\n{GOOD}\n{GOOD}", "all 3 lines")])
def test_files_without_different_examples_are_refused(content: str, reason: str, tmp_path: Path) -> None:
    assert reason in refused(written(tmp_path, content))


def test_files_that_cant_be_read_are_told(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "none.jsonl")
    assert "directory" in refused(tmp_path)


def test_duplicates_are_counted_and_left_out(tmp_path: Path) -> None:
    other = line(turn("user", "Bye"), turn("assistant", "Bye"))
    examples, duplicates, _ = read_conversations(written(tmp_path, GOOD, other, GOOD))
    assert [example.decision for example in examples] == ["Hi there", "Bye"] and duplicates == 1


def test_windows_files_are_read(tmp_path: Path) -> None:
    examples, *_ = read_conversations(
        written(tmp_path, b"\xef\xbb\xbf" + GOOD.encode() + b"\r", GOOD.replace("Hi", "Ho") + "\r")
    )
    assert [example.decision for example in examples] == ["Hi there", "Ho there"]


@pytest.mark.parametrize(
    ("turns", "learns"),
    [
        ([turn("user", "a"), turn("assistant", "b"), turn("user", "c"), turn("assistant", "d")], ["d"]),
        ([turn("user", "a"), turn("assistant", "b", train=True), turn("assistant", "d")], ["b"]),
        ([turn("user", "a", train=True), turn("assistant", "b", train=True)], ["a", "b"]),
        ([turn("assistant", "b"), turn("user", "c"), turn("assistant", "d", train=False)], ["b"]),
        ([turn("user", "a"), turn("assistant", "one two", spans=[[4, 7], [0, 3]])], ["one", "two"]),
    ],
)
def test_what_learns(turns: list[dict[str, object]], learns: list[str], tmp_path: Path) -> None:
    (example, _), *_ = read_conversations(written(tmp_path, line(*turns), GOOD))
    assert [example.text_of(span) for span in example.decisions] == learns


@settings(max_examples=50, deadline=None)
@given(pairs=st.lists(st.tuples(st.text(), st.text(min_size=1)), min_size=2, max_size=5, unique=True))
def test_any_text_survives_the_file(pairs: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = written(tmp_path_factory.mktemp("chats"), *(line(turn("user", a), turn("assistant", b)) for a, b in pairs))
    examples, duplicates, _ = read_conversations(path)
    assert [(example.messages[0].content, example.decision) for example in examples] == pairs and not duplicates


def test_documents_are_split_at_the_separator_and_each_is_kept_once(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("one\r\ntwo<|endoftext|> \n<|endoftext|>three<|endoftext|>three")
    assert list(documents(path)) == ["one\ntwo", "three", "three"]
    assert sorted(draw(path, 10, 0, lambda _: True)) == ["one\ntwo", "three"]


@settings(max_examples=50, deadline=None)
@given(paragraphs=st.lists(st.text("ab .", min_size=1, max_size=900).filter(str.strip), min_size=1, max_size=12))
def test_paragraphs_are_joined_and_none_is_lost(paragraphs: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n\n".join(paragraphs))
    found = list(documents(path))
    assert all(len(document) <= 1_000 for document in found)
    assert all(any(paragraph.strip() in document for document in found) for paragraph in paragraphs)


def test_json_documents(tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    path.write_text('{"text": "one", "id": "x"}\n"two"\n{"question": "a", "answer": "b", "n": 3}\n')
    assert list(documents(path)) == ["one", "two", "a\nb"]


def test_bad_documents_are_told_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    path.write_bytes(b'"good"\n[1]\n{"n": 3}\n{bad\n"\xff"\n')
    with pytest.raises(UserError) as error:
        list(documents(path))
    assert all(f"line {number}: " in str(error.value) for number in (2, 3, 4, 5)) and "line 1" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "reason"), [(b" \n\n ", "holds no text"), (b"fine\nnot \xff fine", "line 2 is not UTF-8 (byte 0xff)")]
)
def test_text_that_cant_be_used(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"text\.txt") as error:
        Source(text=path).open()
    assert reason in str(error.value)
