"""Answering: what does a model go on with after given tokens, each in its own way, and how likely was every token?

For requests that differ in everything (temperature, length, where to stop) and still share their passes; ``generations`` is
the measure of many items in one way. The library's own ``generate`` does the passes, so caches are right in every
architecture. What one request gets depends on no other in its batch, up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from palimpsest.core.measurement import Measurement
from palimpsest.core.progress import Silent
from palimpsest.core.seeds import numpy_stream
from palimpsest.measures._forward import Predicted, Reader, Row, run_rows
from palimpsest.measures._measure import Budget
from palimpsest.models.taps import adding

Likely = tuple[tuple[int, float], ...]
"""The most likely tokens at one place with their log-probabilities, the likeliest first."""

_SETTINGS_OF_THE_MODEL = (
    "temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "repetition_penalty",
    "encoder_repetition_penalty", "no_repeat_ngram_size", "min_length", "min_new_tokens", "bad_words_ids", "suppress_tokens",
    "begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id", "exponential_decay_length_penalty",
    "sequence_bias", "guidance_scale", "stop_strings", "max_length", "max_time", "prompt_lookup_num_tokens",
)  # fmt: skip
"""What a model's ``generation_config.json`` may say, and what is left out: only a request decides."""


@dataclass(frozen=True)
class Asked:
    """One continuation that is asked for."""

    prompt: tuple[int, ...]
    most: int
    """Tokens to write at most."""
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 is the whole vocabulary."""
    seed: int = 0
    name: str = ""
    """With the seed, whose dice are thrown: the same name draws the same on another model and in another batch."""
    stops: tuple[str, ...] = ()
    """Texts at which writing ends."""
    alternatives: int = 0
    """How many of the likeliest tokens are kept at each place."""


@dataclass
class Written:
    """What was written: the tokens, the one that ended it included, and what each was worth to the model by itself."""

    tokens: list[int] = field(default_factory=list)
    log_probability: list[float] = field(default_factory=list)
    """Before temperature, top_p and top_k."""
    likely: list[Likely] = field(default_factory=list)
    text: str = ""
    """Without the token or the text that ended it."""
    ended: bool = False
    """Whether it ended itself; otherwise it came to its length."""


@dataclass(frozen=True)
class Steering:
    """A vector [hidden size] that is added after ``depth`` blocks: from the last token of the prompt on, or at every token."""

    depth: int
    vector: torch.Tensor
    everywhere: bool = False


@torch.no_grad()
def write(subject: Any, asked: Sequence[Asked], steering: Steering | None = None) -> list[Written]:
    """Write the continuations of one batch.

    Args:
        subject: who writes.
        asked: with prompts that leave room for what is to be written.
        steering: what is added to the residual stream meanwhile.
    """
    width = max(len(one.prompt) for one in asked)
    tokens = torch.full((len(asked), width), subject.pad_token_id, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for line, one in enumerate(asked):
        tokens[line, width - len(one.prompt) :] = torch.tensor(one.prompt)
        mask[line, width - len(one.prompt) :] = 1
    desk = _Desk(subject, asked)
    with _steered(subject, steering, lambda: None if desk.step else _last(len(asked), width)):
        subject.model.generate(
            input_ids=tokens.to(subject.device),
            attention_mask=mask.to(subject.device),
            max_new_tokens=max(one.most for one in asked),
            do_sample=False,
            num_beams=1,
            logits_processor=LogitsProcessorList([_Choosing(desk)]),
            stopping_criteria=StoppingCriteriaList([_Ending(desk)]),
            pad_token_id=subject.pad_token_id,
            eos_token_id=None,
            **dict.fromkeys(_SETTINGS_OF_THE_MODEL),
        )
    return desk.written


def read_prompts(
    subject: Any, prompts: Sequence[tuple[int, ...]], first: int, most: int, budget: Budget, steering: Steering | None = None
) -> list[Written]:
    """Return how likely each prompt's own tokens were, from the one at ``first`` on, and the likeliest in each place.

    Args:
        subject: who reads.
        prompts: tokens; what stands before ``first`` is given and not read.
        first: 1 or more: nothing tells how likely the first token of all is.
        most: how many of the likeliest tokens are kept.
        budget: how much goes through the model at once.
        steering: one that begins at a prompt's last token changes nothing here.
    """
    rows = [Row(prompt, first) for prompt in prompts]
    reader = _Prompts(rows, most)
    with _steered(subject, steering if steering and steering.everywhere else None, lambda: None):
        run_rows(subject, rows, [reader], budget, Silent().at)
    return reader.found


def _steered(subject: Any, steering: Steering | None, where: Any) -> AbstractContextManager[None]:
    if steering is None:
        return nullcontext()
    return adding(subject.model, steering.depth, steering.vector, None if steering.everywhere else where)


def _last(lines: int, width: int) -> torch.Tensor:
    """Return where the prompts of a batch, padded on the left, have their last token."""
    places = torch.zeros(lines, width)
    places[:, -1] = 1.0
    return places


def _likely(log_p: torch.Tensor, most: int) -> list[Likely]:
    """Return the likeliest tokens of each row of log-probabilities [rows, vocabulary]."""
    if not most:
        return [()] * len(log_p)
    values, tokens = log_p.topk(min(most, log_p.shape[-1]), -1)
    return [tuple(zip(*both, strict=True)) for both in zip(tokens.tolist(), values.tolist(), strict=True)]


class _Desk:
    """What was written so far in every line of a batch."""

    def __init__(self, subject: Any, asked: Sequence[Asked]) -> None:
        self.subject, self.asked = subject, asked
        self.written = [Written() for _ in asked]
        self.step = 0

    def choose(self, scores: torch.Tensor) -> list[int]:
        """Choose each line's next token; lines that are done get padding."""
        log_p = scores.float().log_softmax(-1)
        chosen = [self.subject.pad_token_id] * len(self.asked)
        likely = _likely(log_p, max(one.alternatives for one in self.asked))
        best = log_p.argmax(-1).tolist()
        for line, (one, found) in enumerate(zip(self.asked, self.written, strict=True)):
            if self.is_done(line):
                continue
            token = _drawn(log_p[line], one, self.step) if one.temperature > 0 else best[line]
            chosen[line] = token
            found.tokens.append(token)
            found.log_probability.append(log_p[line, token].item())
            found.likely.append(likely[line][: one.alternatives])
            self._look_for_the_end(one, found)
        self.step += 1
        return chosen

    def is_done(self, line: int) -> bool:
        return self.written[line].ended or len(self.written[line].tokens) >= self.asked[line].most

    def _look_for_the_end(self, one: Asked, found: Written) -> None:
        last = len(found.tokens) >= one.most
        ends = found.tokens[-1] in self.subject.stop_token_ids
        if not (ends or last or one.stops):
            return
        found.text = self.subject.renderer.decode(found.tokens[:-1] if ends else found.tokens)
        places = [place for stop in one.stops if (place := found.text.find(stop)) >= 0]
        if places:
            found.text = found.text[: min(places)]
        found.ended = ends or bool(places)


