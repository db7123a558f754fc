"""Vector files: what is written is read back, by us and by the owner of the other format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from palimpsest.core.errors import UserError
from palimpsest.core.seeds import numpy_stream
from palimpsest.store.vector_file import SteeringVectors, gguf_problems, read, write, write_gguf

FACTS = {"method": "mean", "pairs": 48, "norm": {"0": 1.5}, "name": "Größe"}


@pytest.fixture
def vectors() -> SteeringVectors:
    rng = numpy_stream(0, "vectors")
    return SteeringVectors({layer: rng.standard_normal(16).astype(np.float32) for layer in (0, 1, 2, 10)}, FACTS)


def test_safetensors_are_read_back(vectors: SteeringVectors, tmp_path: Path) -> None:
    path = tmp_path / "sub" / "v.safetensors"
    write(path, vectors)
    found = read(path)
    assert found.facts == FACTS
    assert sorted(found.layers) == [0, 1, 2, 10]
    assert all(np.array_equal(found.layers[layer], vectors.layers[layer]) for layer in vectors.layers)
    assert [one.name for one in path.parent.iterdir()] == ["v.safetensors"]
    first = path.read_bytes()
    write(path, vectors)
    assert path.read_bytes() == first


def test_safetensors_are_what_others_load(vectors: SteeringVectors, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    write(tmp_path / "v.safetensors", vectors)
    found = load_file(tmp_path / "v.safetensors")
    assert set(found) == {"layer.0", "layer.1", "layer.2", "layer.10"}
    assert found["layer.10"].shape == (16,)


def test_gguf_is_what_llama_cpp_wants(vectors: SteeringVectors, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "v.gguf"
    assert write_gguf(path, vectors, "llama") == [0]
    reader = gguf.GGUFReader(path)
    assert reader.get_field("general.architecture").contents() == "controlvector"
    assert reader.get_field("controlvector.model_hint").contents() == "llama"
    assert reader.get_field("controlvector.layer_count").contents() == 3
    found = {tensor.name: tensor for tensor in reader.tensors}
    assert set(found) == {"direction.1", "direction.2", "direction.10"}  # block 0 is what llama.cpp refuses
    for layer in (1, 2, 10):
        tensor = found[f"direction.{layer}"]
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
        assert list(tensor.shape) == [16]
        assert np.array_equal(np.asarray(tensor.data), vectors.layers[layer])


def test_what_gguf_can_not_hold_is_told_before_work() -> None:
    assert gguf_problems(None, [0]) == []
    assert gguf_problems(Path("x.gguf"), None) == []
    assert "after block 0" in gguf_problems(Path("x.gguf"), [0])[-1]


def test_a_missing_package_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palimpsest.store.vector_file.find_spec", lambda _: None)
    assert "pip install palimpsest-lm[gguf]" in gguf_problems(Path("x.gguf"), None)[0]


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_another_file_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"
    if content is None:
        from safetensors.numpy import save_file

        save_file({"weight": np.zeros(3, dtype=np.float32)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"v\.safetensors"):
        read(path)
    with pytest.raises(UserError, match="can't be read"):
        read(tmp_path / "none.safetensors")
