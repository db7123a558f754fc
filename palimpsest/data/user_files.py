"""User files: which conversations and documents did somebody bring, and what is wrong with them?

Every unreadable line is told at once, with file, line and reason.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from palimpsest.core.errors import Problems, UserError
from palimpsest.core.spec import Spec
from palimpsest.data.chat import Example, Message, Span, conversation, origin_of, whole
from palimpsest.data.checks import Check

SEPARATOR = "<|endoftext|>"
_PIECE = 1_000
"""Characters of one document where a file has no separator: paragraphs are joined up to about this."""
_SHOWN = 20


class _Turn(Spec):
    role: Literal["system", "user", "assistant"]
    content: str
    train: bool | None = None
    spans: tuple[tuple[int, int], ...] = ()


class _Line(Spec):
    messages: tuple[_Turn, ...] = Field(min_length=1)
    template: str | None = None
    options: dict[str, str] = {}
    check: Check | None = None


def read_conversations(path: Path) -> tuple[list[Example], int]:
    """Return the conversations of a JSONL file, each once, and how many duplicates were left out.

    A line is ``{"messages": [{"role", "content", "train"?, "spans"?}], "template"?, "options"?, "check"?}``. What learns: the
    ``spans`` (characters) where given, else the messages with ``train: true``, else the last assistant message.

    Raises:
        UserError: the file can't be read, or lines in it can't; all of them, with the reason.
    """
    problems = Problems(f"{path} can't be used:")
    found: dict[str, Example] = {}
    count = 0
    for number, text in enumerate(_lines(path), start=1):
        if not text.strip():
            continue
        count += 1
        try:
            example = _example(json.loads(text), f"{path.name}:{number}")
        except json.JSONDecodeError as error:
            problems.add(f"line {number}: not JSON: {error.msg} at column {error.colno}")
        except (UserError, ValueError) as error:
            problems.add(f"line {number}: {_one_line(error)}")
        else:
            found.setdefault(example.id, example)
    if len(problems.found) > _SHOWN:
        problems.found[_SHOWN:] = [f"and {len(problems.found) - _SHOWN} more lines"]
    if not count:
        problems.add("it is empty; at least one conversation is needed")
    problems.raise_if_any()
    if len(found) == 1 and count > 1:
        raise UserError(f"{path} can't be used: all {count} lines are the same conversation")
    return list(found.values()), count - len(found)


def read_documents(path: Path) -> list[str]:
    """Return the documents of a text file: split at ``<|endoftext|>``, or paragraphs joined to about 1,000 characters.

    A ``.jsonl`` file gives one document a line: its ``text``, or all its text values joined.

    Raises:
        UserError: the file can't be read or holds no document.
    """
    if path.suffix == ".jsonl":
        documents = _json_documents(path)
    else:
        text = _read(path)
        documents = text.split(SEPARATOR) if SEPARATOR in text else _pieces(text)
    documents = list(dict.fromkeys(document.strip() for document in documents if document.strip()))
    if not documents:
        raise UserError(f"{path} can't be used: it holds no text")
    return documents


def text_example(document: str, source: str, template: str | None = None) -> Example:
    """Return a bare document as an example whose every token is predicted; each document is its own cluster."""
    return conversation(
        ("text", document), template=template or document[:60], source=source, origin=origin_of(document)
    )


def _example(data: Any, source: str) -> Example:
    line = _Line.read(data, "it")
    messages = tuple(Message(role=turn.role, content=turn.content) for turn in line.messages)
    decisions = [
        Span(message=index, start=start, end=end) for index, turn in enumerate(line.messages) for start, end in turn.spans
    ]
    if not decisions:
        trained = [index for index, turn in enumerate(line.messages) if turn.train]
        last = [index for index, turn in enumerate(line.messages) if turn.role == "assistant" and turn.train is None][-1:]
        decisions = [whole(messages, index) for index in (trained or last) if messages[index].content]
    if not decisions:
        raise UserError("nothing in it learns: no assistant message, no 'train: true', no 'spans' (or the message is empty)")
    return Example(
        messages=messages,
        decisions=tuple(sorted(decisions, key=lambda span: (span.message, span.start))),
        template=line.template or source,
        options=line.options,
        check=line.check,
        source=source,
    )


def _one_line(error: Exception) -> str:
    return "; ".join(part.strip(" -") for part in str(error).splitlines() if not part.endswith("can't be used:"))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} can't be read: {error}") from error


def _lines(path: Path) -> list[str]:
    return _read(path).split("\n")


def _pieces(text: str) -> list[str]:
    pieces, current = [], ""
    for paragraph in text.split("\n\n"):
        if current and len(current) + len(paragraph) > _PIECE:
            pieces.append(current)
            current = ""
        current = f"{current}\n\n{paragraph}" if current else paragraph
    return [*pieces, current]


def _json_documents(path: Path) -> list[str]:
    problems = Problems(f"{path} can't be used:")
    documents = []
    for number, text in enumerate(_lines(path), start=1):
        if not text.strip():
            continue
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            problems.add(f"line {number}: not JSON: {error.msg} at column {error.colno}")
            continue
        values = [value] if isinstance(value, str) else list(value.values()) if isinstance(value, dict) else []
        if isinstance(value, dict) and isinstance(value.get("text"), str):
            values = [value["text"]]
        documents.append("\n".join(part for part in values if isinstance(part, str)))
    problems.raise_if_any()
    return documents
