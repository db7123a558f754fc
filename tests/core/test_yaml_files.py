"""YAML files: is a word a word and a number a number, and is what is written read as it was?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from palimpsest.core import yaml_files
from palimpsest.core.errors import UserError


def read(folder: Path, text: str, version: yaml_files.Version = "1.2") -> Any:
    path = folder / "a.yaml"
    path.write_text(text, encoding="utf-8")
    return yaml_files.read(path, version)


@pytest.mark.parametrize(
    ("written", "meant", "as_of_old"),
    [
        ("yes", "yes", True),
        ("no", "no", False),
        ("On", "On", True),
        ("off", "off", False),
        ("y", "y", "y"),
        ("1:30", "1:30", 90),
        ("1:30.5", "1:30.5", 90.5),
        ("010", 10, 8),
        ("08", 8, "08"),
        ("0o10", 8, "0o10"),
        ("0b11", "0b11", 3),
        ("0x1F", 31, 31),
        ("1_000", "1_000", 1000),
        ("1e3", 1000.0, "1e3"),
        ("-1.5E-2", -0.015, -0.015),
        (".5", 0.5, 0.5),
        ("5.", 5.0, 5.0),
        ("+12", 12, 12),
        ("true", True, True),
        ("FALSE", False, False),
        ("~", None, None),
        ("", None, None),
        ("Null", None, None),
        ("nil", "nil", "nil"),
        ("'true'", "true", "true"),
        ("1.2.3", "1.2.3", "1.2.3"),
    ],
)
def test_scalars_are_those_of_their_version(written: str, meant: Any, as_of_old: Any, tmp_path: Path) -> None:
    assert read(tmp_path, f"a: {written}\n", "1.1")["a"] == as_of_old
    found = read(tmp_path, f"a: {written}\n")["a"]
    assert found == meant and type(found) is type(meant)


def test_a_date_is_text(tmp_path: Path) -> None:
    assert read(tmp_path, "a: 2026-12-01\n") == {"a": "2026-12-01"}


WORDS = [
    "yes",
    "010",
    "08",
    "0o7",
    "1e3",
    "1:30",
    "~",
    "",
    "null",
    "true",
    "<<",
    "2026-12-01",
    ".inf",
    "a: b",
    "#",
    "\u2028",
    "é",
]


@pytest.mark.parametrize("word", WORDS)
def test_what_is_written_is_read_as_it_was(word: str, tmp_path: Path) -> None:
    data = {word or "empty": [word, 10, 1e-5, float("inf"), -3.0, None, True, {"in": word}]}
    assert read(tmp_path, yaml_files.dump(data)) == data


def test_keys_are_merged_and_may_be_overridden(tmp_path: Path) -> None:
    """The inner mapping is merged before it is itself made, which must not look like a key that is given twice."""
    text = "a: &a {x: 1, y: 2}\nouter: {inner: &b {<<: *a, x: 3}}\nchild: {<<: *b, z: 4}\nboth: {<<: [*a, {w: 5}]}\n"
    found = read(tmp_path, text)
    assert found["outer"] == {"inner": {"x": 3, "y": 2}}
    assert found["child"] == {"x": 3, "y": 2, "z": 4} and found["both"] == {"x": 1, "y": 2, "w": 5}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: {b: 1, c: {d: 1, d: 2}}\n", "the key 'd' is given twice"),
        ("1: a\n", "the key 1 is no text"),
        ("a: !own 1\n", "could not determine a constructor for the tag '!own'"),
        ("a: !!python/name:os.system x\n", "could not determine a constructor"),
        ("a: !!set {b, c}\n", "a set can't be used here"),
        ("a: &a [*a]\n", "written out it would hold"),
        ("[1]", "must hold keys and values, found list"),
        ("", "must hold keys and values, found nothing"),
        ("a: 1\n---\nb: 2\n", "but found another document"),
    ],
)
def test_what_is_no_plain_data_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read(tmp_path, text)
    assert reason in str(error.value) and "a.yaml" in str(error.value)
