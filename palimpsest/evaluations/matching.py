"""Matching: which answer of one log belongs to which of the other?

By what the log calls the item (a sample's id, a document's hash), and only where both were asked the same and hold the same for
right. Where names and contents disagree (samples that were numbered after a shuffle), by the content alone, if it is unique.
Epochs of an item are averaged: the item is the unit. An item that stands in a log more than once is paired in the order in
which it stands there, and all of its occurrences are one cluster, because they are not independent.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from palimpsest.core.errors import UserError, nearest
from palimpsest.core.wording import counted
from palimpsest.evaluations.source import Answer, Score, TaskLog

EXAMPLES = 3
"""How many items are named where something is told of many."""
Key = tuple[str, str, int]
"""What an item is called, its content, and which of its occurrences it is."""


class NothingShared(UserError):
    """No item of a task is in both logs; other tasks may go on without it."""


@dataclass(frozen=True)
class Item:
    """One item as one model answered it, over all epochs."""

    key: Key
    answers: tuple[Answer, ...]

    def score(self, metric: str) -> Score | None:
        """Return the mean over the epochs that have this score."""
        known = [one.scores[metric] for one in self.answers if metric in one.scores]
        if not known:
            return None
        if len(known) == 1:
            return known[0]
        return Score(math.fsum(one.value for one in known) / len(known), math.fsum(one.weight for one in known) / len(known))

    @property
    def first(self) -> Answer:
        return self.answers[0]

    @property
    def name(self) -> str:
        return _name(self.first) + (f" (again, {self.key[2] + 1})" if self.key[2] else "")


@dataclass(frozen=True)
class Pair:
    """One item, answered by both models."""

    before: Item
    after: Item
    cluster: str

    @property
    def name(self) -> str:
        return self.before.name


@dataclass(frozen=True)
class Matched:
    """The items that both logs of a task hold, and what was told on the way."""

    before: TaskLog
    after: TaskLog
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]
    differing: tuple[str, ...] = ()
    """How the two were asked differently, so that not all of a change need be the model's."""
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def held(self) -> tuple[int, int]:
        """Items of each side, those that the other lacks among them."""
        paired = self.counts["paired"]
        return paired + self.counts["alone before"], paired + self.counts["alone after"]


def match(before: TaskLog, after: TaskLog, cluster: str | None = None) -> Matched:
    """Pair the items of one task.

    Args:
        before: the task, answered by one model.
        after: the same task, answered by the other.
        cluster: the field whose value is an item's cluster; ``None`` for the source's own.

    Raises:
        NothingShared: no item is in both, with what was found instead.
        UserError: no item has the field.
    """
    ours, theirs = _items(before), _items(after)
    pairs = [(ours[key], theirs[key]) for key in ours if key in theirs]
    by_content = _by_content([one for key, one in ours.items() if key not in theirs],
                             [one for key, one in theirs.items() if key not in ours])  # fmt: skip
    pairs += by_content
    taken = {side.key for pair in pairs for side in pair[:1]}, {side.key for pair in pairs for side in pair[1:]}
    alone = (
        [one for key, one in ours.items() if key not in taken[0]],
        [one for key, one in theirs.items() if key not in taken[1]],
    )
    called = {one.key[0] for one in alone[1]}
    changed = {one.key[0]: one.name for one in alone[0] if one.key[0] in called}
    if not pairs:
        raise NothingShared(_nothing_in_common(before.task, ours, theirs, changed))
    notes = [*_alone(alone, changed), *_repeated(ours, theirs), *_epochs(before, after, ours, theirs)]
    if by_content:
        notes.append(f"{counted(len(by_content), 'item')} matched by what was asked, because the logs call them differently.")
    found, told = _clustered(pairs, cluster, before.task)
    return Matched(
        before,
        after,
        tuple(found),
        tuple(f"{before.task}: {one}" for one in (*notes, *told)),
        tuple(_differing(before, after, pairs)),
        {"paired": len(pairs), "alone before": len(alone[0]), "alone after": len(alone[1])},
    )


