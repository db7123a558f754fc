"""Contrasts: what is in the residual stream at an answer that shows the behaviour, and at one to the same prompt that does not?

Read at the tokens of the answers themselves, not at the last token of a chat template, which is the same in every pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from palimpsest.core.measurement import Measurement
from palimpsest.data.chat import ItemSet
from palimpsest.data.contrast import instructed
from palimpsest.data.steering import direction, log_odds
from palimpsest.measures._forward import Row
from palimpsest.measures._measure import Budget, Measure, Progress
from palimpsest.measures._steering import Answers, Passes, Streams, answer_rows, guarded, spread
from palimpsest.models.taps import streaming_blocks


class Contrasts(Measure):
    """The residual stream at the answers of contrastive pairs, and where along the network adding the difference steers most.

    Items are pairs as ``palimpsest.data.contrast`` makes them: the first option shows the behaviour, the others do not.
    Arrays: ``residual`` [pairs, 2, depths, width] (mean over the tokens of the first answer; the mean of the others), ``depth``
    [depths] (after so many blocks, 1 and up), ``layers`` [1], ``trial`` [items] (pairs that the trial vectors were not made
    from) and ``slope`` [depths, items] (by how much adding the mean difference of the other pairs, of every second template,
    raises their log-odds: half of the difference between adding and subtracting it). Texts: ``why``, alone, of a model whose
    residual stream can't be found.
    With an ``instruction`` the two sides are the prompt with it as system message and the prompt alone, both read where the
    model decides (the last token of the context); trials are on the prompt alone.
    """

    instruction: str = ""
    """What the pairs differ in, where it is not the answer."""

    tokens: int = Field(default=8, ge=1)
    """So many tokens of an answer are read, from the first on."""
    depths: int = Field(default=13, ge=2)
    """Largest number of depths, spread evenly as those of ``activations``, of which what enters the first block is left out."""
    trial: bool = True
    """Whether adding is tried at each depth, which takes two passes over half of the pairs for each."""

    def take(self, subject: Any, items: ItemSet, budget: Budget, after: Measurement | None, progress: Progress) -> Measurement:
        return guarded(lambda: self._take(subject, items, budget, progress))

    def numbers(self, items: int, layers: int, width: int) -> int:
        return 2 * items * min(self.depths, layers) * width

    def _take(self, subject: Any, items: ItemSet, budget: Budget, progress: Progress) -> Mapping[str, np.ndarray]:
        layers = len(streaming_blocks(subject.model))
        depths = [one for one in spread(layers + 1, self.depths) if one]
        read = self._instructed if self.instruction else self._answered
        residual = read(subject, items, depths, budget, progress)
        found = {"residual": residual, "depth": np.array(depths), "layers": np.array([layers])}
        return found if not self.trial else {**found, **self._tried(subject, items, residual, depths, budget, progress)}

    def _answered(self, subject: Any, items: ItemSet, depths: list[int], budget: Budget, progress: Progress) -> np.ndarray:
        """Read answers, the first of each item beside the mean of its others [pairs, 2, depths, width]."""
        rows, start = answer_rows(subject.renderer, items.items, self.tokens)
        reader = Streams([(row.first, len(row.tokens)) for row in rows], depths)
        # the last token of a row is not run, so each is made one longer
        longer = [Row((*row.tokens, row.tokens[-1]), len(row.tokens)) for row in rows]
        Passes(subject, longer, budget, progress, 1).run([reader])
        first, options = start[:-1], np.diff(start)
        others = (np.add.reduceat(reader.values, first, axis=0) - reader.values[first]) / (options - 1)[:, None, None]
        return np.stack([reader.values[first], others], axis=1)

    def _instructed(self, subject: Any, items: ItemSet, depths: list[int], budget: Budget, progress: Progress) -> np.ndarray:
        """Read prompts with the instruction beside the same without it [pairs, 2, depths, width]."""
        told = [one for item in items.items if (one := instructed(item, self.instruction))]
        rows, start = answer_rows(subject.renderer, [*told, *items.items], self.tokens)
        leading = set(start[:-1].tolist())
        spans = [(row.first - 1, row.first) if index in leading else None for index, row in enumerate(rows)]
        reader = Streams(spans, depths)
        Passes(subject, rows, budget, progress, 1).run([reader])
        return np.stack(np.split(reader.values[start[:-1]], 2), axis=1)

    def _tried(
        self, subject: Any, items: ItemSet, residual: np.ndarray, depths: list[int], budget: Budget, progress: Progress
    ) -> dict[str, np.ndarray]:
        """Add what half of the templates share to prompts of the other half."""
        codes = np.unique([item.template for item in items.items], return_inverse=True)[1]
        trial = np.flatnonzero(codes % 2) if codes.any() else np.arange(len(codes))
        made = np.flatnonzero(codes % 2 == 0)
        rows, start = answer_rows(subject.renderer, [items.items[index] for index in trial], self.tokens)
        passes = Passes(subject, rows, budget, progress, 2 * len(depths))
        slopes = []
        for level, depth in enumerate(depths):
            vector, ends = direction(residual[made, :, level], "mean"), []
            for sign in (1, -1):
                answers = Answers(rows)
                passes.run([answers], depth, sign * vector)
                ends.append(log_odds(answers.log_probability, start, np.zeros(len(trial), dtype=np.int64)))
            slopes.append((ends[0] - ends[1]) / 2)
        return {"slope": np.stack(slopes), "trial": trial}
