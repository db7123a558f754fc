"""Weight files: read by their bytes, without torch, and never believed."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from palimpsest.models.weights import BrokenWeightsError, fingerprint, read_header


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(
        {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.arange(4, dtype=np.int64), "empty": np.zeros((0, 3))}, path
    )
    return path


def test_header(file):
    found = {tensor.name: (tensor.dtype, tensor.shape, tensor.count) for tensor in read_header(file)}
    assert found == {"a": ("I64", (4,), 4), "b": ("F32", (2, 3), 6), "empty": ("F64", (0, 3), 0)}


def test_same_bytes_read_as_something_else_are_something_else(file):
    tensors = sorted(read_header(file), key=lambda one: one.name)
    digests = {fingerprint(tensors)[0]}
    for changes in ({"name": "c"}, {"dtype": "U64"}, {"shape": (2, 2)}):
        digests.add(fingerprint([replace(tensors[0], **changes), *tensors[1:]])[0])
    assert len(digests) == 4
    assert fingerprint(reversed(tensors)) == fingerprint(tensors)


def test_larger_than_one_piece(tmp_path, monkeypatch):
    monkeypatch.setattr("palimpsest.models.weights._CHUNK", 64)
    values = np.arange(1_000, dtype=np.float32)
    save_file({"a": values}, tmp_path / "whole")
    digest, not_finite = fingerprint(read_header(tmp_path / "whole"))
    assert not_finite == []
    values[-1] = np.inf
    save_file({"a": values}, tmp_path / "broken")
    assert fingerprint(read_header(tmp_path / "broken"))[1] == ["a"]
    monkeypatch.setattr("palimpsest.models.weights._CHUNK", 2**24)
    assert fingerprint(read_header(tmp_path / "whole"))[0] == digest


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "float8_e5m2", "float8_e4m3fn"])
def test_finite_is_what_torch_calls_finite(dtype, tmp_path):
    """Every bit pattern of the narrow types, and random ones of the wide types, one by one."""
    kind = getattr(torch, dtype)
    width = torch.empty(0, dtype=kind).element_size()
    patterns = torch.arange(256 ** min(width, 2)) if width <= 2 else torch.randint(-(2**63), 2**63 - 1, (500,))
    patterns = patterns.to({1: torch.uint8, 2: torch.uint16, 4: torch.int32, 8: torch.int64}[width])
    values = patterns.view(kind)
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0]).to(kind)
    values = torch.cat([special, values[torch.linspace(0, len(values) - 1, min(len(values), 700)).long()]])
    save_torch({str(place): value.reshape(1) for place, value in enumerate(values)}, tmp_path / "all")
    expected = {str(place) for place, value in enumerate(values) if not torch.isfinite(value.float() if width < 4 else value)}
    assert len(expected) >= 1
    assert set(fingerprint(read_header(tmp_path / "all"))[1]) == expected


@given(st.binary(max_size=200))
def test_garbage_is_refused_in_words(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("garbage") / "model.safetensors"
    path.write_bytes(content)
    try:
        tensors = read_header(path)
    except BrokenWeightsError as error:
        assert path.name in str(error)
    else:
        assert 8 + int.from_bytes(content[:8], "little") + sum(tensor.length for tensor in tensors) == len(content)


HEADERS = {
    "not an object": [1],
    "an entry without offsets": {"a": {"dtype": "F32", "shape": [1]}},
    "a gap": {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
    "an overlap": {name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for name in "ab"},
    "fewer bytes than the shape": {"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}},
    "an unknown type": {"a": {"dtype": "F3", "shape": [2], "data_offsets": [0, 8]}},
    "offsets that run backwards": {"a": {"dtype": "F32", "shape": [0], "data_offsets": [8, 0]}},
    "a shape of words": {"a": {"dtype": "F32", "shape": ["2"], "data_offsets": [0, 8]}},
}


@pytest.mark.parametrize("fault", HEADERS)
def test_headers_that_contradict_themselves(fault, tmp_path):
    raw = json.dumps(HEADERS[fault]).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(8))
    with pytest.raises(BrokenWeightsError):
        read_header(path)


@pytest.mark.parametrize("shape", [[0], [3, 0], [0, 0, 0]])
def test_a_file_of_tensors_without_numbers_is_refused_for_one_reason(tmp_path, shape):
    header = json.dumps({f"t{n}": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]} for n in range(200_000)}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(BrokenWeightsError, match=r"model.safetensors names 200,000 tensors without a single number"):
        read_header(path)
