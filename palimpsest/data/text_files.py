"""Text files: which documents does a file hold, however long it is?

A file is read in pieces and never held as a whole; a sample of its documents is drawn in one pass. So memory depends on how
much is asked for and not on how much there is.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from palimpsest.core.errors import Problems, UserError
from palimpsest.core.files import open_file

SEPARATOR = "<|endoftext|>"
LONGEST_LINE = 2**24
"""Bytes of one line of a JSONL file."""
_JOINED = 1_000
"""Characters of one document where a file has no separator: paragraphs are joined up to about this."""
LONGEST = 2**20
"""Characters of one document that are read: about 250,000 tokens. What comes after them is left aside, and told
where tokens are counted."""
_PIECE = 2**20
_SHOWN = 20
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""How a file begins that says in which encoding it is; UTF-32 before UTF-16, whose mark it begins with."""
_OTHERS = {
    b"PAR1": "a Parquet file; write its rows as JSON lines (pandas: to_json(lines=True, orient='records'))",
    b"ARROW1": "an Arrow file; write its rows as JSON lines (datasets: to_json)",
    b"\x1f\x8b": "compressed (gzip); unpack it first",
    b"PK\x03\x04": "a zip archive; unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed (zstd); unpack it first",
    b"\xfd7zXZ": "compressed (xz); unpack it first",
    b"BZh": "compressed (bzip2); unpack it first",
}
"""How files begin that hold no text as it is, and what to do with them."""


class LineProblems(Problems):
    """What is wrong with the lines of a file: the first of them, and how many more there are."""

    more = 0

    def add(self, problem: str) -> None:
        if len(self.found) < _SHOWN:
            self.found.append(problem)
        else:
            self.more += 1

    def raise_if_any(self) -> None:
        if self.more:
            self.found.append(f"and {self.more} more lines")
        super().raise_if_any()


def documents(path: Path) -> Iterator[str]:
    """Yield the documents of a text file: split at ``<|endoftext|>``, or paragraphs joined to about 1,000 characters.

    A ``.jsonl`` file gives one document a line: its ``text``, or all its text values joined. Spaces around a document are cut
    off, empty ones are left out, and of one longer than a million characters the beginning is read, which keeps its
    spaces: by its length it is known.

    Raises:
        UserError: the file can't be read or something in it is no text; told when it is reached, bad lines at the end.
    """
    if path.suffix == ".jsonl":
        found = _of_lines(path)
    elif _holds(path, SEPARATOR.encode()):
        found = _split(_pieces(path), SEPARATOR)
    else:
        found = _joined(_split(_pieces(path), "\n\n"))
    return (document if len(document) == LONGEST else kept for document in found if (kept := document.strip()))


def draw(path: Path, count: int, stream: int, fits: Callable[[str], bool]) -> list[str]:
    """Return up to ``count`` different documents, drawn in one pass: those whose keyed hash is smallest.

    A larger count begins with the documents of a smaller one, and the draw does not depend on their order in the file.

    Args:
        path: the file.
        count: how many.
        stream: the key, ``seed_of`` a named stream: another one draws other documents.
        fits: which documents may be drawn.
    """
    key = stream.to_bytes(8, "little")
    kept: dict[bytes, str] = {}
    limit = b"\xff" * 17
    for document in documents(path):
        place = hashlib.blake2b(document.encode(), digest_size=16, key=key).digest()
        if place < limit and fits(document):
            kept[place] = document
            if len(kept) > 2 * count:
                kept = dict(sorted(kept.items())[:count])
                limit = max(kept, default=b"")
    return [document for _, document in sorted(kept.items())[:count]]


class Stream(Protocol):
    """A text file that is read as UTF-8, whatever it was written in."""

    def read(self, most: int, /) -> bytes: ...

    def readline(self, most: int, /) -> bytes: ...


@contextmanager
def opened(path: Path) -> Iterator[Stream]:
    """Open a text file to read it as UTF-8 without its byte order mark; one in UTF-16 or UTF-32 is recoded as it is read.

    Raises:
        UserError: it can't be read, or holds something else than text.
    """
    with open_file(path) as stream:
        try:
            begin = stream.read(8)
            stream.seek(0)
        except OSError as error:
            raise UserError(f"{path} can't be read: {error.strerror or error}") from error
        if other := next((what for mark, what in _OTHERS.items() if begin.startswith(mark)), ""):
            raise UserError(f"{path} can't be used: it is {other}")
        mark = next((mark for mark in _MARKS if begin.startswith(mark)), b"")
        if _MARKS.get(mark, "utf-8-sig") == "utf-8-sig":
            stream.seek(len(mark))
            yield stream
        else:
            yield _Recoded(path, io.TextIOWrapper(stream, _MARKS[mark], newline="\n"))


class _Recoded:
    def __init__(self, path: Path, text: io.TextIOWrapper) -> None:
        self.path, self.text = path, text

    def read(self, most: int, /) -> bytes:
        return self._coded(self.text.read, most)

    def readline(self, most: int, /) -> bytes:
        return self._coded(self.text.readline, most)

    def _coded(self, how: Callable[[int], str], most: int) -> bytes:
        try:
            return how(most).encode()
        except UnicodeError as error:
            raise UserError(
                f"{self.path} can't be used: it is not the {self.text.encoding.upper()} that it begins as"
            ) from error


