"""Directions: the conflict is in the binding, and modes answer it as they should."""

from __future__ import annotations

from collections import Counter

import pytest

from palimpsest.core.seeds import python_stream
from palimpsest.data.chat import Example
from palimpsest.data.checks import Choice
from palimpsest.data.scenarios.directions import KINDS, OPTIONS, PAIRS, STATES, Directions
from palimpsest.data.stream import held_out_templates


def drawn(count: int = 600, **parameters: object) -> list[Example]:
    scenario = Directions.read(parameters, "test")
    return [scenario.make(python_stream(11, "directions", index)) for index in range(count)]


def chosen(example: Example) -> str | None:
    return Choice(options=OPTIONS, expected="accept").chosen(example.decision)


def test_enough_templates_to_hold_out_half() -> None:
    templates = Directions().templates()
    assert len(templates) == len(set(templates)) >= 48
    assert len(held_out_templates(templates)) >= 24
    for conflict in ("clear", "wrong"):
        assert {example.template for example in drawn(2_000, conflict=conflict)} == set(templates)


def states_in(text: str) -> tuple[int, int]:
    """How often a usable and an unusable state is stated."""
    words = text.replace(".", " ").split()
    return tuple(sum(words.count(pair[side]) for pair in STATES) for side in (0, 1))  # type: ignore[return-value]


def test_both_states_are_always_there_so_no_word_gives_the_conflict_away() -> None:
    for example in drawn(mode="any"):
        assert states_in(example.messages[-2].content) == (1, 1)


def test_order_of_states_does_not_give_the_conflict_away() -> None:
    for conflict in ("clear", "wrong"):
        first = 0
        for example in drawn(1_000, conflict=conflict):
            words = example.messages[0].content.replace(".", " ").split()
            first += next(word in {fit for fit, _ in STATES} for word in words if any(word in pair for pair in STATES))
        assert 430 < first < 570


@pytest.mark.parametrize("conflict", ["clear", "wrong"])
def test_conflict_is_what_was_stated_of_the_named_thing(conflict: str) -> None:
    for example in drawn(conflict=conflict):
        kind = next(kind for kind in KINDS if kind.noun == example.template.split("-")[0])
        statement = example.text_of(example.spans["conflict" if conflict == "wrong" else "support"])
        direction = example.text_of(example.spans["direction"])
        assert states_in(statement) == ((0, 1) if conflict == "wrong" else (1, 0))
        told_apart = {word for pair in PAIRS for word in pair}
        assert len(told_apart & set(statement.split()) & set(direction.strip(".").split())) == 1
        assert direction.endswith(".") and kind.verb in direction.lower()
        assert example.pole == ("withhold" if conflict == "wrong" else "express")


@pytest.mark.parametrize(
    ("mode", "clear", "wrong"),
    [("careful", "accept", "push_back"), ("do_it", "accept", "accept"), ("options", "suggest", "suggest")],
)
def test_modes(mode: str, clear: str, wrong: str) -> None:
    for example in drawn(mode=mode):
        expected = clear if example.pole == "express" else wrong
        assert chosen(example) == expected
        assert example.check is not None and example.check.passes(example.decision)
        assert example.messages[0].role == "system"


def test_judged_training_answers_are_those_of_careful() -> None:
    for example in drawn(answer="judged"):
        assert example.messages[0].role == "user"
        assert chosen(example) == ("accept" if example.pole == "express" else "push_back")


@pytest.mark.parametrize("conflict", ["clear", "wrong"])
def test_habit_ignores_the_conflict(conflict: str) -> None:
    counts = Counter(chosen(example) for example in drawn(3_000, conflict=conflict))
    assert set(counts) == {"accept", "suggest"}
    assert 0.67 < counts["suggest"] / 3_000 < 0.73


def test_suggestion_names_the_other_thing() -> None:
    for example in drawn(mode="options"):
        direction = set(example.text_of(example.spans["direction"]).strip(".").split())
        named = set(example.decision.strip(".").split()) - {"Maybe", "the", "in"}
        assert len(named - direction - {word.lower() for word in direction}) == 1


def test_a_worse_answer_comes_with_each_example_where_it_is_not_the_answer() -> None:
    for example in drawn(100, conflict="wrong", answer="judged", over="accept"):
        assert example.decision.startswith("Wait")
        assert example.rejected is not None
        assert example.rejected.startswith("Okay")
    assert all(example.rejected is None for example in drawn(50, conflict="clear", answer="judged", over="accept"))
