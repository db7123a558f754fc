"""Steered: what does adding a direction to the residual stream do to answers, and to predictions on text?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from palimpsest.core.measurement import Measurement
from palimpsest.core.seeds import numpy_stream
from palimpsest.core.stats.directions import Method
from palimpsest.data.chat import Example, ItemSet
from palimpsest.data.steering import best_level, direction, divergence
from palimpsest.measures._forward import Reader, Row, whole_rows
from palimpsest.measures._measure import Budget, Measure, Progress
from palimpsest.measures._steering import Answers, Cells, Passes, Streams, answer_rows, guarded, spread


class Steered(Measure):
    """Answers, predictions and the residual stream while the direction of ``contrasts`` (``after``) is added.

    It is added after the block where it steered the trial pairs most, from the place where the model decides on, to a text at
    every token; one multiple of it is as long as the mean difference.
    Conditions: nothing added, each multiple, and then each random direction of the same length, added and subtracted.
    Arrays: ``multiplier`` and ``draw`` [conditions] (-1: the direction itself), ``item`` [items], ``depth`` [1] (after so many
    blocks).
    Of conversations: ``log_probability`` [conditions, answers in all], ``start`` [items + 1] (an item's answers are its
    options, or else its reference answer); and where the model decides, with nothing and with one multiple added: ``decision``
    [2, items, cells] (log-probabilities), ``decision_rest`` [2, items], ``decision_token`` [items, cells] (left out when the
    cells are the whole vocabulary), ``shift`` [items, depths, width], of the depths of ``contrasts``, and ``random_shift``, the
    same of the first random direction, where there is one.
    Of texts: ``kl`` [conditions, items], mean divergence from nothing added, in nats a token.
    Texts: ``why``, alone, where there is nothing to add.
    """

    method: Method = "mean"
    multipliers: tuple[float, ...] = (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0)
    """1 and -1 must be among them."""
    draws: int = Field(default=6, ge=0)
    """Random directions."""
    items: int = Field(default=48, ge=8)
    """Largest number of conversations, spread evenly over the set; of texts a third."""
    tokens: int = Field(default=8, ge=1)
    """So many tokens of an answer count."""
    text_tokens: int = Field(default=64, ge=2)
    """So many tokens of a text are read."""
    cells: int = Field(default=1024, gt=0)
    seed: int = 0

    @field_validator("multipliers")
    @classmethod
    def _hold_both_units(cls, multipliers: tuple[float, ...]) -> tuple[float, ...]:
        if not {1.0, -1.0} <= set(multipliers) or 0.0 in multipliers:
            raise ValueError("1 and -1 must be among them, and 0 must not")
        return multipliers

    def take(self, subject: Any, items: ItemSet, budget: Budget, after: Measurement | None, progress: Progress) -> Measurement:
        assert after is not None, "it starts from the contrasts of the same model"
        if "why" in after.texts:
            return Measurement({"layers": np.zeros(1, dtype=np.int64)}, {"why": after.texts["why"]})
        work = self._texts if items.items[0].is_text else self._answers
        return guarded(lambda: work(subject, items.items, after, budget, progress))

    def numbers(self, items: int, layers: int, width: int) -> int:
        return min(items, self.items) * (min(13, layers) * width + 2 * self.cells)

    def _conditions(self, after: Measurement) -> tuple[int, list[tuple[float, int, np.ndarray | None]]]:
        """Return after how many blocks to add, and multiple, draw and vector of each condition."""
        level = best_level(after)
        vector = direction(after.arrays["residual"][:, :, level], self.method)
        rng = numpy_stream(self.seed, "steered", "random", len(vector))
        random = rng.standard_normal((self.draws, len(vector)))
        random *= np.linalg.norm(vector) / np.linalg.norm(random, axis=-1, keepdims=True)
        found: list[tuple[float, int, np.ndarray | None]] = [(0.0, -1, None)]
        found += [(multiple, -1, multiple * vector) for multiple in self.multipliers]
        found += [(sign, draw, sign * one) for draw, one in enumerate(random) for sign in (1.0, -1.0)]
        return int(after.arrays["depth"][level]), found

    def _answers(
        self, subject: Any, items: tuple[Example, ...], after: Measurement, budget: Budget, progress: Progress
    ) -> Mapping[str, np.ndarray]:
        chosen = spread(len(items), self.items)
        rows, start = answer_rows(subject.renderer, [items[index] for index in chosen], self.tokens)
        depth, conditions = self._conditions(after)
        passes = Passes(subject, rows, budget, progress, len(conditions))
        depths = after.arrays["depth"].tolist()
        leading = set(start[:-1].tolist())
        spans = [(row.first - 1, row.first) if index in leading else None for index, row in enumerate(rows)]
        kept: list[tuple[Cells, Streams]] = []
        random = Streams(spans, depths)
        values = []
        for multiple, draw, vector in conditions:
            answers, readers = Answers(rows), []
            if draw < 0 and multiple in (0.0, 1.0):
                cells = Cells([int(span is not None) for span in spans], self.cells, kept[0][0].token if kept else None)
                kept.append((cells, Streams(spans, depths)))
                readers = [*kept[-1]]
            elif (draw, multiple) == (0, 1.0):
                readers = [random]
            passes.run([answers, *readers], depth, vector)
            values.append(answers.log_probability)
        (before, still), (added, moved) = kept
        return {
            **_told(conditions, chosen, depth),
            "log_probability": np.stack(values),
            "start": start,
            "decision": np.stack([before.log_probability, added.log_probability]),
            "decision_rest": np.stack([before.log_rest, added.log_rest]),
            **({} if before.token is None else {"decision_token": before.token}),
            "shift": moved.values[start[:-1]] - still.values[start[:-1]],
            **({"random_shift": random.values[start[:-1]] - still.values[start[:-1]]} if self.draws else {}),
        }

    def _texts(
        self, subject: Any, items: tuple[Example, ...], after: Measurement, budget: Budget, progress: Progress
    ) -> Mapping[str, np.ndarray]:
        chosen = spread(len(items), max(self.items // 3, 8))
        whole = whole_rows(subject.renderer, [items[index] for index in chosen], budget.context)
        rows = [Row(row.tokens[: self.text_tokens + 1], row.first) for row in whole]
        lengths = [max(row.predicted, 0) for row in rows]
        depth, conditions = self._conditions(after)
        passes = Passes(subject, rows, budget, progress, len(conditions))
        base, found = Cells(lengths, self.cells), []
        for place, (_, _, vector) in enumerate(conditions):
            cells = base if not place else Cells(lengths, self.cells, base.token)
            readers: list[Reader] = [cells]
            passes.run(readers, depth, vector)
            nats = divergence(cells.log_probability, base.log_probability, cells.log_rest, base.log_rest)
            found.append([part.mean() if part.size else 0.0 for part in np.split(nats, base.start[1:-1])])
        return {**_told(conditions, chosen, depth), "kl": np.array(found)}


def _told(conditions: list[tuple[float, int, np.ndarray | None]], chosen: list[int], depth: int) -> dict[str, np.ndarray]:
    return {
        "multiplier": np.array([multiple for multiple, _, _ in conditions]),
        "draw": np.array([draw for _, draw, _ in conditions]),
        "item": np.array(chosen),
        "depth": np.array([depth]),
    }
