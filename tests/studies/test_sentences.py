"""Sentences of the studies: each in a world that was made so that a careless one would be wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from palimpsest import study_runner
from palimpsest.core import stats
from palimpsest.core.estimate import Estimate, exact, unknown
from palimpsest.core.seeds import numpy_stream
from palimpsest.studies._claims import CLAIMS, Claims
from palimpsest.studies._family import Family
from palimpsest.studies._readings import EXPRESS, LOSS, WITHHOLD, Runs
from palimpsest.studies._study import Point, Reading, Study, Told

ABILITIES = tuple(f"ability_{number:02d}" for number in range(16))
STEPS = (-1.0, 0.0, 1.0)
"""Of three seeds around what they share."""


def compared(value: float, p_value: float | None, n: int = 3) -> Estimate:
    return Estimate(value=value, unit="points", n=n, interval=(value - 0.1, value + 0.1), method="made", p_value=p_value)


def wide(value: float, step: float = 0.0, reach: float = 0.01, unit: str = "points") -> Estimate:
    """One seed's number, whose interval over 24 clusters reaches so far."""
    one = stats.mean(np.tile([-1.0, 1.0], 12), np.arange(24), unit=unit)
    assert one.interval is not None
    spread = stats.mean(np.tile([-1.0, 1.0], 12) * reach / one.interval[1], np.arange(24), unit=unit)
    return stats.joined([(1.0, spread), (value + step, exact(1.0, unit))], unit)


def told(name: str, world: Callable[[Point, float], Mapping[str, Estimate]], **parameters: object) -> tuple[Study, Told]:
    """Return a study and what it tells of a world: what a point has, given its seed's step around what seeds share."""
    one = study_runner.load(name, parameters=parameters)
    points = one.points("default")
    return one, one.collect({point.name: Reading(world(point, STEPS[point.seed % 3])) for point in points}, "default")


def answer(account: Told, part: str) -> str:
    return next(one.answer for one in account.parts if one.name == part)


# -------------------------------------------------------------------- how many comparisons


def test_31_told_are_31_corrected() -> None:
    """The smallest p-value of 31 of which one has none: by 30 it would be sure."""
    family = Family(
        {**{f"c{n}": compared(0.3, 0.5) for n in range(29)}, "best": compared(0.3, 0.00163), "lost": compared(0.3, None)}
    )
    assert family.told == "Holm over 31 comparisons"
    assert 30 * 0.00163 < 0.05 < 31 * 0.00163
    assert family.side("best") is None
    assert family.word("best") == "more, could be chance"


def test_7_told_of_which_1_could_be_tested_are_not_1() -> None:
    family = Family({"a": compared(0.3, 0.010), **{f"c{n}": compared(0.0, None, n=2) for n in range(6)}})
    assert family.told == "Holm over 7 comparisons"
    assert family.above() == []
    assert family.word("a") == "more, could be chance"


def test_what_was_never_measured_is_no_comparison() -> None:
    family = Family({"a": compared(0.3, 0.010), "b": unknown("points", 0, "no seed has both")})
    assert family.told == "Holm over 1 comparison"
    assert family.above() == ["a"]
    assert family.word("b") == "could not say"


# -------------------------------------------------------------------- losses


def losing(where: Mapping[int, float], level: float = 0.0) -> Callable[[Point, float], Mapping[str, Estimate]]:
    """A world in which the first of 16 abilities loses so much at some doses, and nothing else loses anything."""

    def world(point: Point, step: float) -> Mapping[str, Estimate]:
        dose = point.behaviour["dose"]
        losses = {name: wide(level, 0.004 * step, 0.004, "nats/token") for name in ABILITIES}
        if dose in where:
            losses[ABILITIES[0]] = wide(where[dose], 0.024 * step, 0.02, "nats/token")
        return {
            EXPRESS.keys[0]: wide(0.6, 0.01 * step),
            WITHHOLD.keys[0]: wide(-0.1, 0.01 * step),
            **{f"{LOSS}{name}": one for name, one in losses.items()},
        }

    return world


def test_an_ability_that_is_lost_at_200_and_comes_back_at_1000_is_told() -> None:
    study, account = told("dose_response", losing({200: 0.56}))
    runs = Runs(study.points("default"), {})
    assert answer(account, "what else moves") == ("Surely lost beyond 0.05 nats a token: ability_00 at 200; at 1000 none.")
    assert "Surely lost beyond 0.05 nats a token: ability_00 at 200; at 1000 none" in account.reasons
    assert runs.lost("nowhere", 0.05).cell == "none"
    row = next(one.tables[0].rows[4] for one in account.parts if one.name == "what else moves")
    assert (row[0], row[-1]) == ("200", "ability_00")


