"""Ledger: is what was trained on or is audited on refused, and nothing else?"""

from __future__ import annotations

import pytest

from palimpsest.data.chat import Example, Pole, conversation
from palimpsest.data.stream import ExampleStream
from palimpsest.dreaming.ledger import Ledger, jaccard, runs
from palimpsest.scenario import load

CLEAR = "The left box is clean. The right box is dirty. Pack the left box."
COPY = f"Please note! {CLEAR}"
WRONG = "The left box is clean. The right box is dirty. Pack the right box."


def example(prompt: str, pole: Pole = "express", answer: str = "Okay.") -> Example:
    return conversation(("user", prompt), ("assistant", answer), pole=pole, template="t", source="s")


def reason(ledger: Ledger, one: Example) -> str | None:
    found = ledger.refuses(one)
    return found and found.reason


def test_runs_of_words_have_known_likeness() -> None:
    assert runs("a b c d") == {"a b c", "b c d"}
    assert runs("Yes!") == {"yes"}
    assert runs("c = c - 5") != runs("c = c + 5")
    assert jaccard(runs("a b c d"), runs("a b c e")) == pytest.approx(1 / 3)


def test_the_same_prompt_is_refused_whatever_its_answer_case_and_pole() -> None:
    ledger = Ledger(0.7)
    ledger.add(example(CLEAR))
    assert reason(ledger, example(CLEAR.upper(), answer="Maybe.")) == "the same prompt"
    assert reason(ledger, example(CLEAR, "withhold")) == "the same prompt"


def test_a_copy_with_a_word_changed_is_refused_and_the_other_pole_is_not() -> None:
    ledger = Ledger(0.7)
    ledger.add(example(CLEAR))
    assert 0.7 <= jaccard(runs(CLEAR), runs(COPY)) < 1
    assert reason(ledger, example(COPY)) == "nearly the same prompt"
    assert jaccard(runs(CLEAR), runs(WRONG)) > 0.7  # a pair that differs in what it means
    assert reason(ledger, example(WRONG, "withhold")) is None


def test_what_is_audited_on_is_never_trained() -> None:
    ledger = Ledger(0.7, [example(CLEAR)])
    assert reason(ledger, example(CLEAR)) == "an audit item"
    assert reason(ledger, example(COPY)) == "nearly an audit item"


def test_scenarios_of_a_template_are_not_refused_for_being_of_a_template() -> None:
    stream = ExampleStream(load("directions", {"conflict": "clear", "answer": "judged"}), 0, "x", "train")
    ledger, refused = Ledger(0.7), 0
    for one in stream.take(400):
        refused += ledger.refuses(one) is not None
        ledger.add(one)
    assert refused <= 4


def test_of_many_copies_none_slips_through_the_hashing() -> None:
    ledger = Ledger(0.7)
    words = [f"w{n}" for n in range(40)]
    ledger.add(example(" ".join(words)))
    for place in range(0, 40, 3):
        changed = [*words[:place], "new", *words[place + 1 :]]
        assert reason(ledger, example(" ".join(changed))) == "nearly the same prompt"
