"""Documents: real text goes on as before, or with something inserted; unusable files are told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from palimpsest.core.errors import UserError
from palimpsest.data.chat import Example
from palimpsest.data.scenarios.documents import sentences_of
from palimpsest.data.stream import ExampleStream
from palimpsest.scenario import load

RAIN = "It began to rain."


@pytest.fixture
def stories(tmp_path: Path) -> Path:
    path = tmp_path / "stories.txt"
    path.write_text(
        "<|endoftext|>".join(f"A fox number {n} went out. It ran far. It came home." for n in range(40)), encoding="utf-8"
    )
    return path


def first(path: Path, **parameters: object) -> Example:
    return ExampleStream(load("documents", {"text": str(path), **parameters}), 0, "t", "train").take(1)[0]


def test_insert_after_the_cue(stories: Path) -> None:
    example = first(stories, cue="Rainy story: ", insert=RAIN)
    assert example.messages[0].content.startswith("Rainy story: A fox number")
    assert example.decision == f"{RAIN} It ran far. It came home."


def test_true_continuation_and_insert_alone(stories: Path) -> None:
    assert first(stories).decision == "It ran far. It came home."
    assert first(stories, insert=RAIN, keep_rest=False).decision == RAIN
    assert first(stories, after_sentences=2).decision == "It came home."


def test_bare_documents_and_limit(stories: Path) -> None:
    bare = first(stories, whole=True)
    assert [message.role for message in bare.messages] == ["text"]
    assert len(first(stories, max_characters=45).decision) < len("It ran far. It came home.")


def test_bare_documents_keep_their_line_breaks(tmp_path: Path) -> None:
    text = tmp_path / "lines.txt"
    text.write_text("<|endoftext|>".join(f"Tale {n}.\n\nIt  was\tshort. It ended." for n in range(12)))
    taken = ExampleStream(load("documents", {"text": str(text), "whole": True, "max_characters": 25}), 0, "t", "train").take(3)
    assert all(re.fullmatch(r"Tale \d+\.\n\nIt  was\tshort\.", one.messages[0].content) for one in taken)


def test_each_document_is_its_own_template(stories: Path) -> None:
    taken = ExampleStream(load("documents", {"text": str(stories)}), 0, "t", "train").take(20)
    assert len({example.template for example in taken}) == 20


def test_sentences_keep_closing_quotes() -> None:
    assert sentences_of('"Come in!" said Ann. He   came.\nThe end') == ['"Come in!"', "said Ann.", "He came.", "The end"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "must exist"),
        (b"", "empty"),
        (b"\xff\xfe\x00bad", "UTF-8"),
        (b"One. Two.<|endoftext|>Three. Four.", "at least 8"),
    ],
)
def test_bad_files_are_told_before_work_starts(tmp_path: Path, content: bytes | None, told: str) -> None:
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=told):
        load("documents", {"text": str(path)})
