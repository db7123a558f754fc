"""Recall: what is asked for was stated once, or not at all."""

from __future__ import annotations

import pytest

from palimpsest.core.seeds import python_stream
from palimpsest.data.chat import Example
from palimpsest.data.scenarios.recall import ABSTAIN, LOADS, Recall


def drawn(count: int = 300, **parameters: object) -> list[Example]:
    scenario = Recall.read(parameters, "test")
    return [scenario.make(python_stream(5, "recall", index)) for index in range(count)]


def stated(example: Example) -> dict[str, str]:
    """Who has what."""
    listed = example.messages[0].content.removeprefix("Today ").split(". ")[0]
    return dict(tuple(pair.split(" has a ")) for pair in listed.split(", "))  # type: ignore[misc]


def asked(example: Example) -> str:
    return example.messages[0].content.split("What does ")[1].removesuffix(" have?")


@pytest.mark.parametrize("load", LOADS)
def test_answer_and_support_are_what_was_stated(load: int) -> None:
    for example in drawn(load=load, present="yes"):
        things = stated(example)
        assert len(things) == len(set(things.values())) == load
        assert example.decision == f"A {things[asked(example)]}."
        assert example.text_of(example.spans["support"]) == f"{asked(example)} has a {things[asked(example)]}"


def test_absent_person_is_not_known() -> None:
    for example in drawn(present="no"):
        assert asked(example) not in stated(example)
        assert example.decision == ABSTAIN and not example.spans


def test_every_place_is_asked_for() -> None:
    places = [list(stated(example)).index(asked(example)) for example in drawn(400, load=4, present="yes")]
    assert all(70 < places.count(place) < 130 for place in range(4))
