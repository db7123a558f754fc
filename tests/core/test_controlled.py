"""What is beyond a control, and what is chosen on one half to be told by the other."""

from __future__ import annotations

import numpy as np
import pytest

from palimpsest.core import stats
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
    found = stats.shifts(*missing, clusters, name="mass", unit="share")
    kept = clusters != 3
    assert found["mass_over_floor"] == stats.mean_difference(control[kept], after[kept], clusters[kept], unit="points")
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
        floor, values = rng.gamma(5, 0.01, (2, 96, 5, 4))
        values[:, 2, 1] += 0.05
        values[:, 0, 0] -= 0.02 * (values[:, 0, 0] > 0.02)  # less than the control is not beyond it
        marked = stats.beyond(values, floor, np.arange(96) % 24)
        assert marked[2, 1]
        assert not marked[0, 0]
        alarms += marked.sum() - 1
    assert alarms <= 6  # one false alarm in 20 worlds is what Holm's correction allows
