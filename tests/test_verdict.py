"""The verdict against findings whose meaning is plain."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from palimpsest.audit import Finding
from palimpsest.core.estimate import Estimate, exact, unknown
from palimpsest.verdict import Thresholds, judge, judge_seeds


def found(tag: str, value: float, low: float, high: float, subject: str = "", margin: float | None = None) -> Finding:
    estimate = Estimate(
        value=value,
        unit="points",
        n=24,
        interval=(low, high),
        method="test",
        margin=margin,
        equivalent=None if margin is None else -margin < low and high < margin,
    )
    return Finding(tag=tag, statement=f"the {tag}", estimate=estimate, subject=subject)  # type: ignore[arg-type]


MUCH = found("outcome", 0.6, 0.5, 0.7)
LITTLE = found("outcome", 0.1, 0.05, 0.15)
KEPT = found("withheld", 0.02, -0.02, 0.06)
LEAKED = found("withheld", 0.5, 0.4, 0.6)
SPILLED = found("spill", 0.8, 0.7, 0.9)
SMALL_SPILL = found("spill", 0.1, 0.05, 0.15)
FINE = found("forgetting", 0.0, -0.01, 0.01, "sums", 0.05)
FELL = found("forgetting", 0.3, 0.2, 0.4, "sums", 0.05)
OPEN = found("forgetting", 0.04, -0.02, 0.1, "programs", 0.05)


@pytest.mark.parametrize(
    ("findings", "labels", "sure"),
    [
        ((MUCH, KEPT, FINE), ("as_intended",), "clear"),
        ((LITTLE, KEPT, FINE), ("too_little",), "clear"),
        ((MUCH, LEAKED, SPILLED, FINE), ("overshoot",), "clear"),
        ((MUCH, LEAKED, SMALL_SPILL, FINE), ("as_intended",), "clear"),
        ((MUCH, KEPT, FELL), ("forgetting",), "clear"),
        ((MUCH, LEAKED, SPILLED, FELL), ("overshoot", "forgetting"), "clear"),
        ((LITTLE, LEAKED, SPILLED, FELL), ("overshoot", "forgetting"), "clear"),
        ((MUCH, FINE), ("could_not_say",), "likely"),
        ((found("outcome", 0.45, 0.35, 0.55), KEPT, FINE), ("as_intended",), "likely"),
        ((found("outcome", 0.35, 0.25, 0.45), KEPT, FINE), ("too_little",), "likely"),
        ((found("outcome", 0.1, -0.2, 0.45), KEPT, FINE), ("too_little",), "not decided"),
        ((MUCH, KEPT, found("forgetting", 0.07, 0.03, 0.11, "sums", 0.05)), ("as_intended",), "likely"),
    ],
)
def test_labels(findings: tuple[Finding, ...], labels: tuple[str, ...], sure: str) -> None:
    verdict = judge(findings, Thresholds(), intended=True)
    assert verdict.labels == labels
    assert verdict.sure == sure
    assert verdict.reasons
    assert verdict.next_steps
    assert [step.said for step in verdict.steps] == list(verdict.next_steps)
    actions = {"too_little": "more_examples", "overshoot": "less_or_withhold", "forgetting": "rehearse"}
    assert [step.action for step in verdict.steps] == [
        {**actions, "as_intended": "ship", "could_not_say": "give_withhold_pole"}[label] for label in verdict.labels
    ]


def test_unknown_outcome_is_could_not_say_and_not_zero() -> None:
    finding = Finding(tag="outcome", statement="s", estimate=unknown("points", 3, "3 clusters, 8 are needed"))
    verdict = judge((finding, KEPT), Thresholds(), intended=True)
    assert verdict.labels == ("could_not_say",)
    assert "3 clusters" in verdict.reasons[0]


def test_identical_models_are_told_before_all_else() -> None:
    finding = Finding(tag="identical", statement="s", estimate=exact(0.0, "nats/token"))
    for intended in (True, False):
        verdict = judge((finding, MUCH, FELL), Thresholds(), intended=intended)
        assert verdict.labels == ("identical",)
        assert not verdict.as_intended


@pytest.mark.parametrize(
    ("pair", "said", "step"),
    [
        ("equal", "the two models are equal", "the right two models were given"),
        ("adapter", "changes no logit", "its scale is not 0"),
        ("", "changes no logit", "the right two models were given"),
    ],
)
def test_only_an_adapter_is_asked_for_its_scale(pair: Any, said: str, step: str) -> None:
    finding = Finding(tag="identical", statement="s", estimate=exact(0.0, "nats/token"))
    verdict = judge((finding,), Thresholds(), intended=False, pair=pair)
    assert said in verdict.headline and step in verdict.next_steps[0]
    assert ("adapter" in verdict.next_steps[0]) == ("scale" in verdict.next_steps[0]) == (pair == "adapter")


@pytest.mark.parametrize(
    ("findings", "settings", "told"),
    [
        ((found("divergence", 0.1, 0.05, 0.15), FINE), {"intended": False}, True),
        ((), {"intended": False}, True),
        ((LITTLE, KEPT, FINE), {"intended": True}, True),
        ((Finding(tag="identical", statement="s", estimate=exact(0.0, "nats/token")),), {"intended": False}, True),
        ((found("divergence", 0.1, 0.05, 0.15), FELL), {"intended": False}, False),
        ((MUCH, KEPT, FINE), {"intended": True}, False),
        ((), {"intended": False, "same": True}, False),
        (
            (Finding(tag="identical", statement="s", estimate=exact(0.0, "nats/token")),),
            {"intended": False, "pair": "equal"},
            False,
        ),
    ],
)
def test_where_little_was_found_a_trigger_is_not_ruled_out(findings: tuple[Finding, ...], settings: Any, told: bool) -> None:
    """Only equal weights rule out a change that none of the texts calls up; where something was found, that is what counts."""
    reasons = judge(findings, Thresholds(), **settings).reasons
    assert sum("nothing here rules out a change behind a trigger" in reason for reason in reasons) == told


def test_a_comparison_without_behaviour_is_described() -> None:
    verdict = judge((found("divergence", 0.1, 0.05, 0.15), FINE, OPEN), Thresholds(), intended=False)
    assert verdict.labels == ("described",)
    assert verdict.as_intended
    assert "programs" in " ".join(verdict.reasons)


def test_thresholds_move_the_lines() -> None:
    still = found("withheld", 0.0, -0.005, 0.005)
    assert judge((LITTLE, still, FINE), Thresholds(reached=0.04), intended=True).labels == ("as_intended",)
    assert judge((MUCH, LEAKED, SPILLED, FINE), Thresholds(spill=0.95), intended=True).labels == ("as_intended",)


def test_the_next_step_names_what_fell() -> None:
    verdict = judge((MUCH, KEPT, FELL), Thresholds(), intended=True)
    assert "sums" in verdict.headline
    assert any("40%" in step and "sums" in step for step in verdict.next_steps)


def test_one_seed_is_judged_like_one_comparison() -> None:
    findings = (MUCH, KEPT, FELL)
    assert judge_seeds([findings], Thresholds(), intended=True) == judge(findings, Thresholds(), intended=True)


def test_seeds_that_agree_are_judged_by_the_interval_over_seeds() -> None:
    rises = (found("outcome", value, value - 0.05, value + 0.05) for value in (0.55, 0.6, 0.65))
    verdict = judge_seeds([(rise, KEPT, FINE) for rise in rises], Thresholds(), intended=True)
    assert verdict.labels == ("as_intended",)
    assert not any("seed by seed" in reason for reason in verdict.reasons)


def test_as_intended_is_not_said_when_one_seed_forgot() -> None:
    verdict = judge_seeds([(MUCH, KEPT, FINE), (MUCH, KEPT, FELL), (MUCH, KEPT, FINE)], Thresholds(), intended=True)
    assert verdict.labels == ("forgetting",)
    assert verdict.headline == "Forgetting in 1 of 3 seeds: sums (1)"
    assert verdict.sure == "likely"
    assert any("rehearsal" in step for step in verdict.next_steps)


def test_what_every_seed_forgot_is_told_where_two_seeds_can_not_say_how_much() -> None:
    falls = (found("forgetting", value, value - 0.05, value + 0.05, "sums", 0.05) for value in (0.2, 0.6))
    verdict = judge_seeds([(LITTLE, KEPT, fall) for fall in falls], Thresholds(), intended=True)
    assert verdict.labels == ("too_little", "forgetting")
    assert "forgetting in 2 of 2 seeds: sums (2)" in verdict.headline


def test_a_seed_that_did_better_changes_nothing() -> None:
    rises = (found("outcome", value, value - 0.02, value + 0.02) for value in (0.1, 0.5, 0.1))
    verdict = judge_seeds([(rise, KEPT, FINE) for rise in rises], Thresholds(), intended=True)
    assert verdict.labels == ("could_not_say", "too_little") and verdict.sure == "not decided"
    assert "too little change where the behaviour should appear in 2 of 3 seeds" in verdict.headline


def test_the_largest_loss_comes_first_and_losses_of_probability_are_told_apart() -> None:
    nats = Estimate(value=0.2, unit="nats/token", n=24, interval=(0.1, 0.3), method="test", margin=0.05, equivalent=False)
    quiet = Finding(tag="forgetting", statement="s", subject="doubts", estimate=nats)
    much = found("forgetting", 0.7, 0.6, 0.8, "scenes", 0.05)
    verdict = judge((MUCH, KEPT, quiet, FELL, much), Thresholds(), intended=True)
    assert (
        verdict.headline == "Forgetting: scenes (\N{MINUS SIGN}70 points), sums (\N{MINUS SIGN}30 points), doubts (loss only)"
    )


def test_what_got_better_is_told_and_is_not_open() -> None:
    better = found("forgetting", -0.2, -0.3, -0.1, "facts", 0.05)
    moved = found("divergence", 0.1, 0.05, 0.15)
    verdict = judge((moved, better, FINE), Thresholds(), intended=False)
    assert verdict.headline == "The models differ; nothing that was measured got worse beyond its margin"
    assert verdict.reasons[1] == "nothing fell beyond its margin; 1 of 2 shown to be unchanged, better: facts"
    half = found("forgetting", 0.0, -0.2, 0.2, "facts", 0.05)  # of two numbers of one ability the other is open
    reasons = judge((moved, better, half, FINE), Thresholds(), intended=False).reasons
    assert reasons[1] == "nothing fell beyond its margin; 1 of 2 shown to be unchanged, not decided: facts"


def test_more_where_it_should_not_than_where_it_should_is_not_answered_with_more_examples() -> None:
    twenty, thirty = found("outcome", 0.2, 0.15, 0.25), found("withheld", 0.3, 0.25, 0.35)
    for spill in ((found("spill", 1.5, 1.2, 1.9),), ()):
        verdict = judge((twenty, thirty, *spill, FINE), Thresholds(), intended=True)
        assert verdict.labels == ("overshoot",) and [step.action for step in verdict.steps] == ["less_or_withhold"]
        assert "less than the 40 points" in verdict.reasons[0]


def test_a_fall_where_it_should_appear_is_not_answered_with_more_examples() -> None:
    verdict = judge((found("outcome", -0.5, -0.6, -0.4), KEPT, FINE), Thresholds(), intended=True)
    assert verdict.labels == ("reversed",) and [step.action for step in verdict.steps] == ["check_poles"]
    assert verdict.headline == "Reversed: the behaviour now appears less where it should"


def test_a_wide_interval_around_enough_is_not_as_intended() -> None:
    verdict = judge((found("outcome", 0.41, 0.01, 0.81), KEPT, FINE), Thresholds(), intended=True)
    assert verdict.labels == ("could_not_say",) and not verdict.as_intended and verdict.sure == "not decided"


def test_spill_is_judged_by_its_bound() -> None:
    """Withheld +58 [-1, 100] beside a wanted +60: that a rise can't be told from none is no evidence of none."""
    wanted, wide = found("outcome", 0.6, 0.5, 0.7), found("withheld", 0.58, -0.01, 1.0)
    spill = Finding(tag="spill", statement="s", estimate=unknown("share", 8, "no ratio is too large for these clusters"))
    for findings in ((wanted, wide, FINE), (wanted, wide, spill, FINE), (wanted, wide, found("spill", 0.97, -0.1, 2.0), FINE)):
        verdict = judge(findings, Thresholds(), intended=True)
        assert verdict.labels == ("could_not_say",) and not verdict.as_intended
        assert [step.action for step in verdict.steps] == ["more_items"]


