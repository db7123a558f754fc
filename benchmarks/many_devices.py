"""Many devices: what does a model take on each of several devices? Computed from shapes, not measured: no GPU is needed.

    python benchmarks/many_devices.py [--devices 8]

The numbers are those by which ``palimpsest run --dry-run`` judges whether a run fits; docs/many_gpus.md shows them.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from palimpsest.models.sharded import numbers_gathered
from palimpsest.training.optimizers import bytes_trained
from palimpsest.training.settings import TrainingSettings

Shapes = list[tuple[str, tuple[int, ...]]]
MODELS: dict[str, dict[str, int]] = {
    "8B": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
    "32B": {"hidden_size": 5120, "intermediate_size": 27648, "num_hidden_layers": 64, "num_attention_heads": 40},
    "70B": {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64},
}
"""Llamas with 8 key-value heads and a vocabulary of 128,256."""
TRAINED: dict[str, dict[str, Any]] = {
    "run, lora (r 16)": {"lora": {"r": 16}},
    "run, apollo_mini": {"optim": "apollo_mini"},
    "run, apollo (rank 256)": {"optim": "apollo", "optim_args": {"rank": 256}},
    "run, apollo (default rank)": {"optim": "apollo"},
    "run, adamw": {"optim": "adamw"},
}
AUDITED = {"diff, --dtype bfloat16": 2, "diff, --dtype float32": 4}


def shapes_of(name: str) -> Shapes:
    """Return names and shapes of a model's weights, made without memory for them."""
    with torch.device("meta"):
        made = LlamaForCausalLM(LlamaConfig(vocab_size=128_256, num_key_value_heads=8, **MODELS[name]))
    return [(key, tuple(value.shape)) for key, value in made.named_parameters()]


def needs(shapes: Shapes, devices: int) -> dict[str, tuple[float, float, float]]:
    """Return for each way to use a model: bytes a weight over all devices, GB held on each, and GB gathered there."""
    count = sum(math.prod(shape) for _, shape in shapes)
    gathered, group = numbers_gathered(shapes)
    found = {way: (float(size), size * count / devices / 1e9, size * gathered / 1e9) for way, size in AUDITED.items()}
    for way, given in TRAINED.items():
        held = bytes_trained(TrainingSettings.read(given, way), count, shapes)
        adapter, gradients = (held - 4 * count, 0) if "lora" in given else (0, group)  # each device holds the adapter whole
        each = (held - adapter) / devices + adapter
        found[way] = (held / count, each / 1e9, 4 * (gathered + gradients) / 1e9)
    return found


def table(name: str, devices: int) -> list[str]:
    """Return the lines of a table of what a model takes on each of so many devices."""
    lines = [f"| {name} on {devices} devices | bytes a weight, over all | held on each | gathered there | together |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for way, (each, held, gathered) in needs(shapes_of(name), devices).items():
        lines.append(f"| {way} | {each:.2f} | {held:.1f} GB | {gathered:.1f} GB | {held + gathered:.0f} GB |")
    return lines


def activations(name: str) -> float:
    """Return MB that a token with gradient takes in float32, as the forecast counts them."""
    from palimpsest.cost import _ACTIVATIONS, _BYTES, _LOGIT_COPIES

    size = MODELS[name]
    return (size["num_hidden_layers"] * size["hidden_size"] * _ACTIVATIONS + _LOGIT_COPIES * _BYTES * 128_256) / 1e6


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=8)
    given = parser.parse_args()
    for model in MODELS:
        print("\n".join(table(model, given.devices)))
        print(f"A token with gradient takes {activations(model):.0f} MB of activations.\n")
