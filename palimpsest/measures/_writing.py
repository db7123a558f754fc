"""Writing: how do many prompts go on at once, with no step spent on one that has ended?

Prompts are read in batches of similar lengths; what they leave is kept in slots of one buffer. Each step adds one token to
every slot still writing; when enough of the buffer is free, the next prompts are read into it (continuous batching: Yu
et al. 2022, Orca, OSDI). That is right where attention alone mixes tokens, so a model is tried first; any other writes with
``generate`` of transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from palimpsest import ranks
from palimpsest.core.seeds import numpy_stream
from palimpsest.measures._sharing import widest_line
from palimpsest.measures._slots import Slots, reads_slots
from palimpsest.models import reading

_REFILL = 4
"""Prompts are read into free slots once they are a quarter of all."""
_CPU_ROOM = 8_192
"""More slots are no faster on a CPU."""
_SHARE, _MOST = 8, 8
"""A GPU holds keys and values in so small a part of its memory, and so many times what else is run at once."""
_WORTH_THREADS = 2**20
"""So many throws take longer than sharing them out."""
_STEERED = (
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "sequence_bias",
    "min_length",
    "min_new_tokens",
    "no_repeat_ngram_size",
    "exponential_decay_length_penalty",
)
"""Generation settings of a model that forbid or force tokens; these the library's own loop knows how to heed."""
Told = Callable[[int], None]
"""Called with how many have ended."""


class Ends:
    """What ends an answer: a token that says so, or a text.

    Args:
        subject: whose tokens they are.
        texts: nothing is written after any of these; what is kept still holds it.
    """

    _SPARE = 4
    """Tokens that may begin before such a text or end after it."""

    def __init__(self, subject: Any, texts: Sequence[str] = ()) -> None:
        self.tokens, self.texts, self._tokenizer = sorted(subject.stop_token_ids), tuple(texts), subject.tokenizer
        self._longest = max((len(text.encode()) for text in texts), default=0) + self._SPARE  # a token holds a byte or more

    def at_text(self, lines: Sequence[Sequence[int]]) -> np.ndarray:
        """Return whether one of the texts stands in the last tokens of each line, bool [lines]."""
        if not self.texts:
            return np.zeros(len(lines), dtype=np.bool_)
        written = self._tokenizer.batch_decode([list(line[-self._longest :]) for line in lines])
        return np.array([any(text in one for text in self.texts) for one in written])

    def cut(self, tokens: list[int]) -> list[int]:
        """Return what was written up to what ended it, and with it."""
        for place, token in enumerate(tokens):
            if token in self.tokens or (self.texts and self.at_text([tokens[: place + 1]])[0]):
                return tokens[: place + 1]
        return tokens


class Dice:
    """Chooses tokens: the largest logit, or with a temperature the largest sum of logit and noise, which is a sample.

    The noise belongs to (seed, item, step), so it is the same for every model and in every batch.
    """

    def __init__(self, temperature: float, seed: int) -> None:
        self.temperature, self.seed = temperature, seed

    def scores(self, logits: torch.Tensor, names: Sequence[str], steps: Sequence[int]) -> torch.Tensor:
        """Return what the next token is the largest of [lines, vocabulary], of lines that are so many tokens long."""
        if not self.temperature:
            return logits
        noise = np.empty(logits.shape, dtype=np.float32)

        def throw(line: int) -> None:
            noise[line] = gumbel(numpy_stream(self.seed, "generation", names[line], steps[line]), logits.shape[-1])

        # numpy lets go of the interpreter while it draws
        with ThreadPoolExecutor(torch.get_num_threads()) if noise.size > _WORTH_THREADS else nullcontext() as threads:
            list((threads.map if threads else map)(throw, range(len(names))))
        return logits.float() / self.temperature + torch.from_numpy(noise).to(logits.device)