def _drawn(log_p: torch.Tensor, one: Asked, step: int) -> int:
    """Draw a token by the Gumbel-max trick, with dice that belong to the request and not to the batch."""
    scores = log_p.cpu().double().numpy() / one.temperature
    if one.top_k:
        scores[scores < np.sort(scores)[-min(one.top_k, scores.size)]] = -np.inf
    if one.top_p < 1.0:
        order = np.argsort(-scores, kind="stable")
        share = np.exp(scores[order] - np.logaddexp.reduce(scores))
        scores[order[np.cumsum(share) - share >= one.top_p]] = -np.inf
    return int(np.argmax(scores + numpy_stream(one.seed, "answer", one.name, step).gumbel(size=scores.size)))


class _Choosing(LogitsProcessor):
    """Makes ``generate`` take the tokens that the desk chooses."""

    def __init__(self, desk: _Desk) -> None:
        self.desk = desk

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        chosen = torch.tensor(self.desk.choose(scores), device=scores.device)
        return torch.full_like(scores, -torch.inf).scatter_(-1, chosen[:, None], 0.0)


class _Ending(StoppingCriteria):
    """Ends a batch when all its lines are done."""

    def __init__(self, desk: _Desk) -> None:
        self.desk = desk

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> Any:
        done = [self.desk.is_done(line) for line in range(len(self.desk.asked))]
        return torch.tensor(done, device=input_ids.device)


class _Prompts(Reader):
    """Keeps how likely the tokens of each row were."""

    def __init__(self, rows: Sequence[Row], most: int) -> None:
        self.rows, self.most = rows, most
        self.found = [Written() for _ in rows]

    def read(self, index: int, seen: Predicted) -> None:
        self.found[index] = Written(
            tokens=seen.targets.tolist(),
            log_probability=seen.log_probability.tolist(),
            likely=_likely(seen.logits - seen.log_normaliser[:, None], self.most),
        )

    def finish(self) -> Measurement:
        return Measurement({})
