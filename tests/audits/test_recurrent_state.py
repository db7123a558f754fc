"""Where a change crosses from a context to its decision: on answers whose parts are known, and through the whole path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

import palimpsest
from palimpsest import audit as audits
from palimpsest.audit import Result
from palimpsest.audits.recurrent_state import Data
from palimpsest.core.estimate import Estimate
from palimpsest.core.seeds import numpy_stream
from palimpsest.data.kept import EXCHANGES, PARTS, Kept, Swap

TEMPLATES = 12


def swap(recurrent: float, attention: float, decision: float, scatter: float = 0.1) -> Swap:
    """Answers in which each part carries so much of the change, and nothing is only read together."""
    rng = numpy_stream(0, "swap")
    clusters = np.repeat(np.arange(TEMPLATES), 4)
    before, one, other, rest = (size + rng.normal(0, scatter, clusters.size) for size in (-1.0, recurrent, attention, decision))
    gains = {"none": 0 * one, "recurrent": one, "attention": other, "both": one + other}
    after = before + one + other + rest
    odds = {
        "base": np.stack([before + gains[name] for name in EXCHANGES], axis=1),
        "tuned": np.stack([after - gains[name] for name in EXCHANGES], axis=1),
    }
    return Swap(odds, {role: 1 / (1 + np.exp(-values)) for role, values in odds.items()}, clusters)


def analysed(**parts: Any) -> Result:
    return audits.load("recurrent_state").analyse(Data({"express": Kept(**parts)}), numpy_stream(0, "test"))


def value(estimate: Estimate) -> float:
    assert estimate.value is not None
    return estimate.value


def test_parts_are_what_was_put_in() -> None:
    found = analysed(swap=swap(2.0, 0.5, 1.5)).estimates
    for name, size in (("recurrent", 2.0), ("attention", 0.5), ("both", 2.5), ("decision", 1.5), ("whole", 4.0)):
        assert value(found[name]) == pytest.approx(size, abs=0.1), name
    assert value(found["recurrent_share"]) == pytest.approx(0.5, abs=0.03)
    assert value(found["both_share"]) + value(found["decision_share"]) == pytest.approx(1.0)
    assert found["recurrent_over_attention"].above(1.0)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ((2.0, 0.5, 1.0), "; states carry +1."),
        ((0.5, 2.0, 1.0), "; states carry \N{MINUS SIGN}1."),
        ((-2.0, -0.5, -1.0), "; states carry +1."),
        ((1.0, 1.0, 1.0), "not decided"),
    ],
)
def test_which_is_larger_is_said_in_the_direction_of_the_change(sizes: tuple[float, float, float], said: str) -> None:
    assert said in analysed(swap=swap(*sizes)).summary


def test_both_directions_are_told_apart() -> None:
    one = swap(1.0, 0.0, 0.0)
    odds = {role: values.copy() for role, values in one.log_odds.items()}
    odds["base"][:, 1] = odds["base"][:, 0]  # into the base the states bring nothing
    half = Swap(odds, one.share, one.clusters)
    assert half.part("recurrent", "tuned").mean() == pytest.approx(1.0, abs=0.1)
    assert half.part("recurrent", "base").mean() == 0.0
    assert half.part("recurrent").mean() == pytest.approx(0.5, abs=0.05)


def test_no_change_has_no_shares() -> None:
    found = analysed(swap=swap(0.0, 0.0, 0.0)).estimates
    assert found["recurrent_share"].value is None and set(PARTS) <= set(found)


@pytest.fixture
def behaviour(tmp_path: Path) -> Path:
    words = [f"{colour} {animal}" for colour in ("red", "blue", "old", "new") for animal in ("cat", "dog", "hen", "cow")]
    for pole, answer in (("yes", "Yes"), ("no", "No")):
        rows = [
            {
                "messages": [
                    {"role": "user", "content": f"Is the {word} {answer.lower()}? Say it"},
                    {"role": "assistant", "content": answer},
                ],
                "template": word,
            }
            for word in words
        ]
        (tmp_path / f"{pole}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "b.yaml"
    path.write_text(
        "name: b\nquestion: Does it say yes?\nexpress: {data: yes.jsonl, held_out: yes.jsonl}\n"
        "withhold: {data: no.jsonl, held_out: no.jsonl}\n"
        "check: {kind: choice, options: {agree: 'Yes', refuse: 'No'}, expected: agree}\ndose: 8\nheld_out: 16\n"
    )
    return path


def outcome(behaviour: Path, tmp_path: Path, kind: str, seed: int) -> Any:
    base, other = tiny.folder(tmp_path / "base", kind), tiny.folder(tmp_path / "other", kind, seed)
    (other / "note.txt").write_text("another folder")
    run = palimpsest.diff(base, other, behaviour=behaviour, folder=tmp_path / "run", device="cpu", audits=("recurrent_state",))
    assert run.report.exists()
    return run.record.seeds[0].outcomes[0]


def test_a_model_against_itself_is_exactly_0(behaviour: Path, tmp_path: Path) -> None:
    result = outcome(behaviour, tmp_path, "qwen3_5_text", 0).result
    for name in ("recurrent_over_attention", "whole", *PARTS, "drift"):
        assert value(result.estimates[name]) == 0.0, name
    for gate in ("write", "decay"):
        assert value(result.estimates[f"{gate}_shift"]) == 0.0
    assert {place.part for place in result.network} == {"recurrent"}
    assert any("rehearsal_only" in said for said in result.cannot_say)


def test_two_models_are_told_apart(behaviour: Path, tmp_path: Path) -> None:
    result = outcome(behaviour, tmp_path, "qwen3_5_text", 1).result
    assert value(result.estimates["drift"]) > 0
    assert value(result.estimates["whole"]) != 0.0
    shares = [value(result.estimates[name]) for name in ("both", "decision")]
    assert sum(shares) == pytest.approx(value(result.estimates["whole"]))


def test_without_a_recurrent_layer_it_says_so(behaviour: Path, tmp_path: Path) -> None:
    found = outcome(behaviour, tmp_path, "llama", 1)
    assert found.state == "not_applicable" and "no layer that keeps a state" in found.why
