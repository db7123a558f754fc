"""Seal: are a folder's files what was written there?

A seal states the hash of each file. It is written last, from what the writer knows and not from what a disk gives back later.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from palimpsest.store.atomic import to_json, write_bytes

NAME = "seal.json"


def hash_of(file: Path) -> str:
    """Return the hash of a file's content.

    Raises:
        OSError: it can't be read.
    """
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hashes(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    """Return the hash of each of a folder's files, by its name from there."""
    return {file.relative_to(folder).as_posix(): hash_of(file) for file in sorted(files)}


def altered(folder: Path, sealed: Mapping[str, str]) -> Iterator[str]:
    """Say which files are not there any more, or are not what their hash says."""
    for name, value in sorted(sealed.items()):
        try:
            if hash_of(folder / name) != value:
                yield f"{name} is not what was written (its checksum differs)"
        except OSError as error:
            yield f"{name} is gone" if isinstance(error, FileNotFoundError) else f"{name} can't be read: {error.strerror}"


def write(folder: Path, content: Mapping[str, Any]) -> None:
    """Write a folder's seal: ``files`` by name, and whatever else it states.

    Raises:
        UserError: the disk is full or the folder can't be written.
    """
    write_bytes(folder / NAME, to_json(content))


def read(folder: Path) -> dict[str, Any] | None:
    """Return what a folder's seal states; ``None`` where there is none, empty where it can't be read."""
    try:
        found = json.loads((folder / NAME).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("files"), dict) else {}


def close(folder: Path) -> None:
    """Seal a folder that is whole: all of its files."""
    write(folder, {"files": hashes(folder, (file for file in folder.rglob("*") if file.is_file()))})


def damage(folder: Path) -> list[str]:
    """Return what is wrong with a folder that ``close`` sealed; nothing where it holds exactly what it held then."""
    sealed = read(folder)
    if not sealed:
        return [f"{NAME} is gone" if sealed is None else f"{NAME} can't be read"]
    there = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()} - {NAME}
    added = [f"{name} was not there" for name in sorted(there - sealed["files"].keys())]
    return [*altered(folder, sealed["files"]), *added]