def test_a_fall_where_it_should_not_appear_is_told() -> None:
    verdict = judge((MUCH, found("withheld", -0.3, -0.35, -0.25), FINE), Thresholds(), intended=True)
    assert verdict.labels == ("as_intended",) and verdict.headline.endswith("and where it should not appear it fell")


def test_the_whole_verdict_has_one_error() -> None:
    """Sixteen abilities: one of which the interval ends a hair beyond its margin has not fallen, one far beyond has."""

    def ability(name: str, p_worse: float) -> Finding:
        estimate = found("forgetting", 0.1, 0.051, 0.149, name, 0.05)
        return estimate.model_copy(update={"estimate": estimate.estimate.model_copy(update={"p_worse": p_worse})})

    others = [ability(f"ability {place}", 0.9) for place in range(15)]
    assert judge((MUCH, KEPT, ability("sums", 0.02)), Thresholds(), intended=True).labels == ("forgetting",)
    verdict = judge((MUCH, KEPT, ability("sums", 0.02), *others), Thresholds(), intended=True)
    assert verdict.labels == ("as_intended",) and verdict.sure == "likely" and "sums" in verdict.reasons[-1]
    assert judge((MUCH, KEPT, ability("sums", 0.001), *others), Thresholds(), intended=True).labels == ("forgetting",)


