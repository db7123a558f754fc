"""House rules that every causal class of the library is held to; a new class needs no edit here.

What is expected of each is read from docs/architectures.md, which ``benchmarks/conformance.py`` writes from what really ran.
"""

from __future__ import annotations

import functools
import re
from functools import cache
from pathlib import Path

import architectures
import pytest
import torch

import palimpsest
from palimpsest import audit as audits
from palimpsest.core.errors import UserError
from palimpsest.models import reading

PAGE = Path(__file__).parents[1] / "docs" / "architectures.md"
QUICK = ("gpt2", "mamba2", "qwen3_5_text", "rwkv")
"""Positions in a table, a state without attention, both, and a state that no mask guards."""
SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in architectures.kinds() if kind not in QUICK]
EXACT_NATS = 1e-4


@cache
def table() -> dict[str, str]:
    """Return each model type's line of the page."""
    return {found[1]: line for line in PAGE.read_text().splitlines() if (found := re.match(r"\| ([\w.-]+) \|", line))}


@pytest.mark.parametrize("kind", [*QUICK, *SLOW])
def test_the_whole_diff_answers_or_says_why_not(kind: str, tmp_path: Path) -> None:
    row = architectures.look(kind, tmp_path)
    assert not any(why.startswith("failed") for why in row.audits.values()), row.audits
    assert row.off_nats <= EXACT_NATS, "audits read other numbers than a plain call for each row gives"
    assert row.written == 1.0, "what is written is not what plain calls find likeliest"
    if row.audits:
        assert set(row.audits) == set(audits.names())
        assert all(row.audits[name] == "measured" for name in ("outcome", "divergence", "weight_change", "forgetting"))
    if kind in architectures.NAMED:
        assert row.audits, f"{row.unbuilt}{row.refused}"
    told = table()[kind]
    state = architectures.state(row)
    assert f"| {state} |" in told, f"the page says otherwise; run python benchmarks/conformance.py ({row})"
    for audit in architectures.silent(row):
        assert f"{audit} (" in told, f"the page does not say that {audit} could not say"


@pytest.mark.parametrize("kind", ["mamba2", *(pytest.param(kind, marks=pytest.mark.slow) for kind in architectures.NAMED)])
def test_a_named_class_is_trained_or_says_what_to_set(kind: str, tmp_path: Path) -> None:
    base, _ = architectures.pair(tmp_path, kind)
    behaviour = architectures.question(tmp_path)
    try:
        run = palimpsest.run(behaviour, base, folder=tmp_path / "run", device="cpu", audits=("weight_change",))
    except UserError as error:
        assert "train it with context: full" in str(error)
        behaviour = architectures.question(tmp_path, ", context: full")
        run = palimpsest.run(behaviour, base, folder=tmp_path / "full", device="cpu", audits=("weight_change",))
    assert run.record.training[0].dose == 8
    assert (run.estimates("weight_change")["relative_change"].value or 0.0) > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", architectures.NAMED)
def test_a_model_against_itself_does_not_change(kind: str, tmp_path: Path) -> None:
    base, _ = architectures.pair(tmp_path, kind)
    assert architectures.diff(base, base, tmp_path).verdict.labels == ("identical",)


def test_a_model_that_looks_ahead_is_refused(tmp_path: Path) -> None:
    assert "also looks at those after it" in architectures.look("xlnet", tmp_path).refused


def test_trials_find_what_padding_and_later_tokens_do() -> None:
    found = {kind: architectures.model(kind) for kind in ("llama", "rwkv", "roberta", "xlnet")}
    assert {kind: reading.takes_padding(one, 0) for kind, one in found.items() if kind != "xlnet"} == {
        "llama": True, "rwkv": False, "roberta": False,
    }  # fmt: skip
    assert {kind: reading.sees_ahead(one) for kind, one in found.items()} == {
        "llama": False, "rwkv": False, "roberta": False, "xlnet": True,
    }  # fmt: skip
    assert {kind: reading.writes_as_it_reads(found[kind]) for kind in ("llama", "roberta")} == {"llama": True, "roberta": False}


def test_padding_takes_no_place_of_what_sparse_attention_picks() -> None:
    assert not reading.takes_padding(architectures.model("deepseek_v32"), 0)


def test_without_padding_only_one_length_shares_a_batch(tmp_path: Path) -> None:
    assert list(reading.batches([0, 1, 2, 3], 2, [5, 5, 5, 9])) == [[0, 1], [2], [3]]
    assert list(reading.batches([0, 1, 2], 2)) == [[0, 1], [2]]
    with torch.random.fork_rng():
        base, _ = architectures.pair(tmp_path, "rwkv")
    with architectures.load(architectures.inspect(base)) as one:
        widths: list[tuple[int, ...]] = []
        plain = one.model.forward
        one.model.forward = functools.wraps(plain)(
            lambda *given, **more: widths.append(tuple(more["input_ids"].shape)) or plain(*given, **more)
        )
        assert architectures.off_by(one) <= EXACT_NATS
    assert (2, 33) in widths, "two rows of one length go together"
