"""Are problems told all at once, with what is near?"""

from __future__ import annotations

import pytest

from palimpsest.core.errors import Problems, UserError, nearest


def test_no_problem_raises_nothing():
    Problems("recipe.yaml can't be used:").raise_if_any()


def test_all_problems_come_in_one_error():
    problems = Problems("recipe.yaml can't be used:")
    problems.add("one")
    problems.extend(["two", "three"])
    with pytest.raises(UserError) as told:
        problems.raise_if_any()
    assert str(told.value) == "recipe.yaml can't be used:\n  - one\n  - two\n  - three"


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("forgeting", ["outcome", "forgetting"], " Did you mean 'forgetting'?"),
        ("xyz", ["b", "a"], " Known: a, b."),
        ("xyz", [], ""),
    ],
)
def test_the_nearest_name_or_all_names(name, known, expected):
    assert nearest(name, known) == expected


def test_halves_of_characters_are_spelt_out() -> None:
    message = str(UserError("found \ud800 in a\udcff.txt, which é isn't"))
    assert message == "found \\ud800 in a\\udcff.txt, which é isn't"
    message.encode()
