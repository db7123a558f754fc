"""Kept: what were the log-probabilities of each row, whole?"""

from __future__ import annotations

import torch

from palimpsest.core.measurement import Measurement
from palimpsest.measures._forward import Predicted, Reader


class Kept(Reader):
    """Keeps the log-probabilities of each row of a pass [tokens predicted, vocabulary]."""

    def __init__(self) -> None:
        self.found: dict[int, torch.Tensor] = {}

    def read(self, index: int, seen: Predicted) -> None:
        self.found[index] = seen.logits - seen.log_normaliser[:, None]

    def finish(self) -> Measurement:
        return Measurement({})
