"""How estimates and untrusted texts are written."""

from __future__ import annotations

from typing import Any

import pytest

from palimpsest.core.estimate import Estimate, exact, unknown
from palimpsest.core.wording import amount, number, remark, shown, visible


def estimate(value: float, low: float, high: float, unit: str = "points", **more: Any) -> Estimate:
    return Estimate(value=value, unit=unit, n=24, interval=(low, high), method="t", **more)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (estimate(0.51, 0.44, 0.58), "+51.0 points [+44.0, +58.0]"),
        (estimate(-0.02, -0.05, 0.01), "−2.0 points [−5.0, +1.0]"),
        (estimate(0.3, 0.24, 0.36, "share"), "30.0% [24.0, 36.0]"),
        (estimate(0.04321, 0.03, 0.06, "nats/token"), "0.043 nats/token [0.030, 0.060]"),
        (estimate(0.04321, 0.03, 0.06, "nats/token", p_value=0.01), "+0.043 nats/token [+0.030, +0.060]"),
        (estimate(0.00013, 0.00009, 0.00017, "nats/token"), "0.0001 nats/token [0.0001, 0.0002]"),
        (estimate(-0.0000002, -0.0000004, 0.0000001, "points"), "−0.00002 points [−0.00004, +0.00001]"),
        (estimate(0.3, 0.3, 0.3, "nats"), "0.300 nats [0.300, 0.300]"),
        (estimate(12345.6, 12000.0, 13000.0, "tokens"), "12,346 tokens [12,000, 13,000]"),
        (exact(0.25, "share"), "25.0%"),
        (unknown("points", 5, "5 clusters, 8 are needed"), "could not say"),
        (Estimate(value=0.3, unit="share", n=5, interval=None, method="could not say: few"), "30.0% (interval: could not say)"),
    ],
)
def test_sentence(given: Estimate, sentence: str) -> None:
    assert shown(given).sentence == sentence


def test_a_level_has_no_sign_and_no_word_on_change() -> None:
    level = estimate(0.3, -0.1, 0.7, "d'", p_value=0.2, minimum_detectable=0.6)
    assert shown(level).remark.startswith("no change seen")
    assert (shown(level, change=False).sentence, shown(level, change=False).remark) == ("0.30 d′ [−0.10, 0.70]", "")
    share = estimate(0.3, 0.24, 0.36, "share", p_value=0.001, minimum_detectable=0.1)
    assert (shown(share).sentence, shown(share).remark) == ("30.0% [24.0, 36.0]", "")


def test_could_not_say_has_its_reason_and_no_number() -> None:
    said = shown(unknown("points", 5, "5 clusters, 8 are needed"))
    assert (said.value, said.interval, said.remark) == ("could not say", "", "5 clusters, 8 are needed")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (estimate(0.01, -0.01, 0.03, minimum_detectable=0.031), "no change seen; would have seen 3.1 points or more"),
        (estimate(0.05, 0.03, 0.07, minimum_detectable=0.031), ""),
        (estimate(0.01, -0.01, 0.03, margin=0.05, equivalent=True), "unchanged within ±5 points"),
        (estimate(0.01, -0.01, 0.03, "nats/token", margin=0.05, equivalent=True), "unchanged within ±0.05 nats/token"),
        (estimate(0.2, 0.1, 0.3, margin=0.05, equivalent=False), "beyond ±5 points"),
        (estimate(-0.2, -0.3, -0.1, margin=0.05, equivalent=False), "beyond ±5 points"),
        (estimate(0.04, 0.02, 0.06, margin=0.05, equivalent=False), "not decided against ±5 points"),
        (
            estimate(0.04, -0.02, 0.1, margin=0.05, equivalent=False, minimum_detectable=0.09),
            "not decided against ±5 points; would have seen 9 points or more",
        ),
        (
            Estimate(value=0.0, unit="points", n=9, interval=(0.0, 0.0), method="identical on every item"),
            "identical on every item",
        ),
    ],
)
def test_remark(given: Estimate, said: str) -> None:
    assert remark(given) == said


def test_numbers() -> None:
    assert number(-0.0004, 3, signed=True) == "0.000"
    assert number(0.5, 0, signed=True) in ("+0", "0")
    assert amount(0.05, "points") == "5 points"
    assert amount(0.00004, "nats/token") == "0.00004 nats/token"
    assert amount(None, "points") == "could not say"


def test_visible_writes_out_what_would_act() -> None:
    assert visible("a\u202eb\x1bc\x00\ud800\ufeff") == "a‹U+202E›b␛c␀‹U+D800›‹U+FEFF›"
    assert visible("line\n\ttab é 漢 👩\u200d🚀 \xa0") == "line\n\ttab é 漢 👩\u200d🚀  "
    assert visible("x" * 10, 4) == "xxxx … (6 more characters)"


def test_an_interval_that_no_decimals_tell_apart_is_not_padded_with_zeros() -> None:
    tiny = Estimate(value=1e-13, unit="share", n=24, interval=(0.0, 3e-13), method="m")
    assert shown(tiny).sentence == "0.0% [0.0, 0.0]"
