"""Run folder: where is everything of one run, and what of it is already done?

Layout::

    spec.json                          what was asked for; the folder belongs to this run and no other
    timing.jsonl                       what each process that worked on it took, by stage; no result
    training/<role>-<seed>/            steps.jsonl, checkpoint-N/, model/
    measurements/<key>.{safetensors,json}   hard links to the cache, or copies: the run stays whole when the cache is cleaned
    results/<seed>/<audit>.json        one outcome an audit
    items/<seed>.jsonl                 one line an audit item: its prompt, what each model answered, how that was graded
    commits/<name>.json                steps that are done and leave no JSON of their own
    record.json, report.html           the end
    seal.json                          hashes of all of the above but measurements (which have their own), timing and the report
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from palimpsest.core.errors import UserError
from palimpsest.core.files import expanded
from palimpsest.core.measurement import Measurement
from palimpsest.core.secrets import redact
from palimpsest.store import seal
from palimpsest.store.atomic import TEMPORARY, cannot_write, to_json, write_bytes
from palimpsest.store.cache import Cache, DamagedEntryError, read_entry
from palimpsest.store.lock import FolderLock

_SPEC = "spec.json"
_LOCK = "lock"
_KEPT = "What was committed is kept: the same command goes on from there."


class RunReader:
    """A run's folder to read, whoever writes it.

    Raises:
        UserError: there is no run.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = expanded(path).absolute()
        if not is_run(self.path):
            raise UserError(f"{self.path} must be the folder of a run, but has no {_SPEC}")

    def read_json(self, name: str) -> Any:
        """Return what ``write_json`` wrote, or ``None`` when there is no such file.

        Raises:
            UserError: the file was altered and is not JSON any more.
        """
        file = self._inside(name)
        try:
            return json.loads(file.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise UserError(
                f"{file} must be JSON, as it was written, but is not ({error}); remove it to make it anew"
            ) from None

    def committed(self, name: str) -> bool:
        """Whether ``commit`` was called for this step."""
        return self._inside(f"commits/{name}.json").is_file()

    def commit_note(self, name: str) -> Any:
        """Return what ``commit`` noted, or ``None``."""
        return self.read_json(f"commits/{name}.json")

    def measurement(self, key: str) -> Measurement | None:
        """Return a measurement that was kept, or ``None`` when it is not there, not whole, or another one."""
        place = self.path / "measurements"
        try:
            return read_entry(key, place / f"{key}.safetensors", place / f"{key}.json")
        except (FileNotFoundError, DamagedEntryError):
            return None

    def _inside(self, name: str) -> Path:
        target = self.path.joinpath(name)
        if not target.resolve().is_relative_to(self.path.resolve()):
            raise ValueError(f"{name} lies outside the run folder {self.path}")
        return target


class RunFolder(RunReader):
    """A run's folder to write, held by this process until ``close`` (or the end of its ``with`` block).

    Creates the folder, or goes on with the same run.

    Args:
        path: the folder.
        spec: what was asked for, as plain data.
        bytes_needed: an estimate of what the run will write.

    Raises:
        UserError: it can't be written, lacks space, holds another run or something else, or another process writes it.
    """

    def __init__(self, path: Path | str, spec: dict[str, Any], bytes_needed: int = 0) -> None:
        self.path = expanded(path).absolute()
        self._hashes: dict[str, str] = {}
        _refuse_foreign(self.path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(self.path / _LOCK)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        try:
            self._check_space(bytes_needed)
            self._claim(spec)
            self._sweep()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let other processes have the folder."""
        self._lock.release()

    def training(self, role: str, seed: int) -> Path:
        """Return the folder of one training run (made if missing); its model lies in ``model``, its log in ``steps.jsonl``."""
        folder = self.path / "training" / f"{role}-{seed}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(folder, error, _KEPT) from error
        return folder

    def write_json(self, name: str, value: Any) -> None:
        """Write plain data (``results/0/outcome.json``); the same value gives the same bytes.

        Raises:
            UserError: the disk is full or the folder can't be written.
        """
        self._write(name, to_json(value))

    def write_text(self, name: str, text: str) -> None:
        """Write a text file, without secrets.

        Raises:
            UserError: the disk is full or the folder can't be written.
        """
        self._write(name, redact(text).encode())

    def _write(self, name: str, data: bytes) -> None:
        write_bytes(self._inside(name), data, _KEPT)
        self._hashes[name] = hashlib.sha256(data).hexdigest()

    def seal(self, trained: Mapping[str, str], models: Mapping[str, str]) -> None:
        """Seal a run that is done: what was asked for, what was trained, and all that came of it.

        Args:
            trained: hashes of what training left, by name from the run's folder.
            models: the digest of each trained model, by the name of its folder.

        Raises:
            UserError: the disk is full or the folder can't be written.
        """
        results = {name: value for name, value in self._hashes.items() if not name.startswith("commits/")}
        files = {_SPEC: seal.hash_of(self.path / _SPEC), **results, **trained}
        seal.write(self.path, {"files": files, "models": dict(models)})

    def commit(self, name: str, about: Any = None) -> None:
        """Note that a step is done, once everything that it wrote is on the disk."""
        self.write_json(f"commits/{name}.json", about)

    def keep(self, cache: Cache, key: str) -> None:
        """Take a measurement into the run, so that it stays when the cache is cleaned.

        Raises:
            FileNotFoundError: the cache was cleaned meanwhile.
            UserError: the disk is full or the folder can't be written.
        """
        for source in cache.files(key):
            target = self._inside(f"measurements/{source.name}")
            try:
                target.parent.mkdir(exist_ok=True)
            except OSError as error:
                raise cannot_write(target.parent, error, _KEPT) from error
            if not _linked(source, target):
                write_bytes(target, source.read_bytes(), _KEPT)

    def _check_space(self, bytes_needed: int) -> None:
        free = shutil.disk_usage(self.path).free
        if free < bytes_needed:
            raise UserError(
                f"{self.path} needs about {_in_words(bytes_needed)} and has {_in_words(free)} free; "
                "free some space or choose a folder on another disk"
            )

    def _sweep(self) -> None:
        """Remove what a killed process left half-written; nobody else writes here now. Training sweeps its own folder."""
        for place in (self.path, *(self.path / name for name in ("results", "items", "commits", "measurements"))):
            for left in place.rglob(f"{TEMPORARY}*") if place != self.path else place.glob(f"{TEMPORARY}*"):
                left.unlink(missing_ok=True)

    def _claim(self, spec: dict[str, Any]) -> None:
        wanted = json.loads(to_json(spec))
        found = self.read_json(_SPEC)
        if found is None:
            self.write_json(_SPEC, wanted)
        elif found != wanted:
            lines = "\n".join(f"  - {line}" for line in differences(found, wanted))
            raise UserError(
                f"{self.path} holds another run; choose another folder, or ask for the same. What differs:\n{lines}"
            )


class RunFollower(RunFolder):
    """A run's folder for a process that works on the run beside the one that writes it: it reads, and writes nothing.

    Raises:
        UserError: it does not see the folder.
    """

    def __init__(self, path: Path | str) -> None:
        try:
            RunReader.__init__(self, path)
        except UserError as error:
            raise UserError(
                f"{error}: all processes must see the files of the one that writes; use a folder that their machines share"
            ) from None

    def close(self) -> None:
        """Nothing was locked."""

    def write_json(self, name: str, value: Any) -> None:
        """It is written by another process."""

    def write_text(self, name: str, text: str) -> None:
        """It is written by another process."""

    def seal(self, trained: Mapping[str, str], models: Mapping[str, str]) -> None:
        """It is sealed by another process."""

    def keep(self, cache: Cache, key: str) -> None:
        """It is kept by another process."""


def is_run(path: Path) -> bool:
    """Whether a folder is that of a run, or of several told together."""
    return (path / _SPEC).is_file()


def trained_models(path: Path, role: str) -> Iterator[Path]:
    """Yield where the models of a role lie that a run trained (see ``RunFolder.training``), or the runs inside its folder."""
    for inside in ("", "*/", "*/*/"):
        yield from path.glob(f"{inside}training/{role}-*/model")


def _linked(source: Path, target: Path) -> bool:
    """Make ``target`` a hard link to ``source``; False on another file system, or on one without hard links."""
    temporary = target.with_name(f"{TEMPORARY}{os.getpid()}-{target.name}")
    try:
        temporary.unlink(missing_ok=True)
        os.link(source, temporary)
        temporary.replace(target)
    except OSError:
        return False
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)  # renaming one link onto another of the same file leaves both
    return True


def differences(before: Any, after: Any, place: str = "") -> Iterator[str]:
    """Say where two pieces of plain data differ, one line a place."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            where = f"{place}.{key}" if place else key
            if key not in after or key not in before:
                there, now = (json.dumps(side[key])[:60] if key in side else "absent" for side in (before, after))
                yield f"{where}: {there} there, {now} now"
            else:
                yield from differences(before[key], after[key], where)
    elif before != after:
        there, now = (json.dumps(side, ensure_ascii=False) for side in (before, after))
        yield f"{place}: {there[:60]} there, {now[:60]} now"


def _refuse_foreign(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} must be a folder for a run, but it is a file")
    if not path.is_dir() or (path / _SPEC).exists():
        return
    other = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith(".") and entry.name != _LOCK)
    if other:
        shown = ", ".join(other[:3]) + (" ..." if len(other) > 3 else "")
        raise UserError(f"{path} must be empty or the folder of a run, but holds {shown}; choose another folder")


def _in_words(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