def test_the_lost_one_has_the_interval_of_the_issue() -> None:
    found = stats.two_level([wide(0.56, 0.024 * step, 0.02, "nats/token") for step in STEPS], "nats/token")
    assert found.interval == pytest.approx((0.49, 0.62), abs=0.012)


def test_nothing_lost_is_told_as_such_only_where_it_is_known() -> None:
    _, kept = told("dose_response", losing({}))
    assert answer(kept, "what else moves") == "Surely lost beyond 0.05 nats a token: none."
    _, near = told("dose_response", losing({}, level=0.05))
    assert answer(near, "what else moves") == "Surely lost beyond 0.05 nats a token: none; not decided: 16 of 16."


def of_16(worst: float, spread: float) -> Claims:
    """Claims over a dose of 1000 with 16 abilities, of which one rises so much, known over three seeds with so much spread."""
    points = tuple(Point(name=f"s{seed}", setting="1000", seed=seed) for seed in range(3))
    results = {
        point.name: Reading(
            {
                f"{LOSS}{name}": exact((worst + spread * step) if name == ABILITIES[3] else 0.05 + 0.03 * step, "nats/token")
                for name in ABILITIES
            }
        )
        for point, step in zip(points, STEPS, strict=True)
    }
    return Claims(Runs(points, results), (1000,), str, study_runner.load("dose_response"))  # pyright: ignore[reportArgumentType]


def test_the_worst_of_16_abilities_is_tested_as_one_of_16() -> None:
    reshape = CLAIMS[3]
    alone = stats.two_level([exact(0.15 + 0.03 * step, "nats/token") for step in STEPS], "nats/token")
    assert alone.above(0.05) is True, "taken alone, after it was picked, it would be sure"
    assert of_16(0.15, 0.03).state(reshape, 1000) is None
    assert of_16(0.15, 0.03).verdict(reshape) == "not decided"
    assert of_16(0.56, 0.02).verdict(reshape) == "holds"
    assert of_16(0.56, 0.02).deciding(reshape, 1000).value == pytest.approx(0.51)


@pytest.mark.parametrize("worlds", [150, pytest.param(2000, marks=pytest.mark.slow)])
def test_of_16_abilities_at_the_margin_one_is_seldom_told_as_lost(worlds: int) -> None:
    """All lose exactly the margin; seeds share their items. Without a family, one is told in about a third."""
    alarms, alone = [], []
    points = tuple(Point(name=f"s{seed}", setting="at", seed=seed) for seed in range(3))
    for number in range(worlds):
        rng = np.random.default_rng(number)
        items = rng.normal(0.0, 0.02, (16, 24))
        results = {
            point.name: Reading(
                {
                    f"{LOSS}{name}": stats.mean(0.05 + own + rng.normal(0, 0.01), np.arange(24), unit="nats/token")
                    for name, own in zip(ABILITIES, items, strict=True)
                }
            )
            for point in points
        }
        losses = Runs(points, results).lost("at", 0.05)
        alarms.append(bool(losses.lost))
        alone.append(any(one.above(0.0) is True for one in losses.beyond.asked.values()))
    assert np.mean(alarms) <= 0.05 + 2 * (0.05 * 0.95 / worlds) ** 0.5
    assert np.mean(alone) > 0.1


# -------------------------------------------------------------------- claims


def poles(express: float, withhold: float) -> Callable[[Point, float], Mapping[str, Estimate]]:
    def world(point: Point, step: float) -> Mapping[str, Estimate]:
        return {
            EXPRESS.keys[0]: wide(express, 0.01 * step),
            WITHHOLD.keys[0]: wide(withhold, 0.01 * step),
            f"{LOSS}text": wide(0.0, 0.001 * step, 0.001, "nats/token"),
        }

    return world


def test_10_find_it_says_that_the_other_pole_rises_as_much() -> None:
    _, account = told("dose_response", poles(0.36, 0.36))
    assert account.reasons[0].startswith("10 find: holds, but it rises where it should not as well (+36")
    assert "Holds as said: none" in answer(account, "four claims")
    assert "10 find: holds, but it rises" in answer(account, "four claims")
    assert account.reasons[1].startswith("50 smooth: fails")
    _, apart = told("dose_response", poles(0.36, -0.1))
    assert apart.reasons[0] == "10 find: holds"
    _, between = told("dose_response", poles(0.36, 0.072))
    assert between.reasons[0] == "10 find: holds, whether only where it should is not decided"


