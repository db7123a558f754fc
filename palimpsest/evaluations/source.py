"""Source: what does somebody's log of an evaluation say of each item?

A source is one module in ``palimpsest/evaluations/sources``; its file name is its name. It reads plain files and imports no
library of the tool that wrote them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from palimpsest.core import discover
from palimpsest.core.errors import Problems, UserError
from palimpsest.core.spec import digest

PACKAGE = "palimpsest.evaluations.sources"
SHARE_MARGIN = 0.05
"""So many points of a share count as unchanged where nobody says otherwise."""
KEPT_TEXT = 6_000
"""Characters of a prompt and of an answer that are kept to be shown."""

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Score:
    """One score of one answer; ``weight`` is of how many units (words, bytes) the value is the mean."""

    value: float
    weight: float = 1.0


@dataclass(frozen=True)
class Metric:
    """What a score counts."""

    name: str
    better: Better | None = None
    """Which direction is better; ``None`` where the log does not say."""
    unit: str | None = None
    """Of the score; ``None`` where the values tell: shares of 1 where all lie between 0 and 1."""
    margin: float | None = None
    """What counts as unchanged if nobody says otherwise, in a unit that is no share."""
    own: float | None = None
    """The log's own mean over all items, in this unit, to check ours against."""


@dataclass(frozen=True)
class Answer:
    """What one model answered to one item in one go, and how it was scored."""

    key: str
    """By what the item is found in the other log: its name, or its digest."""
    content: str
    """Digest of what was asked and of what is right, as it stands in the data set."""
    epoch: int
    scores: Mapping[str, Score]
    """By metric; without the metrics that it has no score for."""
    prompt: str
    answer: str
    name: str = ""
    """What a person calls the item; the key where it is empty."""
    given: str = ""
    """Digest of the prompt as the model saw it, where that can differ for one item (few-shot examples, templates)."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """What ``--cluster`` may name."""
    cluster: str = ""
    """The source's own cluster; empty where each item is one."""
    trouble: str = ""
    """Why it has no scores, where it has none."""


@dataclass(frozen=True)
class TaskLog:
    """One task, answered by one model."""

    task: str
    model: str
    place: Path
    metrics: Mapping[str, Metric]
    answers: tuple[Answer, ...]
    settings: Mapping[str, str] = field(default_factory=dict)
    """How it was asked and scored; what differs between two logs is told."""
    trouble: str = ""
    """Why it can't be compared, where it can't; then it has no answers, and other tasks go on without it."""
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    """Why other files of its folder can't be read."""
    files: tuple[Path, ...] = ()
    """What was read."""
    arguments: str = ""
    """What was put on the model (an adapter, a vector), as NAME=VALUE with commas."""

    @property
    def subject(self) -> str:
        """The model with what was put on it, as a sentence calls it."""
        return with_arguments(self.model or "not named", self.arguments)


class Source(ABC):
    """One kind of log."""

    what: ClassVar[str]
    """What it is called in a sentence, in the plural."""
    holds_runs: ClassVar[bool] = False
    """Whether it is a folder of our own, whatever else was written into it."""
    holds_documents: ClassVar[bool] = False
    """Whether it may hold documents of lm-eval's tasks, called by lm-eval's own hashes."""

    @abstractmethod
    def claims(self, path: Path) -> bool:
        """Whether a file or a folder looks like one of this kind; reads no more than its beginning."""

    @abstractmethod
    def read(self, path: Path, problems: Problems) -> Sequence[TaskLog]:
        """Return its tasks; what can't be used is added to the problems."""


def with_arguments(model: str, arguments: str) -> str:
    """Return a model's name with what was put on it."""
    return f"{model} with {arguments}" if arguments else model


def names() -> tuple[str, ...]:
    """Return the names of all sources."""
    return discover.names(PACKAGE)


def find(name: str) -> Source:
    """Return the source of that name."""
    return discover.find(PACKAGE, name, Source)()


def kind_of(path: Path, problems: Problems) -> str | None:
    """Return the name of the source that a path belongs to, or tell why there is none."""
    try:
        if not path.exists():
            problems.add(f"{path}: there is no such file or folder")
            return None
        if path.is_file() and not path.stat().st_size:
            problems.add(f"{path}: the file is empty")
            return None
        if path.is_dir() and not any(one.is_file() for one in path.rglob("*")):
            problems.add(f"{path}: the folder holds no files")
            return None
        kinds = [name for name in names() if find(name).claims(path)]
    except (OSError, UserError, ValueError) as error:  # ValueError: a zero byte in its name
        problems.add(f"{path}: {getattr(error, 'strerror', None) or error}")
        return None
    kinds = [name for name in kinds if find(name).holds_runs] or kinds  # a run that was exported into its own folder is a run
    if len(kinds) == 1:
        return kinds[0]
    known = "; ".join(find(name).what for name in names())
    if kinds:
        problems.add(f"{path}: holds {' and '.join(find(name).what for name in kinds)}; give a folder with one kind of them")
    else:
        problems.add(f"{path}: is none of what can be compared: {known}")
    return None


def finite(value: Any) -> float | None:
    """Return a number as it stands, or ``None`` where it is none: missing, not a number, infinite."""
    if isinstance(value, bool | int | float) and math.isfinite(value):
        return float(value)
    return None


def shortened(text: str) -> str:
    """Return as much of a text as is kept to be shown."""
    return text if len(text) <= KEPT_TEXT else f"{text[:KEPT_TEXT]} … ({len(text) - KEPT_TEXT:,} more characters)"


def fingerprint(*parts: Any) -> str:
    """Return a digest of plain data."""
    return digest(list(parts))


def begins_with(path: Path, count: int = 65_536) -> bytes:
    """Return the first bytes of a file; none where it can't be read."""
    try:
        with path.open("rb") as stream:
            return stream.read(count)
    except OSError:
        return b""
