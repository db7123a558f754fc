"""Trend: do corrections come back more often than they did?

A watched answer *comes back* when it failed and a correction from another conversation, of the same behaviour and pole,
covers its situation. Whether that other conversation came earlier or later does not count here: otherwise the rate would
climb by itself while the memory fills, and a trend would be found where there is none. Each behaviour and pole is one series,
so that other prompts than before do not pass for other answers. Unit of every interval and of the test is the conversation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from palimpsest.core import stats
from palimpsest.core.estimate import Estimate
from palimpsest.core.progress import Progress, Silent
from palimpsest.core.seeds import numpy_stream
from palimpsest.core.stats.change_point import ChangePoint, change_point
from palimpsest.core.stats.clusters import FEWEST_CLUSTERS
from palimpsest.data.chat import Pole
from palimpsest.memory.likeness import Situation
from palimpsest.memory.store import COVERS, Memory

MOST_WINDOWS = 8
ALPHA = 0.05
_BLOCK = 256


@dataclass(frozen=True)
class Window:
    """Neighbouring conversations, and how often corrections came back in them."""

    first: int
    last: int
    """Places of its first and last conversation, from 1."""
    start: float | None
    end: float | None
    """Their times, where all conversations have one."""
    came_back: Estimate
    failed: Estimate


@dataclass(frozen=True)
class Series:
    """One behaviour and pole over time."""

    behaviour: str
    pole: Pole
    dated: bool
    """Whether conversations stand in the order of their times; otherwise in the order in which they were watched."""
    windows: tuple[Window, ...]
    overall: Estimate
    change: ChangePoint
    chance: float | None
    """The change's p-value, Holm-adjusted over all series of the memory."""
    when: tuple[float | None, float | None, float | None]
    """Times of the conversation with which it changed, and of the first and the last that it can have been."""

    @property
    def found(self) -> bool:
        return self.chance is not None and self.chance <= ALPHA

    @property
    def regression(self) -> bool:
        """Whether corrections come back more often than they did."""
        return self.found and bool(self.change.rose)


def trend(folder: Path, *, windows: int = MOST_WINDOWS, seed: int = 0, progress: Progress | None = None) -> list[Series]:
    """Return the series of a memory.

    Args:
        folder: the memory.
        windows: how many at most; each has ``FEWEST_CLUSTERS`` conversations or more.
        seed: of the shuffles.
        progress: who is told how it goes.

    Raises:
        UserError: there is no memory.
    """
    heard: Progress = progress or Silent()
    with Memory.open(folder) as memory:
        groups = memory.judged()
        heard.begin("looking for changes", len(groups))
        read = []
        for place, (behaviour, pole) in enumerate(groups):
            read.append((behaviour, pole, _read(memory, behaviour, pole)))
            heard.at(place, len(groups))
    found = [series(*one, windows=windows, rng=numpy_stream(seed, "trend", one[0], one[1])) for one in read]
    chances = stats.adjusted({str(place): one.change.p_value for place, one in enumerate(found)})
    heard.at(len(groups), len(groups))
    return [replace(one, chance=chances[str(place)]) for place, one in enumerate(found)]


@dataclass(frozen=True)
class _Answers:
    """Judged answers of one series in order: arrays of one length."""

    units: np.ndarray
    """The conversation's place, from 0."""
    came_back: np.ndarray
    failed: np.ndarray
    times: list[float | None]
    """Of each conversation."""
    dated: bool


def _read(memory: Memory, behaviour: str, pole: Pole) -> _Answers:
    rows = memory.turns(behaviour, pole)
    scenarios = {scenario: memory.situation(scenario) for *_, scenario in rows if scenario is not None}
    return _answers(rows, scenarios)


def _answers(
    rows: Sequence[tuple[int, float | None, float | None, bool, int | None]], scenarios: dict[int, Situation]
) -> _Answers:
    times: dict[int, float | None] = {}
    for conversation, time, own, _, _ in rows:
        known = [one for one in (times.get(conversation), time, own) if one is not None]
        times[conversation] = min(known) if known else None
    dated = all(time is not None for time in times.values())
    order = sorted(times, key=(lambda one: (times[one] or 0.0, one)) if dated else (lambda one: (0.0, one)))
    place = {conversation: index for index, conversation in enumerate(order)}
    ordered = sorted(rows, key=lambda row: place[row[0]])
    back = covered([(row[0], row[4]) for row in ordered], scenarios)
    return _Answers(
        units=np.array([place[row[0]] for row in ordered], dtype=np.int64),
        came_back=back.astype(float),
        failed=np.array([float(row[3]) for row in ordered]),
        times=[times[one] for one in order] if dated else [None] * len(order),
        dated=dated,
    )


