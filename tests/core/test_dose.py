"""Doses: known curves are found again, what can't be said is not, and intervals hold the truth with three seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from palimpsest.core import stats
from palimpsest.core.estimate import Estimate, exact

DOSES = (0, 10, 20, 50, 100, 200, 500, 1000)


def curve(half: float, top: float = 0.65, slope: float = 2.5) -> list[float]:
    return [0.0, *(top / (1 + (half / dose) ** slope) for dose in DOSES[1:])]


def world(rng: np.random.Generator, items: float, seeds: float) -> list[list[Estimate]]:
    """Three seeds whose half-way doses scatter, read on the same 24 templates, each with a half-way dose of its own."""
    templates = rng.normal(0.0, items, 24)
    found = []
    for _ in range(3):
        shift = rng.normal(0.0, seeds)
        row = [exact(0.0, "points")]
        for dose in DOSES[1:]:
            values = 0.65 / (1 + (80 * np.exp(templates + shift) / dose) ** 2.5) + rng.normal(0.0, 0.02, 24)
            row.append(stats.mean(values, np.arange(24), unit="points"))
        found.append(row)
    return found


@pytest.mark.parametrize("half", [25.0, 80.0, 300.0])
@pytest.mark.parametrize("top", [0.65, -0.3])
def test_a_known_curve_is_found_again(half: float, top: float) -> None:
    fitted = stats.logistic(DOSES, curve(half, top))
    assert fitted.bends
    assert fitted.half == pytest.approx(half, rel=0.03)
    assert fitted.top == pytest.approx(top, rel=0.03)
    assert fitted.at(np.array([0.0])) == 0.0, "a change from the base is 0 at dose 0"
    assert fitted.at(np.array(DOSES)) == pytest.approx(curve(half, top), abs=0.01)


@pytest.mark.parametrize("first", [0.05, -0.2])
def test_a_fitted_curve_begins_at_0_whatever_the_values_are(first: float) -> None:
    fitted = stats.logistic(DOSES, [0.0, *np.maximum(curve(80.0)[1:], first)])
    assert fitted.at(np.array([0.0])).tolist() == [0.0]


@pytest.mark.parametrize("values", [curve(5000.0), [0.0] * 8, [float(np.log1p(dose)) for dose in DOSES]])
def test_a_curve_that_does_not_bend_is_not_told(values: list[float]) -> None:
    found = stats.half_dose(DOSES, [[exact(value, "points") for value in values]] * 3)
    assert found.value is None
    assert "does not bend" in found.method


def test_too_few_doses_or_seeds_are_told() -> None:
    row = [exact(value, "points") for value in curve(80.0)]
    assert "4 doses" in stats.half_dose(DOSES[:3], [row[:3]] * 3).method
    assert "2 are needed" in stats.half_dose(DOSES, [row]).method


def coverage(items: float, seeds: float, worlds: int) -> float:
    sample = np.random.default_rng(0).normal(0.0, items, 50_000)
    truth = stats.logistic(DOSES, [0.0, *(float(np.mean(0.65 / (1 + (80 * np.exp(sample) / d) ** 2.5))) for d in DOSES[1:])])
    held = []
    for number in range(worlds):
        found = stats.half_dose(DOSES, world(np.random.default_rng(number), items, seeds))
        assert found.interval is not None
        held.append(found.interval[0] <= truth.half <= found.interval[1])
    return float(np.mean(held))


@pytest.mark.parametrize(("items", "seeds"), [(0.3, 0.15), (0.05, 0.3)])
def test_half_dose_holds_the_truth_with_three_seeds(items: float, seeds: float) -> None:
    assert coverage(items, seeds, 60) >= 0.87


@pytest.mark.slow
@pytest.mark.parametrize(("items", "seeds"), [(0.3, 0.15), (0.1, 0.3), (0.3, 0.02), (0.02, 0.3)])
def test_half_dose_holds_the_truth_about_as_often_as_it_says(items: float, seeds: float) -> None:
    assert coverage(items, seeds, 400) >= 0.93


SMALL = (24, 24, 8, 24, 8, 24, 24)
"""Templates at each dose."""


def steep(rng: np.random.Generator, half: float, slope: float, seeds: int, counts: tuple[int, ...]) -> list[list[Estimate]]:
    """Seeds on the same items, each dose's with an error of its own, fewer at some doses; the rise lies in one gap or two."""
    templates, found = rng.normal(0.0, 0.05, 24), []
    items = rng.normal(0.0, 0.05, (len(DOSES), 24))
    for _ in range(seeds):
        halves = half * np.exp(templates + rng.normal(0.0, 0.1))
        row = [exact(0.0, "points")]
        for dose, count, own in zip(DOSES[1:], counts, items, strict=False):
            values = 0.65 / (1 + np.minimum((halves / dose) ** slope, 1e30)) + own
            row.append(stats.mean(values[:count], np.arange(count), unit="points"))
        found.append(row)
    return found


def steep_coverage(half: float, slope: float, seeds: int, counts: tuple[int, ...], worlds: int) -> tuple[float, float, float]:
    """Return how often the truth is held, how often it is told at all, and over how many doublings the interval goes."""
    intervals = [
        stats.half_dose(DOSES, steep(np.random.default_rng(number), half, slope, seeds, counts)).interval
        for number in range(worlds)
    ]
    known = [one for one in intervals if one is not None]
    held = np.mean([low <= half <= high for low, high in known])
    return float(held), len(known) / worlds, float(np.median([math.log2(high / low) for low, high in known]))


