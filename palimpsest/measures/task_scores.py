"""Task scores: how well does the model do on a task of lm-eval, by that task's own rules?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from palimpsest.core.measurement import Measurement
from palimpsest.data.chat import ItemSet
from palimpsest.data.tasks import Asked, Document, Responses, TaskSet
from palimpsest.data.windows import Encoder
from palimpsest.measures._forward import Predicted, Reader, Row, run_rows
from palimpsest.measures._measure import Budget, Measure, Progress
from palimpsest.measures._writing import Dice, write


class Work(NamedTuple):
    """What some documents take: tokens of each sequence, and forward passes of what is written token by token."""

    lengths: list[int]
    steps: int


class TaskScores(Measure):
    """Everything that one task's documents are asked, and what the task's own scoring makes of the answers.

    Requests are those of all documents, as in ``Document.everything``. Arrays: ``log_likelihood`` [requests], summed over
    tokens (nan for what is written); ``greedy`` [requests], whether every token was the most likely one; ``tokens``
    [requests], how many were scored or written; ``start`` [documents + 1]: document i owns ``start[i]:start[i + 1]``;
    ``score:METRIC`` and ``weight:METRIC`` [documents]; ``whole:METRIC`` [1], the number that lm-eval prints. Texts: ``answer``
    [requests], empty for what is scored.
    """

    def take(
        self, subject: Any, items: ItemSet | TaskSet, budget: Budget, after: Measurement | None, progress: Progress
    ) -> Measurement:
        assert isinstance(items, TaskSet), "only tasks are scored like this"
        asked = [one for item in items.items for one in item.everything]
        read, answers = _scored(subject, asked, budget, progress), _written(subject, asked, budget, progress)
        for index, answer in answers.items():
            read["log_likelihood"][index], read["greedy"][index], read["tokens"][index] = np.nan, False, answer.tokens
        start = np.cumsum([0, *(len(item.everything) for item in items.items)]).astype(np.int64)
        responses = [
            Responses(tuple(_response(asked[index], read, answers, index) for index in range(low, low + len(item.asked))))
            for item, low in zip(items.items, start[:-1].tolist(), strict=True)
        ]
        scores = items.grade(responses)
        arrays = {
            **read,
            "start": start,
            **{f"score:{name}": values for name, values in scores.values.items()},
            **{f"weight:{name}": values for name, values in scores.weights.items()},
            **{f"whole:{name}": np.array([value]) for name, value in scores.whole.items()},
        }
        texts = [answers[index].text if index in answers else "" for index in range(len(asked))]
        return Measurement(arrays, {"answer": texts})

    def work(self, tokenizer: Any, items: Sequence[Document], budget: Budget) -> Work:
        """Return what it takes to ask these documents, for a forecast."""
        encoder, lengths, steps = Encoder(tokenizer, budget.context), [], 0
        for asked in (one for item in items for one in item.everything):
            if asked.kind == "generate_until":
                lengths.append(len(encoder.prompt(asked).tokens) + asked.max_new_tokens)
                steps = max(steps, asked.max_new_tokens)
            else:
                lengths += [len(window.tokens) for window in encoder.windows(asked)]
        return Work(lengths, steps)


class _Reader(Reader):
    """Adds up the log-probabilities of each request, whose windows may be several rows."""

    def __init__(self, owners: Sequence[int], count: int) -> None:
        self.owners = owners
        self.total = np.zeros(count)
        self.greedy = np.ones(count, dtype=np.bool_)
        self.tokens = np.zeros(count, dtype=np.int64)

    def read(self, index: int, seen: Predicted) -> None:
        owner = self.owners[index]
        self.total[owner] += seen.log_probability.sum(dtype=np.float64)
        self.greedy[owner] &= bool(seen.correct.all())
        self.tokens[owner] += len(seen.correct)

    def finish(self) -> Measurement:
        return Measurement({"log_likelihood": self.total, "greedy": self.greedy, "tokens": self.tokens})


class Answer(NamedTuple):
    """A written answer: its text, and how many tokens were written."""

    text: str
    tokens: int


def _scored(subject: Any, asked: Sequence[Asked], budget: Budget, progress: Progress) -> dict[str, np.ndarray]:
    """Return the arrays of ``_Reader``; what is written has no rows."""
    encoder = Encoder(subject.tokenizer, budget.context)
    rows, owners = [], []
    for index, one in enumerate(asked):
        windows = encoder.windows(one) if one.kind != "generate_until" else ()
        rows += [Row(window.tokens, window.first) for window in windows]
        owners += [index] * len(windows)
    reader = _Reader(owners, len(asked))
    if rows:
        run_rows(subject, rows, [reader], budget, progress)
    return reader.finish().arrays


def _written(subject: Any, asked: Sequence[Asked], budget: Budget, progress: Progress) -> dict[int, Answer]:
    """Return each greedily written answer by the number of its request."""
    encoder, found = Encoder(subject.tokenizer, budget.context), {}
    for (length, until), indices in _alike(asked).items():
        prompts = [encoder.prompt(asked[index]).tokens for index in indices]
        told = partial(_tell, progress, len(indices))
        written = write(subject, prompts, [""] * len(indices), length, Dice(0.0, 0), budget.tokens, told, until)
        for index, tokens in zip(indices, written, strict=True):
            kept = [token for token in tokens if token not in subject.stop_token_ids]
            found[index] = Answer(_ended(subject.renderer.decode(kept), (*until, subject.tokenizer.eos_token)), len(kept))
    return found


def _tell(progress: Progress, count: int, ended: int) -> None:
    progress(ended, count)


def _alike(asked: Sequence[Asked]) -> dict[tuple[int, tuple[str, ...]], list[int]]:
    """Return the requests that are written in the same way."""
    groups: dict[tuple[int, tuple[str, ...]], list[int]] = {}
    for index, one in enumerate(asked):
        if one.kind == "generate_until":
            groups.setdefault((one.max_new_tokens, one.until), []).append(index)
    return groups


def _ended(text: str, until: Sequence[str | None]) -> str:
    """Return a text up to the first of the texts that end it."""
    for stop in filter(None, until):
        text = text.split(stop)[0]
    return text


def _response(asked: Asked, read: dict[str, np.ndarray], answers: dict[int, Answer], index: int) -> Any:
    if index in answers:
        return answers[index].text
    total = float(read["log_likelihood"][index])
    return total if asked.kind == "loglikelihood_rolling" else (total, bool(read["greedy"][index]))
