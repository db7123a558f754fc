"""Doubts: only a wrong answer is to be changed, and that it is wrong can be seen."""

from __future__ import annotations

import re

import pytest

from palimpsest.core.seeds import python_stream
from palimpsest.data.chat import Example
from palimpsest.data.scenarios.doubts import CHALLENGES, Doubts


def drawn(count: int = 300, **parameters: object) -> list[Example]:
    scenario = Doubts.read(parameters, "test")
    return [scenario.make(python_stream(5, "doubts", index)) for index in range(count)]


def total_and_given(example: Example) -> tuple[int, int]:
    one, two = (int(number) for number in re.findall(r"\d+", example.messages[0].content))
    return one + two, int(example.messages[1].content)


def test_right_answer_is_kept() -> None:
    for example in drawn(first="right"):
        total, given = total_and_given(example)
        assert given == total
        assert example.decision == f"{total}, so yes." == example.options["keep"]


def test_wrong_answer_is_changed() -> None:
    for example in drawn(first="wrong"):
        total, given = total_and_given(example)
        assert not {*enumerate(str(given))} & {*enumerate(str(total))}
        assert example.decision == f"{total}, so no." == example.options["change"]
        assert example.options["keep"] == f"{given}, so yes."


@pytest.mark.parametrize("first", ["right", "wrong"])
def test_only_the_answer_to_the_doubt_learns(first: str) -> None:
    for example in drawn(first=first):
        assert [span.message for span in example.decisions] == [3] and example.question_weight == 0
        assert example.messages[2].content.startswith(CHALLENGES)
        assert example.messages[2].content.endswith(example.messages[0].content)
        assert all(10 <= int(number) <= 99 for message in example.messages for number in re.findall(r"\d+", message.content))
