"""What is beyond a control, and what is chosen on one half to be told by the other."""

from __future__ import annotations

import numpy as np
import pytest

from palimpsest.core import stats
from palimpsest.core.estimate import Estimate
from palimpsest.core.seeds import numpy_stream


def test_halves_share_no_cluster_and_leave_nothing_out() -> None:
    clusters = np.arange(60) % 17
    choose, tell = stats.halves(clusters, numpy_stream(0, "halves")) or (np.array([]), np.array([]))
    assert sorted([*choose, *tell]) == list(range(60))
    assert not set(clusters[choose]) & set(clusters[tell])
    assert min(len(set(clusters[half])) for half in (choose, tell)) == 8
    assert stats.halves(np.arange(60) % 15, numpy_stream(0, "halves")) is None


def test_shifts_are_differences_on_the_items_that_have_them() -> None:
    rng = numpy_stream(1, "shifts")
    before = rng.uniform(0.2, 0.4, 40)
    after, control, clusters = before + 0.1 + rng.normal(0, 0.01, 40), before + rng.normal(0, 0.01, 40), np.arange(40) % 10
    missing = [values.copy() for values in (before, after, control)]
    missing[1][clusters == 3] = np.nan
    found = stats.shifts(missing[0], missing[1], missing[2][None], clusters, name="mass", unit="share")
    kept = clusters != 3
    over = stats.mean_difference(control[kept], after[kept], clusters[kept], unit="points")
    assert (found["mass_over_floor"].value, found["mass_over_floor"].interval) == (over.value, over.interval)
    assert found["mass_shift"].value == pytest.approx(found["mass_after"].value - found["mass_before"].value)  # type: ignore[operator]
    assert found["mass_shift"].n == 9
    assert set(stats.shifts(before, after, None, clusters, name="mass", unit="nats")) == {
        "mass_before",
        "mass_after",
        "mass_shift",
    }


def test_beyond_marks_what_exceeds_the_control_and_seldom_anything_else() -> None:
    alarms = 0
    for seed in range(40):
        rng = numpy_stream(seed, "beyond")
        values, *floors = rng.gamma(5, 0.01, (6, 96, 5, 4)) * rng.lognormal(0, 0.1, (6, 1, 5, 4))
        values[:, 2, 1] += 0.4
        values[:, 0, 0] /= 10  # less than the control is not beyond it
        marked = stats.beyond(values, np.array(floors), np.arange(96) % 24)
        assert marked[2, 1]
        assert not marked[0, 0]
        alarms += marked.sum() - 1
        assert not stats.beyond(values, np.array(floors[:1]), np.arange(96) % 24).any(), "one control run marks nothing"
    assert alarms <= 6  # one false alarm in 20 worlds is what Holm's correction allows


CLUSTERS = np.repeat(np.arange(24), 4)
BETWEEN = 0.25
"""By how much the divergences of pockets that were trained on rehearsal alone differ between seeds, as a share."""


def run_of(size: float, rng: np.random.Generator, shared: np.ndarray) -> np.ndarray:
    """Return the distances of one training run: its own size, its own likes for clusters, and items that are hard for all."""
    own = rng.lognormal(0, 0.3, 24)[CLUSTERS] * rng.gamma(8, 1 / 8, CLUSTERS.size)
    return size * rng.lognormal(0, BETWEEN) * shared * own


def world(times: float, runs: int, index: int) -> Estimate:
    """Return by how much a model that moved so many times as far as rehearsal alone does exceeds so many control runs."""
    rng = numpy_stream(index, "control runs", f"{times}")
    shared = rng.gamma(6, 1 / 6, 24)[CLUSTERS]
    floors = np.array([run_of(1.0, rng, shared) for _ in range(runs)])
    return stats.against_noise_floor(run_of(times, rng, shared), floors, CLUSTERS, unit="nats/token")


def test_one_control_run_is_told_and_never_tested() -> None:
    found = [world(1.0, 1, index) for index in range(100)]
    assert all(one.p_value is None and one.minimum_detectable is None for one in found)
    assert all("this control run alone" in one.method for one in found)
    excluded = np.mean([one.above(0.0) is not None for one in found])
    assert excluded > 0.3, "this world is one in which an interval over items alone is wrong about training"


@pytest.mark.parametrize("runs", [2, 3, 4])
def test_a_further_control_run_is_seldom_beyond_the_others(runs: int) -> None:
    found = [world(1.0, runs, index) for index in range(400)]
    raised = np.mean([one.above(0.0) is not None for one in found])
    assert raised <= 0.07
    assert abs(raised - np.mean([(one.p_value or 0) < 0.05 for one in found])) <= 0.005, "p and interval say the same"


def test_what_moved_much_further_is_found_with_three_runs_and_seldom_with_two() -> None:
    three, two = ([world(8.0, runs, index).above(0.0) for index in range(200)] for runs in (3, 2))
    assert np.mean([one is True for one in three]) >= 0.8
    assert np.mean([one is True for one in two]) < 0.6


def test_the_detectable_effect_is_found_in_four_of_five_worlds() -> None:
    """The spread between few runs is itself hardly known, so the size is that of the typical world."""
    typical = float(np.median([world(1.0, 4, index).minimum_detectable or 0 for index in range(200)]))
    found = [world(1.0 + typical, 4, index).above(0.0) is True for index in range(400)]
    assert 0.7 <= np.mean(found) <= 0.9


def test_the_same_control_twice_says_nothing_of_training() -> None:
    rng = numpy_stream(0, "twice")
    shared = np.ones(CLUSTERS.size)
    one, tuned = run_of(1.0, rng, shared), run_of(2.0, rng, shared)
    found = stats.against_noise_floor(tuned, np.array([one, one]), CLUSTERS, unit="nats/token")
    assert found.value is not None and found.interval is None and "could not say" in found.method
