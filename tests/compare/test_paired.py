"""Paired: known answers, and worlds whose true difference is known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palimpsest.core import stats
from palimpsest.core.errors import UserError
from palimpsest.core.seeds import numpy_stream
from palimpsest.evaluations import account
from palimpsest.evaluations.matching import match
from palimpsest.evaluations.paired import Compared, Options, compare
from palimpsest.evaluations.source import Answer, Metric, Score, TaskLog
from tests.core.stats_worlds import CLUSTERS, LABELS, noise, outcomes

WORLDS = 120


def task(
    values: np.ndarray, labels: np.ndarray | None = None, name: str = "t", weights: np.ndarray | None = None, **metric: Any
) -> TaskLog:
    """Return a task of one metric ``m``; values have shape (items,) or (items, epochs)."""
    epochs = values[:, None] if values.ndim == 1 else values
    weights = np.ones(len(values)) if weights is None else weights
    answers = [
        Answer(
            key=str(place), content="", epoch=epoch, scores={"m": Score(float(value), float(weights[place]))}, prompt="",
            answer="", cluster="" if labels is None else str(labels[place]),
        )
        for place, row in enumerate(epochs)
        for epoch, value in enumerate(row, start=1)
    ]  # fmt: skip
    return TaskLog(name, "model", Path("log"), {"m": Metric("m", **{"better": "higher", **metric})}, tuple(answers))


def compared(
    before: np.ndarray, after: np.ndarray, labels: np.ndarray | None = None, options: Options | None = None, **more: Any
) -> Compared:
    (found,) = compare([match(task(before, labels, **more), task(after, labels, **more))], options or Options())
    return found


def test_the_number_equals_a_hand_computation() -> None:
    before = np.array([0.1, 0.4, 0.3, 0.9, 0.5, 0.6, 0.6, 0.7, 0.8, 0.3])
    after = np.array([0.32, 0.22, 0.42, 0.82, 0.82, 0.32, 0.62, 0.72, 0.87, 0.27])
    found = compared(before, after)
    difference = after - before  # as far above their mean as below: no skewness, so that the interval is that of t
    error = difference.std(ddof=1) / math.sqrt(10)
    reach = 2.2621571627 * error  # Student's t with 9 degrees of freedom
    assert found.change.value == pytest.approx(0.02) == pytest.approx(difference.mean())
    assert found.change.interval == pytest.approx((difference.mean() - reach, difference.mean() + reach))
    assert found.change.minimum_detectable == pytest.approx((2.2621571627 + 0.8834038589) * error, rel=0.02)
    assert (found.worse, found.improved, found.exact, found.state) == (4, 6, None, "open")


def test_flips_have_the_exact_mcnemar_test() -> None:
    before, after = np.array([1.0] * 10 + [0.0] * 10), np.array([1.0] * 2 + [0.0] * 8 + [1.0] * 1 + [0.0] * 9)
    found = compared(before, after)
    assert (found.worse, found.improved) == (8, 1) and found.change.value == pytest.approx(-7 / 20)
    assert found.exact == pytest.approx(2 * (1 + 9) / 2**9)


def test_a_perplexity_is_weighted_by_its_words() -> None:
    rng = numpy_stream(0, "weights")
    words = rng.integers(5, 200, 40).astype(float)
    before, after = rng.normal(3, 1, 40), rng.normal(3.2, 1, 40)
    found = compared(before, after, weights=words, better="lower", unit="nats/word")
    assert found.before.value == pytest.approx((before * words).sum() / words.sum())
    assert found.change.value == pytest.approx(((after - before) * words).sum() / words.sum())


@pytest.mark.parametrize("effect", [0.0, 0.3])
def test_the_interval_of_a_weighted_mean_holds_the_truth(effect: float) -> None:
    held = 0
    for world in range(WORLDS):
        rng = numpy_stream(3, "weighted", world)
        words = np.exp(rng.normal(3, 0.8, 80))
        change = compared(np.zeros(80), effect + rng.normal(0, 1, 80) / np.sqrt(words / 20), weights=words, unit="nats").change
        assert change.interval is not None
        held += change.interval[0] <= effect <= change.interval[1]
    assert held / WORLDS >= 0.88


@pytest.mark.parametrize(("effect", "binary"), [(0.0, True), (-0.15, True), (0.0, False), (-0.15, False)])
def test_intervals_hold_the_truth_where_items_come_in_clusters(effect: float, binary: bool) -> None:
    held = found = 0
    for world in range(WORLDS):
        rng = numpy_stream(5, "clustered", world)
        if binary:
            before, after = outcomes(rng, 0.6, 0.6 + effect)
        else:
            before = np.clip(0.6 + 0.1 * rng.normal(size=LABELS.size), 0, 1)
            after = before + effect + 0.15 * noise(rng)
        change = compared(before, after, LABELS, unit="share").change
        assert change.interval is not None and change.n == CLUSTERS
        held += change.interval[0] <= effect <= change.interval[1]
        found += change.above(0.0) is False
    assert held / WORLDS >= 0.88
    assert found / WORLDS >= 0.6 if effect else found / WORLDS <= 0.06


def test_items_taken_as_independent_would_cry_wolf() -> None:
    """What the cluster is for: the same worlds, whose items move together, with every item as its own cluster."""
    alarms = {"clusters": 0, "items": 0}
    for world in range(WORLDS):
        rng = numpy_stream(6, "wolf", world)
        before = 0.1 * rng.normal(size=LABELS.size)
        after = before + noise(rng)
        for name, labels in (("clusters", LABELS), ("items", None)):
            alarms[name] += compared(before, after, labels, unit="").change.above(0.0) is not None
    assert alarms["clusters"] / WORLDS <= 0.09 < 0.15 <= alarms["items"] / WORLDS


def test_epochs_reduce_the_noise_of_resampling_and_are_not_items() -> None:
    rng = numpy_stream(2, "epochs")
    ability = rng.uniform(0.2, 0.8, 60)
    one, many = (
        compared((rng.random((60, k)) < ability[:, None]) * 1.0, (rng.random((60, k)) < ability[:, None]) * 1.0)
        for k in (1, 25)
    )
    assert one.change.n == many.change.n == 60
    width = [high - low for low, high in (one.change.interval or (0, 0), many.change.interval or (0, 0))]
    assert width[1] < width[0] / 3  # by the square root of 25, less what Bonett and Price add


@pytest.mark.parametrize("binary", [True, False])
def test_a_loss_that_equals_the_margin_is_seldom_called_a_regression(binary: bool) -> None:
    called = decided = 0
    for world in range(WORLDS):
        rng = numpy_stream(8, "margin", world)
        if binary:
            (before, after), (_, far) = outcomes(rng, 0.7, 0.65), outcomes(rng, 0.7, 0.35)
        else:
            before = rng.uniform(0.6, 0.9, LABELS.size)
            after, far = (before - loss + 0.1 * noise(rng) for loss in (0.05, 0.35))
        called += compared(before, after, LABELS, unit="share").state == "regression"
        decided += compared(before, far, LABELS, unit="share").state == "regression"
    assert called / WORLDS <= 0.05 and decided / WORLDS >= 0.9


def test_holm_goes_over_all_tasks_together() -> None:
    rng = numpy_stream(9, "holm")
    tasks = [(rng.normal(size=40), rng.normal(size=40)) for _ in range(30)]
    found = compare(
        [
            match(task(one, name=f"t{place}", unit=""), task(two, name=f"t{place}", unit=""))
            for place, (one, two) in enumerate(tasks)
        ],
        Options(),
    )
    p_values = {one.task: one.change.p_value for one in found}
    assert {one.task: one.holds for one in found} == stats.holm(p_values)
    assert any(p is not None and p < 0.05 for p in p_values.values()) and not any(one.holds for one in found)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.floats(0.01, 0.4))
def test_beyond_the_margin_is_the_inversion_of_the_interval(seed: int, binary: bool, margin: float) -> None:
    rng = numpy_stream(seed, "inversion")
    before, after = rng.random(50), rng.random(50) - rng.uniform(-0.5, 0.5)
    if binary:
        before, after = (before < 0.6) * 1.0, (after < 0.4) * 1.0
    labels = np.arange(50)
    one = (stats.rate_difference if binary else stats.mean_difference)(before, after, labels, unit="points")
    for side in (-1, 1):
        p = stats.beyond_margin(before, after, labels, margin=margin, side=side)
        assert p is not None and one.interval is not None
        outside = side * one.interval[0 if side > 0 else 1] > margin
        assert (p <= 0.025) == outside or abs(p - 0.025) < 1e-6


def test_under_eight_clusters_it_could_not_say() -> None:
    found = compared(np.ones(40), np.zeros(40), np.arange(40) % 7)
    assert found.state == "unknown" and found.change.interval is None and "7 clusters, 8 are needed" in found.change.method


def test_a_model_against_itself_is_identical() -> None:
    values = numpy_stream(1, "same").random(30)
    assert compared(values, values).state == "identical"
    assert compared((values > 0.5) * 1.0, (values > 0.5) * 1.0).state == "identical"


@pytest.mark.parametrize(("better", "state"), [("higher", "regression"), ("lower", "improvement"), (None, "moved")])
def test_which_direction_is_worse(better: Any, state: str) -> None:
    rng = numpy_stream(4, "direction")
    before = rng.uniform(0.7, 0.9, 40)
    after = before - 0.4 + rng.normal(0, 0.05, 40)
    assert compared(before, after, better=better).state == state
    wanted = Options.given(better={"m": "lower"})
    assert compared(before, after, better=better, options=wanted).state == "improvement"


def test_without_a_margin_nothing_is_a_regression() -> None:
    rng = numpy_stream(4, "no margin")
    before = rng.normal(30, 1, 40)
    after = before + 5 + rng.normal(0, 0.1, 40)
    assert compared(before, after, better="lower", unit="nats").state == "worse"
    stated = Options.given(margin={"m": 1.0})
    assert compared(before, after, better="lower", unit="nats", options=stated).state == "regression"
    assert compared(before, before + 0.01, better="lower", unit="nats", options=stated).state == "unknown"  # no spread


@pytest.mark.parametrize("margin", [0, -1, 2, float("nan"), {"m": 0}])
def test_a_margin_must_make_sense(margin: Any) -> None:
    with pytest.raises(UserError, match="--margin"):
        Options.given(margin=margin)


def test_what_is_named_must_be_there() -> None:
    one = task(np.zeros(9))
    with pytest.raises(UserError) as told:
        compare([match(one, one)], Options.given(margin={"acx": 0.1}, better={"n": "lower"}, metrics=["q"]))
    assert str(told.value).count("there is no metric") == 3


def test_a_change_of_none_is_no_fall() -> None:
    """Items that moved both ways, as far: the sides read alike, so nothing rose or fell."""
    before = np.tile([1.0, 0.0, 0.0, 0.0], 8)
    found = compared(before, np.tile([0.0, 1.0, 0.0, 0.0], 8), unit="share")
    assert found.change.value == 0.0 and found.state != "identical"
    assert "m stayed at 25.0%" in account.sentence(found)
    lower = compared(before, np.zeros_like(before))
    assert "m fell from 25.0% to 0.0%" in account.sentence(lower)


def test_how_sure_agrees_with_what_is_said() -> None:
    """Beyond its margin for sure, and nobody says which direction is better: not undecided for want of items."""
    found = compared(np.zeros(40), np.tile([1.0, 1.0, 1.0, 0.9], 10), better=None)
    assert found.state == "moved"
    assert "beyond" in account.sentence(found) and account._sure([found]).startswith("clear that it changed")
    assert account._sure([compared(np.arange(10.0) % 2, np.arange(10.0) % 3 / 2)]).startswith("not decided")


def test_few_items_that_are_alike_say_little_of_others() -> None:
    """Ten of ten alike: at 25.9% that differ this would happen once in twenty times."""
    few, many = (account._sure([compared(np.tile([1.0, 0.0], n), np.tile([1.0, 0.0], n))]) for n in (5, 500))
    assert "up to 25.9% could" in few and 0.95 < 1 - (1 - 0.259) ** 10 < 0.951
    assert "up to 0.3% could" in many


def test_a_headline_begins_like_a_sentence_and_counts_rightly() -> None:
    up, down = ([compared(*sides)] for sides in ((np.zeros(40), np.ones(40)), (np.ones(40), np.zeros(40))))
    assert account._headline("described", up)[:1].isupper()
    states = down[0].state, up[0].state
    assert account._counted([*down, *down, *up], states) == f"2 {account.WORDS[states[0]]}s, 1 {account.WORDS[states[1]]}"


def test_rounding_is_no_difference() -> None:
    """Two programs add in another order: what differs by a millionth of itself is the same, in all places."""
    rng = numpy_stream(6, "rounding")
    before = rng.uniform(0.5, 4.0, 40)
    noise = 1.0 + 2e-6 * rng.standard_normal(40)
    found = compared(before, before * noise, better="lower", unit="nats")
    assert found.state == "identical" and found.rounded == 40 and (found.worse, found.improved) == (0, 0)
    assert account._headline("identical", [found]).endswith(", up to rounding")
    moved = before * noise + np.where(np.arange(40) % 4, 0.0, 0.1)
    found = compared(before, moved, better="lower", unit="nats")
    assert found.state != "identical" and (found.worse, found.improved, found.rounded) == (10, 0, 30)
    counted = np.arange(40.0) + 1e6
    assert compared(counted, counted + (np.arange(40) == 3), better="lower").worse == 1, "what is counted is not rounded"


def test_a_change_without_spread_says_why_there_is_no_interval() -> None:
    found = compared(np.arange(40.0), np.arange(40.0) + 13, better="lower")
    assert found.state == "unknown" and found.change.interval is None
    said = account._headline("could_not_say", [found])
    assert said == "Could not say: every item moved by as much, so there is no spread to take an interval from"
    assert "went from 19.5 to 32.5 (+13.0)" in account.sentence(found) and "[" not in account.sentence(found)
    few = compared(np.arange(5.0), np.arange(5.0) ** 2, better="lower")
    assert account._headline("could_not_say", [few]) == "Could not say: 5 clusters, 8 are needed"


@pytest.mark.parametrize(
    ("tasks", "short"),
    [
        (["demo_express", "demo_withhold"], ["express", "withhold"]),
        (["mmlu", "mmlu_law"], ["mmlu", "mmlu_law"]),
        (["arc", "boolq"], ["arc", "boolq"]),
        (["only_one", "only_one"], [""]),
    ],
)
def test_names_in_a_figure_leave_out_what_all_begin_with(tasks: list[str], short: list[str]) -> None:
    assert list(account._short(tasks).values()) == short
