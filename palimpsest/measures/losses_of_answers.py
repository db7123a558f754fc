"""Losses of answers: how surprised is one model by what a model wrote, itself or another?"""

from __future__ import annotations

from typing import Any

import numpy as np

from palimpsest.core.measurement import Measurement
from palimpsest.data.chat import ItemSet
from palimpsest.measures._forward import Predicted, Reader, Row, run_rows
from palimpsest.measures._measure import Budget, Measure, Progress


class LossesOfAnswers(Measure):
    """Mean negative log-probability of the tokens of each answer of an earlier ``generations``, read after its own prompt.

    The very tokens are read that were written, with the one that ended the answer: nothing is turned into text and back.

    Arrays: ``nats`` [items], a token; ``count`` [items], of how many tokens that is the mean.
    """

    def take(self, subject: Any, items: ItemSet, budget: Budget, after: Measurement | None, progress: Progress) -> Measurement:
        assert after is not None, "an answer has to be there before it can be read"
        start, token = after.arrays["start"], after.arrays["token"]
        count = after.arrays["tokens"] + after.arrays["stopped"]
        rows = [
            Row(tuple(token[low:high].tolist()), int(high - low - written))
            for low, high, written in zip(start[:-1], start[1:], count, strict=True)
        ]
        reader = _Reader(len(rows))
        run_rows(subject, rows, [reader], budget, progress)
        return Measurement({"nats": reader.nats, "count": count.astype(np.int64)})


class _Reader(Reader):
    def __init__(self, items: int) -> None:
        self.nats = np.zeros(items)

    def read(self, index: int, seen: Predicted) -> None:
        self.nats[index] = -seen.log_probability.mean(dtype=np.float64)

    def finish(self) -> Measurement:
        return Measurement({"nats": self.nats})
