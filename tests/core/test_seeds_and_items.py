"""Seeds: an interval over seeds that share their items holds for other items too, and its p-value is its own inversion."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from palimpsest.core import stats
from palimpsest.core.estimate import Estimate, exact, unknown


def arms(rng: np.random.Generator, seeds: int, spread: float, shared: float, effect: float) -> list[list[Estimate]]:
    """Two arms on the same 24 clusters; a share of what an item adds is the same in both."""
    clusters, items = np.arange(24), rng.normal(0.0, 0.2, (3, 24))
    found = []
    for arm in range(2):
        own = 0.3 + arm * effect + shared**0.5 * items[0] + (1 - shared) ** 0.5 * items[1 + arm]
        found.append([stats.mean(own + rng.normal(0, spread), clusters, unit="points") for _ in range(seeds)])
    return found


def coverage(seeds: int, spread: float, shared: float, worlds: int) -> tuple[float, float]:
    """Return how often the interval of a difference holds it, and how often that of one arm holds its own mean."""
    held = []
    for number in range(worlds):
        one, two = arms(np.random.default_rng(number), seeds, spread, shared, 0.1)
        found = (stats.paired(two, one, "points").interval or (1.0, 1.0), stats.two_level(one, "points").interval or (1.0, 1.0))
        held.append([low <= truth <= high for (low, high), truth in zip(found, (0.1, 0.3), strict=True)])
    return tuple(np.mean(held, axis=0).tolist())


@pytest.mark.parametrize(("seeds", "spread", "shared"), [(3, 0.003, 0.0), (3, 0.05, 0.5), (16, 0.02, 0.0)])
def test_intervals_over_seeds_hold_for_other_items(seeds: int, spread: float, shared: float) -> None:
    assert min(coverage(seeds, spread, shared, 100)) >= 0.88


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 5, 16])
@pytest.mark.parametrize("spread", [0.003, 0.02, 0.1])
@pytest.mark.parametrize("shared", [0.0, 0.5, 0.95])
def test_intervals_over_seeds_hold_for_other_items_in_every_world(seeds: int, spread: float, shared: float) -> None:
    assert min(coverage(seeds, spread, shared, 1000)) >= 0.92


def test_a_difference_of_twice_what_is_detectable_is_found() -> None:
    def difference(number: int, effect: float) -> Estimate:
        one, two = arms(np.random.default_rng(number), 3, 0.02, 0.5, effect)
        return stats.paired(two, one, "points")

    smallest = difference(0, 0.1).minimum_detectable
    assert smallest is not None
    assert np.mean([difference(number, 2 * smallest).above(0.0) is True for number in range(40)]) >= 0.8


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_p_value_and_interval_never_contradict_each_other(seeds: int) -> None:
    for number in range(60):
        one, two = arms(np.random.default_rng(number), seeds, 0.03, 0.5, 0.1)
        for found in (stats.paired(two, one, "points"), stats.two_level(one, "points")):
            assert found.p_value is not None
            assert (found.p_value <= 0.05) == (found.above(0.0) is not None)


def test_without_an_error_over_items_it_is_the_t_interval() -> None:
    found = stats.two_level([exact(one, "nats") for one in (0.1, 0.2, 0.3)], "nats")
    assert found.interval == pytest.approx((0.2 - 4.3027 * 0.1 / 3**0.5, 0.2 + 4.3027 * 0.1 / 3**0.5), abs=1e-4)
    assert found.p_value == pytest.approx(0.0742, abs=1e-4)


def test_seeds_that_agree_are_known_no_better_than_their_items() -> None:
    one = stats.mean(np.linspace(-0.1, 0.7, 24), np.arange(24), unit="points")
    found = stats.two_level([one] * 3, "points")
    assert found.interval == pytest.approx(one.interval)
    assert found.p_value == pytest.approx(one.p_value, rel=1e-4)


def test_paired_seeds_cancel_what_they_share() -> None:
    shared = [0.1, 0.4, 0.7]
    before = [exact(one, "points") for one in shared]
    after = [exact(one + 0.05 + step, "points") for one, step in zip(shared, (0.0, 0.002, -0.002), strict=True)]
    found = stats.paired(after, before, "points", 0.1)
    assert found.above(0.0) is True
    assert found.equivalent is True
    assert found.minimum_detectable is not None


def test_what_cannot_be_known_is_said() -> None:
    one, few = exact(0.4, "points"), stats.mean([0.1, 0.2], [0, 1], unit="points")
    assert "1 seed, 2 are needed" in stats.paired([one], [one], "points").method
    assert stats.paired([], [], "points").value is None
    assert stats.two_level([unknown("points", 0, "it was not measured")] * 3, "points").value is None
    assert "8 are needed" in stats.two_level([few, few.model_copy(update={"value": 0.3})], "points").method
    assert "the same" in stats.two_level([one, one], "points").method


def test_a_weighted_sum_adds_errors_as_squares() -> None:
    one = stats.mean(np.linspace(-1, 1, 24), np.arange(24), unit="nats")
    found = stats.joined([(3.0, one), (-4.0, one), (2.0, exact(1.0, "nats"))], "nats")
    assert one.interval is not None
    assert found.value == pytest.approx(2.0)
    assert found.interval == pytest.approx((2.0 - 5 * one.interval[1], 2.0 + 5 * one.interval[1]))
    error = 5 * one.interval[1] / special.stdtrit(23, 0.975)
    assert found.p_value == pytest.approx(2 * special.stdtr(23, -2.0 / error))
