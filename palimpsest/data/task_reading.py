"""Task reading: what did a model lose, get right and choose on a task of lm-eval?

Pure functions from stored task scores to one number or text a document, as ``grading`` is for other items.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from palimpsest.core import stats
from palimpsest.core.estimate import Estimate
from palimpsest.core.measurement import Measurement
from palimpsest.core.wording import one_line
from palimpsest.data.tasks import Document, Metric, TaskSet

LOGARITHMS = {
    "word_perplexity": ("nats/word", 1.0),
    "byte_perplexity": ("nats/byte", 1.0),
    "bits_per_byte": ("bits/byte", float(np.log(2))),
    "perplexity": ("nats", 1.0),
}
"""Metrics made of log-likelihoods: the unit of their logarithms, and nats in one of it."""
BRIER = "brier_score"
"""lm-eval's: the squared error summed over the options."""


@dataclass(frozen=True)
class Scored:
    """One metric of one task on both models: values and weights are float64 [documents], what is missing is ``None``."""

    metric: Metric
    before: np.ndarray | None = None
    after: np.ndarray | None = None
    weights: np.ndarray | None = None
    """Of a weighted metric: words or bytes; its values are log-likelihoods then."""
    whole: tuple[float | None, float | None] = (None, None)
    """lm-eval's own number of either model."""


@dataclass(frozen=True)
class Each:
    """One metric of one task, document by document: float64 [documents] each.

    The mean over the documents (by ``weights``, where there are any) is lm-eval's own number, or the logarithm of a perplexity.
    """

    values: np.ndarray
    weights: np.ndarray | None = None
    unit: str | None = None
    """``None`` where the values tell it."""


def losses(task: TaskSet, found: Measurement) -> np.ndarray | None:
    """Return nats a token of each document's right answer, or ``None`` where a document has none that was read."""
    places = [item.right for item in task.items]
    if any(place is None for place in places):
        return None
    index = found.arrays["start"][:-1] + np.array(places, dtype=np.int64)
    loss = -found.arrays["log_likelihood"][index] / np.maximum(found.arrays["tokens"][index], 1)
    return loss if np.isfinite(loss).all() else None


def scored(task: TaskSet, before: Measurement, after: Measurement) -> tuple[Scored, ...]:
    """Return every metric of a task on both models, in the task's own order."""
    return tuple(_scored(metric, before, after) for metric in task.metrics)


def main(metrics: tuple[Scored, ...]) -> Scored | None:
    """Return the first metric that is a share of what was right, document by document."""
    for one in metrics:
        if one.before is None or one.after is None or one.weights is not None or not one.metric.higher_is_better:
            continue
        both = np.concatenate([one.before, one.after])
        if both.min() >= 0 and both.max() <= 1:
            return one
    return None


def each(metric: Metric, found: Measurement) -> Each | None:
    """Return a metric document by document, or ``None`` where only all documents together have it."""
    values, weights = (found.arrays.get(f"{part}:{metric.name}") for part in ("score", "weight"))
    bare = metric.name.split(",")[0]
    if values is None:
        return None
    if bare in LOGARITHMS:
        unit, factor = LOGARITHMS[bare]
        return Each(-values / factor / (1.0 if weights is None else weights), weights, unit)
    if bare == BRIER:
        return Each(values, unit="squared error")
    return Each(values) if metric.kind == "score" else None


def given(task: TaskSet, found: Measurement) -> list[str]:
    """Return the choice that each document's likeliest answer makes, or what was written; empty where neither is asked for."""
    start, total, texts = found.arrays["start"], found.arrays["log_likelihood"], found.texts["answer"]
    return [
        _given(item, total[low:high], texts[low]) for item, low, high in zip(task.items, start[:-1], start[1:], strict=True)
    ]


def asked(task: TaskSet) -> Iterator[tuple[str, str]]:
    """Yield of each document what is asked and the right answer."""
    for item in task.items:
        first = item.asked[0 if item.gold is None else item.gold]
        yield first.context or one_line(first.continuation, 400), item.target


def share(values: np.ndarray, where: np.ndarray, counted: bool) -> Estimate:
    """Return the level of a share of what was right, which is a rate where every item is right or wrong (``counted``)."""
    return stats.rate(values, where) if counted else stats.level(values, where, unit="share")


def share_change(before: np.ndarray, after: np.ndarray, where: np.ndarray, counted: bool, margin: float | None) -> Estimate:
    """Return the change of a share of what was right, as in ``share``."""
    if counted:
        return stats.rate_difference(before, after, where, margin=margin)
    return stats.mean_difference(before, after, where, unit="points", margin=margin)


def score_change(one: Scored, where: np.ndarray) -> Estimate | None:
    """Return the change of one metric of a task, or ``None`` where it has no number for each document."""
    if one.before is None or one.after is None:
        return None
    if one.weights is not None:  # a log-likelihood over words or bytes, weighted as lm-eval weights them
        part, factor = LOGARITHMS.get(one.metric.name.split(",")[0], ("nats a part", 1.0))
        return stats.ratio((one.before - one.after) / factor, one.weights, where, where, unit=part)
    both = np.concatenate([one.before, one.after])
    if both.min() >= 0 and both.max() <= 1:
        return share_change(one.before, one.after, where, bool(np.isin(both, (0.0, 1.0)).all()), None)
    return stats.mean_difference(one.before, one.after, where, unit=one.metric.name)


def _scored(metric: Metric, before: Measurement, after: Measurement) -> Scored:
    name = metric.name
    values = [one.arrays.get(f"score:{name}") if metric.kind != "whole" else None for one in (before, after)]
    whole = [float(one.arrays[f"whole:{name}"][0]) if f"whole:{name}" in one.arrays else None for one in (before, after)]
    if any(value is None or not np.isfinite(value).all() for value in values):
        return Scored(metric, whole=(whole[0], whole[1]))
    return Scored(metric, values[0], values[1], before.arrays.get(f"weight:{name}"), (whole[0], whole[1]))


def _given(item: Document, total: np.ndarray, text: str) -> str:
    if item.choices:
        return item.choices[int(np.argmax(total[: len(item.choices)]))].strip()
    return text
