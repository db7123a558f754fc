"""Inspect logs: is an archive that unpacks to more than a log would refused before it is unpacked?"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from palimpsest.core.errors import UserError
from palimpsest.data import inspect_logs
from palimpsest.data.inspect_logs import open_archive


def pack(path: Path, samples: int, size: int, packing: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", packing) as made:
        for number in range(samples):
            made.writestr(f"samples/{number}_epoch_1.json", json.dumps({"id": number, "input": "a" * size}))
        made.writestr("header.json", json.dumps({"version": 2, "eval": {}}))
    return path


def opened(path: Path) -> list[Any]:
    with open_archive(path) as archive:
        return list(archive.samples())


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousandth of the real ones, so that no test writes gigabytes."""
    monkeypatch.setattr(inspect_logs, "_LARGEST", 2**18)
    monkeypatch.setattr(inspect_logs, "_LARGEST_WHOLE", 2**20)


def test_many_entries_that_are_each_small_enough_are_refused_together(tmp_path: Path) -> None:
    path = pack(tmp_path / "bomb.eval", 12, 200_000)
    with pytest.raises(UserError, match=r"bomb.eval can't be used: unpacked, .* at most, and it has 2,400,"):
        opened(path)


def test_a_log_below_the_limit_is_read(tmp_path: Path) -> None:
    assert len(opened(pack(tmp_path / "log.eval", 5, 200_000))) == 5


def test_a_large_log_may_unpack_to_what_large_logs_do(tmp_path: Path) -> None:
    path = pack(tmp_path / "large.eval", 12, 200_000, zipfile.ZIP_STORED)
    assert len(opened(path)) == 12


@pytest.mark.parametrize("packing", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_packings_that_no_log_has_are_refused(tmp_path: Path, packing: int) -> None:
    with pytest.raises(UserError, match="is packed in a way"):
        opened(pack(tmp_path / "log.eval", 1, 10, packing))
