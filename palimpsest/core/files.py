"""Files: can this one be read, and does it ever end?

What a user names may be missing, a folder, a pipe that waits for ever or a device that never ends. All of it is told in words.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import BinaryIO

from palimpsest.core.errors import UserError


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
