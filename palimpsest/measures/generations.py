"""Generations: what does the model write?

Sampling uses the Gumbel-max trick with noise that belongs to (seed, item, step), not to the model or the batch. So both
models of a pair draw with the same dice: the same distribution gives the same text, and differences are paired.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from pydantic import Field

from palimpsest.core.measurement import Measurement
from palimpsest.data.chat import Example, ItemSet
from palimpsest.data.render import Renderer
from palimpsest.measures._measure import Budget, Measure, Progress
from palimpsest.measures._writing import Dice, write


class Generations(Measure):
    """One answer for each item; what is written after the beginning of a bare text is an answer too.

    Texts: ``answer`` [items]; ``given`` [items], the beginnings of bare texts (only with ``opening``). Arrays: ``tokens``
    [items], how many were written; ``stopped`` [items], whether it ended itself; ``token`` [tokens in all], each prompt with
    what was written after it and the token that ended it, as the model saw them; ``start`` [items + 1].
    """

    max_new_tokens: int = Field(default=32, gt=0)
    temperature: float = Field(default=1.0, ge=0)
    """0 is greedy."""
    seed: int = 0
    opening: int = Field(default=0, ge=0)
    """So many tokens of a bare text are given to go on from, half of it at most; by default what begins every text."""

    def take(self, subject: Any, items: ItemSet, budget: Budget, after: Measurement | None, progress: Progress) -> Measurement:
        prompts = [self._prompt(subject.renderer, item) for item in items.items]
        # in a context that is no longer than an answer, half of it is for the prompt
        most = self.max_new_tokens if self.max_new_tokens < budget.context else max(budget.context // 2, 1)
        room = max(budget.context - most, 1)
        prompts = [prompt[-room:] for prompt in prompts]
        answers, counts = [""] * len(prompts), np.zeros(len(prompts), dtype=np.int64)
        stopped = np.zeros(len(prompts), dtype=np.bool_)
        sequences: list[list[int]] = []
        dice, names = Dice(self.temperature, self.seed), [item.id for item in items.items]
        told = partial(_tell, progress, len(prompts))
        written = write(subject, prompts, names, most, dice, budget.tokens, told)
        for index, tokens in enumerate(written):
            stopped[index] = tokens[-1] in subject.stop_token_ids
            kept = tokens[:-1] if stopped[index] else tokens
            answers[index], counts[index] = subject.renderer.decode(kept), len(kept)
            sequences.append([*prompts[index], *tokens])
        arrays = {
            "tokens": counts,
            "stopped": stopped,
            "token": np.array([token for sequence in sequences for token in sequence], dtype=np.int32),
            "start": np.cumsum([0, *map(len, sequences)]).astype(np.int64),
        }
        given = {"given": [subject.renderer.decode(list(prompt)) for prompt in prompts]} if self.opening else {}
        return Measurement(arrays, {"answer": answers, **given})

    def _prompt(self, renderer: Renderer, item: Example) -> tuple[int, ...]:
        encoded = renderer.encode(item)
        if not item.is_text:
            return encoded.prompt
        return encoded.tokens[: max(len(encoded.prompt), min(self.opening, len(encoded.tokens) // 2))]


def _tell(progress: Progress, count: int, ended: int) -> None:
    progress(ended, count)