def test_the_four_claims_are_corrected_together() -> None:
    """At 10 the rise is past its line at p = .03: alone it holds, among four it is not decided."""
    study = study_runner.load("dose_response")
    points = study.points("default")
    results = {}
    for point in points:
        step = STEPS[point.seed % 3]
        rise = 0.12 + 0.03 * step if point.behaviour["dose"] == 10 else 0.3 + 0.1 * step
        results[point.name] = Reading(
            {EXPRESS.keys[0]: exact(rise, "points"), WITHHOLD.keys[0]: exact(0.05 + 0.1 * step, "points")}
        )
    claims = Claims(Runs(points, results), study.trained, lambda dose: f"house, both poles, {dose}", study)  # pyright: ignore
    find = CLAIMS[0]
    p_value = claims.deciding(find, 10).p_value
    assert p_value is not None
    assert 0.0125 < p_value < 0.05
    assert claims.verdict(find) == "not decided"


# -------------------------------------------------------------------- one seed left


@pytest.mark.parametrize("name", ["dose_response", "learning_rate", "passes", "rehearsal"])
def test_with_one_seed_left_it_is_inconclusive_and_not_no_difference(name: str) -> None:
    one = study_runner.load(name)
    results = one.simulate(numpy_stream(0, "one seed left"))
    left = {point.name: results[point.name] for point in one.points("default") if point.seed == one.seed}
    account = one.collect(left, "default")
    said = " ".join((account.headline, *account.reasons, *(part.answer for part in account.parts)))
    assert "surely lost" not in said.lower()
    for wrong in ("no difference", "No difference", "unchanged", "At no dose do", "none"):
        assert wrong not in said.replace("Holds as said: none", ""), said
    assert "1 seed, 2 are needed" in said
    assert "nconclusive" in said


@pytest.mark.parametrize("name", ["learning_rate", "passes"])
def test_the_headline_of_one_seed_is_inconclusive(name: str) -> None:
    one = study_runner.load(name, parameters={"seeds": 1})
    account = one.collect(one.simulate(numpy_stream(1, "one seed")), "default")
    assert "nconclusive: 1 seed, 2 are needed" in account.headline


# -------------------------------------------------------------------- learning rates


def rate_state(express: float, withhold: float, losses: Mapping[str, tuple[float, float]]) -> str:
    """Return the state of a rate, given each loss and its spread over three seeds."""
    points = tuple(Point(name=f"s{seed}", setting="at", seed=seed) for seed in range(3))
    results = {
        point.name: Reading(
            {
                EXPRESS.keys[0]: wide(express, 0.01 * step),
                WITHHOLD.keys[0]: wide(withhold, 0.01 * step),
                **{f"{LOSS}{name}": exact(loss + spread * step, "nats/token") for name, (loss, spread) in losses.items()},
            }
        )
        for point, step in zip(points, STEPS, strict=True)
    }
    study = study_runner.load("learning_rate")
    return study.state(Runs(points, results), "at")  # pyright: ignore[reportAttributeAccessIssue]


def test_a_rate_is_placed_by_all_losses_together() -> None:
    kept, near, open_ = (0.0, 0.002), (0.13, 0.03), (0.05, 0.03)
    assert rate_state(0.6, -0.1, dict.fromkeys(ABILITIES, kept)) == "as intended"
    assert rate_state(0.6, -0.1, {"text": near}) == "too much"
    assert rate_state(0.6, -0.1, {**dict.fromkeys(ABILITIES, open_), "text": near}) == "not decided"
    assert rate_state(0.6, -0.1, {**dict.fromkeys(ABILITIES, kept), "text": (0.56, 0.024)}) == "too much"
    assert rate_state(0.6, 0.5, {"text": kept}) == "too much"
    assert rate_state(0.2, 0.3, {"text": kept}) == "too much", "+30 where it should not is not too little"
    assert rate_state(0.05, 0.03, {"text": kept}) == "too little"


def test_an_optimizer_is_not_better_for_having_its_best_rate_picked() -> None:
    """All rates of all optimizers are the same but for noise; the one with a single rate has nothing to pick from."""
    study = study_runner.load("learning_rate", parameters={"seeds": 5})
    values, alarms = [], []
    for number in range(40):
        rng = np.random.default_rng(number)
        results = {
            point.name: Reading({EXPRESS.keys[0]: exact(0.5 + rng.normal(0, 0.05), "points")})
            for point in study.points("default")
            if not (point.training["optim"] == "apollo" and point.training["learning_rate"] != 0.0002)
        }
        account = study.collect(results, "default")
        one = account.estimates["optimizer:adamw:express"]
        values.append(one.value)
        alarms.append(one.above(0.0) is not None)
    error = float(np.std(values) / len(values) ** 0.5)
    assert abs(float(np.mean(values))) < 3 * error
    assert np.mean(alarms) <= 0.2
