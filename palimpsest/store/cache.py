"""Cache: was exactly this measured before, on exactly this model?

Content-addressed: the key covers the weights, the items, the request, the source code that measures and the machine, so one
model can't be given another's numbers. Data first, commit marker last; an entry that is not whole is as good as absent.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from palimpsest.core.errors import UserError
from palimpsest.core.measurement import Measurement, Need
from palimpsest.core.spec import Spec, digest
from palimpsest.store.atomic import TEMPORARY, to_json, write_bytes

_HOUR = 3_600.0


class Conditions(Spec):
    """What besides the request and the model decides the bits of a result."""

    packages: dict[str, str]
    """Versions of torch, transformers and tokenizers."""
    dtype: str
    device: str
    """Kind and name of the processor: other hardware rounds differently."""
    threads: int
    processes: int
    """Weights gathered from so many may lie otherwise in memory, where a matrix product rounds otherwise."""
    batches: dict[str, Any]
    """What decides which rows go through the model together."""


def key_of(
    need: Need,
    *,
    subject: str,
    items: str,
    after: str | None,
    source: str,
    conditions: Conditions,
    against: str | None = None,
) -> str:
    """Return the key of one measurement.

    The role's name is left out: what is measured on a model does not depend on the part that it plays in a comparison.

    Args:
        need: the request.
        subject: the digest of the loaded subject.
        items: the digest of the items.
        after: the key of the measurement that this one starts from, if any.
        source: ``source_digest`` of the measure.
        conditions: versions, hardware and batches.
        against: the digest of the model whose weights are read beside, if any.
    """
    return digest(
        {
            "measure": need.measure,
            "items_name": need.items,
            "parameters": need.parameters,
            "subject": subject,
            "items": items,
            "after": after,
            "against": against,
            "source": source,
            "conditions": conditions.model_dump(mode="json"),
        }
    )


def default_folder() -> Path:
    """Return ``$PALIMPSEST_CACHE``, or ``palimpsest`` in the user's cache folder.

    Raises:
        UserError: neither is named, and the user has no home.
    """
    if given := os.environ.get("PALIMPSEST_CACHE"):
        return Path(given)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "palimpsest"
    except RuntimeError as error:
        raise UserError("there is no home folder to keep measurements in; name one in PALIMPSEST_CACHE") from error


class Cache:
    """Measurements by key, in a folder that any number of processes may use at once.

    Args:
        folder: where; made when the first measurement is stored.
        tell: called with one sentence when an entry is damaged and therefore not used.
    """

    def __init__(self, folder: Path | None = None, tell: Callable[[str], None] | None = None) -> None:
        self.folder = folder or default_folder()
        self._tell = tell or (lambda _: None)

    def files(self, key: str) -> tuple[Path, Path]:
        """Return the paths of an entry's arrays and of its commit marker."""
        place = self.folder / key[:2]
        return place / f"{key}.safetensors", place / f"{key}.json"

    def get(self, key: str) -> Measurement | None:
        """Return what is stored, or ``None`` when there is nothing or it is not whole."""
        data, marker = self.files(key)
        try:
            measurement = read_entry(key, data, marker)
        except FileNotFoundError:
            if marker.exists() and data.exists():
                return self.get(key)  # another process has just written it
            if marker.exists():
                self._tell(f"{marker} has lost its data file; it is measured again")
            return None
        except DamagedEntryError as error:
            self._tell(f"{error}; it is measured again")
            return None
        _touch(marker)
        return measurement

    def put(self, key: str, measurement: Measurement, about: dict[str, Any] | None = None) -> None:
        """Store a measurement; ``about`` (plain data) tells a reader of the folder what it is.

        Raises:
            UserError: the disk is full or the folder can't be written.
        """
        arrays = save_arrays({name: np.array(array, order="C") for name, array in measurement.arrays.items()})
        content = {
            "key": key,
            "about": about or {},
            "shapes": {name: list(array.shape) for name, array in measurement.arrays.items()},
            "texts": measurement.texts,
            "checksum": _checksum(key, arrays, measurement.texts),
        }
        data, marker = self.files(key)
        kept = "Everything that was measured before is kept."
        write_bytes(data, arrays, kept)
        write_bytes(marker, to_json(content, verbatim=True), kept)

    def size(self) -> tuple[int, int]:
        """Return the number of whole entries and the bytes that the folder takes."""
        files = list(self._files())
        return sum(file.suffix == ".json" and TEMPORARY not in file.name for file in files), sum(map(_size, files))

    def clean(self, older_than: float | None = None) -> int:
        """Remove entries not used for ``older_than`` seconds (all, when ``None``) and return the bytes freed.

        What another process is writing right now (files without a marker, younger than an hour) is left alone.
        """
        now, freed = time.time(), 0
        for marker in [file for file in self._files() if file.suffix == ".json" and TEMPORARY not in file.name]:
            if older_than is None or _age(marker, now) > older_than:
                freed += _remove(marker) + _remove(marker.with_suffix(".safetensors"))
        for file in self._files():
            whole = TEMPORARY not in file.name and file.with_suffix(".json").exists()
            if not whole and _age(file, now) > _HOUR:
                freed += _remove(file)
        return freed

    def _files(self) -> Iterator[Path]:
        """Only names that this class gives: the folder may be shared with something else by mistake."""
        for file in self.folder.glob("[0-9a-f][0-9a-f]/*"):
            if file.suffix in (".json", ".safetensors") and file.is_file():
                yield file


class DamagedEntryError(Exception):
    """A stored measurement is torn, truncated, altered, or another one than its name says."""


def read_entry(key: str, data: Path, marker: Path) -> Measurement:
    """Read a measurement from its two files, wherever they are.

    Args:
        key: which one is asked for; the entry has to say that it is this one, whatever its files are called.
        data: its arrays.
        marker: its commit marker.

    Raises:
        FileNotFoundError: one of the files is not there.
        DamagedEntryError: they are not what was written for this key.
    """
    try:
        raw, content = data.read_bytes(), json.loads(marker.read_bytes())
        if content["key"] != key:
            raise DamagedEntryError(f"{marker} holds another measurement ({str(content['key'])[:40]})")
        if content["checksum"] != _checksum(content["key"], raw, content["texts"]):
            raise DamagedEntryError(f"{data} is not what was written (its checksum differs)")
        return Measurement(load_arrays(raw), content["texts"])
    except FileNotFoundError:
        raise
    except (ValueError, KeyError, TypeError, OSError, SafetensorError) as error:
        raise DamagedEntryError(f"{marker} can't be read ({error})") from None


def _checksum(key: str, arrays: bytes, texts: dict[str, list[str]]) -> str:
    value = hashlib.sha256(key.encode())
    value.update(json.dumps(texts, sort_keys=True).encode())
    value.update(arrays)
    return value.hexdigest()


def _touch(file: Path) -> None:
    try:
        os.utime(file)
    except OSError:
        return  # a cache that can only be read is still a cache; its entries just do not grow younger


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _age(file: Path, now: float) -> float:
    """Return the seconds since a file was used; 0 where another process has just renamed or removed it."""
    try:
        return now - file.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _remove(file: Path) -> int:
    size = _size(file)
    file.unlink(missing_ok=True)
    return size
