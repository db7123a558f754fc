"""Atomic: is there always a whole file or folder, or the one before?"""

import errno
from pathlib import Path

import pytest

from palimpsest.core.errors import UserError
from palimpsest.store import atomic


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "checkpoint-1"
    with atomic.whole_folder(target) as folder:
        (folder / "a").write_text("old")
        assert not target.exists()
    with pytest.raises(KeyboardInterrupt), atomic.whole_folder(target) as folder:
        (folder / "a").write_text("new")
        raise KeyboardInterrupt
    assert bytes_of(tmp_path) == {"checkpoint-1/a": b"old"}
    with atomic.whole_folder(target) as folder:
        (folder / "a").write_text("new")
    assert bytes_of(tmp_path) == {"checkpoint-1/a": b"new"}
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def test_a_full_disk_is_told_and_the_old_file_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "training.json"
    atomic.write_bytes(target, b"old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(UserError, match="can't be written: the disk is full"):
        atomic.write_bytes(target, b"new")
    with pytest.raises(UserError, match="model can't be written: the disk is full"), atomic.whole_folder(tmp_path / "model"):
        pass
    assert bytes_of(tmp_path) == {"training.json": b"old"}


def test_safetensors_full_disk_is_told_like_any_other(tmp_path: Path) -> None:
    from safetensors import SafetensorError

    with pytest.raises(UserError, match="the disk is full"), atomic.whole_folder(tmp_path / "model"):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def test_leftovers_are_removed(tmp_path: Path) -> None:
    (tmp_path / f"{atomic.TEMPORARY}checkpoint-200").mkdir()
    (tmp_path / f"{atomic.TEMPORARY}x.json").touch()
    (tmp_path / "kept.json").touch()
    atomic.remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.json"]