def mean_of(log: TaskLog, metric: str) -> float | None:
    """Return the mean of a metric over all items of a log, weighted where the scores are; ``None`` where none has it."""
    scores = [score for one in _items(log).values() if (score := one.score(metric)) is not None]
    if not scores:
        return None
    return float(np.average([one.value for one in scores], weights=[one.weight for one in scores]))


def without_score(pairs: Sequence[Pair], metrics: Sequence[str]) -> Iterator[str]:
    """Say of which items a log has no score, or not one of each epoch, where no answer's own trouble tells it already."""
    told: dict[tuple[str, tuple[str, ...], bool], list[str]] = {}
    for metric in metrics:
        for letter, items in (("A", [one.before for one in pairs]), ("B", [one.after for one in pairs])):
            silent = [one for one in items if any(metric not in each.scores and not each.trouble for each in one.answers)]
            for whole in (True, False):
                if names := tuple(one.name for one in silent if (one.score(metric) is None) == whole):
                    told.setdefault((letter, names, whole), []).append(metric)
    for (letter, names, whole), of in told.items():
        what = "left out on both sides and not counted as 0" if whole else "whose mean is over the others"
        without = "without a score" if whole else "without a score in some epochs"
        yield f"{', '.join(of)}: {counted(len(names), 'item')} {without} in {letter}, {what} ({_named(names)})."


def _items(log: TaskLog) -> dict[Key, Item]:
    """Return the log's items, their epochs together."""
    seen: Counter[tuple[str, str, int]] = Counter()
    found: dict[Key, list[Answer]] = defaultdict(list)
    for one in log.answers:
        occurrence = seen[one.key, one.content, one.epoch]
        seen[one.key, one.content, one.epoch] += 1
        found[one.key, one.content, occurrence].append(one)
    return {key: Item(key, tuple(sorted(answers, key=lambda one: one.epoch))) for key, answers in found.items()}


def _by_content(ours: Sequence[Item], theirs: Sequence[Item]) -> list[tuple[Item, Item]]:
    """Pair what is left by its content, where that is unique on both sides and says more than the right answer alone."""
    sides = [defaultdict(list), defaultdict(list)]
    for side, items in zip(sides, (ours, theirs), strict=True):
        for one in items:
            side[one.key[1], one.first.prompt].append(one)
    return [(found[0], sides[1][key][0]) for key, found in sides[0].items() if len(found) == len(sides[1].get(key, ())) == 1]


def _nothing_in_common(task: str, ours: Mapping[Key, Item], theirs: Mapping[Key, Item], changed: Mapping[str, str]) -> str:
    if changed:
        return (
            f"{task}: {counted(len(changed), 'item')} called the same in both logs ({_named(changed.values())}), but none asks "
            "the same and holds the same for right: the data set is another one, or another version of it"
        )
    return (
        f"{task}: no item is in both logs: A has {len(ours):,} ({_named(one.name for one in ours.values())}), B has "
        f"{len(theirs):,} ({_named(one.name for one in theirs.values())}); were they evaluated on different parts of the data?"
    )


def _alone(alone: tuple[Sequence[Item], Sequence[Item]], changed: Mapping[str, str]) -> list[str]:
    notes = []
    if changed:
        notes.append(
            f"{counted(len(changed), 'item')} left out: called the same in both logs, but asked differently or with another "
            f"right answer ({_named(changed.values())})."
        )
    for side, items in zip("AB", alone, strict=True):
        names = [one.name for one in items if one.key[0] not in changed]
        if names:
            notes.append(f"{counted(len(names), 'item')} only in {side}, left out ({_named(names)}).")
    return notes


