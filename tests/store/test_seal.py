"""Seal: whatever is not as it was written is named, and nothing else is."""

from pathlib import Path

import pytest

from palimpsest.store import seal


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in (("a.json", b"{}"), ("deep/b.bin", bytes(range(256))), ("empty", b"")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    seal.close(tmp_path)
    return tmp_path


def test_what_is_whole_has_no_damage_and_the_same_seal(folder: Path) -> None:
    before = (folder / seal.NAME).read_bytes()
    assert seal.damage(folder) == []
    (folder / seal.NAME).unlink()
    seal.close(folder)
    assert (folder / seal.NAME).read_bytes() == before


def test_every_flipped_bit_is_told(folder: Path) -> None:
    for name in ("a.json", "deep/b.bin", seal.NAME):
        whole = (folder / name).read_bytes()
        for place in range(len(whole)):
            (folder / name).write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :])
            assert seal.damage(folder), f"bit {place % 8} of byte {place} of {name}"
        (folder / name).write_bytes(whole)
    assert seal.damage(folder) == []


def test_what_is_gone_added_or_cut_off_is_named(folder: Path) -> None:
    (folder / "a.json").unlink()
    (folder / "deep/b.bin").write_bytes(bytes(range(255)))
    (folder / "new").write_bytes(b"")
    found = seal.damage(folder)
    assert found == ["a.json is gone", "deep/b.bin is not what was written (its checksum differs)", "new was not there"]


@pytest.mark.parametrize("content", [b"", b"[]", b'{"files": 5}', b"\xff"])
def test_a_folder_whose_seal_is_gone_or_broken_is_not_whole(folder: Path, content: bytes) -> None:
    (folder / seal.NAME).write_bytes(content)
    assert seal.damage(folder) == ["seal.json can't be read"]
    (folder / seal.NAME).unlink()
    assert seal.damage(folder) == ["seal.json is gone"]
