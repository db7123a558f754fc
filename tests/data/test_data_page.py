"""The page on data: is every line of its table true?"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from palimpsest.core.errors import UserError
from palimpsest.data.chat import Example
from palimpsest.data.user_files import read_conversations

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
LINES = re.findall(r"^\| ([^|]+) \| `([^|]+)` \| ([^|]+) \|$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
GOOD = {"messages": [{"role": "user", "content": "another"}, {"role": "assistant", "content": "one"}]}


def as_shown(example: Example) -> str:
    turns = []
    for place, message in enumerate(example.messages):
        text = message.content
        for span in sorted(example.decisions, key=lambda span: -span.start):
            if span.message == place:
                text = f"{text[: span.start]}[{text[span.start : span.end]}]{text[span.end :]}"
        turns.append(f"{message.role}: {text}".removesuffix(" ") if not text else f"{message.role}: {text}")
    worse = [f"worse: {example.rejected}"] if example.rejected is not None else []
    return " / ".join([*turns, *worse]).replace("\n", "\\n")


def read(tmp_path: Path, line: Any) -> list[Example]:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + json.dumps(line) + "\n", encoding="utf-8")
    return read_conversations(path).examples[1:]


def test_the_page_has_its_lines() -> None:
    assert len(LINES) >= 45 and len({line for _, line, _ in LINES}) == len(LINES)


@pytest.mark.parametrize(("whose", "line", "told"), LINES, ids=[whose for whose, _, _ in LINES])
def test_every_line_is_read_as_the_page_says(whose: str, line: str, told: str, tmp_path: Path) -> None:
    if told.startswith("refused: "):
        with pytest.raises(UserError, match=re.escape(told.removeprefix("refused: "))) as error:
            read(tmp_path, json.loads(line))
        assert "line 2: " in str(error.value)
    elif told == "left out":
        assert read(tmp_path, json.loads(line)) == []
    else:
        (example,) = read(tmp_path, json.loads(line))
        assert as_shown(example) == told
