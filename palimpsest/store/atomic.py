"""Atomic: how is a file written so that it is there as a whole or not at all?

Temporary file, flush to the disk, rename; then the folder is flushed, so that the name survives a power cut too.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

from palimpsest.core.errors import UserError

TEMPORARY = ".unfinished-"
_FULL = (errno.ENOSPC, errno.EDQUOT)


def write_bytes(target: Path, data: bytes, kept: str = "") -> None:
    """Write a file, replacing the one that is there; readers see the old one or the new one.

    Args:
        target: the file; its folder is made where it is missing.
        data: all of it.
        kept: what is safe if this fails, for the message.

    Raises:
        UserError: the disk is full, or the folder can't be written.
    """
    temporary = target.with_name(f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}-{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
        _flush_folder(target.parent)
    except OSError as error:
        raise cannot_write(target.parent, error, kept) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def to_json(value: Any) -> bytes:
    """Return plain data as JSON: the same value gives the same bytes. NaN is refused, because JSON has none."""
    return (json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, indent=1) + "\n").encode()


def cannot_write(folder: Path, error: OSError, kept: str = "") -> UserError:
    """Return the error for a folder that can't be written, saying why and what is kept."""
    why = (
        "the disk is full; free some space and give the same command again" if error.errno in _FULL else error.strerror or error
    )
    return UserError(f"{folder} can't be written: {why}.{' ' + kept if kept else ''}")


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
