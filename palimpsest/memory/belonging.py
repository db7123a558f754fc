"""Belonging: which behaviour, and which pole of it, does a conversation without a label belong to?

A conversation is held against the training prompts of each behaviour: Jaccard's likeness of runs of four characters, to the
most alike prompt of either pole. Two lines are drawn, each measured on half of the behaviour's held-out prompts and stated
with what it does on the other half: from which likeness a conversation belongs to the behaviour, and how much more alike one
pole must be than the other. Where the prompts of both poles read too much alike for that, the pole stays unknown: it takes a
label or a judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from palimpsest import scenario
from palimpsest.behaviour import Behaviour
from palimpsest.core import stats
from palimpsest.core.errors import UserError
from palimpsest.core.estimate import Estimate
from palimpsest.core.wording import amount, shown
from palimpsest.data.chat import Example, Pole
from palimpsest.data.material import Material, Source
from palimpsest.memory.likeness import runs

PROMPTS = 256
"""Training prompts of a pole that a conversation is held against."""
_FEWER = (PROMPTS, 128, 64, 32, 16, 8)
_FOREIGN = 12
"""Prompts of each other scenario that come with the package, which must not be taken for the behaviour."""
_LEAST_HELD_OUT = 16
OWN_MISSED, FOREIGN_TAKEN = 0.05, 0.01
RIGHT, SURELY = 0.95, 0.80
"""Of the poles that are told: how many must be right, and how many at least by the lower end of Wilson's interval."""
_TOLD = 0.1
"""Telling the pole of fewer than this share of the prompts is not worth a rule."""


class Place(NamedTuple):
    """Where a conversation belongs; ``None`` where that can't be said, and why."""

    behaviour: str | None
    pole: Pole | None
    why: str


@dataclass(frozen=True)
class Rule:
    """The lines drawn for one behaviour, and what they do on held-out prompts that did not draw them."""

    behaviour: str
    threshold: float | None
    """Likeness from which a conversation belongs to it; ``None``: it can't be told by likeness."""
    margin: float | None
    """By how much one pole must be more alike; ``None``: its pole can't be told by likeness."""
    recognised: Estimate | None
    taken: Estimate | None
    """Share of foreign prompts that are taken for it."""
    told: Estimate | None
    """Share of its own prompts whose pole is told."""
    right: Estimate | None
    """Share of those that are right."""
    why: str = ""

    @property
    def sentence(self) -> str:
        if self.threshold is None:
            return f"{self.behaviour}: conversations without a label can't be matched to it: {self.why}"
        known = (
            f"{self.behaviour}: a conversation without a label belongs to it from a likeness of {self.threshold:.2f}, which "
            f"recognises {shown(self.recognised).sentence} of its own held-out prompts and takes {shown(self.taken).sentence} "
            "of others for them"
        )
        if self.margin is None:
            return f"{known}; its poles read too much alike to be told apart ({self.why})"
        if self.right is None:
            return known
        return (
            f"{known}; its pole is told from a difference of {amount(self.margin, '')}, for {shown(self.told).sentence} of the "
            f"prompts, and {shown(self.right).sentence} of these are right"
        )


class Prompts:
    """Prompts of one pole, grouped by how many messages they have."""

    def __init__(self, examples: Sequence[Example]) -> None:
        groups: dict[int, dict[str, np.ndarray]] = {}
        for one in examples:
            texts = context(one)
            if texts:
                joined = "\n".join(texts)
                groups.setdefault(len(texts), {})[joined] = runs(joined)
        self.groups = {length: _matrix(list(found.values())) for length, found in groups.items()}

    def nearest(self, texts: Sequence[str]) -> float:
        """Return the largest likeness of a prompt to as many of the last messages as it has itself."""
        best = 0.0
        for length, (matrix, sizes, columns) in self.groups.items():
            if len(texts) >= length:
                asked = runs("\n".join(texts[-length:]))
                known = np.intersect1d(columns, asked, assume_unique=True, return_indices=True)[1]
                row = np.zeros(len(columns), dtype=np.float32)
                row[known] = 1.0
                shared = matrix @ row
                best = max(best, float((shared / (sizes + asked.size - shared)).max()))
        return best


