"""Generations: what does the model write?

Sampling uses the Gumbel-max trick with noise that belongs to (seed, item, step), not to the model or the batch. So both
models of a pair draw with the same dice: the same distribution gives the same text, and differences are paired.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pydantic import Field
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from palimpsest.core.measurement import Measurement
from palimpsest.core.seeds import numpy_stream
from palimpsest.data.chat import Example, ItemSet
from palimpsest.data.render import Renderer
from palimpsest.measures._measure import Budget, Measure, Progress
from palimpsest.models import reading


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
    until: tuple[str, ...] = ()
    """Nothing more is written after any of these texts; what is kept still holds it."""

    def take(self, subject: Any, items: ItemSet, budget: Budget, after: Measurement | None, progress: Progress) -> Measurement:
        prompts = [self._prompt(subject.renderer, item) for item in items.items]
        room = max(budget.context - self.max_new_tokens, 1)
        prompts = [prompt[-room:] for prompt in prompts]
        written = self.written(subject, prompts, [item.id for item in items.items], budget, progress)
        answers, counts = [""] * len(prompts), np.zeros(len(prompts), dtype=np.int64)
        stopped = np.zeros(len(prompts), dtype=np.bool_)
        sequences: list[list[int]] = [[]] * len(prompts)
        for index, tokens in enumerate(written):
            ended = tokens[-1:] and tokens[-1] in subject.stop_token_ids
            kept = tokens[:-1] if ended else tokens
            answers[index], counts[index], stopped[index] = subject.renderer.decode(kept), len(kept), bool(ended)
            sequences[index] = [*prompts[index], *tokens]
        arrays = {
            "tokens": counts,
            "stopped": stopped,
            "token": np.array([token for sequence in sequences for token in sequence], dtype=np.int32),
            "start": np.cumsum([0, *map(len, sequences)]).astype(np.int64),
        }
        given = {"given": [subject.renderer.decode(list(prompt)) for prompt in prompts]} if self.opening else {}
        return Measurement(arrays, {"answer": answers, **given})

    def written(
        self, subject: Any, prompts: list[tuple[int, ...]], names: list[str], budget: Budget, progress: Progress
    ) -> list[list[int]]:
        """Return the tokens written after each prompt, up to the one that ends it and with it; prompts leave room for them."""
        order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), index))
        size = max(budget.tokens // (max(map(len, prompts), default=1) + self.max_new_tokens), 1)
        found: list[list[int]] = [[]] * len(prompts)
        done = 0
        alike = not (subject.takes_padding and subject.writes_as_it_reads)
        for batch in reading.batches(order, size, [len(prompt) for prompt in prompts] if alike else None):
            written = self._write(subject, [prompts[index] for index in batch], [names[index] for index in batch])
            for index, tokens in zip(batch, written, strict=True):
                stop = next((place for place, token in enumerate(tokens) if token in subject.stop_token_ids), None)
                found[index] = tokens if stop is None else tokens[: stop + 1]
            done += len(batch)
            progress(done, len(order))
        return found

    def _prompt(self, renderer: Renderer, item: Example) -> tuple[int, ...]:
        encoded = renderer.encode(item)
        if not item.is_text:
            return encoded.prompt
        return encoded.tokens[: max(len(encoded.prompt), min(self.opening, len(encoded.tokens) // 2))]

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
        stopping = StoppingCriteriaList([_Until(subject.tokenizer, self.until, width)] if self.until else [])
        if not subject.writes_as_it_reads:
            return self._plainly(subject, tokens.to(subject.device), processors, stopping)
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
            stopping_criteria=stopping,
            pad_token_id=subject.pad_token_id,
            eos_token_id=sorted(subject.stop_token_ids) or None,
        )
        return written[:, width:].tolist()

    def _plainly(
        self, subject: Any, tokens: torch.Tensor, processors: LogitsProcessorList, stopping: StoppingCriteriaList
    ) -> list[list[int]]:
        """Write after prompts of one length [prompts, tokens] with a plain call over everything for each token."""
        width, ended = tokens.shape[1], torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
        stops = torch.tensor(sorted(subject.stop_token_ids), dtype=torch.long, device=tokens.device)
        given = reading.accepted(subject.model, {"use_cache": False, "logits_to_keep": 1})
        while tokens.shape[1] < width + self.max_new_tokens and not bool(ended.all()):
            scores: Any = processors(tokens, subject.model(input_ids=tokens, **given).logits[:, -1])
            tokens = torch.cat([tokens, scores.argmax(-1, keepdim=True)], dim=1)
            ended |= torch.isin(tokens[:, -1], stops)
            if len(stopping):
                ended |= stopping(tokens, scores)
        return tokens[:, width:].tolist()


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


class _Until(StoppingCriteria):
    """Ends a row in whose last tokens one of the texts stands."""

    _SPARE = 4
    """Tokens that may begin before such a text or end after it."""

    def __init__(self, tokenizer: Any, until: tuple[str, ...], width: int) -> None:
        self.tokenizer, self.until, self.width = tokenizer, until, width
        self.longest = max(len(text.encode()) for text in until) + self._SPARE  # a token holds a byte or more

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:  # type: ignore[override]
        last = input_ids[:, max(self.width, input_ids.shape[1] - self.longest) :].tolist()
        done = [any(text in written for text in self.until) for written in self.tokenizer.batch_decode(last)]
        return torch.tensor(done, device=input_ids.device)
