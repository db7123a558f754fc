"""Speed: how much of what this machine can do in matrix products does a forward pass reach?"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from statistics import median
from typing import ClassVar

import torch
from pydantic import Field

from palimpsest.core.checkup import Answer
from palimpsest.measures._checks._check import Check
from palimpsest.measures._checks._patient import Patient
from palimpsest.models.matrix_rate import matrix_rate, usual_width

_SLOW = 0.1
"""Below this share something else than products takes the time."""


class Speed(Check):
    """Forward passes over one batch, against the measured rate of products of the model's own width.

    Two operations are counted for each token and weight of a layer or of the output: an embedding is looked up, and attention
    over so few tokens is little.
    """

    repeatable: ClassVar[bool] = False
    rows: int = Field(default=16, gt=0)
    tokens: int = Field(default=64, gt=0)
    repeats: int = Field(default=5, gt=1)

    def look(self, patient: Patient) -> Iterator[Answer]:
        length = min(self.tokens, patient.subject.context_length - 1)
        rows = [patient.row(index, length) for index in range(self.rows)]
        patient.read(rows, (), together=True)
        seconds = [self._timed(patient, rows) for _ in range(self.repeats)]
        rate = matrix_rate(patient.subject.device, str(patient.model.dtype).removeprefix("torch."), _width(patient))
        operations = 2.0 * _multiplied(patient) * length * self.rows
        share = operations / median(seconds) / rate
        low, high = (operations / one / rate for one in (max(seconds), min(seconds)))
        threads = torch.get_num_threads()
        found = (
            f"{length * self.rows / median(seconds):,.0f} tokens/s, {share:.0%} of this machine's product rate "
            f"({rate / 1e9:,.0f} GFLOP/s, {threads} thread{'s' * (threads > 1)} of {os.cpu_count()}); "
            f"{low:.0%} to {high:.0%} over {self.repeats} passes of {self.rows} x {length} tokens"
        )
        follows = "small layers or slow code take the time, not products" if share < _SLOW else ""
        yield self.answer(
            "told" if share < _SLOW else "ok", "speed of a forward pass", found, follows, value=share, unit="share of the rate"
        )

    def _timed(self, patient: Patient, rows: list) -> float:
        start = time.perf_counter()
        patient.read(rows, (), together=True)
        if patient.subject.device != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter() - start


def _multiplied(patient: Patient) -> int:
    """Return how many weights take part in the products of one token; the experts that are not chosen do not."""
    model, config = patient.model, patient.config
    head = model.get_output_embeddings()
    embedding = model.get_input_embeddings().weight
    experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None) or 0
    chosen = getattr(config, "num_experts_per_tok", None) or experts
    count = 0.0
    for name, weight in model.named_parameters():
        if weight is embedding or weight.ndim < 2 or (head is not None and weight is head.weight):
            continue
        count += weight.numel() * (chosen / experts if experts and "expert" in name and "shared" not in name else 1.0)
    predicted = 8 / max(min(64, patient.subject.context_length - 1), 1)  # only the last positions reach the output layer
    return round(count + (0 if head is None else head.weight.numel() * predicted))


def _width(patient: Patient) -> int:
    return usual_width([tuple(weight.shape) for weight in patient.model.parameters()])