STATES: dict[str, tuple[Finding | None, ...]] = {
    "outcome": (None, Finding(tag="outcome", statement="o", estimate=unknown("points", 3, "few")),
                LITTLE, found("outcome", 0.41, 0.01, 0.81), MUCH, found("outcome", -0.5, -0.6, -0.4)),
    "withheld": (None, Finding(tag="withheld", statement="w", estimate=unknown("points", 3, "few")),
                 KEPT, found("withheld", 0.2, -0.1, 0.5), LEAKED, found("withheld", -0.3, -0.4, -0.2)),
    "spill": (None, Finding(tag="spill", statement="s", estimate=unknown("share", 3, "few")),
              SMALL_SPILL, found("spill", 0.2, -0.2, 0.6), SPILLED),
    "forgetting": (None, Finding(tag="forgetting", statement="f", subject="sums", estimate=unknown("points", 3, "few")),
                   FINE, OPEN, FELL),
}  # fmt: skip
"""Every tag's states: missing, could not say, under, straddling, over, and a fall where that is another thing than under."""


@pytest.mark.parametrize("intended", [True, False])
def test_every_combination_of_states(intended: bool) -> None:
    for outcome, withheld, spill, forgetting in itertools.product(*STATES.values()):
        findings = tuple(one for one in (outcome, withheld, spill, forgetting) if one)
        verdict = judge(findings, Thresholds(), intended=intended)
        assert verdict.headline and verdict.next_steps
        if forgetting not in (FINE, FELL):
            assert verdict.sure != "clear", findings
        if not intended:
            assert verdict.as_intended and verdict.labels == ("described",)
            continue
        actions = {step.action for step in verdict.steps}
        if verdict.as_intended:
            assert outcome is MUCH and forgetting is not FELL, findings
            held = withheld in (KEPT, STATES["withheld"][5]) if spill in STATES["spill"][:2] else spill is SMALL_SPILL
            assert held and withheld not in STATES["withheld"][:2], findings
        if "ship" in actions:
            assert verdict.as_intended and forgetting is not None
        if "more_examples" in actions:
            assert outcome is LITTLE and withheld is not LEAKED, findings
        if forgetting is FELL and outcome not in STATES["outcome"][:2]:
            assert "forgetting" in verdict.labels and "rehearse" in actions
        if outcome in STATES["outcome"][:2]:
            assert verdict.labels == ("could_not_say",) and verdict.sure == "not decided"


