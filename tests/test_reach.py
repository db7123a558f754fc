"""Does what is said to be findable follow from templates and spread, before a run and after it?"""

from __future__ import annotations

import pytest

from palimpsest import audit, reach
from palimpsest.audit import Case, Finding
from palimpsest.core import stats
from palimpsest.core.estimate import Estimate, unknown
from palimpsest.data.chat import Example, ItemSet, Message, Span
from palimpsest.data.checks import Contains
from palimpsest.verdict import Thresholds

LIMITS = Thresholds()


def change(least: float | None, n: int = 24, unit: str = "points", margin: float | None = None, value: float = 0.0) -> Estimate:
    half = least or 0.01
    return Estimate(
        value=value, unit=unit, n=n, interval=(value - half, value + half), method="", minimum_detectable=least, margin=margin
    )


def told(tag: str, estimate: Estimate, subject: str = "") -> Finding:
    return Finding(tag=tag, statement="", estimate=estimate, subject=subject)  # type: ignore[arg-type]


def items(name: str, templates: int, each: int = 8) -> ItemSet:
    made = [
        Example(
            messages=(Message(role="user", content=f"{index} {part}"), Message(role="assistant", content="yes")),
            decisions=(Span(message=1, start=0, end=3),),
            template=f"t{index}",
            source="test",
        )
        for index in range(templates)
        for part in range(each)
    ]
    return ItemSet(name=name, items=tuple(made))


def case(templates: int) -> Case:
    names = ("express", "withhold", "capability:sums", "text:stories")
    return Case(("base", "tuned"), {name: items(name, templates) for name in names}, check=Contains(texts=("yes",)))


def test_a_report_says_what_is_found_and_how_many_templates_unchanged_takes():
    rows = reach.reach(
        [
            told("forgetting", change(0.004, 60, "nats/token", 0.05), "sums"),
            told("forgetting", change(0.02, 60, margin=0.05), "sums"),
            told("forgetting", change(0.02, 24, margin=0.05), "recall"),
            told("forgetting", change(0.10, 60, margin=0.05), "facts"),
            told("forgetting", change(0.10, 60, margin=0.05, value=0.4), "copying"),
            told("forgetting", unknown("points", 5, "5 clusters, 8 are needed").model_copy(update={"margin": 0.05}), "few"),
            told("spill", Estimate(value=0.0, unit="share", n=24, interval=(-0.3, 0.3), level=0.9, method="")),
            told("outcome", change(0.178)),
            told("withheld", change(None)),
        ],
        LIMITS,
    )
    assert [one.what for one in rows] == [*reach._NAMES.values(), "spill", "sums", "recall", "facts", "copying", "few"]
    by_name = {one.what: one for one in rows}
    assert by_name["where it should appear"].finds == "≥ 17.8 points"
    assert by_name["where it should not appear"].finds == "none that is possible"
    assert by_name["spill"].shown is False and "124 templates" in by_name["spill"].unchanged, "24 x (0.3 x 1.51 / 0.2)^2"
    assert by_name["sums"].finds == "≥ 0.004 nats/token, ≥ 2 points" and by_name["sums"].shown
    assert by_name["recall"].unchanged == "no: right answers about 59 templates needed"
    assert by_name["facts"].unchanged == "no: right answers about 263 templates needed", "60 x (1.045 x 0.10 / 0.05)^2"
    assert by_name["copying"].unchanged == "no: it fell"
    assert by_name["few"].finds == "could not say" and by_name["few"].unchanged == "no: right answers about 59 templates needed"
    assert "1 of 5 abilities and texts could be called unchanged" in reach.sentence(rows)


@pytest.mark.parametrize("templates", [12, 60])
def test_before_a_run_the_spread_is_assumed_and_said_to_be(templates: int):
    audits = {name: audit.load(name) for name in ("forgetting", "outcome")}
    rows = {one.what: one for one in reach.foreseen(case(templates), audits, LIMITS, None)}
    assert list(rows) == [*reach._NAMES.values(), "spill", "sums", "stories"]
    least = stats.smallest_rate_change([8] * templates, 0.5, side=1, within=0.3, unrest=0.5)
    assert least is not None and rows["where it should appear"].finds == f"≥ {100 * least:.1f} points"
    assert rows["where it should appear"].source == rows["spill"].source == "assumed"
    assert rows["stories"].finds == "could not say" and not rows["stories"].source, "no spread of a loss is assumed"
    assert rows["stories"].unchanged == ("loss: could not say" if templates > 58 else "no: loss about 59 templates needed")
    assert {one.templates for one in rows.values()} == {templates}


def test_before_a_run_an_earlier_ones_spread_is_taken_for_as_many_templates():
    earlier = [told("outcome", change(0.2, 24)), told("forgetting", change(0.01, 24, "nats/token", 0.05), "sums")]
    rows = {
        one.what: one for one in reach.foreseen(case(96), {"forgetting": audit.load("forgetting")}, LIMITS, ("r1", earlier))
    }
    assert rows["where it should appear"].finds == "≥ 10 points" and rows["where it should appear"].source == "r1"
    assert rows["sums"].finds == "≥ 0.005 nats/token" and rows["sums"].unchanged == "yes"
    assert rows["where it should not appear"].source == "assumed"


def test_nothing_is_said_of_what_is_not_there():
    assert reach.foreseen(Case(("base", "tuned"), {}), {}, LIMITS, None) == ()
    assert reach.sentence(reach.reach([], LIMITS)) == ""