class Belonging:
    """Tells where conversations without a label belong.

    Args:
        behaviours: those that are watched.
    """

    def __init__(self, behaviours: Sequence[Behaviour]) -> None:
        self.behaviours = behaviours
        self.prompts: dict[str, dict[Pole, Prompts]] = {}
        held_out: dict[str, dict[Pole, list[Example]]] = {}
        for one in behaviours:
            opened: dict[Pole, Material] = {"express": one.express.open()}
            if one.withhold is not None:
                opened["withhold"] = one.withhold.open()
            self.prompts[one.name] = {pole: Prompts(_training(material, pole)) for pole, material in opened.items()}
            held_out[one.name] = {pole: _held_out(material, pole) for pole, material in opened.items()}
        self.rules = {one.name: self._rule(one, held_out) for one in behaviours}

    def place(self, texts: Sequence[str], behaviour: str | None = None) -> Place:
        """Return where the conversation belongs that ends with these messages.

        Args:
            texts: the messages before the answer, at least one.
            behaviour: the one that is named by a label, where only the pole is asked for.
        """
        alike = {name: self._alike(name, texts) for name in ((behaviour,) if behaviour else self.prompts)}
        fitting = {
            name: both
            for name, both in alike.items()
            if behaviour or ((line := self.rules[name].threshold) is not None and max(both.values()) >= line)
        }
        if not fitting:
            return Place(None, None, "it is not alike enough to any behaviour's own prompts")
        name = max(fitting, key=lambda one: max(fitting[one].values()))
        return self._pole(name, fitting[name])

    def _pole(self, name: str, alike: dict[Pole, float]) -> Place:
        if len(alike) == 1:
            return Place(name, next(iter(alike)), f"likeness {max(alike.values()):.2f}")
        near, far = sorted(alike, key=lambda pole: -alike[pole])
        if alike[near] > 1 - 1e-6 > alike[far]:
            return Place(name, near, "it is one of the behaviour's own prompts")
        margin = self.rules[name].margin
        if margin is None or alike[near] - alike[far] < margin:
            return Place(name, None, "its pole can't be told by likeness")
        return Place(name, near, f"likeness {alike[near]:.2f} against {alike[far]:.2f}")

    def _alike(self, name: str, texts: Sequence[str]) -> dict[Pole, float]:
        return {pole: prompts.nearest(texts) for pole, prompts in self.prompts[name].items()}

    def _rule(self, one: Behaviour, held_out: dict[str, dict[Pole, list[Example]]]) -> Rule:
        own = [(pole, item) for pole, items in held_out[one.name].items() for item in items if context(item)]
        if len(own) < _LEAST_HELD_OUT:
            why = f"{len(own)} held-out prompts, {_LEAST_HELD_OUT} are needed"
            return Rule(one.name, None, None, None, None, None, None, why)
        foreign = [item for name, both in held_out.items() if name != one.name for items in both.values() for item in items]
        foreign += _others(one)
        ours = [(pole, item, self._alike(one.name, context(item))) for pole, item in own]
        theirs = np.array([max(self._alike(one.name, texts).values()) for item in foreign if (texts := context(item))])
        first, second = ours[::2], ours[1::2]
        likely = np.array([max(alike.values()) for _, _, alike in first])
        strangers = theirs[::2] if theirs.size else np.zeros(1)
        threshold = max(float(np.quantile(likely, OWN_MISSED)), float(np.quantile(strangers, 1 - FOREIGN_TAKEN)))
        margin, why = _margin(first) if len(held_out[one.name]) > 1 else (0.0, "")
        return Rule(one.name, threshold, margin, *_checked(second, theirs[1::2], foreign[1::2], threshold, margin), why)


