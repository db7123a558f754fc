"""Generations: what does the model write?

Sampling uses the Gumbel-max trick with noise that belongs to (seed, item, step), not to the model or the batch. So both
models of a pair draw with the same dice: the same distribution gives the same text, and differences are paired.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from pydantic import Field
from transformers import LogitsProcessor, LogitsProcessorList

from palimpsest import ranks
from palimpsest.core.measurement import Measurement
from palimpsest.core.seeds import numpy_stream
from palimpsest.data.chat import Example, ItemSet
from palimpsest.data.render import Renderer
from palimpsest.measures._measure import Budget, Measure, Progress


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
        room = max(budget.context - self.max_new_tokens, 1)
        prompts = [prompt[-room:] for prompt in prompts]
        order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), index))
        size = max(budget.tokens // (max(map(len, prompts), default=1) + self.max_new_tokens), 1)
        answers, counts = [""] * len(prompts), np.zeros(len(prompts), dtype=np.int64)
        stopped = np.zeros(len(prompts), dtype=np.bool_)
        sequences: list[list[int]] = [[]] * len(prompts)
        batches = [order[low : low + size] for low in range(0, len(order), size)]
        for index, tokens in self._written(subject, items, prompts, batches, progress):
            stop = next((place for place, token in enumerate(tokens) if token in subject.stop_token_ids), None)
            kept = tokens if stop is None else tokens[:stop]
            answers[index], counts[index], stopped[index] = subject.renderer.decode(kept), len(kept), stop is not None
            sequences[index] = [*prompts[index], *(tokens if stop is None else tokens[: stop + 1])]
        arrays = {
            "tokens": counts,
            "stopped": stopped,
            "token": np.array([token for sequence in sequences for token in sequence], dtype=np.int32),
            "start": np.cumsum([0, *map(len, sequences)]).astype(np.int64),
        }
        given = {"given": [subject.renderer.decode(list(prompt)) for prompt in prompts]} if self.opening else {}
        return Measurement(arrays, {"answer": answers, **given})

    def _written(
        self,
        subject: Any,
        items: ItemSet,
        prompts: list[tuple[int, ...]],
        batches: list[list[int]],
        progress: Progress,
    ) -> Iterator[tuple[int, list[int]]]:
        """Yield each item's index with what is written after its prompt, batch by batch."""
        done = 0
        for own, everybody, _ in ranks.turns(batches):
            written = self._write(subject, [prompts[index] for index in own], [items.items[index].id for index in own])
            for rank, batch in enumerate(everybody):
                yield from zip(batch, ranks.from_rank(rank, written).tolist(), strict=True)
                done += len(batch)
                progress(done, len(prompts))

    def _prompt(self, renderer: Renderer, item: Example) -> tuple[int, ...]:
        encoded = renderer.encode(item)
        if not item.is_text:
            return encoded.prompt
        return encoded.tokens[: max(len(encoded.prompt), min(self.opening, len(encoded.tokens) // 2))]

    @torch.no_grad()
    def _write(self, subject: Any, prompts: list[tuple[int, ...]], names: list[str]) -> torch.Tensor:
        width = max(len(prompt) for prompt in prompts)
        tokens = torch.full((len(prompts), width), subject.pad_token_id, dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for line, prompt in enumerate(prompts):
            tokens[line, width - len(prompt) :] = torch.tensor(prompt)
            mask[line, width - len(prompt) :] = 1
        processors = LogitsProcessorList()
        if self.temperature > 0:
            processors.append(_Dice(names, self.temperature, self.seed, width))
        written = subject.model.generate(
            input_ids=tokens.to(subject.device),
            attention_mask=mask.to(subject.device),
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            repetition_penalty=None,
            logits_processor=processors,
            pad_token_id=subject.pad_token_id,
            eos_token_id=sorted(subject.stop_token_ids) or None,
        )
        return written[:, width:]


class _Dice(LogitsProcessor):
    """Adds each item's own Gumbel noise, so that the largest sum is a sample from the softmax."""

    def __init__(self, names: list[str], temperature: float, seed: int, width: int) -> None:
        self.names, self.temperature, self.seed, self.width = names, temperature, seed, width

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        step = input_ids.shape[1] - self.width
        noise = np.stack(
            [numpy_stream(self.seed, "generation", name, step).gumbel(size=scores.shape[-1]) for name in self.names]
        )
        return scores.float() / self.temperature + torch.from_numpy(noise).to(scores.device, torch.float32)
