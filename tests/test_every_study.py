"""House rules that every study in the folder is held to; a new study needs no edit here."""

from __future__ import annotations

import re

import numpy as np
import pytest

from palimpsest import study_runner
from palimpsest.core import stats
from palimpsest.core.errors import UserError
from palimpsest.core.seeds import numpy_stream
from palimpsest.report import render_account
from palimpsest.store.account import Account
from palimpsest.studies import _study as studies
from palimpsest.studies._study import Study, Told

SECTIONS = ("Question:", "Method:", "Reads:", "Null:", "Limits:", "Reference:")
NAMES = studies.names()
MOST_RUNS = 120
"""With the embedded model a run is about 20 s on one core, so this many end within the hour on two."""


def world(one: Study, number: int) -> Told:
    return one.collect(one.simulate(numpy_stream(number, "study worlds", type(one).__name__)), "default")


def coverage(name: str, worlds: int) -> dict[str, tuple[float, int]]:
    """Return, for each estimate whose truth is known, the share of worlds that hold it, and how many could be told."""
    one = study_runner.load(name)
    truth = one.truth()
    held: dict[str, list[bool]] = {key: [] for key in truth}
    for number in range(worlds):
        told = world(one, number)
        for key, value in truth.items():
            interval = told.estimates[key].interval
            if interval is not None:
                held[key].append(interval[0] <= value <= interval[1])
    return {key: (float(np.mean(values)) if values else 0.0, len(values)) for key, values in held.items()}


def test_there_are_studies() -> None:
    assert {"dose_response", "learning_rate", "passes", "rehearsal"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_docstring_has_every_section(name: str) -> None:
    text = studies.find(name).__doc__ or ""
    missing = [section for section in SECTIONS if section not in text]
    assert not missing, f"{name} lacks {missing}"
    assert all(study_runner.load(name).sections().values())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("grid", studies.GRIDS)
def test_points_are_runs_that_can_be_asked_for(name: str, grid: studies.Grid) -> None:
    one = study_runner.load(name)
    points = one.points(grid)
    assert len({point.name for point in points}) == len(points) == len(set(points))
    assert grid == "full" or len(points) <= MOST_RUNS
    before: set[str] = set()
    for point in points:
        assert set(point.needs) <= before, f"{point.name} comes before what it needs"
        before.add(point.name)
        request = one.request(point)
        assert request.training_seed == point.seed
        assert request.seed == one.seed
        assert request.seeds == 1
        assert request.audits
    settings = {point.setting for point in points}
    assert len(points) == len(settings) * one.seeds, "every setting has every seed"


@pytest.mark.parametrize("name", NAMES)
def test_what_is_primary_is_estimated_and_counted(name: str) -> None:
    one = study_runner.load(name)
    told = world(one, 0)
    for beginning in one.primary:
        assert any(key.startswith(beginning) for key in told.estimates), f"nothing begins with {beginning}"
    assert set(one.truth()) <= set(told.estimates)
    assert any(key.startswith(one.primary) for key in one.truth()) or name == "learning_rate"


@pytest.mark.parametrize("name", NAMES)
def test_intervals_hold_the_truth(name: str) -> None:
    for key, (share, count) in coverage(name, 20).items():
        assert count >= 18, f"{name}.{key} can be told in {count} of 20 worlds"
        assert share >= 0.80, f"{name}.{key} holds the truth in {share:.1%} of {count} worlds"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_intervals_hold_the_truth_about_as_often_as_they_say(name: str) -> None:
    for key, (share, count) in coverage(name, 400).items():
        assert share >= 0.92, f"{name}.{key} holds the truth in {share:.1%} of {count} worlds"


@pytest.mark.parametrize("name", NAMES)
def test_same_results_same_bytes_and_the_page_draws(name: str) -> None:
    one = study_runner.load(name)
    results = one.simulate(numpy_stream(3, "bytes"))
    told, again = (one.collect(results, "default") for _ in range(2))
    assert told == again
    account = Account(
        kind="study",
        title=name,
        question=one.sections()["Question"],
        label="described",
        headline=told.headline,
        sure=told.sure,
        reasons=told.reasons,
        parts=told.parts,
        members=(),
        estimates=told.estimates,
        provenance={},
        specification={},
    )
    stored = Account.model_validate_json(account.model_dump_json())
    assert stored == account
    page = render_account(stored)
    assert "could not be drawn" not in page
    assert page == render_account(account)


@pytest.mark.parametrize("name", NAMES)
def test_any_run_may_be_missing(name: str) -> None:
    """Whatever failed, the rest is told; what is then not known is not a number."""
    one = study_runner.load(name)
    results = one.simulate(numpy_stream(4, "missing"))
    order = list(results)
    for lost in (order[0], order[len(order) // 2], order[-1]):
        assert one.collect({key: value for key, value in results.items() if key != lost}, "default").headline
    assert one.collect({order[0]: results[order[0]]}, "default").headline
    assert one.collect(results, "full").headline, "of the full grid nothing but the default one is there"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seeds", [1, 2])
def test_with_few_seeds_it_says_less(name: str, seeds: int) -> None:
    one = study_runner.load(name, parameters={"seeds": seeds})
    told = world(one, 0)
    compared = [each for key, each in told.estimates.items() if key.startswith(one.primary)]
    assert compared
    if seeds == 1:
        assert all(each.interval is None for each in compared)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lost", [0, 1, 5])
def test_the_number_of_comparisons_that_is_told_is_the_one_that_was_corrected_for(
    name: str, lost: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where runs are missing, so that some comparisons can't be tested."""
    corrected: list[dict[str, float | None]] = []

    def spy(p_values: dict[str, float | None]) -> dict[str, bool]:
        corrected.append(dict(p_values))
        return holm(p_values)

    one = study_runner.load(name)
    results = one.simulate(numpy_stream(5, "counted"))
    kept = dict(list(results.items())[lost * len(results) // 6 :]) if lost else results
    holm = stats.holm
    monkeypatch.setattr(stats, "holm", spy)
    told = one.collect(kept, "default")
    count = int(re.findall(r"Holm over (\d+) comparison", told.sure)[0])
    own = [each for each in corrected if each and all(key.startswith(one.primary) for key in each)]
    assert {len(each) for each in own} <= {count}
    assert count == 0 or own
    assert all(p is not None for each in corrected for p in each.values()), "what could not be tested counts as well"
    assert count == sum(each.n > 0 for key, each in told.estimates.items() if key.startswith(one.primary))


@pytest.mark.parametrize("name", NAMES)
def test_a_parameter_that_is_not_there_is_refused_with_the_nearest(name: str) -> None:
    with pytest.raises(UserError, match="Did you mean 'seeds'"):
        study_runner.load(name, parameters={"sedes": 3})
    with pytest.raises(UserError, match="seeds"):
        study_runner.load(name, parameters={"seeds": 0})
