"""Files: what is read is noted, and held against what was noted before."""

import hashlib
import io
import os
import zipfile
from pathlib import Path

import pytest

from palimpsest.core.errors import UserError
from palimpsest.core.files import noted, open_file, read_file, take_note

CONTENT = b"".join(f"line {number}\n".encode() for number in range(400_000))
HASH = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_bytes(CONTENT)
    return tmp_path / "a.txt"


def backwards(stream: io.BufferedReader) -> None:
    stream.seek(-9, os.SEEK_END)
    assert stream.read(4) == CONTENT[-9:-5]
    stream.seek(0)
    assert stream.read(4) == CONTENT[:4]


WAYS = {
    "whole": lambda stream: stream.read(),
    "lines": list,
    "pieces": lambda stream: list(iter(lambda: stream.read(77_777), b"")),
    "the beginning": lambda stream: stream.read(10),
    "nothing": lambda stream: None,
    "backwards": backwards,
}


@pytest.mark.parametrize("way", WAYS)
def test_what_is_read_is_noted_however_it_is_read(way: str, file: Path) -> None:
    with noted() as found:
        with open_file(file) as stream:
            WAYS[way](stream)
        assert found == {str(file): HASH}
    with open_file(file) as stream:
        assert isinstance(stream, io.BufferedReader) and type(stream.raw) is io.FileIO, "nobody takes notes any more"


def test_what_comes_through_is_what_is_in_the_file(file: Path) -> None:
    with noted():
        assert read_file(file) == CONTENT
        with open_file(file) as stream:
            assert b"".join(stream) == CONTENT
        with open_file(file) as stream:
            backwards(stream)
            assert stream.read() == CONTENT[4:]


def test_an_archive_is_read_from_its_end(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x", "content")
    with noted() as found, open_file(tmp_path / "a.zip") as stream, zipfile.ZipFile(stream) as archive:
        assert archive.read("x") == b"content"
    assert found == {str(tmp_path / "a.zip"): hashlib.sha256((tmp_path / "a.zip").read_bytes()).hexdigest()}


def test_a_file_that_holds_something_else_later_is_told_whatever_its_times_say(file: Path) -> None:
    with noted() as found:
        read_file(file)
    stat = file.stat()
    with file.open("r+b") as stream:
        stream.write(b"L")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with noted(found), pytest.raises(UserError, match=r"a\.txt changed while the program ran"):
        read_file(file)
    with noted() as now:
        read_file(file)
    assert now != found


def test_what_has_another_hash_is_left_out_and_what_a_library_reads_is_not(file: Path, tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_bytes(b"")
    take_note([file])
    with noted() as found:
        read_file(file, note=False)
        assert found == {}
        take_note([tmp_path / "b.txt", tmp_path / "none"])
    assert found == {str(tmp_path / "b.txt"): hashlib.sha256(b"").hexdigest()}
