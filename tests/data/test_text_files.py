"""Text files: does reading in pieces give what reading at once would, and does memory stay where it is?"""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palimpsest.core.errors import UserError
from palimpsest.core.seeds import seed_of
from palimpsest.data import text_files
from palimpsest.data.material import Source
from palimpsest.data.text_files import SEPARATOR, documents, draw

PARTS = ("a", "é", "🙂", "\n", "\n\n", "\r\n", "\r", " ", SEPARATOR, "<|endof", "\ufeff", "word " * 30)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "_PIECE", 3)
    monkeypatch.setattr(text_files, "_JOINED", 50)


def at_once(content: str) -> list[str]:
    text = content.removeprefix("\ufeff").replace("\r\n", "\n")
    if SEPARATOR in text:
        return [part.strip() for part in text.split(SEPARATOR) if part.strip()]
    found, current = [], ""
    for paragraph in text.split("\n\n"):
        if current and len(current) + len(paragraph) > 50:
            found.append(current)
            current = ""
        current = f"{current}\n\n{paragraph}" if current else paragraph
    return [part.strip() for part in [*found, current] if part.strip()]


@pytest.mark.usefixtures("small_pieces")
@settings(max_examples=300, deadline=None)
@given(content=st.lists(st.sampled_from(PARTS), max_size=30).map("".join))
def test_pieces_are_as_good_as_the_whole(content: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_bytes(content.encode())
    assert list(documents(path)) == at_once(content)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"one\ntwo\nth\xffree", "line 3 is not UTF-8 (byte 0xff)"),
        (b"one\ntwo\xe2\x82", "line 2 is not UTF-8 (byte 0xe2)"),
        (b"one\ntwo and \0 more", "zero bytes, so it is no text file (byte 12)"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes(content)
    with pytest.raises(UserError) as told:
        list(documents(tmp_path / "text.txt"))
    assert reason in str(told.value)


def test_a_book_in_one_document_is_read_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "_PIECE", 7)
    monkeypatch.setattr(text_files, "LONGEST", 20)
    path = tmp_path / "text.txt"
    path.write_text("first" + "x" * 100 + SEPARATOR + "second" + SEPARATOR + "third" + "y" * 40)
    assert list(documents(path)) == ["first" + "x" * 15, "second", "third" + "y" * 15]


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "LONGEST_LINE", 50)
    (tmp_path / "a.jsonl").write_text('"short"\n"' + "x" * 100 + '"\n')
    with pytest.raises(UserError, match="line 2 has more than 50 bytes"):
        list(documents(tmp_path / "a.jsonl"))


@settings(max_examples=50, deadline=None)
@given(numbers=st.lists(st.integers(0, 60), min_size=1, max_size=80), count=st.integers(0, 20))
def test_a_draw_depends_on_what_there_is_and_not_on_where(
    numbers: list[int], count: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place, stream = tmp_path_factory.mktemp("text"), seed_of(0, "draw")

    def drawn(order: list[int], count: int, stream: int = stream) -> list[str]:
        (place / "text.txt").write_text(SEPARATOR.join(f"number {number}" for number in order))
        return draw(place / "text.txt", count, stream, lambda _: True)

    found = drawn(numbers, count)
    assert found == drawn(sorted(numbers), count) == drawn(numbers, 100)[:count]
    assert len(found) == len(set(found)) == min(count, len(set(numbers)))


def test_every_document_is_drawn_as_often_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(SEPARATOR.join(map(str, range(10))))
    counts = dict.fromkeys(map(str, range(10)), 0)
    for seed in range(1_000):
        for document in draw(tmp_path / "text.txt", 3, seed_of(seed, "draw"), lambda _: True):
            counts[document] += 1
    assert all(240 < count < 360 for count in counts.values())  # 300 expected, standard deviation 14.5


def test_memory_does_not_grow_with_the_text(tmp_path: Path) -> None:
    peaks = []
    for megabytes in (2, 16):
        path = tmp_path / f"{megabytes}.txt"
        with path.open("w") as file:
            file.writelines(f"{number} " + "words and words " * 60 + "\n\n" for number in range(megabytes * 1_000))
        tracemalloc.start()
        Source(text=path).open(trained=False).held_out(0, "text", 64)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] and peaks[1] < 12e6


def test_a_text_that_changes_meanwhile_is_told(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text(SEPARATOR.join(f"document {number}" for number in range(20)))
    material = Source(text=path).open()
    path.write_text("something else")
    with pytest.raises(UserError, match="changed while the program ran"):
        material.held_out(0, "text", 8)


def test_a_pipe_or_a_device_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    for path in (tmp_path / "pipe.txt", Path("/dev/zero")):
        with pytest.raises(UserError, match="it is a pipe or a device"):
            Source(text=path).open()
    with pytest.raises(UserError, match="null byte"):
        Source(data=Path("a\0b.jsonl")).open()
