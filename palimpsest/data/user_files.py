"""User files: which conversations and documents did somebody bring, and what is wrong with them?

Unreadable lines are told together, each with file, line and reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, JsonValue

from palimpsest.core.errors import UserError, slip_of
from palimpsest.core.spec import Spec
from palimpsest.data.chat import Example, Message, Span, conversation, origin_of, whole
from palimpsest.data.checks import Check
from palimpsest.data.columns import ASKED, CHOSEN, CONVERSATIONS
from palimpsest.data.formats import OWN, mark_of, refuse_unread, shaped
from palimpsest.data.text_files import LONGEST_LINE, LineProblems, lines_of, opened, parsed
from palimpsest.data.text_files import whole as whole_file
from palimpsest.data.turns import FIELDS
from palimpsest.data.turns import OWN as OWN_OF_TURNS

_LONGEST_REASON = 600
_SHOWN = 6


class _Turn(Spec):
    role: Literal["system", "developer", "user", "assistant", "tool", "text"]
    content: str
    train: bool | None = None
    spans: tuple[tuple[int, int], ...] = ()
    fields: dict[str, JsonValue] = {}


class _Line(Spec):
    messages: tuple[_Turn, ...] = Field(min_length=1)
    template: str | None = None
    options: dict[str, str] = {}
    check: Check | None = None
    rejected: str | None = Field(default=None, min_length=1)
    tools: tuple[dict[str, JsonValue], ...] = ()


class Conversations(NamedTuple):
    """What a file of conversations holds."""

    examples: list[Example]
    """Each once."""
    duplicates: int
    told: tuple[str, ...]
    """What was left out of it, and which columns were left aside."""


def read_conversations(path: Path) -> Conversations:
    """Return the conversations of a file.

    The file is JSONL, or JSON with one list (by itself, or in an object such as ``{"data": [...]}``). A line is ``{"messages":
    [{"role", "content", "train"?, "spans"?}], "template"?, "options"?, "check"?, "rejected"?, "tools"?}``; other shapes are
    brought into this one (``data/formats``, docs/data.md). What learns: the ``spans`` (characters) where given, else the
    messages with ``train: true``, else the last assistant message that may. A ``rejected`` text is a worse answer in the place
    of the first thing that learns. Lines that are marked as bad, and pairs of equal answers, are left out and counted.

    Raises:
        UserError: the file can't be read, or lines in it can't; all of them, with the reason.
    """
    problems = LineProblems(f"{path} can't be used:")
    found: dict[str, Example] = {}
    aside: dict[str, None] = {}
    count, bad, equal = 0, 0, 0
    for number, entry in _entries(path):
        count += 1
        try:
            line = parsed(entry, strict=True) if isinstance(entry, bytes) else entry
            if isinstance(line, Mapping) and not mark_of(line):
                bad += 1
                continue
            example, unread = _example(line, f"{path.name}:{number}")
        except UserError as error:
            problems.add(f"line {number}: {_one_line(error)}")
            continue
        aside |= dict.fromkeys(unread)
        if example is None:
            bad += 1
        elif example.rejected is not None and example.rejected == example.decision:
            equal += 1
        else:
            found.setdefault(example.id, example)
    if not count:
        problems.add("it is empty; at least one conversation is needed")
    elif not found and not problems.found:
        problems.add(f"all {count} lines are marked as bad, or hold two equal answers; nothing is left to learn")
    problems.raise_if_any()
    if len(found) == 1 and count - bad - equal > 1:
        raise UserError(f"{path} can't be used: all {count} lines are the same conversation")
    duplicates = count - bad - equal - len(found)
    return Conversations(list(found.values()), duplicates, tuple(_told(path.name, count, duplicates, bad, equal, tuple(aside))))


def _told(name: str, count: int, duplicates: int, bad: int, equal: int, aside: tuple[str, ...]) -> Iterator[str]:
    if duplicates:
        yield f"{name}: {duplicates} duplicate lines were left out."
    if bad:
        yield f"{name}: {bad} of {count} lines are marked as bad (label or weight) and were left out."
    if equal:
        yield f"{name}: {equal} of {count} pairs hold two equal answers and were left out."
    if aside:
        more = f" and {len(aside) - _SHOWN} more" if len(aside) > _SHOWN else ""
        yield f"{name}: nothing was read from {', '.join(aside[:_SHOWN])}{more}."


def conversation_of(data: Any, source: str) -> Example:
    """Return one line that was read already as an example; ``source`` says where it stands.

    Raises:
        UserError: it is no conversation, nothing in it learns, or it is marked as bad.
    """
    example, _ = _example(data, source)
    if example is None or not mark_of(data):
        raise UserError("it is marked as bad (label or weight), so nothing in it learns")
    return example


def text_example(document: str, source: str, template: str | None = None) -> Example:
    """Return a bare document as an example whose every token is predicted; each document is its own cluster."""
    return conversation(("text", document), template=template or document[:60], source=source, origin=origin_of(document))


def _example(data: Any, source: str) -> tuple[Example | None, list[str]]:
    """Return one line as an example, ``None`` where its answers are marked as bad, and what was left aside of it."""
    found = shaped(data)
    aside = refuse_unread(data, found)
    turns = []
    for turn in found.messages:
        for key in [key for key in turn if key not in OWN_OF_TURNS]:
            if meant := slip_of(key, (*OWN_OF_TURNS, "weight", *FIELDS)):
                raise UserError(f"'{key}' of a message is no known key. Did you mean '{meant}'?")
            aside.append(f"messages.{key}")
        turns.append({key: value for key, value in turn.items() if key in OWN_OF_TURNS})
    own = {key: data[key] for key in OWN if data.get(key) is not None and key not in ("rejected", "tools")}
    rejected = found.rejected if found.rejected is not None else data.get("rejected")
    line = _Line.read({**own, "messages": turns, "rejected": rejected, "tools": found.tools}, "it")
    decisions = _decisions(line)
    if not decisions and any(turn.role == "assistant" and turn.train is False for turn in line.messages):
        return None, aside
    if not decisions:
        raise UserError("nothing in it learns: no assistant message, no 'train: true', no 'spans' (or the message is empty)")
    made = {
        "messages": tuple(Message(role=turn.role, content=turn.content, fields=turn.fields) for turn in line.messages),
        "decisions": decisions,
        "template": line.template or source,
        "options": line.options,
        "check": line.check,
        "rejected": line.rejected,
        "tools": line.tools,
        "source": source,
    }
    return Example.read(made, "it"), aside


def _decisions(line: _Line) -> tuple[Span, ...]:
    """Return what learns: the spans, else the messages that are to, else the last answer that may."""
    messages = [Message(role=turn.role, content=turn.content) for turn in line.messages]
    spans = [Span(message=index, start=start, end=end) for index, turn in enumerate(line.messages) for start, end in turn.spans]
    if not spans:
        trained = [index for index, turn in enumerate(line.messages) if turn.train]
        last = [index for index, turn in enumerate(line.messages) if turn.role == "assistant" and turn.train is None][-1:]
        spans = [whole(messages, index) for index in (trained or last) if messages[index].content]
    return tuple(sorted(spans, key=lambda span: (span.message, span.start)))


def _one_line(error: Exception) -> str:
    parts = "; ".join(part.strip(" -") for part in str(error).splitlines() if not part.endswith("can't be used:"))
    return parts if len(parts) <= _LONGEST_REASON else f"{parts[:_LONGEST_REASON]} ..."


def _entries(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield number and content of what a file holds: lines of JSONL (bytes), or entries of one JSON value (plain data)."""
    first, second = (*_begin(path), b"", b"")[:2]
    if not first or (second and (_is_json(first) or not first.startswith((b"[", b"{")))):
        yield from lines_of(path)
        return
    try:
        content = parsed(whole_file(path), strict=True)
    except UserError as error:
        if first.startswith(b"{") and path.suffix != ".json":
            yield from lines_of(path)  # a line that is cut is told as that line
            return
        raise UserError(f"{path} can't be used: {str(error).removeprefix(f'{path} ')}") from None
    yield from enumerate(_rows(content), start=1)


def _rows(content: Any) -> list[Any]:
    """Return the entries of a JSON value: a list, the one list of objects in an object, or one conversation."""
    if isinstance(content, Mapping) and not any(name in content for name in (*CONVERSATIONS, *ASKED, *CHOSEN)):
        lists = [value for value in content.values() if isinstance(value, list) and value and isinstance(value[0], Mapping)]
        if len(lists) == 1:
            return lists[0]
    return content if isinstance(content, list) else [content]


def _begin(path: Path) -> list[bytes]:
    """Return the first two lines of a file that are not blank."""
    found: list[bytes] = []
    with opened(path) as stream:
        while len(found) < 2 and (line := stream.readline(LONGEST_LINE)):
            found += [line.strip()] if line.strip() else []
    return found


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
