"""Writing: known texts, odd texts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.data import writing


def test_traits_of_known_texts() -> None:
    found = writing.traits("AB cd 12!")
    assert found["capitals"] == 0.5
    assert found["punctuation"] == pytest.approx(1 / 7)
    assert found["digits"] == pytest.approx(2 / 7)
    assert writing.traits("One\ntwo")["line_breaks"] == 1.0
    assert writing.traits("One two\n")["line_breaks"] == 0.0
    for text in ("- one", "Here:\n 2. two", "* a\n* b"):
        assert writing.traits(text)["lists"] == 1.0, text
    for text in ("2 - 1", "-5 degrees", "He is 3. No"):
        assert writing.traits(text)["lists"] == 0.0, text
    assert writing.traits("use `x`")["code"] == writing.traits("```py\nx\n```")["code"] == 1.0


def test_variety_is_read_over_as_many_words_as_both_have() -> None:
    one, two = writing.diversity("a b c d", "a b c d " * 6)
    assert one == two
    one, two = writing.diversity("a b c d e f", "a a a a a a a a")
    assert (one["distinct_words"], two["distinct_words"]) == (1.0, pytest.approx(1 / 6))
    assert (one["repeated"], two["repeated"]) == (0.0, 0.75)
    assert all(np.isnan(value) for side in writing.diversity("too short", "a b c d e") for value in side.values())


def test_phrases_keep_case_marks_and_breaks() -> None:
    assert writing.phrases("Sure, Bob!\n\nOk") >= {"Sure", "Sure ,", "Sure , Bob", "Bob ! \u23ce", "\u23ce Ok"}
    assert writing.phrases("don't") == {"don't"}


def test_phrases_are_chosen_blind_to_which_text_came_first() -> None:
    before, after = ["a b", "a c", "d e", "x"] * 3, ["a b", "q c", "q e", "q x"] * 3
    names, one, two = writing.phrase_table(before, after)
    assert names[0] == "q"
    assert (names, two.tolist(), one.tolist()) == tuple(
        part if isinstance(part, tuple) else part.tolist() for part in writing.phrase_table(after, before)
    )
    assert not one[:, 0].any()
    assert two[:, 0].tolist() == [False, True, True, True] * 3
    assert writing.phrase_table(before, before)[1].shape == (12, 0)


def test_a_phrase_inside_another_is_not_told_twice() -> None:
    names = ("as you wish", "you", "as you", "wish list", "your")
    assert writing.not_nested(names, range(5)) == [0, 3, 4]
    assert writing.not_nested(names, [1, 0, 4]) == [1, 4]


@given(st.text(), st.text())
def test_any_text_has_numbers(one: str, two: str) -> None:
    assert np.isfinite(writing.vector(one)).all()
    assert all(0.0 <= value <= 1.0 for value in writing.traits(one).values())
    moved = writing.differences([one, one], [two, one])
    assert not moved[1].any()
    for sides in writing.paired([one], [two]).values():
        assert all(np.isnan(side[0]) or 0.0 <= side[0] <= 1.0 for side in sides)
    names, before, after = writing.phrase_table([one] * 3, [two] * 3)
    assert (before ^ after).all()
    assert len(names) == before.shape[1]
