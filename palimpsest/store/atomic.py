"""Atomic: how is a file or a folder written so that it is there as a whole or not at all?

Temporary file, flush to the disk, rename; then the folder is flushed, so that the name survives a power cut too.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from palimpsest.core.errors import UserError
from palimpsest.core.secrets import redact

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
        _flush(target.parent)
    except OSError as error:
        raise cannot_write(target.parent, error, kept) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Give a folder to write into that becomes ``target`` only when the block ends well, flushed to the disk.

    Raises:
        UserError: the disk is full or the place can't be written; nothing is left behind.
    """
    from safetensors import SafetensorError  # how its writer tells of a full disk

    temporary = target.with_name(f"{TEMPORARY}{target.name}")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        for path in (*sorted(temporary.rglob("*")), temporary):
            _flush(path)
        remove_folder(target)
        temporary.rename(target)
        _flush(target.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise cannot_write(target, error) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def remove_folder(folder: Path) -> None:
    """Remove a folder so that it is never seen half removed."""
    if folder.exists():
        going = folder.with_name(f"{TEMPORARY}old-{folder.name}")
        shutil.rmtree(going, ignore_errors=True)
        folder.rename(going)
        shutil.rmtree(going)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process was writing; only for a folder that nobody else writes now."""
    for path in folder.glob(f"{TEMPORARY}*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def to_json(value: Any, *, verbatim: bool = False) -> bytes:
    """Return plain data as JSON: the same value gives the same bytes. NaN is refused, because JSON has none.

    Args:
        value: the data.
        verbatim: leave secrets in: only for what is measured, whose checksum covers every letter.
    """
    value = value if verbatim else redact(value)
    return (json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, indent=1) + "\n").encode()


def cannot_write(place: Path, error: Exception, kept: str = "") -> UserError:
    """Return the error for a place that can't be written, saying why and what is kept."""
    full = getattr(error, "errno", None) in _FULL or "No space left" in str(error)
    why = (
        "the disk is full; free some space and give the same command again"
        if full
        else getattr(error, "strerror", None) or str(error)
    )
    return UserError(f"{place} can't be written: {why}.{' ' + kept if kept else ''}")


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
