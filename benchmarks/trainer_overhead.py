"""Trainer overhead: what does the training loop cost beside a bare PyTorch loop?

Run with ``python benchmarks/trainer_overhead.py``. Prints CPU milliseconds a step of both, in turns, and their ratio.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from palimpsest.training.sampler import Row
from palimpsest.training.settings import TrainingSettings
from palimpsest.training.trainer import train_batches

VOCABULARY = 1024


def model() -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 5, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=64, tie_word_embeddings=True, **sizes))


class Batches:
    def __init__(self, steps: int, rows: int, length: int) -> None:
        self.steps, self.rows, self.length = steps, rows, length

    def __len__(self) -> int:
        return self.steps

    def tokens(self, step: int) -> np.ndarray:
        return np.random.default_rng(step).integers(1, VOCABULARY, (self.rows, self.length))

    def __getitem__(self, step: int) -> list[Row]:
        weights = np.ones(self.length)
        return [Row(row, weights, "rehearsal") for row in self.tokens(step)]  # type: ignore[arg-type]


class Clock:
    def __init__(self) -> None:
        self.times: list[float] = []

    def advance(self, step: int, total: int, loss: float) -> None:
        self.times.append(time.process_time())

    def tell(self, message: str) -> None:
        print(message)

    def milliseconds(self) -> float:
        return median(np.diff(self.times)) * 1e3


def bare(batches: Batches) -> float:
    subject, clock = model().train(), Clock()
    optimizer = torch.optim.AdamW(subject.parameters(), lr=1e-3, fused=True)
    for step in range(len(batches)):
        tokens = torch.from_numpy(batches.tokens(step))
        logits = subject(input_ids=tokens[:, :-1], use_cache=False).logits
        loss = nn.functional.cross_entropy(logits.reshape(-1, VOCABULARY), tokens[:, 1:].reshape(-1))
        loss.backward()
        nn.utils.clip_grad_norm_(subject.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        clock.advance(step, len(batches), loss.item())
    return clock.milliseconds()


def ours(batches: Batches) -> float:
    clock = Clock()
    settings = TrainingSettings(learning_rate=1e-3, save_steps=10**6, per_device_train_batch_size=batches.rows)
    with tempfile.TemporaryDirectory() as folder:
        train_batches(model(), None, batches, settings, Path(folder), clock, identity="benchmark")
    return clock.milliseconds()


def main() -> None:
    torch.set_num_threads(1)
    for rows, length, steps in ((8, 24, 100), (64, 48, 12)):
        batches = Batches(steps, rows, length)
        pairs = [(bare(batches), ours(batches)) for _ in range(3)]
        plain, looped = median(pair[0] for pair in pairs), median(pair[1] for pair in pairs)
        print(f"{rows} x {length} tokens: bare {plain:.1f} ms, ours {looped:.1f} ms, ratio {looped / plain:.3f}")


if __name__ == "__main__":
    main()
