"""User files: which conversations and documents did somebody bring, and what is wrong with them?

Unreadable lines are told together, each with file, line and reason.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from palimpsest.core.errors import UserError
from palimpsest.core.files import open_file, read_file
from palimpsest.core.spec import Spec
from palimpsest.data.chat import Example, Message, Span, conversation, origin_of, whole
from palimpsest.data.checks import Check
from palimpsest.data.formats import in_messages
from palimpsest.data.text_files import LineProblems, lines_of, parsed

_LONGEST_REASON = 600


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
    rejected: str | None = Field(default=None, min_length=1)


def read_conversations(path: Path) -> tuple[list[Example], int]:
    """Return the conversations of a file, each once, and how many duplicates were left out.

    The file is JSONL, or a ``.json`` file with one list. A line is ``{"messages": [{"role", "content", "train"?, "spans"?}],
    "template"?, "options"?, "check"?, "rejected"?}``; other shapes are brought into this one (``data/formats``). What learns:
    the ``spans`` (characters) where given, else the messages with ``train: true``, else the last assistant message. A
    ``rejected`` text is a worse answer in the place of the first thing that learns.

    Raises:
        UserError: the file can't be read, or lines in it can't; all of them, with the reason.
    """
    problems = LineProblems(f"{path} can't be used:")
    found: dict[str, Example] = {}
    count = 0
    for number, text in _entries(path):
        count += 1
        try:
            example = _example(in_messages(parsed(text)), f"{path.name}:{number}")
        except UserError as error:
            problems.add(f"line {number}: {_one_line(error)}")
        else:
            found.setdefault(example.id, example)
    if not count:
        problems.add("it is empty; at least one conversation is needed")
    problems.raise_if_any()
    if len(found) == 1 and count > 1:
        raise UserError(f"{path} can't be used: all {count} lines are the same conversation")
    return list(found.values()), count - len(found)


def conversation_of(data: Any, source: str) -> Example:
    """Return one line that was read already as an example; ``source`` says where it stands.

    Raises:
        UserError: it is no conversation, or nothing in it learns.
    """
    return _example(in_messages(data), source)


def text_example(document: str, source: str, template: str | None = None) -> Example:
    """Return a bare document as an example whose every token is predicted; each document is its own cluster."""
    return conversation(("text", document), template=template or document[:60], source=source, origin=origin_of(document))


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
    made = {
        "messages": messages,
        "decisions": tuple(sorted(decisions, key=lambda span: (span.message, span.start))),
        "template": line.template or source,
        "options": line.options,
        "check": line.check,
        "rejected": line.rejected,
        "source": source,
    }
    return Example.read(made, "it")


def _one_line(error: Exception) -> str:
    parts = "; ".join(part.strip(" -") for part in str(error).splitlines() if not part.endswith("can't be used:"))
    return parts if len(parts) <= _LONGEST_REASON else f"{parts[:_LONGEST_REASON]} ..."


def _entries(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield number and bytes of the lines of a JSONL file, or of the entries of a file that holds one JSON list."""
    if path.suffix != ".json" or not _is_list(path):
        yield from lines_of(path)
        return
    content = read_file(path).removeprefix(codecs.BOM_UTF8)
    try:
        entries = parsed(content)
    except UserError as error:
        raise UserError(f"{path} can't be used: {error}") from None
    for number, entry in enumerate(entries, start=1):
        yield number, json.dumps(entry).encode()


def _is_list(path: Path) -> bool:
    with open_file(path) as stream:
        return stream.read(1_000).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")
