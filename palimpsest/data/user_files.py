"""User files: which conversations and documents did somebody bring, and what is wrong with them?

Every unreadable line is told at once, with file, line and reason.
"""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from palimpsest.core.errors import Problems, UserError
from palimpsest.core.spec import Spec
from palimpsest.data.chat import Example, Message, Span, conversation, origin_of, whole
from palimpsest.data.checks import Check
from palimpsest.data.formats import in_messages

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
    problems = Problems(f"{path} can't be used:")
    found: dict[str, Example] = {}
    count = 0
    for number, text in enumerate(_entries(path), start=1):
        if not text.strip():
            continue
        count += 1
        try:
            example = _example(in_messages(_json(text)), f"{path.name}:{number}")
        except UserError as error:
            problems.add(f"line {number}: {_one_line(error)}")
        else:
            found.setdefault(example.id, example)
    _shorten(problems)
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
        text = _read_text(path)
        documents = text.split(SEPARATOR) if SEPARATOR in text else _pieces(text)
    documents = list(dict.fromkeys(document.strip() for document in documents if document.strip()))
    if not documents:
        raise UserError(f"{path} can't be used: it holds no text")
    return documents


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


def _json(line: bytes) -> Any:
    """Return what one line holds.

    Raises:
        UserError: it is not UTF-8, not JSON, or holds half of a character.
    """
    try:
        value = json.loads(line.decode())
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8: byte {line[error.start]:#04x} at column {error.start + 1}; save it as UTF-8") from None
    except UnicodeEncodeError:
        raise UserError("holds half of a character (a lone \\ud800 to \\udfff), which no tokenizer can read") from None
    except json.JSONDecodeError as error:
        raise UserError(f"not JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"not JSON that can be read: {error}") from None
    return value


def _one_line(error: Exception) -> str:
    return "; ".join(part.strip(" -") for part in str(error).splitlines() if not part.endswith("can't be used:"))


def _shorten(problems: Problems) -> None:
    if len(problems.found) > _SHOWN:
        problems.found[_SHOWN:] = [f"and {len(problems.found) - _SHOWN} more lines"]


def _read(path: Path) -> bytes:
    """Return what a file holds, without the byte order mark that some editors put first."""
    try:
        return path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror or error}") from error


def _read_text(path: Path) -> str:
    content = _read(path)
    if b"\0" in content:
        raise UserError(f"{path} can't be used: it holds zero bytes, so it is no text file (byte {content.index(0):,})")
    try:
        return content.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path} can't be used: line {line} is not UTF-8 (byte {content[error.start]:#04x}); save it as UTF-8"
        ) from None


def _entries(path: Path) -> list[bytes]:
    """Return the lines of a JSONL file, or the entries of a file that holds one JSON list."""
    content = _read(path)
    if path.suffix != ".json" or not content.lstrip().startswith(b"["):
        return content.split(b"\n")
    try:
        return [json.dumps(entry).encode() for entry in _json(content)]
    except UserError as error:
        raise UserError(f"{path} can't be used: {error}") from None


def _lines(path: Path) -> list[bytes]:
    return _read(path).split(b"\n")


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
            documents.append(_document(_json(text)))
        except UserError as error:
            problems.add(f"line {number}: {error}")
    _shorten(problems)
    problems.raise_if_any()
    return documents


def _document(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        if isinstance(value.get("text"), str):
            return value["text"]
        if texts := [part for part in value.values() if isinstance(part, str)]:
            return "\n".join(texts)
    raise UserError(f"must be a text, or keys and values with a text among them, found {json.dumps(value)[:60]}")
