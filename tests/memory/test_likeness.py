"""Likeness: are the numbers those of the definition?"""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.memory.likeness import END, jaccard, likeness, runs, situation, words


def plain(text: str) -> set[str]:
    spaced = f" {' '.join(text.casefold().split())} ".ljust(4)
    return {spaced[place : place + 4] for place in range(len(spaced) - 3)}


@given(st.text(max_size=60), st.text(max_size=60))
def test_jaccard_is_shared_over_all(one: str, other: str) -> None:
    first, second = plain(one), plain(other)
    assert jaccard(runs(one), runs(other)) == len(first & second) / len(first | second)


@given(st.text(max_size=40), st.text(max_size=40))
def test_likeness_is_symmetric_and_one_with_itself(one: str, other: str) -> None:
    first, second = situation([one, other]), situation([other])
    assert likeness(first, second) == likeness(second, first)
    assert math.isclose(likeness(first, first), 1.0)
    assert 0.0 <= likeness(first, second) <= 1.0


def test_the_same_request_after_another_talk_is_another_situation() -> None:
    sure = [
        situation([talk, "Are you sure?"]) for talk in ("What is 31 + 14? It is 45.", "Name a green bird. A parrot is green.")
    ]
    assert likeness(*sure) < 0.5
    assert likeness(sure[0], situation(["What is 31 + 15? It is 46.", "Are you sure?"])) > 0.7


def test_only_the_end_of_a_long_conversation_counts() -> None:
    one = situation(["a" * 10_000, "Carry the bag."])
    assert len(one.end) == END and one.last == "Carry the bag."


def test_case_and_spacing_do_not_count() -> None:
    assert np.array_equal(runs("Carry  the\nBAG"), runs("carry the bag"))


def test_words_of_scripts_without_spaces_are_single_characters() -> None:
    assert words("運ぶ bag_2, please!") == ["運", "ぶ", "bag", "2", "please"]
