"""Item scores: what did each model of a run answer to each audit item, and how was it graded?

A finished run keeps one line an item (``items/SEED.jsonl``), so that a stranger can read what the audits counted, and two runs
can be compared item by item.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from palimpsest.audit import Case
from palimpsest.core.measurement import Measurement, Need
from palimpsest.data import task_reading
from palimpsest.data.chances import chances
from palimpsest.data.chat import POLES, Example, ItemSet
from palimpsest.data.grading import is_free, losses_and_hits, passes
from palimpsest.data.tasks import TaskSet

FOLDER = "items"
TASK = "task:"
"""What the name of a task's set begins with."""
LOSS = "nats/token"
"""The unit of a loss."""
_LOSS_MARGIN = 0.05
"""How much of a loss still counts as unchanged, as in the audit ``forgetting``."""
_READ = ("losses", "generations", "options")
_TASKS = "task_scores"


@dataclass
class _Set:
    """What is known of one item set, by role."""

    scores: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    answers: dict[str, list[str]] = field(default_factory=dict)
    written: dict[str, Any] = field(default_factory=dict)
    """How the answers were written."""


def as_lines(case: Case, needs: Iterable[Need], get: Callable[[Need], Measurement | None]) -> str:
    """Return the lines of one comparison; the same measurements give the same bytes.

    A line holds ``set``, ``item`` (the digest of its conversation), ``template`` (its cluster), ``prompt`` (and the same as
    ``messages``, the beginning of the answer's own included where the item gives one), ``reference``,
    ``answers`` by role, how they were ``written``, and ``scores`` by role and name: ``shown`` (the answer shows the behaviour),
    ``probability`` (that the answer begins with the graded choice), ``right`` (the answer is right), ``loss`` (nats a decision
    token).

    A document of a task of lm-eval is called as lm-eval's own samples call it (``item`` and ``target`` are its hashes, and
    ``given`` that of its prompt). Its scores are the task's metrics, described in ``metrics`` (``better``, ``unit``);
    perplexities are kept as their logarithms, with the ``weights`` of their mean.

    Args:
        case: the items with their checks.
        needs: what was measured.
        get: returns a measurement.
    """
    sets: dict[str, _Set] = {}
    tasks: dict[str, dict[str, Measurement]] = {}
    for need in {one.name: one for one in needs if one.items and one.after is None}.values():
        found = get(need) if need.measure in (*_READ, _TASKS) else None
        if found is not None and need.measure == _TASKS:
            tasks.setdefault(need.items.removeprefix(TASK), {})[need.role] = found
        elif found is not None:
            _add(case, need, found, sets.setdefault(need.items, _Set()))
    lines = [
        line for name, one in sorted(sets.items()) if any(one.scores.values()) for line in _lines(case.items[name], name, one)
    ]
    lines += [line for name, found in sorted(tasks.items()) for line in _task_lines(case.tasks[name], found)]
    return "".join(json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n" for line in lines)


def metric(name: str, set_name: str, told: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what a score counts: which direction is better, its unit, and what counts as unchanged where that is no share.

    Args:
        name: of the score.
        set_name: of the item set; where the behaviour should not appear, less of it is better.
        told: what the item itself says of it (documents of lm-eval's tasks do).
    """
    known = dict(told or {}) or (
        {"better": "lower", "unit": LOSS} if name == "loss"
        else {"better": "lower" if set_name == "withhold" else "higher", "unit": "share"}
    )  # fmt: skip
    return {**known, **({"margin": _LOSS_MARGIN} if known.get("unit") == LOSS else {})}


def _add(case: Case, need: Need, found: Measurement, into: _Set) -> None:
    items, pole, role = case.items[need.items], need.items in POLES, need.role
    scores = into.scores.setdefault(role, {})
    if need.measure == "options" and pole:
        read = chances(items, case.check, found)
        if read is not None:
            scores["probability"] = read.probability
    elif need.measure == "losses":
        scores["loss"], hits = losses_and_hits(found)
        if need.items.startswith("capability:") and not is_free(items):
            scores["right"] = hits
    elif need.measure == "generations" and _is_graded(case, need, items):
        into.answers[role] = found.texts["answer"]
        into.written = _how(need.parameters)
        scores["shown" if pole else "right"] = passes(items, case.check if pole else None, found.texts["answer"])


def _how(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return how answers are written; without dice the seed decides nothing."""
    names = ("max_new_tokens", "temperature", *(("seed",) if parameters.get("temperature") else ()))
    return {name: parameters[name] for name in names if name in parameters}


def _is_graded(case: Case, need: Need, items: ItemSet) -> bool:
    """Whether these are the answers that the audits grade, and not some written for another reason."""
    if need.items in POLES:
        return case.check is not None and need == case.answers(need.role, need.items)
    return need.items.startswith("capability:") and is_free(items) and need == case.likeliest_answers(need.role, need.items)


def _lines(items: ItemSet, name: str, known: _Set) -> Iterator[dict[str, Any]]:
    for place, item in enumerate(items.items):
        yield {
            "set": name,
            "item": item.id,
            "template": item.template,
            "prompt": "" if item.is_text else item.context,
            "messages": [] if item.is_text else list(_turns(item)),
            "reference": _reference(item),
            "answers": {role: texts[place] for role, texts in sorted(known.answers.items())},
            "written": known.written,
            "scores": {role: _at(place, found) for role, found in sorted(known.scores.items()) if found},
        }


def _reference(item: Example) -> str:
    return item.decision if item.decisions else ""


def _turns(item: Example) -> Iterator[dict[str, str]]:
    """Yield the messages that stand before an item's first decision."""
    span = item.decisions[0]
    for place, message in enumerate(item.messages[: span.message + 1]):
        content = message.content if place < span.message else message.content[: span.start]
        if place < span.message or content:
            yield {"role": message.role, "content": content}


def _task_lines(task: TaskSet, found: Mapping[str, Measurement]) -> Iterator[dict[str, Any]]:
    """Yield the lines of a task's documents, scored by its own metrics and by the loss of the right answer."""
    known = {role: _task_scores(task, one) for role, one in found.items()}
    answers = {role: task_reading.given(task, one) for role, one in found.items()}
    metrics = {name: one for scores in known.values() for name, one in scores.items()}
    better = {metric.name: "higher" if metric.higher_is_better else "lower" for metric in task.metrics}
    told = {
        name: {"better": better.get(name, "lower"), **({"unit": one.unit} if one.unit else {})} for name, one in metrics.items()
    }
    shared = Counter(item.cluster for item in task.items)
    for place, item in enumerate(task.items):
        yield {
            "set": f"{TASK}{task.name}",
            "item": item.hash,
            "target": item.target_hash,
            "given": hashlib.sha256(item.prompt.encode()).hexdigest(),
            "name": item.source.removeprefix(f"{task.name}, "),
            "template": item.cluster if shared[item.cluster] > 1 else "",
            "prompt": item.prompt,
            "messages": [],
            "reference": item.target,
            "answers": {role: texts[place] for role, texts in sorted(answers.items()) if texts[place]},
            "scores": {
                role: _at(place, {name: one.values for name, one in scores.items()}) for role, scores in sorted(known.items())
            },
            "weights": _at(place, {name: one.weights for name, one in metrics.items() if one.weights is not None}),
            "metrics": told,
            "scoring": {"lm-eval": task.version, "digest": task.scoring},
        }


def _task_scores(task: TaskSet, found: Measurement) -> dict[str, task_reading.Each]:
    """Return every score that one model has for each document."""
    known = {metric.name: each for metric in task.metrics if (each := task_reading.each(metric, found)) is not None}
    loss = task_reading.losses(task, found)
    return known if loss is None else {"loss": task_reading.Each(loss, unit=LOSS), **known}


def _at(place: int, columns: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return one item's numbers by name, without those that are none."""
    return {name: float(values[place]) for name, values in sorted(columns.items()) if np.isfinite(values[place])}
