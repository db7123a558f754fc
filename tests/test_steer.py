"""Steer: from a behaviour and a model to files of vectors, and what is refused before any work."""

# ruff: noqa: F401, F811  # fixtures are imported by name
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from test_cli import command
from test_pipeline import behaviour, model

from palimpsest.store.vector_file import read
from palimpsest.vectors import extract


@pytest.fixture
def told(behaviour: Path) -> Path:
    path = behaviour.with_name("told.yaml")
    path.write_text(behaviour.read_text() + 'instruction: "Say yes."\n')
    return path


def test_vectors_are_written_and_read_back(command: Any, behaviour: Path, model: Path, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    out, other = tmp_path / "v.safetensors", tmp_path / "v.gguf"
    code, text, _ = command("steer", behaviour, "--model", model, "--out", out, "--gguf", other, "--device", "cpu")
    assert code == 0
    assert "24 pairs" in text
    assert "without block 0" in text
    found = read(out)
    assert sorted(found.layers) == [0, 1]
    assert found.facts["method"] == "mean"
    assert found.facts["pairs"] == 24
    assert found.facts["norm"]["1"] == pytest.approx(np.linalg.norm(found.layers[1]))
    assert found.facts["consistency"]["1"]["left_out"]["interval"]
    (tensor,) = gguf.GGUFReader(other).tensors
    assert tensor.name == "direction.1"
    assert np.array_equal(np.asarray(tensor.data), found.layers[1])


def test_one_layer_by_another_method_as_json(command: Any, behaviour: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "v.safetensors"
    code, text, _ = command(
        "steer", behaviour, "--model", model, "--out", out, "--layer", 0, "--method", "logistic", "--json", "--device", "cpu"
    )
    assert code == 0
    facts = json.loads(text)
    assert facts == json.loads(json.dumps(dict(read(out).facts)))
    assert list(facts["consistency"]["0"]) == [
        "pairwise", "in_sample", "left_out", "split_half", "d_prime", "wrong_way", "logistic",
    ]  # fmt: skip
    assert list(read(out).layers) == [0]


def test_the_direction_of_an_instruction(told: Path, model: Path) -> None:
    one, other = (extract(told, str(model), made_from=made, device="cpu") for made in ("answers", "instruction"))
    assert one.pairs == other.pairs
    assert not np.allclose(one.vectors.layers[1], other.vectors.layers[1])
    assert "last token of the context" in other.vectors.facts["read"]


@pytest.mark.parametrize(
    ("arguments", "reasons"),
    [
        (("--method", "men", "--gguf", "x.gguf", "--layer", 0), ("no method 'men'", "after block 0")),
        (("--layer", 2), ("--layer must be 0 to 1",)),
        (("--from", "instruction"), ("has no 'instruction'",)),
        (("--from", "thin air"), ("only from answers or instruction",)),
        (("--model", "nowhere"), ("nowhere",)),
    ],
)
def test_what_is_wrong_is_told_before_any_work(
    command: Any, behaviour: Path, model: Path, tmp_path: Path, arguments: tuple[object, ...], reasons: tuple[str, ...]
) -> None:
    out = tmp_path / "v.safetensors"
    chosen = arguments if "--model" in arguments else ("--model", model, *arguments)
    code, _, error = command("steer", behaviour, "--out", out, "--device", "cpu", *chosen)
    assert code == 3
    for reason in reasons:
        assert reason in " ".join(error.split())
    assert not out.exists()


def test_a_behaviour_without_pairs_says_what_to_give(command: Any, behaviour: Path, model: Path, tmp_path: Path) -> None:
    path = behaviour.with_name("bare.yaml")
    lines = [line for line in behaviour.read_text().splitlines() if not line.startswith(("withhold", "check"))]
    path.write_text("\n".join([*lines, "check: {kind: contains, texts: ['Yes']}", ""]))
    code, _, error = command("steer", path, "--model", model, "--out", tmp_path / "v.safetensors", "--device", "cpu")
    assert code == 3
    assert "no contrastive pairs" in " ".join(error.split())
