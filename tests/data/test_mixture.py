"""Mixture: do the shares hold exactly, in every prefix and every batch?"""

from collections import Counter
from fractions import Fraction
from itertools import chain
from math import ceil, floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.core.errors import UserError
from palimpsest.data.mixture import SOURCES, Counts, RowRef, counts_for, plan_batches

counts = st.builds(Counts, st.integers(0, 60), st.integers(0, 60), st.integers(0, 60)).filter(lambda found: found.rows > 0)
sizes = st.integers(1, 20)
seeds = st.integers(0, 2**31)


def totals_after_each_batch(plan: list[list[RowRef]]) -> list[Counter]:
    totals, seen = [], Counter()
    for batch in plan:
        seen.update(reference.source for reference in batch)
        totals.append(seen.copy())
    return totals


@given(counts, sizes, seeds)
def test_each_row_exactly_once_in_its_own_order(found: Counts, size: int, seed: int) -> None:
    plan = plan_batches(found, size, seed)
    for source in SOURCES:
        by_batch = [sorted(reference.place for reference in batch if reference.source == source) for batch in plan]
        assert list(chain(*by_batch)) == list(range(getattr(found, source)))
    assert [len(batch) for batch in plan[:-1]] == [size] * (len(plan) - 1)
    assert 1 <= len(plan[-1]) <= size


@given(counts, sizes, seeds)
def test_every_prefix_is_less_than_one_row_off(found: Counts, size: int, seed: int) -> None:
    for seen in totals_after_each_batch(plan_batches(found, size, seed)):
        for source in SOURCES:
            wanted = Fraction(seen.total() * getattr(found, source), found.rows)
            assert abs(seen[source] - wanted) < 1
        assert abs(seen["rehearsal"] - Fraction(seen.total() * found.rehearsal, found.rows)) <= Fraction(1, 2)


@given(counts, sizes, seeds)
def test_every_batch_has_its_share_rounded_up_or_down(found: Counts, size: int, seed: int) -> None:
    for batch in plan_batches(found, size, seed):
        seen = Counter(reference.source for reference in batch)
        share = Fraction(len(batch) * found.rehearsal, found.rows)
        assert floor(share) <= seen["rehearsal"] <= ceil(share) or len(batch) < size
        if found.dose:
            pole = Fraction((len(batch) - seen["rehearsal"]) * found.express, found.dose)
            assert floor(pole) <= seen["express"] <= ceil(pole)


@given(st.integers(0, 500), st.decimals(0, "0.95", places=2), st.decimals(0, 1, places=2))
def test_the_delivered_share_is_the_nearest(dose: int, share, express) -> None:
    found = counts_for(dose, float(share), float(express))
    assert found.dose == dose
    assert abs(found.rehearsal - Fraction(share) * found.rows) < Fraction(1, 2) or share == 0
    assert abs(found.express - Fraction(express) * dose) <= Fraction(1, 2)


def test_words_have_one_meaning() -> None:
    assert counts_for(20, 0.2) == (10, 10, 5)
    assert counts_for(18, 0.25) == (9, 9, 6)
    assert counts_for(200, 0.25, 1.0) == (200, 0, 67)
    assert counts_for(5, 0.0) == (3, 2, 0)
    assert counts_for(0, 0.25) == (0, 0, 0)


def test_a_share_below_one_row_a_batch_is_carried_over() -> None:
    plan = plan_batches(Counts(18, 18, 4), batch_size=4, seed=0)
    rehearsals = [sum(reference.source == "rehearsal" for reference in batch) for batch in plan]
    assert sum(rehearsals) == 4
    assert max(rehearsals) == 1
    assert all(sum(rehearsals[start : start + 5]) == 2 for start in (0, 5))


def test_a_smaller_dose_is_the_beginning_of_a_larger_one() -> None:
    def behaviour(dose: int) -> set[RowRef]:
        plan = plan_batches(counts_for(dose, 0.25), 8, seed=3)
        return {reference for batch in plan for reference in batch if reference.source != "rehearsal"}

    assert behaviour(10) < behaviour(20) < behaviour(50)


def test_rehearsal_only_has_as_many_steps() -> None:
    found = counts_for(50, 0.25)
    control = found.as_rehearsal_only()
    assert control.dose == 0
    assert [len(batch) for batch in plan_batches(control, 8, 1)] == [len(batch) for batch in plan_batches(found, 8, 1)]


def test_later_epochs_see_every_row_again_in_another_order() -> None:
    found = Counts(12, 12, 8)
    plan = plan_batches(found, 8, seed=0, epochs=2)
    first, second = plan[:4], plan[4:]
    assert first == plan_batches(found, 8, seed=0)
    assert sorted(chain(*first)) == sorted(chain(*second))
    assert [set(batch) for batch in first] != [set(batch) for batch in second]


def test_the_seed_moves_rows_inside_a_batch_only() -> None:
    found = counts_for(50, 0.25)
    one, again, other = plan_batches(found, 8, 1), plan_batches(found, 8, 1), plan_batches(found, 8, 2)
    assert one == again
    assert one != other
    assert [set(batch) for batch in one] == [set(batch) for batch in other]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [((-1, 0.25), "dose"), ((10, 1.0), "rehearsal_only"), ((10, -0.1), "rehearsal share"), ((10, 0.25, 1.5), "express share")],
)
def test_impossible_shares_are_refused(arguments, said: str) -> None:
    with pytest.raises(UserError, match=said):
        counts_for(*arguments)


def test_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(UserError, match="nothing to train on"):
        plan_batches(counts_for(0, 0.25), 8, 0)
    with pytest.raises(UserError, match="at least 1 row"):
        plan_batches(Counts(1, 1, 1), 0, 0)