def whole(path: Path, most: int = 2**31) -> bytes:
    """Return all of a text file as UTF-8.

    Raises:
        UserError: it can't be read, is no text, or is larger than so many bytes.
    """
    with opened(path) as stream:
        content = _read(path, stream.read, most + 1)
    if len(content) > most:
        raise UserError(f"{path} can't be used: it must have {most:,} bytes at most, and has more; is it the right file?")
    return content


def lines_of(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the number and the bytes of every line that is not blank, in UTF-8, without a byte order mark.

    Raises:
        UserError: the file can't be read, is no text, or a line is longer than any conversation.
    """
    with opened(path) as stream:
        number = 0
        while line := _read(path, stream.readline, LONGEST_LINE + 1):
            number += 1
            if len(line) > LONGEST_LINE:
                raise UserError(
                    f"{path} can't be used: line {number} has more than {LONGEST_LINE:,} bytes; "
                    "is it one JSON value to a line? (a list of them belongs in a .json file)"
                )
            if line.strip():
                yield number, line.removesuffix(b"\n")


def parsed(line: bytes, *, strict: bool = False) -> Any:
    """Return what one line of JSON holds.

    Args:
        line: in UTF-8.
        strict: refuse a key that stands twice in one object, of which the last would win without a word.

    Raises:
        UserError: it is not UTF-8, not JSON, or holds half of a character.
    """
    if b"\0" in line:
        raise UserError("not UTF-8: it holds zero bytes; is it UTF-16 without its mark? Save it as UTF-8")
    try:
        value = json.loads(line.decode(), object_pairs_hook=_unique if strict else None)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8: byte {line[error.start]:#04x} at column {error.start + 1}; save it as UTF-8") from None
    except UnicodeEncodeError:
        raise UserError("holds half of a character (a lone \\ud800 to \\udfff), which no tokenizer can read") from None
    except json.JSONDecodeError as error:
        raise UserError(f"not JSON: {error.msg.removesuffix(' at')} at column {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"not JSON that can be read: {error}") from None
    return value


def _unique(entries: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(entries)
    if len(found) < len(entries):
        names = [name for name, _ in entries]
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(
            f"the key '{twice}' stands twice in one object, and only one of its values would be read; leave one out"
        )
    return found


def _read(path: Path, how: Callable[[int], bytes], most: int) -> bytes:
    try:
        return how(most)
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror or error}") from error


def _holds(path: Path, mark: bytes) -> bool:
    """Whether some bytes stand anywhere in a file."""
    before = b""
    with opened(path) as stream:
        while piece := _read(path, stream.read, _PIECE):
            before = before[-len(mark) + 1 :] + piece
            if mark in before:
                return True
    return False


def _pieces(path: Path) -> Iterator[str]:
    """Yield a text file's content in pieces, line ends as ``\\n``, having checked that it is text."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    done, line, held = 0, 1, ""
    with opened(path) as stream:
        while True:
            raw = _read(path, stream.read, _PIECE)
            if b"\0" in raw:
                where = done + raw.index(0)
                raise UserError(f"{path} can't be used: it holds zero bytes, so it is no text file (byte {where:,})")
            waiting = decoder.getstate()[0]
            try:
                text = decoder.decode(raw, final=not raw)
            except UnicodeDecodeError as error:
                bad = (waiting + raw)[error.start] if error.start < len(waiting + raw) else 0
                line += error.object.count(b"\n", 0, error.start)
                raise UserError(f"{path} can't be used: line {line} is not UTF-8 (byte {bad:#04x}); save it as UTF-8") from None
            done, line = done + len(raw), line + text.count("\n")
            text = held + text
            held = "\r" if raw and text.endswith("\r") else ""  # its "\n" may be the next piece's first character
            yield text.removesuffix(held).replace("\r\n", "\n")
            if not raw:
                return


def _split(pieces: Iterator[str], separator: str) -> Iterator[str]:
    """Yield what stands between separators, the beginning of what is too long."""
    head = rest = ""
    for piece in pieces:
        *whole, rest = (rest + piece).split(separator)
        for part in whole:
            yield (head + part)[:LONGEST]
            head = ""
        if len(rest) > LONGEST:
            head = head or rest[:LONGEST]
            rest = rest[-len(separator) + 1 :]
    yield (head + rest)[:LONGEST]


def _joined(paragraphs: Iterator[str]) -> Iterator[str]:
    current = ""
    for paragraph in paragraphs:
        if current and len(current) + len(paragraph) > _JOINED:
            yield current
            current = ""
        current = f"{current}\n\n{paragraph}" if current else paragraph
    yield current


def _of_lines(path: Path) -> Iterator[str]:
    problems = LineProblems(f"{path} can't be used:")
    for number, line in lines_of(path):
        try:
            yield _text_of(parsed(line))[:LONGEST]
        except UserError as error:
            problems.add(f"line {number}: {error}")
    problems.raise_if_any()


def _text_of(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        if isinstance(value.get("text"), str):
            return value["text"]
        if texts := [part for part in value.values() if isinstance(part, str)]:
            return "\n".join(texts)
    raise UserError(f"must be a text, or keys and values with a text among them, found {json.dumps(value)[:60]}")