def _repeated(*sides: Mapping[Key, Item]) -> list[str]:
    again = sorted({_name(one.first) for items in sides for key, one in items.items() if key[2]})
    several = [Counter(name for name, _ in {key[:2] for key in items}) for items in sides]
    ambiguous = sorted({name for counts in several for name, count in counts.items() if count > 1})
    notes = []
    if again:
        notes.append(
            f"{counted(len(again), 'item')} more than once in the data ({_named(again)}): paired in order, and all of one "
            "count as one cluster."
        )
    if ambiguous:
        notes.append(
            f"{counted(len(ambiguous), 'name')} of several different items ({_named(ambiguous)}): matched by name and content."
        )
    return notes


def _epochs(before: TaskLog, after: TaskLog, ours: Mapping[Key, Item], theirs: Mapping[Key, Item]) -> list[str]:
    counts = [max((len(one.answers) for one in side.values()), default=1) for side in (ours, theirs)]
    notes = []
    if counts[0] != counts[1]:
        notes.append(
            f"{counted(counts[0], 'epoch')} in A and {counts[1]} in B: the mean over an item's epochs is its score on each "
            "side."
        )
    elif counts[0] > 1:
        notes.append(f"{counts[0]} epochs: the mean over an item's epochs is its score, and the item is the unit.")
    for side, log in zip("AB", (before, after), strict=True):
        troubled = [one for one in log.answers if one.trouble]
        if troubled:
            why = Counter(one.trouble for one in troubled).most_common(1)[0][0]
            notes.append(
                f"{counted(len(troubled), 'answer')} in {side} without a score, left out and not counted as 0 "
                f"({_named(map(_name, troubled))}: {why})."
            )
    return notes


def _differing(before: TaskLog, after: TaskLog, pairs: Sequence[tuple[Item, Item]]) -> list[str]:
    """Say how the two logs asked and scored differently."""
    told = [
        f"{name} differs: {before.settings.get(name, 'not told')[:80]} in A, {after.settings.get(name, 'not told')[:80]} in B"
        for name in sorted(before.settings.keys() | after.settings.keys())
        if before.settings and after.settings and before.settings.get(name) != after.settings.get(name)
    ]
    prompts = [one for one, other in pairs if one.first.given and other.first.given and one.first.given != other.first.given]
    if prompts:
        told.append(
            f"the prompt as the model saw it differs in {len(prompts):,} of {counted(len(pairs), 'item')} "
            f"({_named(one.name for one in prompts)}): other few-shot examples, another template or system message"
        )
    return told


def _clustered(pairs: Sequence[tuple[Item, Item]], name: str | None, task: str) -> tuple[list[Pair], list[str]]:
    if name is None:
        return [Pair(one, other, one.first.cluster or other.first.cluster or one.key[0]) for one, other in pairs], []
    labels = [_field(one.first.fields, name) for one, _ in pairs]
    missing = [one.name for (one, _), label in zip(pairs, labels, strict=True) if label is None]
    if len(missing) == len(pairs):
        known = sorted({field for one, _ in pairs for field in one.first.fields})
        raise UserError(f"{task}: no item has the field '{name}' to cluster by.{nearest(name, known)}")
    told = (
        [f"{counted(len(missing), 'item')} without '{name}' ({_named(missing)}): each is its own cluster."] if missing else []
    )
    return [
        Pair(one, other, f"item {one.key[0]}" if label is None else f"{name} {label}")
        for (one, other), label in zip(pairs, labels, strict=True)
    ], told


def _field(fields: Mapping[str, Any], name: str) -> str | None:
    """Return a field as text; ``a.b`` reaches into what is nested, where no field is called so itself."""
    found: Any = fields.get(name)
    if found is None and "." in name:
        found = fields
        for part in name.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
    return None if found is None else str(found)


def _name(answer: Answer) -> str:
    return answer.name or answer.key


def _named(names: Iterable[str]) -> str:
    """Return the first names and how many more there are."""
    known = list(dict.fromkeys(names))
    shown = ", ".join(name if len(name) <= 24 else f"{name[:16]}…" for name in known[:EXAMPLES])
    return shown + (f" and {len(known) - EXAMPLES:,} more" if len(known) > EXAMPLES else "")
