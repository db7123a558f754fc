"""The measure of weights against plain numpy on whole models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from palimpsest.core.measurement import Measurement, Need
from palimpsest.core.progress import Silent
from palimpsest.data.chat import ItemSet
from palimpsest.measures import _measure
from palimpsest.measures import weight_change as module
from palimpsest.measures._measure import Budget
from palimpsest.measures._session import Session
from palimpsest.models import subject
from palimpsest.store.cache import Cache
from palimpsest.store.run_folder import RunFolder


def taken(one: Path, other: Path, work: Path, **parameters: object) -> Measurement:
    measure = _measure.load("weight_change", parameters)
    return measure.compare(subject.inspect(one), subject.inspect(other), "cpu", work, Silent().at)  # type: ignore[attr-defined]


def weights(kind: str, seed: int) -> dict[str, np.ndarray]:
    return {name: value.detach().double().numpy() for name, value in sorted(tiny.model(kind, seed).named_parameters())}


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral", "qwen3_5_text"])
@pytest.mark.parametrize("slice_of", [2**20, 100])
def test_norms_and_singular_values_are_those_of_numpy(
    kind: str, slice_of: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SLICE", slice_of)
    found = taken(tiny.folder(tmp_path / "a", kind, seed=1), tiny.folder(tmp_path / "b", kind), tmp_path / "work")
    after, before = weights(kind, 1), weights(kind, 0)
    assert found.texts["name"] == list(before)
    place = 0
    for index, (name, old) in enumerate(before.items()):
        update = after[name] - old
        wanted = {
            "size": old.size,
            "changed": np.count_nonzero(update),
            "largest": np.abs(update).max(),
            "base_sq": np.sum(old**2),
            "update_sq": np.sum(update**2),
            "inner": np.sum(update * old),
        }
        for key, value in wanted.items():
            assert found.arrays[key][index] == pytest.approx(value, rel=1e-12), (name, key)
        if update.ndim < 2:
            continue
        matrices = [update.reshape(len(update), -1)] if "conv1d" in name else update.reshape(-1, *update.shape[-2:])
        for matrix in matrices:
            values = np.linalg.svd(matrix, compute_uv=False)
            assert found.arrays["weight"][place] == index
            assert found.arrays["side"][place] == len(values)
            assert np.allclose(found.arrays["spectrum"][place][: len(values)], values, rtol=1e-9, atol=1e-7)
            assert not found.arrays["spectrum"][place][len(values) :].any()
            shares = values / values.sum()
            assert found.arrays["effective_rank"][place] == pytest.approx(np.exp(-np.sum(shares * np.log(shares))), rel=1e-6)
            place += 1
    assert place == len(found.arrays["weight"])


def test_a_model_against_itself_moves_by_exactly_nothing(tmp_path: Path) -> None:
    path = tiny.folder(tmp_path / "a")
    found = taken(path, path, tmp_path / "work")
    for key in ("changed", "largest", "update_sq", "inner", "spectrum", "rank", "matrix_sq"):
        assert not found.arrays[key].any(), key


def test_bfloat16_tells_how_many_weights_moved(tmp_path: Path) -> None:
    """Changes below half a unit in the last place are lost when a model is stored; the others come out as they are."""
    model = tiny.model().to(torch.bfloat16)
    for name in ("a", "b"):
        if name == "a":
            flat = model.model.layers[0].mlp.up_proj.weight.data.view(-1)
            before = flat.clone()
            flat[:100] *= 1.02
            flat[100:200] *= 1.0001
            moved = int((flat != before).sum())
            largest = float((flat.double() - before.double()).abs().max())
        model.save_pretrained(tmp_path / name)
        tiny.tokenizer().save_pretrained(tmp_path / name)
        model = tiny.model().to(torch.bfloat16)
    found = taken(tmp_path / "a", tmp_path / "b", tmp_path / "work")
    assert 90 <= moved == int(found.arrays["changed"].sum()) <= 100
    assert found.arrays["largest"].max() == largest


def test_shapes_that_differ_are_told(tmp_path: Path) -> None:
    other = tiny.folder(tmp_path / "b", intermediate_size=40)
    found = taken(tiny.folder(tmp_path / "a"), other, tmp_path / "work")
    assert not found.arrays
    assert "not comparable" in found.texts["why"][0] and "(32, 40)" in found.texts["why"][0]


def test_a_side_that_is_too_long_gives_the_leading_values(tmp_path: Path) -> None:
    paths = [tiny.folder(tmp_path / str(seed), seed=seed, hidden_size=64) for seed in (1, 0)]
    all_of_them = taken(*paths, tmp_path / "work", spectrum=8)
    few = taken(*paths, tmp_path / "work", spectrum=8, exact_side=16)
    long = few.arrays["side"] > 24
    assert long.any()
    assert np.array_equal(few.arrays["whole"], ~long)
    assert np.allclose(few.arrays["spectrum"][:, 0], all_of_them.arrays["spectrum"][:, 0], rtol=1e-3)
    assert (few.arrays["spectrum"] <= all_of_them.arrays["spectrum"] * (1 + 1e-9)).all()
    assert (few.arrays["rank"][long] == -1).all()


def test_without_a_spectrum_only_norms(tmp_path: Path) -> None:
    found = taken(tiny.folder(tmp_path / "a", seed=1), tiny.folder(tmp_path / "b"), tmp_path / "work", spectrum=0)
    assert "spectrum" not in found.arrays and found.arrays["update_sq"].all()


def test_a_session_reads_weights_without_loading_a_model_and_never_twice(tmp_path: Path) -> None:
    infos = {
        role: subject.inspect(tiny.folder(tmp_path / role, seed=seed)) for seed, role in enumerate(("base", "tuned", "other"))
    }
    digests = {role: info.digest for role, info in infos.items()}
    needs = [Need(measure="weight_change", role="tuned", against=role) for role in ("base", "other")]
    with RunFolder(tmp_path / "run", {"kind": "test"}) as run:
        session = Session(Cache(tmp_path / "cache"), {}, Budget(64), "cpu", "float32", run)
        session.take(lambda: pytest.fail("no model is needed"), needs, digests, Silent(), infos)
        found = [session.get(need, digests) for need in needs]
        assert found[0] is not None and found[1] is not None
        assert not np.array_equal(found[0].arrays["update_sq"], found[1].arrays["update_sq"])
        assert session.missing(needs, digests) == []
        again = Session(Cache(tmp_path / "cache"), {}, Budget(64).halved(), "cpu", "bfloat16", run)
        assert again.missing(needs, digests) == []
        assert session.missing(needs, {**digests, "base": digests["other"]}) == []
        assert session.missing(needs[:1], {**digests, "base": "changed"}) == needs[:1]
        assert not (run.path / "weights").exists()


def test_a_measure_of_weights_takes_no_items(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="without items"):
        _measure.load("weight_change", {}).take(None, ItemSet(name="x", items=()), Budget(64), None, Silent().at)
