"""Contrast: pairs differ in the answer, never in the prompt, and no audited item is among them."""

from __future__ import annotations

import numpy as np
import pytest

from palimpsest import behaviour as behaviours
from palimpsest.casework import build_case, open_materials
from palimpsest.core.errors import Problems
from palimpsest.data.chat import Example, conversation
from palimpsest.data.checks import Choice, Contains
from palimpsest.data.contrast import contrasts, instructed
from palimpsest.data.render import Renderer
from palimpsest.data.steered import same_cells
from palimpsest.data.steering import divergence, log_odds
from palimpsest.models import pocket
from palimpsest.models.skeleton import open_tokenizer
from palimpsest.request import Request

CHECK = Choice(options={"no": "No", "yes": "Yes", "perhaps": "Perhaps"}, expected="yes")


def item(question: str, answer: str, **rest: object) -> Example:
    return conversation(("user", question), ("assistant", answer), template=question, source="t", **rest)


def test_options_are_ordered_with_the_behaviours_first() -> None:
    (found,) = contrasts([item("q", "Yes.", options=CHECK.options)], [], CHECK)
    assert list(found.options.items()) == [("yes", "Yes"), ("no", "No"), ("perhaps", "Perhaps")]


def test_a_worse_answer_is_the_other_side() -> None:
    (found,) = contrasts([item("q", "Yes.", rejected="Never.")], [], None)
    assert list(found.options.values()) == ["Yes.", "Never."]


def test_without_options_the_poles_lend_each_other_answers() -> None:
    express = [item(f"e{place}", f"Yes {place}.") for place in range(4)]
    withhold = [item(f"w{place}", f"No {place}.") for place in range(4)]
    found = contrasts(express, withhold, Contains(texts=("yes",)))
    assert [one.context for one in found] == ["e0", "w1", "e2", "w3"]
    assert [list(one.options.values()) for one in found] == [[f"Yes {place}.", f"No {place}."] for place in range(4)]
    single = contrasts([item("e", "Rain. So it was.", options={"rain": "Rain."})], withhold, Contains(texts=("rain",)))
    assert list(single[0].options.values()) == ["Rain.", "No 0."]


def test_nothing_to_contrast_gives_no_pair() -> None:
    assert contrasts([item("q", "Yes.")], [], None) == []
    assert contrasts([item("q", "Same.")], [item("w", "Same.")], None) == []
    text = conversation(("text", "A document."), template="t", source="t")
    assert contrasts([text], [text], None) == []
    assert instructed(text, "Be brief.") is None


def test_an_instruction_moves_every_span_with_its_text() -> None:
    plain = item("May I?", "Yes.")
    with_system = conversation(("system", "Old."), ("user", "q"), ("assistant", "Yes."), template="t", source="t")
    for before in (plain, with_system):
        after = instructed(before, "Be kind.")
        assert after is not None
        assert after.decision == before.decision
        assert after.context.startswith("Be kind.")
        assert after.id != before.id
    kept = instructed(with_system, "Be kind.")
    assert kept is not None
    assert [one.role for one in kept.messages] == ["system", "user", "assistant"]
    assert kept.messages[0].content == "Be kind.\nOld."


def test_pairs_are_none_of_the_audited_items() -> None:
    loaded = behaviours.load("directions")
    request = Request.read({"kind": "run", "base": "pocket", "behaviour": loaded, "capability_items": 8}, "test")
    problems = Problems("x")
    renderer = Renderer(open_tokenizer(pocket.folder(), problems.found))
    case = build_case(request, open_materials(request, (), problems), renderer, 256, problems)
    problems.raise_if_any()
    pairs = case.items["pairs"].items
    assert len(pairs) == 48
    assert {one.template for one in pairs}.isdisjoint({one.template for one in case.items["express"].items})
    assert all(next(iter(one.options)) == "accept" for one in pairs)
    for pole in ("express", "withhold"):
        told = case.items[f"instructed:{pole}"].items
        assert [one.messages[0].content for one in told] == ["Be careful."] * len(case.items[pole].items)
        assert [one.decision for one in told] == [one.decision for one in case.items[pole].items]


def test_log_odds_are_those_of_the_named_answer() -> None:
    values = np.log([[0.5, 0.2, 0.1, 0.25]])
    found = log_odds(values, np.array([0, 3, 4]), np.array([1, 0]))
    assert found[0] == pytest.approx([np.log(0.2 / 0.6), np.log(0.25 / 0.75)])


def test_divergence_over_cells_and_the_rest() -> None:
    p, q = np.array([[0.5, 0.3, 0.2]]), np.array([[0.25, 0.25, 0.5]])
    whole = divergence(np.log(p), np.log(q))
    assert whole[0] == pytest.approx(float((p * np.log(p / q)).sum()))
    coarse = divergence(np.log(p[:, :1]), np.log(q[:, :1]), np.log([0.5]), np.log([0.75]))
    assert coarse[0] == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(0.5 / 0.75))
    assert coarse[0] <= whole[0]


def test_outputs_over_different_tokens_are_compared_on_those_that_both_know() -> None:
    log_p = np.log(np.array([[0.5, 0.3]]))
    one, two = (log_p, np.log([0.2]), np.array([[7, 3]])), (log_p, np.log([0.2]), np.array([[9, 7]]))
    found = same_cells({"a": one, "b": two})
    assert np.exp(found["a"][0]) == pytest.approx(np.array([[0.5]]))
    assert np.exp(found["b"][0]) == pytest.approx(np.array([[0.3]]))
    assert np.exp(found["b"][1]) == pytest.approx([0.7])