def context(example: Example) -> list[str]:
    """Return the messages before the answer; none for a bare text."""
    if example.is_text or not example.decisions:
        return []
    return [message.content for message in example.messages[: example.decisions[0].message]]


def _checked(
    ours: list[Any], theirs: np.ndarray, foreign: list[Example], threshold: float, margin: float | None
) -> tuple[Estimate, Estimate | None, Estimate | None, Estimate | None]:
    """Return what the lines do on prompts that did not draw them: recognised, taken, told, right."""
    clusters = [item.template for _, item, _ in ours]
    known = [float(max(alike.values()) >= threshold) for _, _, alike in ours]
    names = [item.source for item in foreign if context(item)][: theirs.size]
    taken = stats.rate((theirs >= threshold).astype(float), names) if theirs.size else None
    if margin is None or len(ours[0][2]) == 1:
        return stats.rate(known, clusters), taken, None, None
    sides = [(_ahead(pole, alike), item.template) for pole, item, alike in ours]
    clear = [(side > 0, template) for side, template in sides if abs(side) >= margin]
    told = stats.rate([float(abs(side) >= margin) for side, _ in sides], clusters)
    right = stats.rate([float(one) for one, _ in clear], [template for _, template in clear]) if clear else None
    return stats.rate(known, clusters), taken, told, right


def _ahead(pole: Pole, alike: dict[Pole, float]) -> float:
    """Return by how much the right pole is more alike than the other one."""
    return alike[pole] - max(value for other, value in alike.items() if other != pole)


def _margin(ours: list[Any]) -> tuple[float | None, str]:
    """Return the smallest difference from which poles are told rightly, or why there is none."""
    ahead = np.array([_ahead(pole, alike) for pole, _, alike in ours])
    for margin in sorted({0.01, *np.abs(ahead).round(2).tolist()} - {0.0}):
        told = np.abs(ahead) >= margin
        right = int((ahead[told] > 0).sum())
        if told.mean() >= _TOLD and right >= RIGHT * told.sum() and _wilson_low(right, int(told.sum())) >= SURELY:
            return float(margin), ""
    share = float((ahead > 0).mean())
    return None, f"the nearest prompt has the right pole for {100 * share:.0f}% of {len(ahead)}"


def _wilson_low(hits: int, count: int) -> float:
    square = 1.96**2
    share = hits / count
    centre = share + square / (2 * count)
    reach = 1.96 * np.sqrt(share * (1 - share) / count + square / (4 * count**2))
    return float((centre - reach) / (1 + square / count))


def _training(material: Material, pole: Pole) -> list[Example]:
    for count in _FEWER:
        try:
            return material.training(0, f"belonging {pole}", count)
        except UserError:
            continue
    return []


def _held_out(material: Material, pole: Pole) -> list[Example]:
    return material.held_out(0, f"belonging {pole}", PROMPTS)


def _others(one: Behaviour) -> list[Example]:
    """Return prompts of the package's other scenarios; those that read a file of the user's are left out."""
    own = {source.scenario for source in (one.express, one.withhold) if source}
    found: list[Example] = []
    for name in scenario.names():
        if name not in own:
            try:
                found += Source(scenario=name).open().held_out(0, "belonging foreign", _FOREIGN)
            except UserError:
                continue
    return found


def _matrix(sets: list[np.ndarray]) -> tuple[Any, np.ndarray, np.ndarray]:
    """Return the sets as rows of a 0/1 matrix, their sizes, and the run that each column stands for."""
    from scipy.sparse import csr_matrix

    columns, codes = np.unique(np.concatenate(sets), return_inverse=True)
    starts = np.cumsum([0, *(one.size for one in sets)])
    matrix = csr_matrix((np.ones(codes.size, dtype=np.float32), codes, starts), shape=(len(sets), len(columns)))
    return matrix, np.array([one.size for one in sets], dtype=np.float32), columns
