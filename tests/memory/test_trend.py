"""Trend: is a change found that is there, and none that is not, whatever the order in which the memory filled?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from palimpsest import api, monitor
from palimpsest import behaviour as behaviours
from palimpsest.core.errors import UserError
from palimpsest.core.seeds import numpy_stream
from palimpsest.core.stats.change_point import change_point
from palimpsest.memory.likeness import Situation, likeness, situation
from palimpsest.memory.store import COVERS
from palimpsest.memory.trend import covered, trend
from palimpsest.memory.watch import watch
from tests.memory import talks

ASKED = "Would you be so kind and tell me where the {} of the garden is?"
THINGS = ("lamp", "door", "boat", "wheel", "table", "bell")


def filled(folder: Path, failing: list[bool], *, dated: bool = True, shuffle: int | None = None) -> Path:
    """Watch one polite question a conversation; those that are ``failing`` are answered gruffly."""
    polite = behaviours.load(talks.polite(folder / "behaviour"))
    lines: list[Any] = []
    for number, fails in enumerate(failing):
        line = talks.talk(ASKED.format(THINGS[number % len(THINGS)]), f"There. {number}" if fails else "Gladly!", number=number)
        if not dated:
            del line["timestamp"]
        lines.append(line)
    if shuffle is not None:
        numpy_stream(shuffle, "order").shuffle(lines)
    watch([talks.write(folder / "a.jsonl", lines)], folder / "memory", [polite])
    return folder / "memory"


def test_corrections_that_come_back_are_found_with_their_time(tmp_path: Path) -> None:
    folder = filled(tmp_path, [False, False, False, False, True] * 6 + [True] * 20, shuffle=1)
    (one,) = trend(folder)
    assert one.regression and one.dated and one.change.place == 29 and one.chance is not None and one.chance < 0.01
    assert one.change.places is not None and one.change.places[0] <= 30 <= one.change.places[1] + 1
    assert one.when[0] == talks.START + 3_600 * 29
    told = monitor.account(folder, [one])
    assert "come back more often" in told.headline and "conversation 30 of 50 (" in told.reasons[0]
    page = api.write_account(told, folder).read_text(encoding="utf-8")
    assert page.count("<svg") == 1 and "Do corrections come back more often" in page and "NaN" not in page


def test_without_times_the_order_of_watching_counts_and_that_is_said(tmp_path: Path) -> None:
    folder = filled(tmp_path, [False] * 20 + [True] * 20, dated=False)
    (one,) = trend(folder)
    assert one.regression and not one.dated and one.when == (None, None, None) and one.change.place == 20
    assert any("not every conversation has a time" in line for line in monitor.account(folder, [one]).parts[0].cannot_say)


def test_no_change_is_told_with_what_would_have_been_found(tmp_path: Path) -> None:
    folder = filled(tmp_path, [False, True] * 15)
    (one,) = trend(folder)
    assert not one.found and not one.regression
    sentence = monitor.sentence(one)
    assert "no change found (p = " in sentence and "finds a rise of ≥ " in sentence and "50.0% [" in sentence
    assert monitor.account(folder, [one]).headline.startswith("No change found")


def test_too_few_can_not_be_said(tmp_path: Path) -> None:
    folder = filled(tmp_path, [True] * 10)
    (one,) = trend(folder)
    assert one.chance is None and "could not say: 10 conversations, 16 are needed" in monitor.sentence(one)
    told = monitor.account(folder, [one])
    assert told.label == "could_not_say" and told.next_steps == ("watch more conversations",)
    api.write_account(told, folder)


def test_a_memory_in_which_nothing_was_judged(tmp_path: Path) -> None:
    polite = behaviours.load(talks.polite(tmp_path / "behaviour"))
    file = talks.write(tmp_path / "a.jsonl", [talks.talk("a", "b", behaviour="other")])
    watch([file], tmp_path / "memory", [polite])
    assert trend(tmp_path / "memory") == []
    api.write_account(monitor.account(tmp_path / "memory", []), tmp_path / "memory")
    with pytest.raises(UserError, match="holds no memory"):
        trend(tmp_path / "nothing")


def test_a_rise_is_the_same_whatever_the_order_of_watching(tmp_path: Path) -> None:
    failing = [False, False, True] * 8 + [True] * 16
    found = [trend(filled(tmp_path / str(shuffle), failing, shuffle=shuffle))[0] for shuffle in (1, 2)]
    assert found[0].change == found[1].change and found[0].windows == found[1].windows


def naive(answers: list[tuple[int, int | None]], scenarios: dict[int, Situation]) -> np.ndarray:
    """The definition, written out."""
    return np.array(
        [
            scenario is not None
            and any(
                other is not None and owner != conversation and likeness(scenarios[scenario], scenarios[other]) >= COVERS
                for owner, other in answers
            )
            for conversation, scenario in answers
        ]
    )


def test_coming_back_is_by_definition_and_knows_no_order() -> None:
    rng = numpy_stream(0, "covered")
    words = ["stone", "water", "seven", "under", "market", "bright", "carry", "whistle", "lamp", "garden"]
    scenarios = {number: situation([" ".join(rng.choice(words, 5)) for _ in range(2)]) for number in range(60)}
    answers = [(int(rng.integers(25)), int(rng.integers(60)) if rng.random() < 0.6 else None) for _ in range(80)]
    found = covered(answers, {name: one for name, one in scenarios.items() if any(name == each for _, each in answers)})
    assert 5 < found.sum() < 75 and np.array_equal(found, naive(answers, scenarios))
    order = rng.permutation(80)
    again = covered([answers[one] for one in order], {name: scenarios[name] for name in sorted(scenarios, reverse=True)})
    assert np.array_equal(again, found[order])


def alarms(worlds: int, *, earlier_only: bool) -> float:
    """Return how often a change is found where kinds of situation fail at rates of their own, and none of them changes."""
    rng, found = numpy_stream(0, "trend alarms"), 0
    for _ in range(worlds):
        kinds, rates = rng.integers(40, size=120), rng.beta(1, 2, size=40)
        failed = rng.random(120) < rates[kinds]
        seen: dict[int, int] = {}
        back = np.zeros(120, dtype=np.int64)
        totals = {kind: int((failed & (kinds == kind)).sum()) for kind in range(40)}
        for place in np.flatnonzero(failed):
            kind = int(kinds[place])
            back[place] = seen.get(kind, 0) > 0 if earlier_only else totals[kind] > 1
            seen[kind] = seen.get(kind, 0) + 1
        chance = change_point(back, np.ones(120, dtype=np.int64), rng, detectable=False).p_value
        found += chance is not None and chance <= 0.05
    return found / worlds


def test_a_memory_that_fills_is_no_change() -> None:
    assert alarms(100, earlier_only=False) <= 0.12
    assert alarms(40, earlier_only=True) > 0.12, "if counting only what came earlier did no harm, this would be simpler"


@pytest.mark.slow
def test_a_memory_that_fills_is_no_change_in_many_worlds() -> None:
    assert 0.02 <= alarms(2_000, earlier_only=False) <= 0.065
