"""Transcripts: which conversations did somebody keep, and what is wrong with the files?

JSONL or ``.json`` in any shape of ``data/formats``, with roles and contents as chat services write them (parts, tools,
developer), and inspect logs. Besides the messages a line may say its ``id``, its ``timestamp`` (ISO 8601, or seconds since
1970), and, itself or in its ``metadata``, the ``behaviour`` and ``pole`` that it belongs to and a ``better`` answer to its last
turn; a message may carry the last three and a ``timestamp`` for itself.
"""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from palimpsest.core.errors import UserError, nearest
from palimpsest.core.files import open_file, read_file
from palimpsest.core.spec import digest
from palimpsest.data.chat import POLES
from palimpsest.data.formats import shaped
from palimpsest.data.inspect_logs import is_log
from palimpsest.data.text_files import LineProblems, lines_of, parsed
from palimpsest.data.turns import ROLES, text_of
from palimpsest.memory import inspect_logs

SUFFIXES = (".jsonl", ".json", ".eval")
_LARGEST = 2**29
"""Bytes of a file that has to be read as a whole."""
_ROLES = {**ROLES, "developer": "system"}
IDS = ("id", "conversation_id", "uuid")
TIMES = ("timestamp", "created_at")
_LATEST = 253_402_300_799.0
_MILLISECONDS = 1e11
"""A number above this counts milliseconds."""


@dataclass(frozen=True)
class Turn:
    """One message."""

    role: str
    text: str
    time: float | None = None
    behaviour: str | None = None
    pole: str | None = None
    better: str | None = None


@dataclass(frozen=True)
class Conversation:
    """One conversation as it was kept."""

    source: str
    """File and line, or file and sample."""
    key: str
    """The same for the same conversation, also after it went on."""
    time: float | None
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Checked:
    """Transcript files that were read once, with what can be read in them."""

    files: tuple[Path, ...]
    conversations: int
    unreadable: frozenset[tuple[Path, int]]
    last: Mapping[Path, int]
    """Of each file the last line that was there; what is added meanwhile is for next time."""
    told: tuple[str, ...]

    def __iter__(self) -> Iterator[Conversation]:
        for file in self.files:
            for number, raw in _entries(file):
                if number > self.last[file]:
                    break
                if (file, number) not in self.unreadable:
                    yield _conversation(raw, f"{file.name}:{number}")


def check(paths: Iterable[Path], *, skip_unreadable: bool = False) -> Checked:
    """Read transcripts once, before any work starts.

    A last line without a line end that is not whole JSON is one that somebody is writing: it is left for next time.

    Args:
        paths: files, or folders whose ``.jsonl``, ``.json`` and ``.eval`` files are taken, however deep.
        skip_unreadable: leave out the lines that can't be read and not refuse their files.

    Raises:
        UserError: what can't be read, every file and line at once.
    """
    problems = LineProblems("the transcripts can't be used:")
    skipped: dict[tuple[Path, int], str] = {}
    told: list[str] = []
    ends: dict[Path, int] = {}
    count, files = 0, tuple(_files(paths, problems))
    for file in files:
        try:
            found, bad, unfinished, ends[file] = _read_once(file)
        except UserError as error:
            problems.add(str(error).removeprefix("the transcripts can't be used:"))
            continue
        count += found
        skipped |= {(file, number): why for number, why in bad.items()}
        if unfinished is not None:
            skipped[file, unfinished] = ""
            told.append(f"{file.name}: its last line is still being written; it is left for next time")
    bad = {place: why for place, why in skipped.items() if why}
    if bad and not skip_unreadable:
        problems.heading = "the transcripts can't be used; mend these lines, or leave them out with --skip-unreadable:"
        for (file, number), why in bad.items():
            problems.add(f"{file}, line {number}: {why}")
    elif bad:
        told.append(f"{len(bad)} lines can't be read and were left out; the first is {_where(next(iter(bad.items())))}")
    if not count and not problems.found:
        problems.add("there is no conversation in them")
    problems.raise_if_any()
    return Checked(files, count, frozenset(skipped), ends, tuple(told))


