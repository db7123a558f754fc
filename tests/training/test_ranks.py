"""Ranks: are several processes equal to one?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_kit import some_rows

from palimpsest.training.frozen_context import FrozenContext
from palimpsest.training.passes import own_passes
from palimpsest.training.sampler import Row

HERE = Path(__file__).parent
STEPS: dict[str, Any] = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
FSDP = ["--use_fsdp", "--fsdp_version", "2", "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP"]
FSDP += ["--fsdp_transformer_layer_cls_to_wrap", "LlamaDecoderLayer"]


def run(folder: Path, changes: dict[str, Any], launch: list[str] | None = None) -> dict[str, torch.Tensor]:
    """Train alone, or in two processes with these arguments of ``accelerate launch``; return the weights."""
    command = [sys.executable]
    if launch is not None:
        command += ["-m", "accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1", "--dynamo_backend", "no"]
        command += ["--mixed_precision", "no", "--main_process_port", "0", *launch]
    command += [str(HERE / "launched.py"), str(folder), json.dumps(changes)]
    environment = {
        **os.environ,
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(folder / "model" / "model.safetensors") if (folder / "model").exists() else {}


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("launch", [FSDP, ["--multi_gpu"]], ids=["fsdp2", "ddp"])
@pytest.mark.parametrize(
    "changes",
    [
        {"optim": "apollo", "context": "frozen"},
        {"optim": "apollo_mini", "context": "frozen", "optim_args": {"norm_limit": 1.01}, "weight_decay": 0.1},
        {"optim": "adamw", "context": "full"},
    ],
    ids=["apollo", "mini", "adamw"],
)
def test_two_processes_are_equal_to_one(tmp_path: Path, launch: list[str], changes: dict[str, Any]) -> None:
    alone = run(tmp_path / "one", changes | STEPS)
    together = run(tmp_path / "two", changes | STEPS, launch)
    assert apart(alone, together) < 2e-6
    steps = [
        [json.loads(line) for line in (tmp_path / name / "steps.jsonl").read_text().splitlines()] for name in ("one", "two")
    ]
    for one, two in zip(*steps, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert two["rows_rehearsal"] == one["rows_rehearsal"]
        assert two["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-3)


@pytest.mark.slow
def test_a_sharded_run_that_was_stopped_goes_on_exactly(tmp_path: Path) -> None:
    changes = {"optim": "apollo", "context": "frozen", "optim_args": {"norm_limit": 1.01}} | STEPS
    undisturbed = run(tmp_path / "undisturbed", changes, FSDP)
    run(tmp_path / "disturbed", changes | {"stop_at": 5}, FSDP)
    assert not (tmp_path / "disturbed" / "training.json").exists()
    assert apart(undisturbed, run(tmp_path / "disturbed", changes, FSDP)) == 0.0


def test_ranks_share_the_passes_of_a_step_and_run_the_same_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = FrozenContext()
    text = Row([1, 2, 3], [0.0, 1.0, 1.0], "rehearsal")
    chunks = [some_rows()[:2], [text], some_rows()[2:4]]
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    monkeypatch.setenv("WORLD_SIZE", "2")
    found = []
    for rank in (0, 1):
        monkeypatch.setenv("RANK", str(rank))
        found.append(own_passes(objective, chunks))
    (first, weights), (second, same) = found
    assert [type(part) for part in first] == [type(part) for part in second]
    assert torch.equal(weights, same)
    run_by_both = sum(float(part.weights.sum()) for part in (*first, *second))
    assert run_by_both == pytest.approx(float(weights.sum()))
    assert float(weights.sum()) == pytest.approx(sum(sum(row.weights) for chunk in chunks for row in chunk))