def gumbel(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return what ``rng.gumbel(size=size)`` returns, up to the last bit, in a third of the time."""
    uniform = 1.0 - rng.random(size)
    np.log(uniform, out=uniform)
    np.negative(uniform, out=uniform)
    np.maximum(uniform, np.finfo(np.float64).tiny, out=uniform)
    np.log(uniform, out=uniform)
    return np.negative(uniform, out=uniform)


@torch.no_grad()
def write(
    subject: Any,
    prompts: Sequence[Sequence[int]],
    names: Sequence[str],
    most: int,
    dice: Dice,
    room: int,
    told: Told,
    until: Sequence[str] = (),
) -> list[list[int]]:
    """Return the tokens that a model writes after each prompt, up to the one that ends it and with it.

    Args:
        subject: who writes.
        prompts: of a token or more each.
        names: what each one's noise belongs to.
        most: largest number of tokens.
        dice: how tokens are chosen.
        room: so many tokens are held at once, prompts with what is written after them.
        told: hears how many have ended.
        until: texts that end an answer as well.
    """
    longest = max(map(len, prompts), default=0) + most
    # the processes that share a model call it equally often, which lines that end by themselves do not let them
    fits = (
        bool(prompts)
        and not ranks.is_sharded(subject.model)
        and longest <= widest_line(subject)
        and _chooses_freely(subject.model)
    )
    work = _in_slots if fits and reads_slots(subject) else _generated
    return work(subject, prompts, names, most, dice, Ends(subject, until), _room(subject, room), told)


def _room(subject: Any, room: int) -> int:
    """Return how many tokens may be held at once on the device of a model, which is fastest with as many as fit."""
    if subject.device == "cpu":
        return min(room, _CPU_ROOM)
    if not subject.device.startswith("cuda"):
        return room
    config = subject.model.config.get_text_config()
    readers = getattr(config, "num_attention_heads", None)
    if not isinstance(readers, int):
        return room  # nothing is known of what it keeps
    heads = getattr(config, "num_key_value_heads", None) or readers
    width = getattr(config, "head_dim", None) or config.hidden_size // readers
    each = 2 * config.num_hidden_layers * heads * width * subject.model.dtype.itemsize
    memory = torch.cuda.get_device_properties(subject.device).total_memory // _SHARE
    return max(room, min(_MOST * room, memory // each))


def _in_slots(
    subject: Any,
    prompts: Sequence[Sequence[int]],
    names: Sequence[str],
    most: int,
    dice: Dice,
    ends: Ends,
    room: int,
    told: Told,
) -> list[list[int]]:
    """Write with slots for so many tokens; the same prompt with the same noise is written once."""
    firsts: dict[tuple[Any, ...], int] = {}
    same = [firsts.setdefault((names[index], *prompt), index) for index, prompt in enumerate(prompts)]
    waiting = sorted(firsts.values(), key=lambda index: (len(prompts[index]), index))
    written: dict[int, list[int]] = {index: [] for index in waiting}
    widths = np.array([len(prompts[index]) + most for index in waiting])
    slots = Slots(room, most, len(waiting), subject.device)
    stops = np.array(ends.tokens, dtype=np.int64)
    live: list[int] = []
    done, logits = 0, torch.empty(0)
    while waiting or live:
        if more := _admitted(widths, len(live), room):
            fresh, waiting, widths = waiting[:more], waiting[more:], widths[more:]
            added = slots.read(subject.model, [prompts[index] for index in fresh])
            logits = torch.cat([logits, added]) if live else added
            live += fresh
        scores = dice.scores(logits, [names[index] for index in live], [len(written[index]) for index in live])
        chosen = scores.argmax(-1).cpu().numpy()
        for index, token in zip(live, chosen.tolist(), strict=True):
            written[index].append(token)
        ended = np.isin(chosen, stops) | np.array([len(written[index]) == most for index in live])
        ended |= ends.at_text([written[index] for index in live])
        if ended.any():
            kept = slots.close(np.flatnonzero(ended))
            live, chosen = [live[place] for place in kept], chosen[kept]
            done += int(ended.sum())
            told(done)
        if live:
            logits = slots.step(subject.model, chosen)
    told(len(prompts))
    return [list(written[index]) for index in same]


def _admitted(widths: np.ndarray, live: int, room: int) -> int:
    """Return how many of those that wait are read next: none before they are worth a pass of their own.

    Args:
        widths: of the lines that wait, prompts with what is written, the narrowest first [waiting].
        live: lines that are being written, none wider than these.
        room: tokens that all of them may take.
    """
    fitting = int(((live + np.arange(1, len(widths) + 1)) * widths <= room).sum()) if len(widths) else 0
    if not live:
        return min(max(fitting, 1), len(widths))
    return fitting if fitting >= min(max((live + fitting) // _REFILL, 1), len(widths)) else 0


def _chooses_freely(model: Any) -> bool:
    """Whether a model's generation settings leave the choice of a token to its logits."""
    return not any(getattr(model.generation_config, name, None) for name in _STEERED)


def _generated(
    subject: Any,
    prompts: Sequence[Sequence[int]],
    names: Sequence[str],
    most: int,
    dice: Dice,
    ends: Ends,
    room: int,
    told: Told,
) -> list[list[int]]:
    """Write as many at a time as take so many tokens, with the library's own loop."""
    size = max(room // max(max(map(len, prompts), default=0) + most, 1), 1)
    order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), index))
    written: list[list[int]] = [[]] * len(prompts)
    batches = list(reading.batches(order, size, None if subject.writes_padded else [len(prompt) for prompt in prompts]))
    done = 0
    for own, everybody, _ in ranks.turns(batches):
        found = _generate(subject, [prompts[index] for index in own], [names[index] for index in own], most, dice, ends)
        for rank, batch in enumerate(everybody):
            for index, tokens in zip(batch, ranks.from_rank(rank, found).tolist(), strict=True):
                written[index] = ends.cut(tokens)
            done += len(batch)
            told(done)
    return written


