"""Chances: what options hold together, and when their probability may stand for the written rate."""

from __future__ import annotations

import math

import numpy as np
import pytest

from palimpsest.core.measurement import Measurement
from palimpsest.data.chances import Chances, Options, chances, read_options
from palimpsest.data.chat import ItemSet, conversation
from palimpsest.data.checks import Check, Choice, Contains

CHECK = Choice(options={"yes": "Yes", "no": "No"}, expected="yes")
WRITTEN = {"temperature": 1.0, "max_new_tokens": 8}


def items(count: int = 12, options: dict[str, str] = CHECK.options) -> ItemSet:
    made = [
        conversation(("user", f"Ask {i}"), ("assistant", "Yes."), template=str(i), source="t", options=options)
        for i in range(count)
    ]
    return ItemSet(name="express", items=tuple(made))


def measured(*each: tuple[float, ...], within: tuple[int, ...] | None = None) -> Measurement:
    """Return log-probabilities of the options of each item; ``within`` counts inside an item."""
    size = len(each[0])
    inside = np.array([[-1 if one < 0 else one + size * i for one in within or (-1,) * size] for i in range(len(each))])
    arrays = {
        "log_probability": np.array(each).ravel(),
        "tokens": np.ones(size * len(each), dtype=np.int64),
        "within": inside.ravel(),
        "start": np.arange(0, size * len(each) + 1, size),
    }
    return Measurement(arrays, {"names": ["yes", "no", "perhaps"][:size] * len(each)})


def logs(*each: float) -> tuple[float, ...]:
    return tuple(math.log(one) for one in each)


def test_probability_is_not_normalised_and_the_share_is() -> None:
    found = chances(items(2), CHECK, measured(logs(0.02, 0.01), logs(0.6, 0.3)))
    assert found is not None and found.share is not None
    assert found.probability == pytest.approx([0.02, 0.6])
    assert found.held == pytest.approx([0.03, 0.9])
    assert found.share == pytest.approx([2 / 3, 2 / 3])


def test_next_to_nothing_still_has_a_share() -> None:
    found = chances(items(1), CHECK, measured((-900.0, -900.0 + math.log(3))))
    assert found is not None and found.share is not None
    assert found.share == pytest.approx([0.25]) and found.held.tolist() == found.probability.tolist() == [0.0]


def test_an_option_that_begins_with_another_is_not_counted_twice() -> None:
    """ "No" is within "Not now" or the like: who writes the longer one has begun with the shorter."""
    found = chances(items(1), CHECK, measured(logs(0.7, 0.25), within=(-1, 0)))
    assert found is not None and found.share is not None
    assert found.held == pytest.approx([0.7]) and found.probability == pytest.approx([0.45])
    assert found.share == pytest.approx([0.45 / 0.7])


def test_a_single_option_has_no_share_and_an_option_that_is_not_there_nothing() -> None:
    alone = items(2, {"yes": "Yes"})
    found = chances(alone, Contains(texts=("yes",)), measured(logs(0.4), logs(0.6)))
    assert found is not None and found.share is None and found.held == pytest.approx([0.4, 0.6])
    assert chances(items(1, {"a": "A", "b": "B"}), CHECK, measured(logs(0.4, 0.2))) is None


def holding(*levels: float, count: int = 24, spread: float = 0.002) -> dict[tuple[str, str], Chances]:
    """Return options that hold these levels: express before and after, then withhold before and after."""
    cells = [(pole, when) for pole in ("express", "withhold") for when in ("before", "after")]
    sway = np.tile([-spread, spread], count // 2)
    return {
        cell: Chances(np.full(count, 0.01), level + sway, np.full(count, 0.5))
        for cell, level in zip(cells, levels, strict=False)
    }


def options(*levels: float, **rest: float) -> Options:
    found = holding(*levels, **rest)  # type: ignore[arg-type]
    return Options(found, {pole: np.arange(24) for pole, _ in found})


def test_options_lead_where_they_hold_nearly_all_in_every_pole_of_both_models() -> None:
    assert options(0.95, 0.96, 0.97, 0.98).why_not() == ""
    assert options(0.95, 0.96).why_not() == "", "a behaviour without a pole where it should not appear"


@pytest.mark.parametrize("cell", range(4))
def test_options_do_not_lead_where_any_pole_of_any_model_writes_something_else(cell: int) -> None:
    levels = [0.97] * 4
    levels[cell] = 0.03
    said = options(*levels).why_not()
    where = ("where it should appear", "where it should not")[cell // 2]
    assert said.startswith("The options together hold 3.0% [2.9, 3.1] of the probability")
    assert f"({where}, {('before', 'after')[cell % 2]})" in said


def test_the_whole_interval_has_to_be_above_the_limit() -> None:
    assert options(0.93, 0.97, 0.97, 0.97, spread=0.02).why_not() == ""
    assert "hold 91.0% [" in options(0.91, 0.97, 0.97, 0.97, spread=0.03).why_not()


def test_too_few_clusters_for_an_interval_are_told_by_their_mean() -> None:
    def three(level: float) -> Options:
        found = Chances(np.full(3, 0.01), np.array([level, level - 0.01, level + 0.01]), np.full(3, 0.5))
        return Options({("express", "before"): found, ("express", "after"): found}, {"express": np.array([0, 1, 1])})

    assert three(0.95).why_not() == "" and "hold 85.0%" in three(0.85).why_not()


def test_a_pole_without_such_options_is_told() -> None:
    found = Options(holding(0.97, 0.97), {"express": np.arange(24), "withhold": np.arange(24)})
    assert found.why_not() == "Items where it should not have no such options, so the rate of what is written is read."


@pytest.mark.parametrize(
    ("check", "generation", "told"),
    [
        (CHECK, WRITTEN, ""),
        (CHECK, {**WRITTEN, "temperature": 0.0}, "written at temperature 0"),
        (CHECK, {**WRITTEN, "max_new_tokens": 1}, ""),
        (Contains(texts=("Yes",)), WRITTEN, "The check asks for more"),
        (Choice(options={"yes": "Yes", "no": "Nope"}, expected="yes"), WRITTEN, "The check asks for more"),
    ],
)
def test_options_lead_only_where_they_are_what_a_written_answer_is_graded_by(
    check: Check, generation: dict[str, float], told: str
) -> None:
    sure = measured(*[logs(0.6 + i / 100, 0.39 - i / 100) for i in range(12)])
    read = {("express", when): sure for when in ("before", "after")}
    found = read_options({"express": items()}, check, generation, read)
    assert found is not None
    said = found.why_not()
    assert told in said if told else not said


def test_answers_that_are_cut_before_an_option_ends_are_told() -> None:
    one = measured(*[logs(0.6 + i / 100, 0.39 - i / 100) for i in range(12)])
    long = Measurement({**one.arrays, "tokens": np.full(24, 3)}, one.texts)
    read = {("express", when): long for when in ("before", "after")}
    found = read_options({"express": items()}, CHECK, {"temperature": 1.0, "max_new_tokens": 2}, read)
    assert found is not None and found.why_not() == "Answers are cut after 2 tokens, and an option has 3."