@pytest.mark.parametrize(("half", "slope", "seeds"), [(70.0, 60.0, 3), (101.0, 60.0, 5), (80.0, 10.0, 3)])
def test_a_step_between_two_doses_is_anywhere_between_them(half: float, slope: float, seeds: int) -> None:
    held, told, wide = steep_coverage(half, slope, seeds, SMALL, 30)
    assert held >= 0.86
    assert told >= 0.95
    assert wide < 2.5, "from one dose of the grid to the next it is 1.0 to 1.3"


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize(("half", "slope", "counts"), [(55.0, 60.0, SMALL), (101.0, 60.0, (24,) * 7), (80.0, 10.0, SMALL)])
def test_half_dose_holds_the_truth_where_the_rise_is_steep(
    half: float, slope: float, seeds: int, counts: tuple[int, ...]
) -> None:
    held, told, wide = steep_coverage(half, slope, seeds, counts, 400)
    assert held >= 0.92
    assert told >= 0.95
    assert wide < {2: 8.0, 3: 2.5, 5: 1.6}[seeds]


def test_a_step_without_any_noise_is_told_as_between_two_doses() -> None:
    rows = [[exact(value, "points") for value in (0.0, 0.0, 0.0, 0.0, 0.6, 0.6, 0.6, 0.6)]] * 3
    found = stats.half_dose(DOSES, rows)
    assert found.interval is not None
    assert found.interval[0] <= 50.0
    assert found.interval[1] >= 100.0
    assert found.interval[0] > 40.0
    assert found.interval[1] < 125.0


def over(values: list[list[float]]) -> list[Estimate]:
    return [stats.across_seeds([exact(value, "points") for value in column]) for column in zip(*values, strict=True)]


def test_threshold_is_between_the_doses_that_are_decided() -> None:
    rng = np.random.default_rng(1)
    seeds = [[value + rng.normal(0, 0.005) if value else 0.0 for value in curve(80.0)] for _ in range(3)]
    found = stats.threshold(DOSES, over(seeds), 0.40)
    truth = 80.0 * (0.40 / 0.25) ** (1 / 2.5)
    assert found.interval == (50.0, 200.0) or found.interval == (50.0, 100.0)
    assert found.value == pytest.approx(truth, rel=0.08)


def test_threshold_that_is_not_reached_is_not_told() -> None:
    seeds = [[value + step for value in curve(80.0, top=0.2)] for step in (0.0, 0.001, 0.002)]
    assert stats.threshold(DOSES, over(seeds), 0.40).value is None


def test_threshold_holds_the_truth() -> None:
    truth, held = 80.0 * (0.40 / 0.25) ** (1 / 2.5), []
    for number in range(200):
        rng = np.random.default_rng(number)
        seeds = [[0.0, *np.add(curve(80.0 * math.exp(rng.normal(0, 0.2)))[1:], rng.normal(0, 0.01, 7))] for _ in range(3)]
        found = stats.threshold(DOSES, over(seeds), 0.40)
        if found.interval is not None:
            held.append(found.interval[0] <= truth <= found.interval[1])
    assert len(held) > 150
    assert np.mean(held) >= 0.93


def test_later_finds_a_doubling_and_its_sign() -> None:
    rng = np.random.default_rng(2)

    def seeds(half: float) -> list[list[Estimate]]:
        return [points(curve(half * math.exp(rng.normal(0, 0.03)))) for _ in range(3)]

    late = stats.later(DOSES, seeds(160.0), seeds(80.0))
    assert late.above(0.0) is True
    assert late.value == pytest.approx(1.0, abs=0.2)
    assert stats.later(DOSES, seeds(40.0), seeds(80.0)).above(0.0) is False
    reference = points(curve(80.0))
    assert "not told from none" in stats.later(DOSES, [reference, points(curve(80.0, -1.0))], [reference] * 2).method
    scattered = [points([0.0] * 7 + [last]) for last in (0.1, 0.9, 0.2)]
    assert "not told from none" in stats.later(DOSES, scattered, [reference] * 3).method
    assert stats.later(DOSES, [points([0.0] * 8)] * 3, [reference] * 3).value is None


def test_of_two_steps_in_the_same_gap_neither_is_earlier() -> None:
    rng = np.random.default_rng(3)

    def seeds(first: float) -> list[list[Estimate]]:
        return [points([0.0] * 4 + [first + rng.normal(0, 1e-4), 0.6, 0.6, 0.6]) for _ in range(3)]

    found = stats.later(DOSES, seeds(0.6), seeds(0.5))
    assert found.above(0.0) is None, "their steps may be anywhere between 50 and 100"


def points(values: list[float]) -> list[Estimate]:
    return [exact(value, "points") for value in values]


def test_where_a_curve_crosses() -> None:
    assert stats.crossing_dose((0, 10, 100), (0.0, 0.5, 1.0), 0.5) == pytest.approx(10.0)
    assert stats.crossing_dose((0, 10, 100), (0.0, 0.2, 0.3), 0.5) is None
    assert stats.crossing_dose((0, 10), (0.7, 0.8), 0.5) == 0.0