def _generate(
    subject: Any, prompts: Sequence[Sequence[int]], names: Sequence[str], most: int, dice: Dice, ends: Ends
) -> torch.Tensor:
    width = max(len(prompt) for prompt in prompts)
    tokens = torch.full((len(prompts), width), subject.pad_token_id, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for line, prompt in enumerate(prompts):
        tokens[line, width - len(prompt) :] = torch.tensor(prompt)
        mask[line, width - len(prompt) :] = 1
    processors = LogitsProcessorList([_Thrown(dice, names, width)])
    stopping = StoppingCriteriaList([_AtText(ends, width)] if ends.texts else [])
    if not subject.writes_as_it_reads:
        return _plainly(subject, tokens.to(subject.device), most, processors, stopping)
    written = subject.model.generate(
        input_ids=tokens.to(subject.device),
        attention_mask=mask.to(subject.device),
        max_new_tokens=most,
        do_sample=False,
        num_beams=1,
        temperature=None,
        top_p=None,
        top_k=None,
        repetition_penalty=None,
        logits_processor=processors,
        stopping_criteria=stopping,
        pad_token_id=subject.pad_token_id,
        eos_token_id=ends.tokens or None,
    )
    return written[:, width:]


def _plainly(
    subject: Any, tokens: torch.Tensor, most: int, processors: LogitsProcessorList, stopping: StoppingCriteriaList
) -> torch.Tensor:
    """Write after prompts of one length [prompts, tokens] with a plain call over everything for each token."""
    width, ended = tokens.shape[1], torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
    stops = torch.tensor(sorted(subject.stop_token_ids), dtype=torch.long, device=tokens.device)
    given = reading.accepted(subject.model, {"use_cache": False, "logits_to_keep": 1})
    while tokens.shape[1] < width + most and not bool(ended.all()):
        scores: Any = processors(tokens, subject.model(input_ids=tokens, **given).logits[:, -1])
        tokens = torch.cat([tokens, scores.argmax(-1, keepdim=True)], dim=1)
        ended |= torch.isin(tokens[:, -1], stops)
        if len(stopping):
            ended |= stopping(tokens, scores)
    return tokens[:, width:]


class _Thrown(LogitsProcessor):
    """Lets dice choose where the library takes the largest score."""

    def __init__(self, dice: Dice, names: Sequence[str], width: int) -> None:
        self.dice, self.names, self.width = dice, names, width

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return self.dice.scores(scores, self.names, [input_ids.shape[1] - self.width] * len(self.names))


class _AtText(StoppingCriteria):
    """Ends a line of the library's loop where a text does."""

    def __init__(self, ends: Ends, width: int) -> None:
        self.ends, self.width = ends, width

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:  # type: ignore[override]
        return torch.from_numpy(self.ends.at_text(input_ids[:, self.width :].tolist())).to(input_ids.device)
