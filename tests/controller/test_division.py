"""What the controller adds to a run: weights of rehearsal, blocks that divide what there is, and a training seed of its own."""

# ruff: noqa: F401, F811  # fixtures are imported by name
from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError
from test_pipeline import behaviour, model

from palimpsest import behaviour as behaviours
from palimpsest.casework import rehearsal_turns
from palimpsest.controller.settings import Bounds, Settings
from palimpsest.core.errors import UserError
from palimpsest.planning import Plan, prepare
from palimpsest.request import Request

NAMES = ("a", "b", "c", "d")


def test_without_weights_sources_take_turns_as_ever() -> None:
    assert rehearsal_turns(NAMES, {}, 10) == list("abcdabcdab")


def test_what_weighs_more_stands_more_often_and_first() -> None:
    turns = rehearsal_turns(NAMES, {"c": 3, "d": 2}, 14)
    assert Counter(turns) == {"a": 2, "b": 2, "c": 6, "d": 4}
    assert "c" in turns[:1], "a short rehearsal has it too"
    assert rehearsal_turns(NAMES, {"c": 0}, 6) == list("abdabd"), "what weighs nothing is only measured"
    assert rehearsal_turns(NAMES, {"c": 3}, 5) == turns_of(5), "a shorter rehearsal is the beginning of a longer one"


def turns_of(count: int) -> list[str]:
    return rehearsal_turns(NAMES, {"c": 3}, 50)[:count]


def planned(behaviour: Path, model: Path, weights: dict[str, int] | None = None, **rest: object) -> Plan:
    one = behaviours.load(behaviour).model_copy(update={"rehearsal_weights": weights or {}})
    return prepare(Request(kind="run", base=str(model), behaviour=one, device="cpu", **rest))  # type: ignore[arg-type]


def test_a_weight_for_nothing_that_is_rehearsed_is_refused(behaviour: Path, model: Path) -> None:
    with pytest.raises(UserError, match=r"nothing named 'txt' is rehearsed. Did you mean 'text'"):
        planned(behaviour, model, {"txt": 2})
    with pytest.raises(ValidationError, match="0 or more"):
        behaviours.Behaviour.model_validate({**behaviours.load(behaviour).model_dump(), "rehearsal_weights": {"text": -1}})


def test_blocks_share_out_what_there_is_and_none_is_in_two(behaviour: Path, model: Path) -> None:
    plans = [planned(behaviour, model, block=place, blocks=4) for place in range(4)]
    for pole in ("express", "withhold"):
        ids = [{item.id for item in one.case.items[pole].items} for one in plans]
        assert [len(one) for one in ids] == [10] * 4
        assert len(set.union(*ids)) == 40
    with pytest.raises(UserError, match=r"6 blocks of at least 8 held-out items are needed, found 40"):
        planned(behaviour, model, block=0, blocks=6)
    with pytest.raises(ValidationError, match="block must be below blocks"):
        planned(behaviour, model, block=4, blocks=4)


def test_fewer_items_in_early_blocks_leave_the_last_one_untouched(behaviour: Path, model: Path) -> None:
    """What the final audit rests on: its block begins after those of all attempts, which may be smaller."""
    one = behaviours.load(behaviour)
    small = one.model_copy(update={"held_out": 8})
    early = [prepare(Request(kind="run", base=str(model), behaviour=small, device="cpu", block=b, blocks=3)) for b in (0, 1)]
    last = planned(behaviour, model, block=2, blocks=3)
    for pole in ("express", "withhold"):
        seen = {item.id for plan in early for item in plan.case.items[pole].items}
        assert len(seen) == 16 and not seen & {item.id for item in last.case.items[pole].items}


def test_a_training_seed_changes_the_training_and_no_item(behaviour: Path, model: Path) -> None:
    first, second = planned(behaviour, model), planned(behaviour, model, training_seed=7)
    assert first.seeds == [0] and second.seeds == [7]
    assert {name: one.digest for name, one in first.case.items.items()} == {
        name: one.digest for name, one in second.case.items.items()
    }


def test_bounds_leave_rows_for_the_control_of_the_final_audit() -> None:
    """It rehearses in every row, so it needs more of a source than any attempt."""
    rate, data = (1e-4, 1e-4), {"rehearsal text": 100}
    settings = Settings(dose=90, express_share=0.5, learning_rate=1e-4, rehearsal_share=0.25)
    assert Bounds(learning_rate=rate, rehearsed=("text",), most_rows=data).holds(settings)
    bounds = Bounds(learning_rate=rate, rehearsed=("text",), most_rows=data, control=True)
    assert not bounds.holds(settings)
    assert bounds.largest_dose(settings.but(dose=4), 1000) == 75, "75 and 25 of rehearsal are 100 rows"
    assert bounds.holds(settings.but(rehearsal_share=0.0)), "without rehearsal there is no such control"
