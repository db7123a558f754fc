"""Pretraining comparison: how well does each optimizer train the embedded model's world from nothing?

    python examples/pretraining_comparison.py [--size tiny] [--steps 600] [--seeds 2] [--folder pretraining]

Every run sees the same rows in the same order. AdamW and APOLLO are given four learning rates; the table shows each one's loss
over the last tenth of the steps, as mean and range over seeds (other first weights and other rows).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import nn

from palimpsest.core.seeds import seed_of
from palimpsest.data.render import Renderer
from palimpsest.models import pocket
from palimpsest.training.apollo import Apollo, parameter_groups
from palimpsest.training.objectives import MaskedLoss
from palimpsest.training.pocket_recipe import ROWS_A_STEP, WorldBatches
from palimpsest.training.settings import TrainingSettings
from palimpsest.training.trainer import train_batches

Factory = Callable[[nn.Module, TrainingSettings], torch.optim.Optimizer]
BETAS = (0.9, 0.95)


def adamw(model: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, betas=BETAS, weight_decay=0.01, fused=True)


def sgd(model: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=settings.learning_rate, momentum=0.9)


def apollo(share: int, **given: Any) -> Factory:
    """APOLLO with a rank of the hidden size over ``share``, or rank 1 where it is 0."""

    def made(model: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
        rank = model.config.hidden_size // share if share else 1  # type: ignore[union-attr,operator]
        groups = parameter_groups(model, 0.01, rank=rank)
        kind = "channel" if share else "tensor"
        return Apollo(groups, lr=settings.learning_rate, betas=BETAS, scale_type=kind, seed=settings.seed, **given)

    return made


WAYS: dict[str, tuple[Factory, tuple[float, ...]]] = {
    "AdamW": (adamw, (2e-3, 4e-3, 8e-3, 1.6e-2)),
    "SGD with momentum": (sgd, (0.1, 0.3, 1.0)),
    "APOLLO, rank d/4": (apollo(4), (4e-3, 8e-3, 1.6e-2, 3.2e-2)),
    "APOLLO, rank d/4, limiter 1.01": (apollo(4, norm_limit=1.01), (4e-3, 8e-3, 1.6e-2, 3.2e-2)),
    "APOLLO, rank d/8": (apollo(8), (4e-3, 8e-3, 1.6e-2, 3.2e-2)),
    "APOLLO-Mini": (apollo(0), (4e-3, 8e-3, 1.6e-2, 3.2e-2)),
    "APOLLO-Mini, limiter 1.01": (apollo(0, norm_limit=1.01), (4e-3, 8e-3, 1.6e-2, 3.2e-2)),
}


def trained(way: str, rate: float, size: str, steps: int, seed: int, folder: Path) -> dict[str, float]:
    """Return loss, state and time of one run (kept in its folder, so that it is not done twice)."""
    done = folder / "found.json"
    if done.exists():
        return json.loads(done.read_text(encoding="utf-8"))
    tokenizer = pocket.build_tokenizer()
    model = pocket.build_model(size, len(tokenizer), seed_of(seed, "pocket", "weights"))
    batches = WorldBatches(Renderer(tokenizer), seed, steps)
    made: list[torch.optim.Optimizer] = []

    def optimizer(model: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
        made.append(WAYS[way][0](model, settings))
        return made[0]

    settings = TrainingSettings(
        learning_rate=rate,
        per_device_train_batch_size=ROWS_A_STEP,
        warmup_ratio=0.05,
        max_grad_norm=1.0,
        logging_steps=20,
        save_steps=10**6,
        module_logging_steps=0,
        seed=seed,
        context="full",
    )
    began = time.process_time()
    identity = f"{way} {rate} {size} {seed}"
    train_batches(model, None, batches, settings, folder, identity=identity, optimizer=optimizer, objective=MaskedLoss())
    seconds = time.process_time() - began
    lines = [json.loads(line) for line in (folder / "steps.jsonl").read_text(encoding="utf-8").splitlines()]
    state = sum(value.numel() for one in made[0].state.values() for value in one.values() if isinstance(value, torch.Tensor))
    found = {
        "loss": fmean(line["loss"] for line in lines[-max(1, steps // 10) :]),
        "state": state / sum(parameter.numel() for parameter in model.parameters()),
        "milliseconds": 1000 * seconds / steps,
    }
    done.write_text(json.dumps(found), encoding="utf-8")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="tiny", choices=sorted(pocket.SIZES))
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("pretraining"))
    given = parser.parse_args()
    print("| optimizer | learning rate | loss (nats a token) | range over seeds | state (numbers a weight) | CPU ms a step |")
    print("|---|---|---|---|---|---|")
    for way, (_, rates) in WAYS.items():
        for rate in rates:
            folders = [
                given.folder / f"{way}-{rate:g}-{seed}".replace("/", "_").replace(" ", "_") for seed in range(given.seeds)
            ]
            found = [trained(way, rate, given.size, given.steps, seed, folder) for seed, folder in enumerate(folders)]
            losses = [one["loss"] for one in found]
            state, milliseconds = fmean(one["state"] for one in found), fmean(one["milliseconds"] for one in found)
            print(
                f"| {way} | {rate:g} | {fmean(losses):.3f} | {min(losses):.3f} to {max(losses):.3f} | {state:.2f} | "
                f"{milliseconds:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
