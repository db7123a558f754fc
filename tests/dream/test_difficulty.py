"""Difficulty: is the next place to look the one where most may still fail?"""

from __future__ import annotations

import pytest

from palimpsest.data.chat import conversation
from palimpsest.dreaming.difficulty import Tally, shares, upper_bound
from palimpsest.dreaming.records import Answers, Area, Proposal, Scenarios


def asked(counts: dict[str, tuple[int, int]], area: Area = "broad") -> tuple[Scenarios, Answers]:
    """Return scenarios of templates, each with (failed, tried)."""
    proposals, failed = [], []
    for template, (wrong, tried) in counts.items():
        for index in range(tried):
            one = conversation(
                ("user", f"{template} {index}"), ("assistant", "a"), pole="express", template=template, source="s"
            )
            proposals.append(Proposal(example=one, source="generators", origin={"index": index}, area=area))
            failed.append(index < wrong)
    return Scenarios(proposals=tuple(proposals)), Answers(said=("x",) * len(failed), failed=tuple(failed))


def test_upper_bounds_are_wilsons() -> None:
    assert upper_bound([]) == 1.0
    assert upper_bound([False] * 10) == pytest.approx(0.2775, abs=1e-4)
    assert upper_bound([True] * 5 + [False] * 5) == pytest.approx(0.7634, abs=1e-4)


def test_a_pole_that_fails_often_is_asked_broadly_and_a_good_one_at_its_edges() -> None:
    tally = Tally()
    tally.add(*asked({"a": (5, 10), "b": (5, 10), "c": (5, 10)}))
    assert tally.edge("express", 0.2, 0) == ()
    tally.add(*asked({"a": (0, 30), "b": (3, 30), "c": (0, 30)}))
    assert tally.edge("express", 0.2, 0) == ("b",)
    assert tally.edge("withhold", 0.2, 0) == ()


def test_a_template_that_was_hardly_tried_counts_as_one_that_may_fail() -> None:
    tally = Tally()
    tally.add(*asked({"a": (1, 40), "new": (0, 2), "c": (1, 40)}))
    assert tally.edge("express", 0.2, 0) == ("new",)


def test_templates_that_never_return_have_no_edge() -> None:
    tally = Tally()
    tally.add(*asked({f"document {n}": (0, 1) for n in range(40)}))
    assert tally.edge("express", 0.2, 0) == ()


def test_edge_cases_do_not_count_as_how_often_it_fails() -> None:
    tally = Tally()
    tally.add(*asked({"a": (1, 20), "b": (1, 20)}))
    before = tally.last["express"]
    tally.add(*asked({"b": (20, 20)}, "edge"))
    assert tally.last["express"] == before == pytest.approx(0.05)


def test_more_is_asked_where_less_fails_within_bounds() -> None:
    tally = Tally()
    assert tally.wanted("express", 32, 4) == 80  # half of them are expected to fail, and a quarter is added
    tally.last["express"] = 1.0
    assert tally.wanted("express", 32, 4) == 40
    tally.last["express"] = 0.0
    assert tally.wanted("express", 32, 4) == 128


@pytest.mark.parametrize("total", [0, 1, 7, 100])
def test_shares_add_up(total: int) -> None:
    found = shares(total, {"a": 2, "b": 1, "c": 1})
    assert sum(found.values()) == total
    assert abs(found["a"] - total / 2) <= 1
