"""Weights: is a safetensors file whole, what is in it, and is every number in it finite?

Reads the format itself, streaming, without torch: a broken file is told in words, and a model of any size costs 16 MiB.
Format: 8 bytes little-endian header length, a JSON header (name to dtype, shape, offsets), then the bytes of the tensors
(https://github.com/huggingface/safetensors).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_CHUNK = 2**24
_LONGEST_HEADER = 100_000_000
"""The limit of the format's own reader."""
_MOST_EMPTY = 1_000
"""Tensors of a file that may hold no number. A model has hardly one; each of them costs the libraries as much as a full one."""

_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip

_NOT_FINITE = {"F64": ("<u8", 0x7FF0000000000000), "F32": ("<u4", 0x7F800000), "F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80)}
"""Integer view and exponent bits: all of them set means infinity or NaN (IEEE 754; bfloat16 has float32's exponent)."""
_NOT_FINITE |= {"F8_E5M2": ("u1", 0x7C), "F8_E4M3": ("u1", 0x7F)}
"""F8_E4M3 has no infinity, and one pattern for NaN."""


class BrokenWeightsError(Exception):
    """A weight file can't be what its format says; the message is one line about that file."""


@dataclass(frozen=True)
class Tensor:
    """Where one tensor's bytes are."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    length: int

    @property
    def count(self) -> int:
        return math.prod(self.shape)


Hashed = tuple[Tensor, str]
"""A tensor and the hash of its bytes."""


def read_header(file: Path) -> list[Tensor]:
    """Return the tensors of a safetensors file, having checked that the file holds all of their bytes.

    Raises:
        BrokenWeightsError: truncated, padded, not safetensors, or with a header that contradicts itself.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        first = stream.read(8)
        if first.startswith(b"version "):
            raise BrokenWeightsError(f"{file.name} is a Git LFS pointer, not the weights; run 'git lfs pull' in that folder")
        length = int.from_bytes(first, "little")
        if size < 8 or length > min(size - 8, _LONGEST_HEADER):
            raise BrokenWeightsError(
                f"{file.name} ({size:,} bytes) ends inside its header, or is no safetensors file; copy it again"
            )
        raw = stream.read(length)
    try:
        header: dict[str, Any] = json.loads(raw)
        header.pop("__metadata__", None)
        tensors = [_tensor(name, entry, file, 8 + length) for name, entry in header.items()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BrokenWeightsError(f"the header of {file.name} can't be read ({str(error)[:200]}); copy it again") from None
    if (empty := sum(not tensor.length for tensor in tensors)) > _MOST_EMPTY:
        raise BrokenWeightsError(f"{file.name} names {empty:,} tensors without a single number in them; no model has so many")
    _check_layout(file, tensors, 8 + length, size)
    return tensors


def _tensor(name: str, entry: dict[str, Any], file: Path, data: int) -> Tensor:
    start, end = entry["data_offsets"]
    shape, dtype = tuple(entry["shape"]), entry["dtype"]
    if not all(type(number) is int and 0 <= number < 2**63 for number in (start, end, *shape)):
        raise ValueError(f"{name} has a shape or a place that is no size")
    if not isinstance(dtype, str):
        raise ValueError(f"{name} has a dtype that is no text")
    return Tensor(name, dtype, shape, file, data + start, end - start)


def _check_layout(file: Path, tensors: list[Tensor], start: int, size: int) -> None:
    for tensor in sorted(tensors, key=lambda one: (one.start, one.length)):
        width = _BYTES.get(tensor.dtype)
        if width is None:
            raise BrokenWeightsError(
                f"{tensor.name} in {file.name} is stored as {tensor.dtype[:20]}; known: {', '.join(_BYTES)}"
            )
        if tensor.start != start or tensor.length != tensor.count * width:
            raise BrokenWeightsError(
                f"{tensor.name} in {file.name} does not lie where its shape {tensor.shape} says; copy it again"
            )
        start += tensor.length
    if start != size:
        raise BrokenWeightsError(f"{file.name} should have {start:,} bytes and has {size:,}; it is half-written, copy it again")


def fingerprint(tensors: Iterable[Tensor]) -> tuple[str, list[str]]:
    """Read every byte once: return a digest, and the names of the tensors that hold NaN or infinity.

    The digest depends on names, dtypes, shapes and values, not on which file (shard) a tensor is in.
    """
    hashed, not_finite = hash_each(tensors)
    return digest_of(hashed), not_finite


def digest_of(hashed: Iterable[Hashed]) -> str:
    """Return the digest of tensors whose bytes were read; in which order, and from which files, is of no meaning."""
    digest = hashlib.sha256()
    for tensor, value in sorted(hashed, key=lambda one: one[0].name):
        digest.update(json.dumps([tensor.name, tensor.dtype, tensor.shape, value]).encode())
    return digest.hexdigest()


def hash_each(tensors: Iterable[Tensor]) -> tuple[tuple[Hashed, ...], list[str]]:
    """Read every byte once: return each tensor with the hash of its bytes, and the names of those with NaN or infinity.

    One hash a tensor, and not one for all: so each can be checked on its own as it is loaded, in whatever order that is.
    """
    hashed, not_finite = [], []
    for tensor in sorted(tensors, key=lambda one: one.name):
        value, finite = hashlib.sha256(), True
        for chunk in _chunks(tensor, memoryview(bytearray(min(_CHUNK, tensor.length)))):
            value.update(chunk)
            finite = finite and _is_finite(chunk, tensor.dtype)
        hashed.append((tensor, value.hexdigest()))
        if not finite:
            not_finite.append(tensor.name)
    return tuple(hashed), not_finite


def read_again(tensor: Tensor, value: str, into: memoryview | None = None) -> None:
    """Read the bytes of a tensor that was hashed before.

    Args:
        tensor: which one.
        value: the hash of its bytes.
        into: ``tensor.length`` bytes, which get them; without it they are only checked.

    Raises:
        BrokenWeightsError: the file holds other bytes there, or fewer.
        OSError: it can't be read.
    """
    found = hashlib.sha256()
    for chunk in _chunks(tensor, memoryview(bytearray(min(_CHUNK, tensor.length))) if into is None else into):
        found.update(chunk)
    if found.hexdigest() != value:
        raise BrokenWeightsError(f"{tensor.file.name} holds another {tensor.name} than when it was hashed")


def _chunks(tensor: Tensor, buffer: memoryview) -> Iterator[memoryview]:
    """Yield the bytes of a tensor piece by piece, as they lie in the buffer: one after the other where all of them fit."""
    step, whole = min(_CHUNK, tensor.length), len(buffer) == tensor.length
    with tensor.file.open("rb", buffering=0) as stream:
        stream.seek(tensor.start)
        for start in range(0, tensor.length, step or 1):
            place = start if whole else 0
            part = buffer[place : place + min(step, tensor.length - start)]
            if stream.readinto(part) != len(part):
                raise BrokenWeightsError(f"{tensor.file.name} ended while it was read; is something still writing it?")
            yield part


def _is_finite(chunk: memoryview, dtype: str) -> bool:
    if dtype not in _NOT_FINITE:
        return True
    view, exponent = _NOT_FINITE[dtype]
    bits = np.frombuffer(chunk, dtype=view)
    if dtype == "F8_E4M3":
        return not bool(((bits & exponent) == exponent).any())
    return bool((bits & exponent).max(initial=0) != exponent)