def test_without_text_a_comparison_does_not_say_that_nothing_got_worse() -> None:
    verdict = judge((found("divergence", 0.1, 0.05, 0.15),), Thresholds(), intended=False)
    assert verdict.headline == "The models differ; whether anything got worse could not be said"


@pytest.mark.parametrize("intended", [True, False])
@pytest.mark.parametrize("findings", [(), (FINE,), (MUCH, FELL), (found("inside", 0.0, 0.0, 0.0),)])
def test_a_model_against_itself_is_identical_whatever_was_measured(findings: tuple[Finding, ...], intended: bool) -> None:
    verdict = judge_seeds([findings, findings], Thresholds(), intended=intended, same=True)
    assert verdict.labels == ("identical",) and verdict.sure == "clear"
    assert "same weights" in verdict.reasons[0] and "tokenizer" in verdict.reasons[0]


def test_what_is_not_decided_is_not_claimed() -> None:
    """The headline and how sure it is agree: what chance alone could show is claimed nowhere."""
    wide = found("outcome", 0.45, -0.1, 0.95)
    verdict = judge((wide, KEPT, FINE), Thresholds(), intended=True)
    assert verdict.sure == "not decided" and verdict.labels == ("could_not_say",) and not verdict.as_intended
    assert verdict.headline.startswith("Not decided whether")
    assert "held-out templates" in verdict.next_steps[0]
    verdict = judge((found("outcome", 0.1, -0.2, 0.45), KEPT, FELL), Thresholds(), intended=True)
    assert verdict.sure == "not decided" and verdict.labels == ("too_little", "forgetting")
    assert verdict.headline.startswith("Not decided whether") and "forgetting: sums" in verdict.headline
    three = judge_seeds([(wide, KEPT, FINE), (wide, KEPT, FELL), (wide, KEPT, FINE)], Thresholds(), intended=True)
    assert not three.headline.startswith("Not decided") or three.sure == "not decided"


