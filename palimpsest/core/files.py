"""Files: can this one be read, and does it ever end?

What a user names may be missing, a folder, a pipe that waits for ever or a device that never ends. All of it is told in words.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import BinaryIO

from palimpsest.core.errors import UserError


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


def open_file(path: Path) -> BinaryIO:
    """Return an ordinary file, opened to read its bytes.

    Raises:
        UserError: it is not there, may not be read, or is a pipe or a device.
    """
    try:
        kind = path.stat().st_mode
        if stat.S_ISREG(kind) or stat.S_ISDIR(kind):  # opening a folder says that it is one
            return path.open("rb")
    except (OSError, ValueError) as error:  # ValueError: a zero byte in its name
        raise UserError(f"{path} can't be read: {getattr(error, 'strerror', None) or error}") from error
    raise UserError(f"{path} can't be read: it is a pipe or a device; save what comes out of it as a file, and give that")


def read_file(path: Path, most: int | None = None) -> bytes:
    """Return what a file holds.

    Args:
        path: the file.
        most: bytes that it may have.

    Raises:
        UserError: as ``open_file``, or it is larger.
    """
    with open_file(path) as stream:
        try:
            content = stream.read(-1 if most is None else most + 1)
        except OSError as error:
            raise UserError(f"{path} can't be read: {error.strerror or error}") from error
    if most is not None and len(content) > most:
        raise UserError(f"{path} can't be used: it must have {most:,} bytes at most, and has more; is it the right file?")
    return content
