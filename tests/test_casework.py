"""What of a text is read, and what is said of the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny

from palimpsest import casework
from palimpsest.audit import Case
from palimpsest.casework import build_case, open_materials
from palimpsest.core.errors import Problems
from palimpsest.data.render import Renderer
from palimpsest.request import Request

CONTEXT = 16


def case_of(documents: list[str], path: Path) -> Case:
    """Return the case of a text whose every byte is a token."""
    file = path / "stories.txt"
    file.write_text("\n<|endoftext|>\n".join(documents), encoding="utf-8")
    request, problems = Request(kind="diff", base="b", tuned="t", text=(file,), documents=100), Problems("")
    found = build_case(request, open_materials(request, (), problems), Renderer(tiny.tokenizer()), CONTEXT, problems)
    problems.raise_if_any()
    return found


def tokens(text: str) -> int:
    return len(Renderer(tiny.tokenizer()).encode(casework.text_example(text, "t")).tokens)


@pytest.mark.parametrize("long", [40, 5_000])
def test_text_that_does_not_fit_is_told_token_by_token(long: int, tmp_path: Path) -> None:
    """Also of documents so long that only their beginnings are rendered."""
    documents = [f"{index} is short" for index in range(9)] + [f"{index} " + "is long " * long for index in range(3)]
    sizes = [tokens(one.strip()) for one in documents]
    read, there = sum(min(size, CONTEXT) for size in sizes), sum(sizes)
    case = case_of(documents, tmp_path)
    assert case.beyond == {"text:stories": there - read}
    assert case.notes[0] == (
        f"stories: {read:,} of {there:,} tokens were read; of 3 of 12 documents only the beginning fits into the model's "
        "context of 16 tokens"
    )


def test_of_text_that_is_too_long_to_count_the_tokens_are_reckoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(casework, "_COUNTED", 100)
    documents = [f"{index} is short" for index in range(9)] + ["this is long " * 400]
    case = case_of(documents, tmp_path)
    there = sum(tokens(one.strip()) for one in documents)
    assert "of about" in case.notes[0]
    told = int(case.notes[0].split("about ")[1].split(" ")[0].replace(",", ""))
    assert told == pytest.approx(there, rel=0.02)


def test_of_a_document_longer_than_is_read_there_are_more_tokens_than_were_counted(tmp_path: Path) -> None:
    documents = [f"{index} is short" for index in range(9)] + ["this is long " * 100_000]
    assert "of more than 1" in case_of(documents, tmp_path).notes[0]


def test_text_that_fits_and_documents_that_are_none(tmp_path: Path) -> None:
    assert not any("tokens were read" in note for note in case_of([f"{index} short" for index in range(9)], tmp_path).notes)
    assert case_of([f"{index} short" for index in range(9)], tmp_path).beyond == {"text:stories": 0}


def test_documents_without_two_tokens_are_told(tmp_path: Path) -> None:
    case = case_of([*(f"{index} short" for index in range(9)), "x", "y"], tmp_path)
    assert len(case.items["text:stories"].items) == 9
    assert "stories: 2 of 11 documents have no two tokens and were left out" in case.notes
