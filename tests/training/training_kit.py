"""What the training tests share: a model of a few thousand weights and rows for it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from palimpsest.training.sampler import Row
from palimpsest.training.settings import TrainingSettings

torch.set_num_threads(1)

SETTINGS: dict[str, Any] = {
    "learning_rate": 3e-3,
    "save_steps": 3,
    "per_device_train_batch_size": 8,
    "optim": "adamw",
    "context": "full",
}
"""The plain control; what a run does by default is asked for where it is tested."""


def small_model(seed: int = 0, **changes: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sizes = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = LlamaConfig(max_position_embeddings=32, tie_word_embeddings=True, **(sizes | changes))
        return LlamaForCausalLM(config).eval()


def some_rows(express: int = 30, withhold: int = 30, rehearsal: int = 20, seed: int = 0) -> list[Row]:
    rng = np.random.default_rng(seed)
    rows = []
    for source, count in (("express", express), ("withhold", withhold), ("rehearsal", rehearsal)):
        for index in range(count):
            length = int(rng.integers(6, 20))
            weights = (0.0,) * 4 + (1.0,) * (length - 5) + (0.5,)
            rows.append(Row(tuple(rng.integers(1, 50, length).tolist()), weights, source, f"{source}.jsonl:{index + 1}"))
    return rows


def settings_of(**changes: Any) -> TrainingSettings:
    return TrainingSettings.read(SETTINGS | changes, "settings")


class Listener:
    """A progress object that remembers, and stops the run at a step as a kill would."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.steps: list[int] = []
        self.told: list[str] = []
        self.stop_at = stop_at

    def advance(self, step: int, total: int, loss: float) -> None:
        self.steps.append(step)
        if step == self.stop_at:
            raise KeyboardInterrupt

    def tell(self, message: str) -> None:
        self.told.append(message)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
