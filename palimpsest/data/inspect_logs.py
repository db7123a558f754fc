"""Inspect logs: what does the log of an evaluation hold?

Read by themselves, without the library: ``.json``, or ``.eval``, which is a zip of ``header.json`` and one
``samples/ID_epoch_N.json`` a sample. Newer logs are packed with Zstandard, which Python reads from 3.14 on or with the
package ``zstandard``. Layout checked against inspect_ai 0.3.285 (log version 2).
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from palimpsest.core.errors import UserError, first_line
from palimpsest.core.files import open_file
from palimpsest.data.text_files import parsed

_LARGEST = 2**28
"""Bytes of one sample, unpacked."""
_LARGEST_WHOLE, _DENSEST = 2**30, 100
"""Bytes of all of them, and, of a larger file, bytes for one that is packed: logs come to 30 at most, a bomb to 1,000."""
_ZSTANDARD = 93
_PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, _ZSTANDARD)
"""What logs are written with; others may ask for any amount of memory before the first byte."""
_ATTACHED = "attachment://"
_LOCAL_HEADER = struct.Struct("<26xHH")
"""Of a zip entry: the lengths of its name and of what follows it."""


def is_log(data: Any) -> bool:
    """Whether plain data is an inspect log."""
    return isinstance(data, Mapping) and isinstance(data.get("eval"), Mapping) and "version" in data and "messages" not in data


class Archive:
    """An ``.eval`` file, opened.

    Args:
        path: the file.
        archive: its zip.

    Raises:
        UserError: it is no inspect log.
    """

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self._path, self._archive = path, archive
        _refuse_bomb(path, archive)
        names = archive.namelist()
        self._samples = sorted({name for name in names if name.startswith("samples/") and name.endswith(".json")})
        self.complete = "header.json" in names
        """Whether it was written to the end; what was stopped has a journal only."""
        header = "header.json" if self.complete else "_journal/start.json"
        if header not in names:
            raise UserError(f"{path} can't be used: it is a zip file without the header or the samples of an inspect log")
        found = _entry(path, archive, header)
        self.header: Mapping[str, Any] = found if isinstance(found, Mapping) else {}

    def __len__(self) -> int:
        return len(self._samples)

    def samples(self) -> Iterator[Any]:
        """Yield every sample, one in memory at a time.

        Raises:
            UserError: one can't be unpacked.
        """
        return (_entry(self._path, self._archive, name) for name in self._samples)


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open an ``.eval`` file.

    Raises:
        UserError: it is no whole inspect log.
    """
    with open_file(path) as stream:
        try:
            archive = zipfile.ZipFile(stream)
        except (zipfile.BadZipFile, OSError, ValueError):
            raise UserError(
                f"{path} can't be used: it is no whole inspect log; it is cut off, or still being written"
            ) from None
        with archive:
            yield Archive(path, archive)


def messages_of(sample: Mapping[str, Any]) -> list[Any]:
    """Return the conversation of a sample, with what was taken out of its messages put back.

    Where its messages have no answer, they are its input and the first choice of its output.
    """
    attached = _attached(sample)
    messages = [_put_back(one, attached) for one in sample.get("messages") or ()]
    if any(isinstance(one, Mapping) and one.get("role") == "assistant" for one in messages):
        return messages
    return [*input_of(sample), *_output(sample, attached)]


def input_of(sample: Mapping[str, Any]) -> list[Any]:
    """Return the messages that a sample begins with."""
    given = _put_back(sample.get("input"), _attached(sample))
    return given if isinstance(given, list) else [{"role": "user", "content": given}]


def _attached(sample: Mapping[str, Any]) -> Mapping[str, Any]:
    found = sample.get("attachments")
    return found if isinstance(found, Mapping) else {}


def _output(sample: Mapping[str, Any], attached: Mapping[str, Any]) -> list[Any]:
    output = sample.get("output")
    choices = output.get("choices") if isinstance(output, Mapping) else None
    first = choices[0] if isinstance(choices, list) and choices else {}
    message = _put_back(first.get("message"), attached) if isinstance(first, Mapping) else None
    return [message] if isinstance(message, Mapping) else []


def _put_back(value: Any, attached: Mapping[str, Any]) -> Any:
    if isinstance(value, str) and value.startswith(_ATTACHED):
        return attached.get(value.removeprefix(_ATTACHED), value)
    if isinstance(value, list):
        return [_put_back(one, attached) for one in value]
    if isinstance(value, Mapping):
        return {key: _put_back(one, attached) if key in ("content", "text") else one for key, one in value.items()}
    return value


def _refuse_bomb(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse a file that unpacks to more than a log would, whatever its single entries come to."""
    most = max(_LARGEST_WHOLE, _DENSEST * path.stat().st_size)
    whole = sum(info.file_size for info in archive.infolist())
    if whole > most:
        raise UserError(
            f"{path} can't be used: unpacked, an inspect log of its size must have {most:,} bytes at most, and it has {whole:,}"
        )


def _entry(path: Path, archive: zipfile.ZipFile, name: str) -> Any:
    info = archive.getinfo(name)
    if info.file_size > _LARGEST:
        raise UserError(f"{path} can't be used: {name} has more than {_LARGEST:,} bytes")
    if info.compress_type not in _PACKINGS:
        raise UserError(f"{path} can't be used: {name} is packed in a way (number {info.compress_type}) that no log is")
    try:
        if info.compress_type == _ZSTANDARD and not hasattr(zipfile, "ZIP_ZSTANDARD"):
            content = _unpacked(path, archive, info)
        else:
            with archive.open(info) as stream:
                content = stream.read(_LARGEST + 1)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{path} can't be used: {name} can't be unpacked ({first_line(error)}); is it cut off?") from None
    if len(content) > _LARGEST:
        raise UserError(f"{path} can't be used: {name} has more than {_LARGEST:,} bytes")
    try:
        return parsed(content)
    except UserError as error:
        raise UserError(f"{path} can't be used: {name}: {error}") from None


def _unpacked(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    try:
        import zstandard
    except ImportError:
        raise UserError(
            f"{path} is packed with Zstandard, which this Python can't read by itself: install the package 'zstandard' "
            "(pip install 'palimpsest-lm[inspect]'), or convert it with `inspect log convert --to json`"
        ) from None
    stream = archive.fp
    assert stream is not None
    stream.seek(info.header_offset)
    header = stream.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size:
        raise EOFError("its place in the file is beyond the end")
    stream.seek(sum(_LOCAL_HEADER.unpack(header)), io.SEEK_CUR)
    packed = stream.read(info.compress_size)
    try:
        with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(packed), read_across_frames=True) as reader:
            content = reader.read(info.file_size + 1)
    except zstandard.ZstdError as error:
        raise zipfile.BadZipFile(str(error)) from None
    if len(content) != info.file_size or zlib.crc32(content) != info.CRC:
        raise zipfile.BadZipFile("its length or its checksum is wrong")
    return content