def read_one(text: str, source: str) -> Conversation:
    """Return a conversation that somebody gives alone: JSON in any of the shapes, or bare text, which a user says.

    Raises:
        UserError: it is JSON, and no conversation.
    """
    if text.lstrip()[:1] not in ("{", "["):
        return Conversation(source, digest(["text", text]), None, (Turn("user", text),))
    try:
        data = parsed(text.strip().encode())
    except UserError:
        lines = [line for line in text.splitlines() if line.strip()]
        try:
            found = [parsed(line.encode()) for line in lines]
        except UserError as error:
            raise UserError(f"{source} can't be used: {error}") from None
        data = found[0] if len(found) == 1 else found
    if isinstance(data, list) and data and all(isinstance(one, Mapping) and "role" in one for one in data):
        data = {"messages": data}
    if isinstance(data, list) and len(data) == 1:
        data = data[0]
    if isinstance(data, list):
        raise UserError(f"{source} can't be used: it must hold one conversation, found {len(data)}")
    return _conversation(data, source)


def _files(paths: Iterable[Path], problems: LineProblems) -> Iterator[Path]:
    seen = set()
    for path in paths:
        if path.is_dir():
            inside = sorted(one for one in path.rglob("*") if one.suffix in SUFFIXES and one.is_file())
            if not inside:
                problems.add(f"{path} holds no {', '.join(SUFFIXES)} file")
        else:
            inside = [path]
        for file in inside:
            if (place := file.resolve()) not in seen:
                seen.add(place)
                yield file


def _read_once(file: Path) -> tuple[int, dict[int, str], int | None, int]:
    """Return how many conversations a file holds, which lines can't be read and why, a last line that is cut off, and the
    number of the last line."""
    bad: dict[int, str] = {}
    count = last = 0
    cut = False
    for number, raw in _entries(file):
        last = number
        try:
            _conversation(raw, f"{file.name}:{number}")
        except UserError as error:
            bad[number] = "; ".join(part.strip(" -") for part in str(error).splitlines())
            cut = isinstance(raw, bytes) and not _is_json(raw)
        else:
            count += 1
    unfinished = last if last in bad and cut and count and not _ends_its_line(file) else None
    if unfinished is not None:
        del bad[unfinished]
    return count, bad, unfinished, last


def _entries(file: Path) -> Iterator[tuple[int, Any]]:
    """Yield number and content of every line (bytes), entry or sample (plain data) of a file."""
    if file.suffix == ".eval":
        yield from inspect_logs.samples_of_archive(file)
        return
    if file.suffix != ".json":
        yield from lines_of(file)
        return
    content = read_file(file, _LARGEST).removeprefix(codecs.BOM_UTF8)
    try:
        data = parsed(content)
    except UserError as error:
        lines = content.strip().splitlines()
        if len(lines) > 1 and all(line.strip().startswith(b"{") for line in lines if line.strip()):
            yield from lines_of(file)  # JSON lines under another name
            return
        raise UserError(f"{file} can't be used: {error}; is it cut off?") from None
    if is_log(data):
        yield from inspect_logs.samples_of(data, str(file))
    else:
        yield from enumerate(data if isinstance(data, list) else [data], start=1)


def _conversation(raw: Any, source: str) -> Conversation:
    line = parsed(raw) if isinstance(raw, bytes) else raw
    if not isinstance(line, Mapping):
        raise UserError(f"must be keys and values, found {type(line).__name__}")
    if "chosen" in line and "rejected" in line and "messages" not in line:
        raise UserError("is a pair of answers: a transcript holds the one that was given")
    metadata = line.get("metadata")
    about = {**(metadata if isinstance(metadata, Mapping) else {}), **line}
    turns = _turns(line["messages"] if "messages" in line else shaped(line).messages)
    time = next((_time(line[key], key) for key in TIMES if line.get(key) is not None), None)
    own = {name: _optional(about, name) for name in ("behaviour", "pole", "better")}
    own["behaviour"] = own["behaviour"] or _optional(about, "behavior")
    _check_pole(own["pole"])
    name = next((str(line[key]) for key in IDS if isinstance(line.get(key), str | int)), None)
    return Conversation(source, _key(name, line, turns), time, _marked(turns, own))


