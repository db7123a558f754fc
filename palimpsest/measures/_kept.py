"""Kept: what were the log-probabilities of each row, whole?"""

from __future__ import annotations

import torch

from palimpsest.core.measurement import Measurement
from palimpsest.measures._forward import Reader


class Kept(Reader):
    """Keeps the log-probabilities of each row of a pass [tokens predicted, vocabulary]."""

    def __init__(self) -> None:
        self.found: dict[int, torch.Tensor] = {}

    def read(self, index: int, logits: torch.Tensor, log_normaliser: torch.Tensor, targets: torch.Tensor) -> None:
        self.found[index] = logits - log_normaliser[:, None]

    def finish(self) -> Measurement:
        return Measurement({})
