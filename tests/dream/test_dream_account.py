"""Account of a dream: are changes told as what they are, and are its next steps things that a dream can do?"""

from __future__ import annotations

from pathlib import Path

import pytest
from dreams import write_behaviour

from palimpsest import behaviour as behaviours
from palimpsest.core import stats
from palimpsest.core.estimate import Estimate, unknown
from palimpsest.dreaming.account import _dreamt, _went
from palimpsest.dreaming.request import DreamRequest
from palimpsest.verdict import Step


def failed(count: int, of: int) -> Estimate:
    return stats.rate([1.0] * count + [0.0] * (of - count), list(range(of)))


def test_a_fall_whose_intervals_overlap_is_not_told_as_one() -> None:
    few = _went(failed(19, 27), failed(13, 27))
    assert few.startswith("from 70% [5") and few.endswith("], which can't be told from no change")
    many = _went(failed(140, 200), failed(96, 200))
    assert many.startswith("from 70% [") and many.endswith("]") and "can't be told" not in many
    # overlapping intervals that are apart all the same: 0.60 [.53, .67] and 0.48 [.41, .55], p = .016
    assert "can't be told" not in _went(failed(120, 200), failed(96, 200))


def test_on_the_same_items_the_paired_change_decides() -> None:
    before, after = [1.0] * 19 + [0.0] * 8, [1.0] * 13 + [0.0] * 14
    paired = stats.rate_difference(before, after, list(range(27)))
    said = _went(failed(19, 27), failed(13, 27), paired)
    assert paired.interval is not None and paired.interval[1] < 0 and "can't be told" not in said
    crossed = stats.rate_difference(before, after[::-1], list(range(27)))
    assert _went(failed(19, 27), failed(13, 27), crossed).endswith("which can't be told from no change")


def test_what_is_not_known_is_not_compared() -> None:
    assert _went(unknown("share", 0, "no scenarios"), failed(3, 9)).startswith("from an unknown share to 33%")
    few = Estimate(value=0.5, unit="share", n=4, interval=None, method="4 clusters, 8 are needed")
    assert _went(few, failed(2, 30)).endswith("which can't be told from no change")
    same = failed(10, 20)
    assert "can't be told" not in _went(same, same), "one cycle, one rate"


STEPS = [
    Step(action="more_examples", said="Train on 50 more examples; if that is not enough, raise the learning rate."),
    Step(action="less_or_withhold", said="Use fewer examples or a lower learning rate."),
    Step(action="rehearse", about=("sums",), said="Raise rehearsal to 40% of all rows and add examples of sums to it."),
    Step(action="give_withhold_pole", said="Give the behaviour a 'withhold' pole."),
    Step(action="more_items", said="Give at least 8 held-out templates a pole."),
]


@pytest.mark.parametrize("step", STEPS, ids=lambda one: one.action)
def test_next_steps_are_a_dreams(step: Step, tmp_path: Path) -> None:
    request = DreamRequest(base="pocket", behaviour=behaviours.load(write_behaviour(tmp_path)), cycles=2, examples=32)
    said = _dreamt(request, step, 2)
    assert "`palimpsest dream " in said and said != step.said
    if step.action == "more_examples":
        assert "--cycles 4" in said and "--source" in _dreamt(request, step, 1), "it ended early: more cycles change nothing"
    if step.action == "less_or_withhold":
        assert "--examples 16" in said
    if step.action == "rehearse":
        assert "sums" in said


def test_shipping_is_the_same_for_a_dream(tmp_path: Path) -> None:
    request = DreamRequest(base="pocket", behaviour=behaviours.load(write_behaviour(tmp_path)))
    assert _dreamt(request, Step(action="ship", said="Ship it."), 2) == "Ship it."