def _turns(given: Any) -> tuple[Turn, ...]:
    if not isinstance(given, list) or not given:
        raise UserError("'messages' must be a list with a message or more")
    return tuple(_turn(one, place) for place, one in enumerate(given, start=1))


def _turn(given: Any, place: int) -> Turn:
    if not isinstance(given, Mapping) or not isinstance(given.get("role"), str):
        raise UserError(f"message {place} must hold a 'role'")
    if given["role"] not in _ROLES:
        raise UserError(
            f"message {place} has the role '{given['role'][:40]}', which is not known.{nearest(given['role'], _ROLES)}"
        )
    pole = _optional(given, "pole")
    _check_pole(pole)
    return Turn(
        role=_ROLES[given["role"]],
        text=_content(given.get("content"), place),
        time=_time(given["timestamp"], "timestamp") if given.get("timestamp") is not None else None,
        behaviour=_optional(given, "behaviour"),
        pole=pole,
        better=_optional(given, "better"),
    )


def _content(given: Any, place: int) -> str:
    """Return the text of a message: of several parts those that are text; of a call of a tool nothing."""
    text = text_of(given)
    if text is not None:
        return text
    raise UserError(f"'content' of message {place} must be a text or a list of parts, found {type(given).__name__}")


def _marked(turns: tuple[Turn, ...], own: Mapping[str, str | None]) -> tuple[Turn, ...]:
    """Return the turns with what the whole line says, where no message says it for itself."""
    answers = [place for place, turn in enumerate(turns) if turn.role == "assistant"]
    if not answers:
        return turns
    marked = list(turns)
    if not any(turn.behaviour or turn.pole for turn in turns):
        for place in answers:
            marked[place] = replace(marked[place], behaviour=own["behaviour"], pole=own["pole"])
    last = answers[-1]
    if own["better"] and not marked[last].better:
        marked[last] = replace(marked[last], better=own["better"])
    return tuple(marked)


def _key(name: str | None, line: Mapping[str, Any], turns: tuple[Turn, ...]) -> str:
    """Return what tells a conversation apart: its id and how it opens, so that it may grow; without an id all of its line."""
    if name is None:
        return digest(["line", json.loads(json.dumps(line, sort_keys=True))])
    opening = []
    for turn in turns:
        if turn.role == "assistant":
            break
        opening.append([turn.role, turn.text])
    return digest(["id", name, opening])


def _time(given: Any, key: str) -> float:
    try:
        if isinstance(given, bool):
            raise ValueError
        if isinstance(given, str):
            read = datetime.fromisoformat(given.strip())
            return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
        seconds = float(given)
        seconds = seconds / 1_000 if seconds > _MILLISECONDS else seconds
        if math.isfinite(seconds) and 0 <= seconds <= _LATEST:
            return seconds
    except (ValueError, TypeError, OverflowError):
        pass
    raise UserError(f"'{key}' must be a time such as 2026-11-21T20:15:00Z, or seconds since 1970, found {str(given)[:40]!r}")


def _optional(given: Mapping[str, Any], key: str) -> str | None:
    found = given.get(key)
    if found is None or isinstance(found, str):
        return found or None
    raise UserError(f"'{key}' must be a text, found {type(found).__name__}")


def _check_pole(pole: str | None) -> None:
    if pole is not None and pole not in POLES:
        raise UserError(f"'pole' must be express or withhold, found '{pole[:40]}'.{nearest(pole, POLES)}")


def _is_json(raw: bytes) -> bool:
    try:
        json.loads(raw)
    except (ValueError, RecursionError):
        return False
    return True


def _ends_its_line(file: Path) -> bool:
    with open_file(file) as stream:
        stream.seek(-1, 2)
        return stream.read(1) == b"\n"


def _where(bad: tuple[tuple[Path, int], str]) -> str:
    (file, number), why = bad
    return f"{file.name}, line {number}: {why}"
