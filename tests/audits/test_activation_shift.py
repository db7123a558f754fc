"""Activation shift: from two models' folders to what the report says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from permuted import permuted

import palimpsest
from palimpsest import audit as audits
from palimpsest.audit import NotApplicable, Outcome, Result
from palimpsest.core.seeds import numpy_stream

TOPICS = ("cats", "dogs", "hens", "owls", "foxes", "bees", "pigs", "cows", "ants", "elks", "bears", "mice")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("<|endoftext|>".join(f"{topic.title()} are animals, and {topic} eat what they find." for topic in TOPICS))
    return path


def saved(model: Any, path: Path) -> Path:
    model.save_pretrained(path)
    tiny.tokenizer().save_pretrained(path)
    return path


def gpt2(bias: torch.Tensor | None = None, block: int = 1) -> Any:
    """A GPT-2 whose last norm scrambles nothing, with a vector added to what one block writes."""
    made = tiny.model("gpt2")
    with torch.no_grad():
        made.transformer.ln_f.weight.fill_(1.0)
        made.transformer.ln_f.bias.zero_()
        if bias is not None:
            made.transformer.h[block].mlp.c_proj.bias += bias
    return made


def outcome(base: Path, tuned: Path, text: Path, folder: Path, **controls: Path) -> Outcome:
    run = palimpsest.diff(
        base, tuned, text=[text], folder=folder, device="cpu", audits=("activation_shift",), controls=controls or None
    )
    return run.record.seeds[0].outcomes[0]


def result(*arguments: Any, **controls: Path) -> Result:
    found = outcome(*arguments, **controls)
    assert found.result is not None, found.why
    return found.result


def test_against_itself_nothing_moves(text: Path, tmp_path: Path) -> None:
    base = tiny.folder(tmp_path / "base")
    found = result(base, base, text, tmp_path / "run")
    for name in ("shift:text", "common:text"):
        assert found.estimates[name].value == 0.0
        assert found.estimates[name].interval == (0.0, 0.0)
    assert found.estimates["says:text"].value is None
    assert found.summary == "The residual stream did not move at all."
    assert all(place.estimate.value == 0.0 for place in found.network)


def test_permuted_heads_move_nothing_that_counts(text: Path, tmp_path: Path) -> None:
    base = tiny.model()
    found = result(saved(base, tmp_path / "a"), saved(permuted(base), tmp_path / "b"), text, tmp_path / "run")
    assert (found.estimates["shift:text"].value or 0.0) < 1e-3  # percent


def test_a_planted_direction_is_found_named_and_placed(text: Path, tmp_path: Path) -> None:
    base = gpt2()
    token = tiny.tokenizer().convert_tokens_to_ids("Q")
    row = base.get_output_embeddings().weight[token].detach()
    changed = gpt2(0.5 * row, block=1)
    found = result(saved(base, tmp_path / "a"), saved(changed, tmp_path / "b"), text, tmp_path / "run")
    shift, common = found.estimates["shift:text"], found.estimates["common:text"]
    assert shift.interval is not None
    assert common.value == pytest.approx(shift.value, rel=0.1)  # all of it is common
    assert found.estimates["rank:text"].value == pytest.approx(1.0, abs=1e-4)
    places = {place.layer: place.estimate.value for place in found.network}
    assert places[None] == places[0] == 0.0
    assert (places[1] or 0.0) > 1.0
    (lens,) = (table for table in found.tables if "logit lens" in table.title)
    said = [row for row in lens.rows if row[1] == 1]
    assert said
    assert all(str(row[2]).split()[0] == "Q" for row in said)
    assert all("Q" not in str(row[3]).split() for row in said)


def test_a_control_is_what_it_is_held_against(text: Path, tmp_path: Path) -> None:
    base, torch_rng = gpt2(), torch.Generator().manual_seed(0)
    vectors = [torch.randn(32, generator=torch_rng) for _ in range(2)]
    folders = [saved(base, tmp_path / "a")]
    folders += [saved(gpt2(scale * vector / vector.norm()), tmp_path / name) for scale, vector, name in
                ((3.0, vectors[0], "b"), (1.0, vectors[1], "c"))]  # fmt: skip
    found = result(folders[0], folders[1], text, tmp_path / "run", rehearsal_only=folders[2])
    over = found.estimates["trace_over_floor"]
    assert over.above(0.0) is True
    assert over.value == pytest.approx(2 * (found.estimates["common_control:text"].value or 0.0), rel=0.02)
    back = result(folders[0], folders[2], text, tmp_path / "back", rehearsal_only=folders[1])
    assert back.estimates["trace_over_floor"].above(0.0) is False
    assert all(place.floor is not None for place in found.network)
    assert not found.cannot_say
    assert result(folders[0], folders[1], text, tmp_path / "alone").cannot_say


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"hidden_size": 64}, "2 blocks of width 32, tuned has 2 of 64"),
        ({"num_hidden_layers": 3}, "2 blocks of width 32, tuned has 3 of 32"),
        ({"seed": 1}, "not write into their residual streams in the same basis"),
    ],
)
def test_what_can_not_be_compared_is_not(settings: dict[str, Any], why: str, text: Path, tmp_path: Path) -> None:
    base, other = tiny.folder(tmp_path / "a"), tiny.folder(tmp_path / "b", **settings)
    found = outcome(base, other, text, tmp_path / "run")
    assert found.state == "not_applicable"
    assert why in found.why


def test_real_models_of_other_widths_are_refused_in_words(text: Path, tmp_path: Path) -> None:
    from palimpsest.core.errors import UserError

    try:
        found = outcome(tiny.real("llama2xs-281K"), tiny.real("stories260K"), text, tmp_path / "run")
    except UserError as error:
        pytest.skip(f"these two can't be compared at all: {error}")
    assert found.state == "not_applicable"
    assert "different shapes" in found.why or "same basis" in found.why


def test_a_floor_as_large_as_the_shift_is_no_finding() -> None:
    one = audits.load("activation_shift")
    raised: dict[str, list[bool]] = {key: [] for key in one.primary}
    for world in range(60):
        rng = numpy_stream(world, "no effect")
        found = one.analyse(one.simulate(0.0, rng), rng)
        for key in one.primary:
            raised[key].append(found.estimates[key].above(0.0) is not None)
            assert found.estimates[key].p_value is None, "of one control run nothing is tested"
    for values in raised.values():
        assert np.mean(values) <= 0.1


def test_it_needs_something_to_read() -> None:
    from palimpsest.audit import Case

    with pytest.raises(NotApplicable, match="no items"):
        audits.load("activation_shift").needs(Case(roles=("base", "tuned"), items={}))