def test_what_is_clear_is_not_called_undecided() -> None:
    doubt = found("forgetting", 0.07, 0.03, 0.11, "sums", 0.05)
    little = judge((found("outcome", 0.0, -0.05, 0.05), KEPT, doubt), Thresholds(), intended=True)
    assert little.headline.startswith("Too little") and little.sure == "likely"
    for findings in ((FELL,), (FELL, Finding(tag="divergence", statement="s", estimate=unknown("nats/token", 3, "few")))):
        worse = judge(findings, Thresholds(), intended=False)
        assert worse.headline.startswith("The models differ; worse on sums") and worse.sure == "clear"
        assert worse.labels == ("described",)


def test_without_divergence_only_what_was_shown_is_said() -> None:
    fine, open_ = (judge(findings, Thresholds(), intended=False) for findings in ((FINE,), (FINE, OPEN)))
    assert (fine.labels, fine.sure) == (("described",), "clear")
    assert fine.headline.startswith("Nothing that was measured got worse")
    assert (open_.labels, open_.sure, open_.as_intended) == (("described",), "not decided", True)
    few = Finding(tag="divergence", statement="s", estimate=unknown("nats/token", 3, "few"))
    assert not judge((few,), Thresholds(), intended=False).headline.startswith("The models differ")
    some = judge((found("divergence", 0.1, 0.05, 0.15), FINE, OPEN), Thresholds(), intended=False)
    assert "is shown to have got worse" in some.headline


def test_a_pole_that_could_not_be_measured_is_not_said_to_be_missing() -> None:
    too_few = KEPT.model_copy(update={"estimate": unknown("points", 5, "5 clusters, 8 are needed")})
    told = " ".join(judge((MUCH, too_few, FINE), Thresholds(), intended=True).reasons)
    assert "whether it is conditional could not be said: 5 clusters, 8 are needed" in told and "there is no pole" not in told
    assert "there is no pole where it should not appear" in " ".join(judge((MUCH, FINE), Thresholds(), intended=True).reasons)
