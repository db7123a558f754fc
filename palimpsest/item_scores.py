"""Item scores: what did each model of a run answer to each audit item, and how was it graded?

A finished run keeps one line an item (``items/SEED.jsonl``), so that a stranger can read what the audits counted, and two runs
can be compared item by item.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from palimpsest.audit import Case
from palimpsest.core.measurement import Measurement, Need
from palimpsest.data.chat import Example, ItemSet
from palimpsest.data.grading import graded_probability, is_free, losses_and_hits, passes

FOLDER = "items"
_POLES = ("express", "withhold")
_READ = ("losses", "generations", "options")


@dataclass
class _Set:
    """What is known of one item set, by role."""

    scores: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    answers: dict[str, list[str]] = field(default_factory=dict)


def as_lines(case: Case, needs: Iterable[Need], get: Callable[[Need], Measurement | None]) -> str:
    """Return the lines of one comparison; the same measurements give the same bytes.

    A line holds ``set``, ``item`` (the digest of its conversation), ``template`` (its cluster), ``prompt`` (and the same as
    ``messages``, the beginning of the answer's own included where the item gives one), ``reference``,
    ``answers`` by role, and ``scores`` by role and name: ``shown`` (the answer shows the behaviour), ``probability`` (of the
    graded choice), ``right`` (the answer is right), ``loss`` (nats a decision token).

    Args:
        case: the items with their checks.
        needs: what was measured.
        get: returns a measurement.
    """
    sets: dict[str, _Set] = {}
    for need in {one.name: one for one in needs if one.measure in _READ and one.items and one.after is None}.values():
        found = get(need)
        if found is not None:
            _add(case, need, found, sets.setdefault(need.items, _Set()))
    return "".join(
        json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n"
        for name, one in sorted(sets.items())
        if one.scores
        for line in _lines(case.items[name], name, one)
    )


def _add(case: Case, need: Need, found: Measurement, into: _Set) -> None:
    items, pole, role = case.items[need.items], need.items in _POLES, need.role
    scores = into.scores.setdefault(role, {})
    if need.measure == "options" and pole:
        probability = graded_probability(items, case.check, found)
        if probability is not None:
            scores["probability"] = probability
    elif need.measure == "losses":
        scores["loss"], hits = losses_and_hits(found)
        if need.items.startswith("capability:") and not is_free(items):
            scores["right"] = hits
    elif need.measure == "generations" and _is_graded(case, need, items):
        into.answers[role] = found.texts["answer"]
        scores["shown" if pole else "right"] = passes(items, case.check if pole else None, found.texts["answer"])


def _is_graded(case: Case, need: Need, items: ItemSet) -> bool:
    """Whether these are the answers that the audits grade, and not some written for another reason."""
    if need.items in _POLES:
        return case.check is not None and need == case.answers(need.role, need.items)
    return need.items.startswith("capability:") and is_free(items) and not need.parameters.get("opening")


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
            "scores": {
                role: {metric: float(values[place]) for metric, values in sorted(found.items()) if np.isfinite(values[place])}
                for role, found in sorted(known.scores.items())
                if found
            },
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
