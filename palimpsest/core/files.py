"""Files: can this one be read, does it ever end, and what was in it?

What a user names may be missing, a folder, a pipe that waits for ever or a device that never ends. All of it is told in words.
Whoever wants to know what was read hashes it as it is read (``noted``).
"""

from __future__ import annotations

import hashlib
import io
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, BinaryIO, cast

from palimpsest.core.errors import UserError

_NOTED: ContextVar[dict[str, str] | None] = ContextVar("noted", default=None)
_PIECE = 2**20


def expanded(path: str | Path) -> Path:
    """Return a path with ``~`` written out.

    Raises:
        UserError: there is no such home folder: of a user who is none, or of a process without one.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path} can't be found: there is no home folder {Path(path).parts[0]}; write the path out") from error


def is_there(path: str | Path) -> bool:
    """Whether there is a file or folder of this name; one that no file can have is not there."""
    try:
        return Path(path).expanduser().exists()
    except (OSError, RuntimeError, ValueError):
        return False


def refuse_impossible(path: Path) -> None:
    """Refuse a place where nothing can ever be written, before there is anything to write.

    Raises:
        UserError: its name is too long, a part of it is a file or may not be looked into, or there is no such home.
    """
    try:
        expanded(path).stat()
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be written: {getattr(error, 'strerror', None) or error}") from error


@contextmanager
def noted(before: Mapping[str, str] | None = None) -> Iterator[dict[str, str]]:
    """Note the hash of every file that is read in this block, by its path; of one that is read in part only, too.

    Args:
        before: hashes of files that were read earlier: if they are read here they have to hold the same.

    Raises:
        UserError: a file is read again and holds something else, as it is read.
    """
    found = dict(before or {})
    token = _NOTED.set(found)
    try:
        yield found
    finally:
        _NOTED.reset(token)


class _Hashing(io.RawIOBase):
    """A file that is hashed as it is read; where it is not read from its beginning to its end, when it is closed."""

    def __init__(self, path: Path, found: dict[str, str]) -> None:
        self.path, self.found, self.raw = path, found, path.open("rb", buffering=0)
        self.value, self.straight, self.ended = hashlib.sha256(), True, False

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.raw.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.straight = False
        return self.raw.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        count = self.raw.readinto(buffer) or 0
        if self.straight:
            self.value.update(memoryview(buffer)[:count])
            if not count and len(buffer):
                self._end()
        return count

    def close(self) -> None:
        if self.closed:
            return
        try:
            if str(self.path) not in self.found:
                self._read_to_its_end()
        finally:
            self.raw.close()
            super().close()

    def _read_to_its_end(self) -> None:
        if not self.straight:
            self.raw.seek(0)
            self.value, self.straight = hashlib.sha256(), True
        buffer = bytearray(_PIECE)
        while not self.ended:
            self.readinto(buffer)

    def _end(self) -> None:
        if not self.ended:
            self.ended = True
            if self.found.setdefault(str(self.path), value := self.value.hexdigest()) != value:
                raise UserError(f"{self.path} changed while the program ran; start again when nothing writes to it")


def take_note(paths: Iterable[Path]) -> None:
    """Note files that a library reads by itself, where notes are taken (``noted``)."""
    for path in paths:
        if _NOTED.get() is not None and path.is_file():
            open_file(path).close()


def open_file(path: Path, *, note: bool = True) -> BinaryIO:
    """Return an ordinary file, opened to read its bytes.

    Args:
        path: the file.
        note: whether ``noted`` takes note of it; not of what has another hash to answer for it.

    Raises:
        UserError: it is not there, may not be read, or is a pipe or a device.
    """
    try:
        kind = path.stat().st_mode
        if stat.S_ISREG(kind) or stat.S_ISDIR(kind):  # opening a folder says that it is one
            found = _NOTED.get() if note else None
            return path.open("rb") if found is None else cast("BinaryIO", io.BufferedReader(_Hashing(path, found), _PIECE))
    except (OSError, ValueError) as error:  # ValueError: a zero byte in its name
        raise UserError(f"{path} can't be read: {getattr(error, 'strerror', None) or error}") from error
    raise UserError(f"{path} can't be read: it is a pipe or a device; save what comes out of it as a file, and give that")


def read_file(path: Path, most: int | None = None, *, note: bool = True) -> bytes:
    """Return what a file holds.

    Args:
        path: the file.
        most: bytes that it may have.
        note: as ``open_file``.

    Raises:
        UserError: as ``open_file``, or it is larger.
    """
    with open_file(path, note=note) as stream:
        try:
            content = stream.read(-1 if most is None else most + 1)
        except OSError as error:
            raise UserError(f"{path} can't be read: {error.strerror or error}") from error
    if most is not None and len(content) > most:
        raise UserError(f"{path} can't be used: it must have {most:,} bytes at most, and has more; is it the right file?")
    return content
