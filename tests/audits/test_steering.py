"""Steering: from two models' folders to what the report says."""

# ruff: noqa: F401, F811  # fixtures are imported by name
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from test_pipeline import behaviour, model

import palimpsest
from palimpsest import audit as audits
from palimpsest.audit import Case, NotApplicable, Outcome, Result
from palimpsest.core.seeds import numpy_stream
from palimpsest.data.steered import along, with_training


@pytest.fixture
def told(behaviour: Path) -> Path:
    path = behaviour.with_name("told.yaml")
    path.write_text(behaviour.read_text() + 'instruction: "Say yes."\n')
    return path


def outcome(base: Path, tuned: Path, behaviour: Path, folder: Path, **controls: Path) -> Outcome:
    run = palimpsest.diff(
        base, tuned, behaviour=behaviour, folder=folder, device="cpu", audits=("steering",), controls=controls or None
    )
    return run.record.seeds[0].outcomes[0]


def result(*arguments: Any, **controls: Path) -> Result:
    found = outcome(*arguments, **controls)
    assert found.result is not None, found.why
    return found.result


def test_against_itself_training_did_nothing(told: Path, model: Path, tmp_path: Path) -> None:
    found = result(model, model, told, tmp_path / "run")
    assert found.estimates["projection"].value == 0.0
    assert found.estimates["cosine_with_training"].value is None
    assert found.estimates["kl:express:training|base"].value == 0.0
    assert found.estimates["kl:express:instruction|training"] == found.estimates["kl:express:instruction|base"]
    assert (found.estimates["kl:express:vector|base"].value or 0.0) > 0
    assert "has no direction to hold" in found.summary
    assert any("rehearsal_only" in one for one in found.cannot_say)


def test_without_an_instruction_the_rest_is_still_told(behaviour: Path, model: Path, tmp_path: Path) -> None:
    found = result(model, model, behaviour, tmp_path / "run")
    assert any("'instruction'" in one for one in found.cannot_say)
    assert found.estimates["slope"].known
    assert "kl:express:vector|base" in found.estimates
    assert not [name for name in found.estimates if "instruction" in name]


def test_a_model_that_moved_along_the_vector_is_seen_to(behaviour: Path, model: Path, tmp_path: Path) -> None:
    """Write the vector of the base into the bias of its last block: that is all that training is then found to have done."""
    from palimpsest.vectors import extract

    base = tiny.folder(tmp_path / "gpt2", "gpt2", n_positions=128)
    vector = extract(behaviour, str(base), device="cpu").vectors.layers[1]
    made = tiny.model("gpt2", n_positions=128)
    for name, size in (("tuned", 0.5), ("control", 0.1)):
        with torch.no_grad():
            made.transformer.h[1].mlp.c_proj.bias += size * torch.from_numpy(vector)
        made.save_pretrained(tmp_path / name)
        tiny.tokenizer().save_pretrained(tmp_path / name)
        with torch.no_grad():
            made.transformer.h[1].mlp.c_proj.bias -= size * torch.from_numpy(vector)
    found = result(base, tmp_path / "tuned", behaviour, tmp_path / "run", rehearsal_only=tmp_path / "control")
    (table,) = (one for one in found.tables if "foretell" in one.title)
    last = table.rows[-1]
    assert last[0] == 1
    moved, control = last[6], last[7]
    assert not isinstance(moved, str | int | None) and not isinstance(control, str | int | None)
    assert moved.value == pytest.approx(0.5, abs=1e-3)
    assert control.value == pytest.approx(0.1, abs=1e-3)
    assert str(last[5]) == "0.010"  # no shuffled labels come as near


def test_residual_streams_of_different_shapes_are_refused(behaviour: Path, model: Path, tmp_path: Path) -> None:
    other = tiny.folder(tmp_path / "wide", hidden_size=64, max_position_embeddings=128)
    found = outcome(model, other, behaviour, tmp_path / "run")
    assert found.state == "not_applicable"
    assert "different shapes" in found.why


def test_a_random_direction_is_what_slopes_are_held_against() -> None:
    one = audits.load("steering")
    slopes = []
    for world in range(40):
        rng = numpy_stream(world, "slopes")
        slopes.append(one.analyse(one.simulate(0.0, rng), rng).estimates["slope_over_floor"].above(0.0))
    assert np.mean([seen is not None for seen in slopes]) <= 0.15


def test_the_cosine_with_training_covers_the_truth() -> None:
    """Pairs and shifts whose mean directions have a known cosine, both with noise."""
    from palimpsest.data.steered import Contrast

    held, truth = [], 0.6
    for world in range(200):
        rng = numpy_stream(world, "cosine")
        difference = np.eye(10)[0] + 0.4 * rng.standard_normal((24, 10))
        residual = np.stack([difference / 2, -difference / 2], 1)[:, :, None]
        contrast = Contrast(residual, np.repeat(np.arange(12), 2), np.array([1]), 0, np.zeros((1, 1)), np.zeros(1))
        item = np.repeat(np.arange(24), 4)
        mean = truth * np.eye(10)[0] + np.sqrt(1 - truth**2) * np.eye(10)[1]
        shift = mean + 0.4 * rng.standard_normal((24, 10))[item] + 0.4 * rng.standard_normal((96, 10))
        found = with_training(contrast, shift[:, None], item + 100, [0])[0]
        assert found.interval is not None
        held.append(found.interval[0] <= truth <= found.interval[1])
    assert np.mean(held) >= 0.91


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_pairs_are_told_without_intervals(count: int) -> None:
    from dataclasses import replace

    one, rng = audits.load("steering"), numpy_stream(0, "few")
    data = one.simulate(0.5, rng)
    answers = data.directions["answers"]
    contrast = replace(answers.contrast, residual=answers.contrast.residual[:count], cluster=np.arange(count))
    found = one.analyse(replace(data, directions={"answers": replace(answers, contrast=contrast)}), rng)
    for name in ("pairwise", "in_sample", "left_out", "split_half", "d_prime"):
        assert found.estimates[f"{name}_agreement"].interval is None
    assert found.estimates["cosine_with_training"].value is None
    assert found.estimates["slope_over_floor"].known


def test_sides_that_are_the_same_have_no_direction() -> None:
    from dataclasses import replace

    one, rng = audits.load("steering"), numpy_stream(0, "same")
    data = one.simulate(0.5, rng)
    answers = data.directions["answers"]
    same = np.repeat(answers.contrast.residual[:, :1], 2, axis=1)
    contrast = replace(answers.contrast, residual=same)
    found = one.analyse(replace(data, directions={"answers": replace(answers, contrast=contrast)}), rng)
    assert found.estimates["projection"].value == 0.0
    assert found.estimates["left_out_agreement"].value == 0.0


def test_along_counts_in_multiples() -> None:
    vector = np.array([3.0, 4.0])
    assert along(vector, np.array([[3.0, 4.0], [-6.0, -8.0], [4.0, -3.0]])) == pytest.approx([1.0, -2.0, 0.0])


def test_it_needs_pairs() -> None:
    with pytest.raises(NotApplicable, match="no contrastive pairs"):
        audits.load("steering").needs(Case(roles=("base", "tuned"), items={}))
