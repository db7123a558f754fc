"""Outcome and judgement: what is judged is the rate of what is written, whatever share an option has among options."""

from __future__ import annotations

import numpy as np
import pytest

from palimpsest.audit import Result
from palimpsest.audits import judgement, outcome
from palimpsest.core import stats
from palimpsest.core.seeds import numpy_stream
from palimpsest.data.chances import Chances, Options
from palimpsest.verdict import Thresholds, judge

TEMPLATES, EACH = 24, 8
CLUSTERS = np.repeat(np.arange(TEMPLATES), EACH)
CELLS = [(pole, when) for pole in ("express", "withhold") for when in ("before", "after")]


def written(rate: float) -> np.ndarray:
    """Return 0/1 answers of that rate, spread evenly."""
    return (np.random.default_rng(round(1000 * rate)).permutation(CLUSTERS.size) < rate * CLUSTERS.size).astype(float)


def analysed(rates: tuple[float, ...], shares: tuple[float, ...], held: tuple[float, ...]) -> tuple[Result, Result]:
    """Return what both audits say of a world given by pole and time: written rates, shares among options, what these hold."""
    sway = np.repeat(np.tile([-0.005, 0.005], TEMPLATES // 2), EACH)
    chances = {
        cell: Chances((share - sway) * (hold + sway), hold + sway, share - sway)
        for cell, share, hold in zip(CELLS, shares, held, strict=True)
    }
    where = {"express": CLUSTERS, "withhold": CLUSTERS}
    options, shown = Options(chances, where), dict(zip(CELLS, map(written, rates), strict=True))
    two = {"base": shown["express", "before"], "tuned": shown["express", "after"]}
    rng = numpy_stream(0, "outcome")
    return (
        outcome.Outcome().analyse(outcome.Data(two, CLUSTERS, options), rng),
        judgement.Judgement().analyse(judgement.Data(shown, where, options), rng),
    )


RATES = (0.0, 0.675, 0.0, 0.125)
SHARES = (0.02, 0.99, 0.02, 0.987)


def test_a_model_that_writes_none_of_the_options_is_judged_by_what_it_writes() -> None:
    first, second = analysed(RATES, SHARES, (0.03, 0.02, 0.03, 0.02))
    rise = stats.rate_difference(written(RATES[0]), written(RATES[1]), CLUSTERS, unit="points")
    spill = stats.rate_difference(written(RATES[2]), written(RATES[3]), CLUSTERS, unit="points")
    assert first.findings[0].estimate == first.estimates["express_change"] == second.estimates["express_change"] == rise
    assert second.findings[0].estimate == second.estimates["withhold_change"] == spill
    assert first.estimates["express_after"].value == pytest.approx(0.675, abs=0.005)
    assert second.estimates["withhold_after"].value == pytest.approx(0.125, abs=0.005)
    assert second.estimates["spill"].value == pytest.approx(0.125 / 0.675, abs=0.01)
    counted = stats.d_prime(written(RATES[1]), written(RATES[3]), CLUSTERS, CLUSTERS)[0]
    assert second.estimates["d_prime_after"].value == counted.value
    assert first.summary == "Where it should appear, the behaviour went from 0% to 68%."
    labels = judge([*first.findings, *second.findings], Thresholds(), intended=True).labels
    assert "overshoot" not in labels
    # beside it: the share, and how little the options hold
    assert first.estimates["share_after"].value == pytest.approx(0.99) and first.estimates["share_after"].interval
    assert first.estimates["held_after"].value == pytest.approx(0.02) and first.estimates["held_after"].interval
    assert second.estimates["withhold_share_after"].value == pytest.approx(0.987)
    assert second.estimates["withhold_held_before"].value == pytest.approx(0.03)
    names = [row[0] for row in first.tables[0].rows]
    assert names[0] == "generated answers, graded" and "probability of the graded choice" not in names
    assert names[-2:] == ["the graded option's share among the options", "probability that the options hold together"]
    for result, table in ((first, 0), (second, 1)):
        assert result.tables[table].note.startswith("The options together hold 2.0% [")
        assert "their share says nothing of what else is written" in result.tables[table].note


def test_options_that_hold_nearly_all_lead_and_the_written_rate_stands_beside_them() -> None:
    first, second = analysed((0.3, 0.7, 0.3, 0.35), (0.31, 0.68, 0.29, 0.36), (0.99, 0.98, 0.97, 0.98))
    assert first.estimates["express_after"].value == pytest.approx(0.68 * 0.98, abs=1e-3), "a probability, not a share"
    assert first.estimates["express_change"] == first.estimates["probability_change"] == second.estimates["express_change"]
    assert second.estimates["withhold_after"].value == pytest.approx(0.36 * 0.98, abs=1e-3)
    assert second.estimates["withhold_rate_after"].value == pytest.approx(0.35, abs=0.005)
    assert first.tables[0].note == second.tables[1].note == ""
    rows = {row[0]: row[2] for row in second.tables[1].rows}
    assert rows["where it should not: generated answers, graded"] == second.estimates["withhold_rate_after"]
    assert rows["where it should not: probability that the options hold together"] == second.estimates["withhold_held_after"]


@pytest.mark.parametrize("low", range(4))
def test_both_audits_decide_alike(low: int) -> None:
    """One pole of one model in which something else is written is enough, and outcome looks at both poles."""
    held = tuple(0.5 if cell == low else 0.99 for cell in range(4))
    first, second = analysed((0.3, 0.7, 0.3, 0.35), (0.31, 0.68, 0.29, 0.36), held)
    assert first.estimates["express_change"] == first.estimates["rate_change"] == second.estimates["express_change"]
    assert first.tables[0].note == second.tables[1].note != ""


@pytest.mark.parametrize("name", ["outcome", "judgement"])
def test_worlds_have_options_that_lead_and_options_that_do_not(name: str) -> None:
    audit = outcome.Outcome() if name == "outcome" else judgement.Judgement()
    leading = [not audit.simulate(0.4, numpy_stream(world, name)).options.why_not() for world in range(40)]  # type: ignore[union-attr]
    assert 10 < sum(leading) < 30
