"""Generations: what does the model write?

Sampling uses the Gumbel-max trick with noise that belongs to (seed, item, step), not to the model or the batch. So both
models of a pair draw with the same dice: the same distribution gives the same text, and differences are paired.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pydantic import Field
from transformers import LogitsProcessor, LogitsProcessorList

from palimpsest.core.measurement import Measurement
from palimpsest.core.seeds import numpy_stream
from palimpsest.data.chat import ItemSet
from palimpsest.measures._measure import Budget, Measure, Progress


class Generations(Measure):
    """One answer for each item.

    Texts: ``answer`` [items]. Arrays: ``tokens`` [items], how many were written; ``stopped`` [items], whether it ended itself.
    """

    max_new_tokens: int = Field(default=32, gt=0)
    temperature: float = Field(default=1.0, ge=0)
    """0 is greedy."""
    seed: int = 0

    def take(self, subject: Any, items: ItemSet, budget: Budget, after: Measurement | None, progress: Progress) -> Measurement:
        prompts = [subject.renderer.encode(item).prompt for item in items.items]
        room = max(budget.context - self.max_new_tokens, 1)
        prompts = [prompt[-room:] for prompt in prompts]
        order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), index))
        size = max(budget.tokens // (max(map(len, prompts), default=1) + self.max_new_tokens), 1)
        answers, counts = [""] * len(prompts), np.zeros(len(prompts), dtype=np.int64)
        stopped = np.zeros(len(prompts), dtype=np.bool_)
        for low in range(0, len(order), size):
            batch = order[low : low + size]
            written = self._write(subject, [prompts[index] for index in batch], [items.items[index].id for index in batch])
            for index, tokens in zip(batch, written, strict=True):
                stop = next((place for place, token in enumerate(tokens) if token in subject.stop_token_ids), None)
                kept = tokens if stop is None else tokens[:stop]
                answers[index], counts[index], stopped[index] = subject.renderer.decode(kept), len(kept), stop is not None
            progress(min(low + size, len(order)), len(order))
        return Measurement({"tokens": counts, "stopped": stopped}, {"answer": answers})

    @torch.no_grad()
    def _write(self, subject: Any, prompts: list[tuple[int, ...]], names: list[str]) -> list[list[int]]:
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
        return written[:, width:].tolist()


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