def covered(answers: Sequence[tuple[int, int | None]], scenarios: dict[int, Situation]) -> np.ndarray:
    """Return for each answer whether it failed and a correction from another conversation covers its situation.

    The likeness is computed between all scenarios, not looked up: so the order in which they came has no say in it.

    Args:
        answers: conversation, and the scenario of the failure or ``None``.
        scenarios: every scenario's situation.
    """
    names = list(scenarios)
    index = {name: place for place, name in enumerate(names)}
    owners: list[set[int]] = [set() for _ in names]
    for conversation, scenario in answers:
        if scenario is not None:
            owners[index[scenario]].add(conversation)
    shared = np.array([len(one) > 1 for one in owners])
    owner = np.array([min(one, default=-1) for one in owners], dtype=np.int64)
    failed = [
        (place, conversation, index[scenario]) for place, (conversation, scenario) in enumerate(answers) if scenario is not None
    ]
    back = np.zeros(len(answers), dtype=bool)
    if not failed:
        return back
    near = _near([scenarios[name] for name in names])
    for place, conversation, scenario in failed:
        others = [one for one in near[scenario] if owners[one]]
        back[place] = bool((shared[others] | (owner[others] != conversation)).any())
    return back


def _near(situations: list[Situation]) -> list[np.ndarray]:
    """Return for each situation the indices of those that it is covered by, itself among them."""
    from scipy.sparse import csr_matrix

    sides = []
    for side in (0, 1):
        sets = [one.runs[side] for one in situations]
        columns, codes = np.unique(np.concatenate(sets), return_inverse=True)
        starts = np.cumsum([0, *(one.size for one in sets)])
        matrix = csr_matrix((np.ones(codes.size, dtype=np.float32), codes, starts), shape=(len(sets), len(columns)))
        sides.append((matrix, np.array([one.size for one in sets], dtype=np.float32)))
    found: list[np.ndarray] = []
    for low in range(0, len(situations), _BLOCK):
        square = np.ones((min(_BLOCK, len(situations) - low), len(situations)), dtype=np.float32)
        for matrix, sizes in sides:
            shared = (matrix[low : low + _BLOCK] @ matrix.T).toarray()
            square *= shared / (sizes[low : low + _BLOCK, None] + sizes[None] - shared)
        found += [np.flatnonzero(row >= COVERS**2 - 1e-6) for row in square]
    return found


def series(behaviour: str, pole: Pole, answers: _Answers, *, windows: int, rng: np.random.Generator) -> Series:
    """Return one series: its windows, and whether its rate changed."""
    count = len(answers.times)
    lost = np.bincount(answers.units, answers.came_back, minlength=count).astype(np.int64)
    tried = np.bincount(answers.units, minlength=count)
    change = change_point(lost, tried, rng)
    picked = (None, None, None) if change.place is None else (change.place, *(change.places or (None, None)))
    return Series(
        behaviour=behaviour,
        pole=pole,
        dated=answers.dated,
        windows=tuple(_windows(answers, count, windows)),
        overall=stats.rate(answers.came_back, answers.units),
        change=change,
        chance=change.p_value,
        when=tuple(None if one is None else answers.times[one] for one in picked),  # type: ignore[arg-type]
    )


def _windows(answers: _Answers, count: int, most: int) -> list[Window]:
    many = max(1, min(most, count // FEWEST_CLUSTERS))
    edges = np.linspace(0, count, many + 1).round().astype(int)
    found = []
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        inside = (answers.units >= low) & (answers.units < high)
        rates = [stats.rate(values[inside], answers.units[inside]) for values in (answers.came_back, answers.failed)]
        found.append(Window(int(low) + 1, int(high), answers.times[low], answers.times[high - 1], *rates))
    return found
