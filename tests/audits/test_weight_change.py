"""The audit of weights on simulated updates and on small models: what it says of known changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from permuted import permuted

import palimpsest
from palimpsest import audit as audits
from palimpsest.audit import Case, NotApplicable, Result
from palimpsest.core import updates
from palimpsest.core.measurement import Measurement
from palimpsest.core.progress import Silent
from palimpsest.core.seeds import numpy_stream
from palimpsest.measures import _measure
from palimpsest.models import subject

ONE = audits.load("weight_change")
PAIR = ("base", "tuned")


def result(roles: dict[str, Path], work: Path) -> Result:
    """Measure and analyse as the pipeline does, without a run."""
    case = Case(roles=tuple(roles), items={})
    infos = {role: subject.inspect(path) for role, path in roles.items()}
    measured: dict[str, Measurement] = {}
    for need in ONE.needs(case):
        measure = _measure.load(need.measure, need.parameters)
        found = measure.compare(infos[need.role], infos[need.against], "cpu", work, Silent().at)  # type: ignore[attr-defined]
        measured[need.name] = found
    return ONE.analyse(ONE.gather(case, measured), numpy_stream(0))


def saved(model: object, path: Path) -> Path:
    model.save_pretrained(path)  # type: ignore[attr-defined]
    tiny.tokenizer().save_pretrained(path)
    return path


def world(effect: float) -> Result:
    rng = numpy_stream(1, "world")
    return ONE.analyse(ONE.simulate(effect, rng), rng)


def test_a_planted_update_is_told_exactly() -> None:
    found = world(4.0)
    assert found.estimates["relative_change"].value == pytest.approx(4.0, rel=1e-9)
    assert found.estimates["control_relative_change"].value == pytest.approx(1.0, rel=1e-9)
    assert found.estimates["times_control"].value == pytest.approx(4.0, rel=1e-9)
    assert all(one.method == "exact" for one in found.estimates.values())
    assert 1.0 <= (found.estimates["stable_rank"].value or 0.0) <= 3.0
    assert abs(found.estimates["cosine_with_control"].value or 1.0) < 0.2
    assert "4% of their norm, 4 times as far as in this control run" in found.summary


def test_shares_add_up_over_kinds_layers_and_places() -> None:
    found = world(4.0)
    kinds, layers, _ = found.tables
    for table in (kinds, layers):
        column = table.columns.index("share of the squared update")
        own = [row[column].value for row in table.rows if row[0] != "all weights"]  # type: ignore[union-attr]
        assert sum(own) == pytest.approx(1.0, rel=1e-9)  # type: ignore[arg-type]
    assert {(place.layer, place.part) for place in found.network} == {
        (None, "embeddings"),
        *((layer, part) for layer in range(3) for part in ("attention", "mlp", "norm")),
    }
    assert all(place.estimate.method == "exact" and place.floor is not None for place in found.network)


def test_numbers_of_a_group_are_those_of_its_weights_together() -> None:
    rng = np.random.default_rng(0)
    base = {name: rng.normal(size=(6, 4)) for name in ("0 attention q", "0 attention k")}
    change = {name: rng.normal(size=(6, 4)) * 0.1 for name in base}
    moved = updates.compared(base, change)
    old, new = (np.concatenate([one[name].ravel() for name in base]) for one in (base, change))
    assert updates.relative(moved).value == pytest.approx(100 * np.linalg.norm(new) / np.linalg.norm(old))
    wanted = old @ (old + new) / np.linalg.norm(old) / np.linalg.norm(old + new)
    assert updates.kept(moved).value == pytest.approx(wanted, rel=1e-9)
    assert updates.with_base(moved).value == pytest.approx(old @ new / np.linalg.norm(old) / np.linalg.norm(new), rel=1e-9)
    first = np.array([True, False])
    wanted = np.sum(change["0 attention q"] ** 2) / np.linalg.norm(change["0 attention q"], 2) ** 2
    assert updates.stable_rank(moved, first).value == pytest.approx(wanted, rel=1e-9)


def test_leading_values_alone_are_not_called_exact() -> None:
    rng = np.random.default_rng(0)
    moved = updates.compared({"0 mlp": rng.normal(size=(6, 4))}, {"0 mlp": rng.normal(size=(6, 4))})
    moved = updates.Moved(**{**vars(moved), "whole": np.array([False])})
    assert updates.effective_rank(moved).value is None
    assert updates.stable_rank(moved).method != "exact" and not updates.stable_rank(moved).known


def test_the_same_weights_are_told_to_be_exactly_the_same(tmp_path: Path) -> None:
    path = tiny.folder(tmp_path / "a")
    found = result(dict.fromkeys(PAIR, path), tmp_path / "work")
    assert found.estimates["relative_change"].value == 0.0
    assert found.estimates["changed_share"].value == 0.0
    assert found.estimates["stable_rank"].value is None
    assert found.summary == "No weight changed: the update is exactly 0."
    assert all(place.estimate.value == 0.0 for place in found.network)


def test_permuted_heads_are_other_weights(tmp_path: Path) -> None:
    path = tiny.folder(tmp_path / "a")
    other = saved(permuted(tiny.model()), tmp_path / "b")
    found = result({"base": path, "tuned": other}, tmp_path / "work")
    assert (found.estimates["relative_change"].value or 0.0) > 10
    still = {place.part for place in found.network if place.estimate.value == 0.0}
    assert still == {"embeddings", "head", "norm"}
    assert "all 14 that differ hold exactly the base's numbers in another order" in found.summary
    changed = permuted(tiny.model())
    with torch.no_grad():
        changed.model.layers[0].mlp.down_proj.weight[0, 0] += 1e-4
    found = result({"base": path, "tuned": saved(changed, tmp_path / "c")}, tmp_path / "work")
    assert "13 of the 14 that differ hold exactly the base's numbers in another order" in found.summary
    moved = result({"base": path, "tuned": tiny.folder(tmp_path / "d", seed=1)}, tmp_path / "work")
    assert "another order" not in moved.summary


def test_tied_embeddings_count_once(tmp_path: Path) -> None:
    paths = [tiny.folder(tmp_path / str(seed), seed=seed, tie_word_embeddings=True) for seed in (0, 1)]
    found = result(dict(zip(PAIR, paths, strict=True)), tmp_path / "work")
    assert found.estimates["relative_change"].n == tiny.model(tie_word_embeddings=True).num_parameters()
    assert "head" not in {place.part for place in found.network}


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_an_adapter_has_no_more_directions_than_its_rank(stored: torch.dtype, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model = tiny.model().to(stored)
    base = saved(model, tmp_path / "base")
    config = LoraConfig(r=3, lora_alpha=3, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adapted = get_peft_model(model, config)
    for name, value in adapted.named_parameters():
        if "lora" in name:
            value.data *= 0.01 / float(value.detach().float().abs().mean())
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(tmp_path / "adapter")
    found = result({"base": base, "tuned": tmp_path / "adapter"}, tmp_path / "work")
    assert 1.0 <= (found.estimates["stable_rank"].value or 99.0) <= 3.0
    assert (found.estimates["effective_rank"].value or 99.0) < 3.1
    ranks = [row[found.tables[2].columns.index("rank above rounding, of at most")] for row in found.tables[2].rows]
    assert set(ranks) == {"3 of 32"}
    assert len(ranks) == 4


def test_other_shapes_are_not_applicable_and_a_control_with_other_shapes_is_told(tmp_path: Path) -> None:
    a, b = tiny.folder(tmp_path / "a"), tiny.folder(tmp_path / "b", seed=1)
    wide = tiny.folder(tmp_path / "wide", intermediate_size=40)
    with pytest.raises(NotApplicable, match="not comparable"):
        result({"base": a, "tuned": wide}, tmp_path / "work")
    found = result({"base": a, "tuned": b, "rehearsal_only": wide}, tmp_path / "work")
    assert "times_control" not in found.estimates
    assert any("rehearsal-only control moved" in line for line in found.cannot_say)
    assert all(place.floor is None for place in found.network)


def test_the_control_tells_how_far_and_in_which_direction(tmp_path: Path) -> None:
    """The cosine of two updates, which are never read together, against that of whole models."""
    models = [tiny.model(seed=seed) for seed in (0, 1, 2)]
    roles = ("base", "tuned", "rehearsal_only")
    paths = [saved(model, tmp_path / role) for role, model in zip(roles, models, strict=True)]
    found = result(dict(zip(roles, paths, strict=True)), tmp_path / "work")
    base, tuned, control = (torch.cat([value.detach().double().flatten() for value in one.parameters()]) for one in models)
    one, other = tuned - base, control - base
    assert found.estimates["cosine_with_control"].value == pytest.approx(
        float(one @ other / one.norm() / other.norm()), rel=1e-9
    )
    assert found.estimates["times_control"].value == pytest.approx(float(one.norm() / other.norm()), rel=1e-9)


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "mixtral", "qwen3_5_text"])
def test_other_architectures(kind: str, tmp_path: Path) -> None:
    paths = [tiny.folder(tmp_path / str(seed), kind, seed=seed) for seed in (0, 1)]
    found = result(dict(zip(PAIR, paths, strict=True)), tmp_path / "work")
    assert found.estimates["relative_change"].known
    assert "other" not in {place.part for place in found.network}


def test_a_diff_answers_with_it_and_draws_the_network(tmp_path: Path) -> None:
    paths = [tiny.folder(tmp_path / str(seed), seed=seed, max_position_embeddings=128) for seed in (0, 1)]
    run = palimpsest.diff(*paths, folder=tmp_path / "run", device="cpu", audits=("weight_change",), documents=8)
    assert run.record.seeds[0].outcomes[0].state == "measured"
    page = run.report.read_text()
    assert "Where in the network it moved" in page and "These numbers are exact" in page
    wide = tiny.folder(tmp_path / "wide", intermediate_size=40, max_position_embeddings=128)
    run = palimpsest.diff(paths[0], wide, folder=tmp_path / "run2", device="cpu", audits=("weight_change",), documents=8)
    assert run.record.seeds[0].outcomes[0].state == "not_applicable"
    assert "not comparable" in run.record.seeds[0].outcomes[0].why
    assert "Where in the network it moved" not in run.report.read_text()
