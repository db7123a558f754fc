"""Material: are training and held-out examples of every kind of source kept apart?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from palimpsest.core.errors import UserError
from palimpsest.data.material import Source


def chats(path: Path, numbers: range) -> Path:
    lines = [
        {"messages": [{"role": "user", "content": f"Say {number}"}, {"role": "assistant", "content": str(number)}]}
        for number in numbers
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def decisions(examples: list) -> set[str]:  # type: ignore[type-arg]
    return {example.decision for example in examples}


def test_a_file_is_split_by_content_the_same_for_every_seed(tmp_path: Path) -> None:
    material = Source(data=chats(tmp_path / "a.jsonl", range(200))).open()
    held_out = [decisions(material.held_out(seed, "express", 1_000)) for seed in (0, 1)]
    assert held_out[0] == held_out[1] and 20 <= len(held_out[0]) <= 60
    trained = decisions(material.training(0, "express", 200 - len(held_out[0])))
    assert not trained & held_out[0] and len(trained | held_out[0]) == 200


def test_a_small_dose_is_the_beginning_of_a_large_one(tmp_path: Path) -> None:
    material = Source(data=chats(tmp_path / "a.jsonl", range(100))).open()
    assert material.training(3, "use", 20) == material.training(3, "use", 60)[:20]
    assert material.training(4, "use", 20) != material.training(3, "use", 20)


def test_too_small_a_file_says_how_much_there_is(tmp_path: Path) -> None:
    material = Source(data=chats(tmp_path / "a.jsonl", range(50))).open()
    with pytest.raises(
        UserError, match=r"express: 50 examples are needed, but the file gives \d+ for training \(\d+ are held out\)"
    ):
        material.training(0, "express", 50)


def test_with_a_file_of_its_own_for_audits_everything_else_is_trained(tmp_path: Path) -> None:
    source = Source(data=chats(tmp_path / "a.jsonl", range(50)), held_out=chats(tmp_path / "b.jsonl", range(45, 60)))
    material = source.open()
    assert decisions(material.training(0, "use", 45)) == {str(number) for number in range(45)}
    assert decisions(material.held_out(0, "use", 99)) == {str(number) for number in range(45, 60)}


def test_duplicates_are_told(tmp_path: Path) -> None:
    path = chats(tmp_path / "a.jsonl", range(20))
    path.write_text(path.read_text() + "\n" + path.read_text().splitlines()[0])
    assert Source(data=path).open().told == ("a.jsonl: 1 duplicate lines were left out.",)


def test_text_and_scenarios_open_too(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("<|endoftext|>".join(f"Document {index}." for index in range(40)))
    text = Source(text=path).open()
    assert text.training(0, "use", 5)[0].messages[0].role == "text"
    world = Source(scenario="sums").open()
    trained, held_out = world.training(0, "use", 50), world.held_out(0, "use", 50)
    assert not {example.id for example in trained} & {example.id for example in held_out}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, "exactly one of 'scenario', 'data', 'text'"),
        ({"scenario": "sums", "data": "a.jsonl"}, "exactly one"),
        ({"scenario": "sums", "held_out": "a.jsonl"}, "'held_out' belongs to 'data'"),
        ({"data": "a.jsonl", "parameters": {"digits": 2}}, "'parameters' belong to 'scenario'"),
        ({"dta": "a.jsonl"}, "Did you mean 'data'?"),
    ],
)
def test_a_source_is_exactly_one_thing(given: dict[str, object], reason: str) -> None:
    with pytest.raises(UserError) as error:
        Source.read(given, "express")
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"scenario": "sumz"}, "Did you mean 'sums'?"),
        ({"scenario": "sums", "parameters": {"digts": 2}}, "unknown key 'digts'"),
        ({"data": "none.jsonl"}, "can't be read"),
        ({"text": "none.txt"}, "can't be read"),
    ],
)
def test_what_cant_be_opened_says_why(given: dict[str, object], reason: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        Source.read(given, "express").within(tmp_path).open()
    assert reason in str(error.value)


def test_files_are_looked_up_from_the_behaviours_folder(tmp_path: Path) -> None:
    source = Source.read({"data": "a.jsonl", "held_out": "sub/b.jsonl"}, "x").within(tmp_path)
    assert source.data == tmp_path / "a.jsonl" and source.held_out == tmp_path / "sub" / "b.jsonl"
    documents = Source.read({"scenario": "documents", "parameters": {"text": "t.txt"}}, "x").within(tmp_path)
    assert documents.parameters["text"] == str(tmp_path / "t.txt")
