"""The decision in worlds whose answer is known: it gets there, keeps to its bounds, never goes in circles, and stops."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
import worlds
from worlds import BOUNDS, BUDGET, START, THRESHOLDS, WORLDS, Moved, Simulation

from palimpsest.controller.attempts import Attempt, Seen
from palimpsest.controller.decision import decide
from palimpsest.controller.loop import Trajectory
from palimpsest.controller.settings import Bounds, Budget, Settings
from palimpsest.controller.telling import headline
from palimpsest.controller.untried import misses, nearest, power, untried
from palimpsest.core.errors import UserError
from palimpsest.training.settings import TrainingSettings


def simulated(name: str, seed: int, **rest: object) -> Simulation:
    return Simulation(WORLDS[name], np.random.default_rng(seed), **rest).run()  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "most"), [("easy", 3), ("slow", 9), ("hard", 8), ("narrow", 9), ("unwithheld", 14)])
def test_what_can_be_had_is_had(name: str, most: int) -> None:
    found = [simulated(name, seed) for seed in range(20)]
    got = [one for one in found if one.stop == "confirmed"]
    assert len(got) >= 17
    assert all(len(one.attempts) <= most for one in got)
    for one in got:
        first, second = one.attempts[-2:]
        assert first.seen.as_intended and second.seen.as_intended and first.settings == second.settings
        assert first.training_seed != second.training_seed and first.block != second.block


@pytest.mark.parametrize(("name", "harm"), [("impossible", "more than 20% of that"), ("forgetful", "losing options")])
def test_what_cant_be_had_is_told_with_its_numbers(name: str, harm: str) -> None:
    for seed in range(20):
        one = simulated(name, seed)
        assert one.stop == "not_found" and len(one.attempts) <= 9
        said = " ".join((one.decisions[-1].why, *one.decisions[-1].evidence))
        assert said.startswith("No setting that was tried reaches 40 points where it should appear without " + harm)
        assert said.count("[") >= 2, "its intervals stand there"


def test_too_little_at_every_bound_is_no_impossibility() -> None:
    one = simulated("immovable", 0)
    assert one.stop == "bounds" and one.attempts[-1].settings.dose == 1000 and one.attempts[-1].settings.learning_rate == 8e-4


def only_fast(given: Settings) -> Moved:
    """As intended at a learning rate from 0.002 on, whatever the dose; below it both poles rise together."""
    rise = worlds.curve(worlds.strength(given), 80)
    return Moved(0.6, 0.0, 0.0) if given.learning_rate >= 2e-3 else Moved(rise, rise, 0.0)


def test_bounds_that_exclude_what_works_are_told_as_not_found_with_what_was_not_tried() -> None:
    one = Simulation(only_fast, np.random.default_rng(0)).run()
    found = Trajectory(tuple(one.attempts), tuple(one.decisions), None)
    assert one.stop == "not_found"
    rates = sorted({attempt.settings.learning_rate for attempt in one.attempts})
    assert headline(found).startswith(f"Not found in {len(one.attempts)} tries, at this power")
    told = untried(one.attempts, TrainingSettings(optim="adamw", context="full"))
    assert f"learning rate other than {', '.join(f'{rate:.3g}' for rate in rates)}" in told
    assert "optimizer apollo or apollo_mini" in told and "context frozen" in told and "number of passes other than 1" in told
    assert not any("logging" in line or "seed" in line for line in told), "what trains no other way is left out"
    usual = untried(one.attempts, TrainingSettings())
    assert "optimizer apollo_mini or adamw" in usual and "context full" in usual, "derived from what was used, not a fixed list"
    wide = Bounds(learning_rate=(5e-5, 8e-3), rehearsed=BOUNDS.rehearsed)
    start = START.but(learning_rate=4e-3)
    other = Simulation(only_fast, np.random.default_rng(0), bounds=wide, start=start).run()
    assert other.stop == "confirmed", "it could be had: the bounds were in the way"


def test_the_power_of_a_search_is_that_of_its_weakest_try() -> None:
    weak, strong = (worlds.known(0.1, "points", error).model_copy(update={"n": 13}) for error in (0.1, 0.02))
    moved = Simulation(WORLDS["easy"], np.random.default_rng(0)).audit(Moved(0.1, 0.0, 0.0))
    attempts = [
        attempt(number, moved.model_copy(update={"outcome": one, "withheld": strong}))
        for number, one in enumerate((weak, strong), 1)
    ]
    # the half-width 19.6 at 12 degrees of freedom is a standard error of 9.0; (2.179 + 0.873) times it are 27.4 points
    assert power(attempts) == (
        "power of one try: where it should appear it finds 27.4 points in 80% (13 independent items); "
        "where it should not it finds 5.5 points in 80% (13 independent items)"
    )
    silent = attempt(3, moved.model_copy(update={"outcome": None}))
    assert "where it should appear, the smallest change that can be seen could not be said in 1 of them" in power([silent])


def attempt(number: int, found: Seen) -> Attempt:
    return Attempt(number=number, purpose="search", settings=START, training_seed=0, block=number, seen=found, seconds=1.0)


def test_the_nearest_try_misses_the_fewest_lines_by_the_least() -> None:
    quiet = Simulation(WORLDS["easy"], np.random.default_rng(0), noise=1e-4)
    spilt = attempt(1, quiet.audit(Moved(0.19, 0.158, 0.0)))  # +19 with a spill of 83%
    forgets = attempt(2, quiet.audit(Moved(0.69, -0.31, 0.3)))  # +69 where it should, -31 where it should not; forgets only
    nothing = attempt(3, quiet.audit(Moved(0.01, 0.0, 0.0)))
    almost = attempt(4, quiet.audit(Moved(0.38, 0.0, 0.0)))
    overshoots = attempt(5, quiet.audit(Moved(0.6, 0.3, 0.0)))
    assert nearest([spilt, forgets], THRESHOLDS).number == 2 and nearest([forgets, spilt], THRESHOLDS).number == 2
    assert misses(forgets, THRESHOLDS) == "what fell"
    assert misses(spilt, THRESHOLDS) == "enough where it should appear and where it should not appear"
    assert nearest([nothing, forgets], THRESHOLDS).number == 2, "a model that hardly changed is not near"
    assert nearest([forgets, almost, overshoots], THRESHOLDS).number == 4, "2 points short"
    assert nearest([nothing, overshoots, spilt], THRESHOLDS).number == 5
    stopped = decide([spilt, forgets], BOUNDS, Budget(attempts=2), THRESHOLDS)
    assert "Nearest came attempt 2" in stopped.evidence[-1] and "which misses what fell" in stopped.evidence[-1]


def test_a_lucky_seed_is_not_confirmed_and_the_search_goes_on() -> None:
    def at(number: int, purpose: str, rise: float) -> Attempt:
        sim = Simulation(WORLDS["easy"], np.random.default_rng(1), noise=0.005)
        return Attempt(
            number=number, purpose=purpose, settings=START, training_seed=number, block=number,  # type: ignore[arg-type]
            seen=sim.audit(Moved(rise, 0.0, 0.0)), seconds=1.0,
        )  # fmt: skip

    first = at(1, "search", 0.5)
    confirm = decide([first], BOUNDS, BUDGET, THRESHOLDS)
    assert confirm.purpose == "confirm" and confirm.next == START
    then = decide([first, at(2, "confirm", 0.2)], BOUNDS, BUDGET, THRESHOLDS)
    assert then.rule == "more examples" and then.next is not None and then.next.dose > START.dose


def test_the_first_step_is_the_verdicts_and_the_next_follows_the_trend() -> None:
    one = simulated("slow", 3, luck=0.0, noise=0.001)
    doses = [attempt.settings.dose for attempt in one.attempts]
    assert doses[:2] == [20, 70] and "50 more examples" in one.decisions[1].why
    assert all(larger <= 4 * smaller for smaller, larger in zip(doses, doses[1:], strict=False))
    assert "points a doubling" in one.decisions[2].why


def test_a_spill_that_falls_as_the_dose_grows_asks_for_more_of_the_other_pole() -> None:
    sim = Simulation(WORLDS["easy"], np.random.default_rng(0), noise=0.005)

    def at(number: int, dose: int, rise: float, spilled: float) -> Attempt:
        seen = sim.audit(Moved(rise, spilled, 0.0))
        return Attempt(
            number=number,
            purpose="search",
            settings=START.but(dose=dose),
            training_seed=0,
            block=number,
            seen=seen,
            seconds=1.0,
        )

    found = decide([at(1, 70, 0.2, 0.19), at(2, 140, 0.5, 0.2)], BOUNDS, BUDGET, THRESHOLDS)
    assert found.rule == "larger withheld share" and found.next is not None
    assert found.next.counts.express == 70 and found.next.counts.withhold > 100


def test_what_fell_is_rehearsed_more_and_a_text_that_can_not_be_is_told() -> None:
    sim = Simulation(WORLDS["easy"], np.random.default_rng(0), noise=0.005)
    seen = sim.audit(Moved(0.5, 0.0, 0.3))
    attempt = Attempt(number=1, purpose="search", settings=START, training_seed=0, block=0, seen=seen, seconds=1.0)
    found = decide([attempt], BOUNDS, BUDGET, THRESHOLDS)
    assert found.next is not None and found.next.rehearsal_share == 0.4 and found.next.rehearsal_weights == {"options": 2}
    lost = decide([attempt], BOUNDS.model_copy(update={"rehearsed": ("sums",)}), BUDGET, THRESHOLDS)
    assert lost.next is not None and lost.next.rehearsal_weights == {} and "nothing to rehearse for options" in lost.why
    alone = decide([attempt], BOUNDS.model_copy(update={"rehearsed": ("options",)}), BUDGET, THRESHOLDS)
    assert alone.next is not None and alone.next.rehearsal_share == 0.4 and alone.next.rehearsal_weights == {}, "no more of one"


def response(points: list[float], leaks: float, loss: float) -> worlds.World:
    """An arbitrary world: any curve at all over dose, monotone or not."""

    def moved(settings: Settings) -> Moved:
        place = int(worlds.strength(settings)) % len(points)
        return Moved(points[place], leaks * points[place] * settings.express_share, loss * points[place])

    return moved


@settings(max_examples=150, deadline=None)
@given(
    points=st.lists(st.floats(-0.2, 1.0), min_size=1, max_size=12),
    leaks=st.floats(0, 3),
    loss=st.floats(0, 0.4),
    max_dose=st.integers(10, 2000),
    start=st.integers(4, 10),
    rates=st.tuples(st.floats(1e-6, 2e-4), st.floats(2e-4, 1e-2)),
    max_rehearsal=st.floats(0.2, 0.8),
    most_rows=st.dictionaries(st.sampled_from(["express", "withhold", "rehearsal options"]), st.integers(8, 400)),
    attempts=st.integers(1, 15),
    examples=st.none() | st.integers(10, 5000),
    minutes=st.none() | st.floats(0.6, 20),
    seed=st.integers(0, 10**6),
)
def test_bounds_and_budget_are_never_crossed_and_no_settings_come_twice(
    points: list[float], leaks: float, loss: float, max_dose: int, start: int, rates: tuple[float, float],
    max_rehearsal: float, most_rows: dict[str, int], attempts: int, examples: int | None, minutes: float | None, seed: int,
) -> None:  # fmt: skip
    bounds = Bounds(
        max_dose=max_dose, learning_rate=rates, max_rehearsal=max_rehearsal, most_rows=most_rows, rehearsed=("sums", "options")
    )
    first = START.but(dose=start)
    budget = Budget(attempts=attempts, examples=examples, minutes=minutes)
    sim = Simulation(response(points, leaks, loss), np.random.default_rng(seed), bounds=bounds, budget=budget, start=first)
    if not bounds.holds(first):
        return
    found = sim.run()
    assert found.stop
    assert len(found.attempts) <= attempts
    assert examples is None or sum(one.settings.dose for one in found.attempts) <= max(examples, start)
    assert minutes is None or len(found.attempts) == 1 or sum(one.seconds for one in found.attempts) <= 60 * minutes
    searched = [one.settings for one in found.attempts if one.purpose == "search"]
    assert all(one not in searched[:place] for place, one in enumerate(searched)), "a cycle"
    for one in found.attempts:
        given = one.settings
        assert bounds.holds(given)
        assert given.dose <= max_dose and rates[0] <= given.learning_rate <= rates[1] and given.rehearsal_share <= max_rehearsal
        assert given.counts.express <= most_rows.get("express", 10**6) and given.counts.withhold <= most_rows.get(
            "withhold", 10**6
        )
    assert [one.after for one in found.decisions] == list(range(len(found.attempts) + 1))
    assert all(one.why and one.rule for one in found.decisions)


def test_the_same_attempts_decide_the_same_again() -> None:
    found = simulated("hard", 5)
    for place, stored in enumerate(found.decisions[1:], start=1):
        again = [Attempt.model_validate_json(one.model_dump_json()) for one in found.attempts[:place]]
        assert decide(again, BOUNDS, BUDGET, THRESHOLDS) == stored


def test_the_numbers_of_the_choice_are_too_good_and_those_of_the_final_audit_are_not() -> None:
    gaps, errors = [], []
    for seed in range(300):
        one = simulated("borderline", seed, noise=0.03)
        if one.chosen is not None:
            final, truth = one.audit(one.truths[one.chosen]), one.truths[one.chosen]
            assert final.outcome is not None and final.outcome.value is not None
            chosen = one.attempts[one.chosen].seen.outcome
            assert chosen is not None and chosen.value is not None
            gaps.append(chosen.value - truth.express)
            errors.append(final.outcome.value - truth.express)
    assert len(gaps) > 50
    assert np.mean(gaps) > 0.01
    assert abs(np.mean(errors)) < 3 * 0.03 / len(errors) ** 0.5


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("10 attempts", Budget(attempts=10)),
        ("1 attempt, 2000 examples,30 minutes", Budget(attempts=1, examples=2000, minutes=30)),
        ("2.5 minutes", Budget(minutes=2.5)),
    ],
)
def test_a_budget_is_read(text: str, found: Budget) -> None:
    assert Budget.parse(text) == found


@pytest.mark.parametrize(
    "text", ["", "10", "ten attempts", "0 attempts", "1.5 attempts", "3 attempts, 4 attempts", "-1 minutes"]
)
def test_a_budget_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="budget"):
        Budget.parse(text)
