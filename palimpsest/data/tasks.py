"""Tasks: what does a task of lm-eval ask of a model, document by document, and how is it scored?

Plain data: nothing here knows lm-eval. ``palimpsest.peers.lm_eval_tasks`` makes it, and hands over the scoring as a function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from pydantic import Field

from palimpsest.core.spec import Spec, digest


class Asked(Spec):
    """One request, in lm-eval's own terms: text as it is, without a chat template."""

    kind: Literal["loglikelihood", "loglikelihood_rolling", "generate_until"]
    context: str = ""
    """What is given; empty for a whole text."""
    continuation: str = ""
    """What is scored: a continuation of the context, or a whole text."""
    until: tuple[str, ...] = ()
    """Texts at which a written answer ends."""
    max_new_tokens: int = Field(default=0, ge=0)


class Document(Spec):
    """One document of a task."""

    asked: tuple[Asked, ...] = Field(min_length=1)
    """What the task's own scoring needs."""
    reference: Asked | None = None
    """The right answer after the same context, where the task has answers written only: read besides, because its loss shows a
    change even where hardly any answer is right."""
    gold: int | None = None
    """Which of ``asked`` holds the right answer (the first one where several are right)."""
    choices: tuple[str, ...] = ()
    """The texts of the first requests, where one of them is chosen."""
    target: str = ""
    """The right answer in words."""
    cluster: str
    """What statistics count as one unit: the document, or what it shares with others."""
    source: str
    hash: str
    """Of the document as its data set has it: what the scoring reads besides the answers."""
    target_hash: str
    """Of the right answer as the task gives it. Both hashes are those that lm-eval writes into its samples."""

    @property
    def prompt(self) -> str:
        """What the model is asked first: what lm-eval calls its prompt."""
        first = self.asked[0]
        return first.continuation if first.kind == "loglikelihood_rolling" else first.context

    @property
    def everything(self) -> tuple[Asked, ...]:
        """All that a model is asked about it; the reference comes last."""
        return (*self.asked, self.reference) if self.reference else self.asked

    @property
    def right(self) -> int | None:
        """Which of ``everything`` holds the right answer, if any does."""
        return len(self.asked) if self.reference else self.gold


class Metric(Spec):
    """One of a task's metrics: ``acc``, or ``exact_match,strict-match`` where a filter made the answer."""

    name: str
    higher_is_better: bool = True
    kind: Literal["score", "weighted", "whole"]
    """One number a document; a log-likelihood over a number of words or bytes; or something that only all documents have."""
    averaged: bool = True
    """Whether lm-eval's own number is the mean over documents."""


@dataclass(frozen=True)
class Responses:
    """What one model answered to one document, in the order of ``Document.asked``.

    A log-likelihood with whether every token was the most likely one; for a whole text only the former; or a written answer.
    """

    given: tuple[tuple[float, bool] | float | str, ...]


@dataclass(frozen=True)
class Scores:
    """What a task's own scoring makes of all responses.

    ``values``: by metric float64 [documents]; ``weights``: by weighted metric float64 [documents]; ``whole``: lm-eval's own
    number of each metric, where it could be had.
    """

    values: Mapping[str, np.ndarray]
    weights: Mapping[str, np.ndarray]
    whole: Mapping[str, float]


@dataclass(frozen=True)
class TaskSet:
    """The documents of one task that are measured on every subject, in this order."""

    name: str
    items: tuple[Document, ...]
    metrics: tuple[Metric, ...]
    scoring: str
    """Digest of all that decides the scores besides the documents: the task's settings and code, and lm-eval's version."""
    version: str
    """Of lm-eval."""
    grade: Callable[[Sequence[Responses]], Scores] = field(repr=False, compare=False)
    """The task's own scoring; pure."""

    @cached_property
    def digest(self) -> str:
        return digest([self.name, self.scoring, *(item.model_dump(mode="json") for item in self.items)])
