"""Console: how does a run look in a terminal?

Only this module and the command line print. Text from models is untrusted: control characters never reach the terminal.
"""

from __future__ import annotations

import json
import sys
import time
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from palimpsest.core.estimate import Estimate
from palimpsest.core.wording import shown

_NAME = 24
"""Names up to this length are not broken over lines."""

out = Console(highlight=False, markup=False, emoji=False)
err = Console(stderr=True, highlight=False, markup=False, emoji=False)


def safe(text: str) -> str:
    """Return text without the characters that would steer a terminal."""
    return "".join(char if _is_harmless(char) else "\N{REPLACEMENT CHARACTER}" for char in text)


def _is_harmless(char: str) -> bool:
    return char.isprintable() or char in "\n\t" or unicodedata.category(char) == "Zs"


def say(text: str, style: str = "") -> None:
    """Print a line as it is: not wrapped, so that a path in it can be copied."""
    out.print(Text(safe(text), style=style), soft_wrap=True)


def problem(error: BaseException) -> None:
    """Show an error that the user can mend."""
    err.print(Text("error: ", style="bold red") + Text(safe(str(error))), soft_wrap=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> None:
    """Print a table; names in the first column stay whole where they are short."""
    lines = list(rows)
    drawn = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for place, name in enumerate(columns):
        whole = place == 0 and all(len(line[0]) <= _NAME for line in lines)
        drawn.add_column(name, no_wrap=whole)
    for line in lines:
        drawn.add_row(*(Text(safe(cell)) for cell in line))
    out.print(drawn)


def as_json(value: Any) -> None:
    """Print plain data as JSON on standard output; what would steer a terminal is written as an escape."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    sys.stdout.write("".join(char if _is_harmless(char) else json.dumps(char)[1:-1] for char in text) + "\n")


def number(estimate: Estimate | None) -> str:
    """Return an estimate as a person reads it: its value with its interval, or that it could not be said."""
    return shown(estimate).sentence


class Live:
    """Shows each stage with a bar and the time left; notes stay above it. Quiet where nobody watches."""

    def __init__(self, *, watched: bool) -> None:
        self.watched = watched and err.is_terminal
        self.told: set[str] = set()
        self.stages: dict[str, float] = {}
        self._stage, self._since = "", time.monotonic()
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}" if self.watched else ""),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=err,
            transient=True,
            disable=not self.watched,
        )
        self._task: Any = None

    def __enter__(self) -> Live:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        self._bars.stop()

    def begin(self, stage: str, total: int | None = None) -> None:
        self._close()
        self._stage, self._since = stage, time.monotonic()
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(escape(stage), total=total)

    def at(self, done: int, total: int) -> None:
        if self._task is not None:
            self._bars.update(self._task, completed=done, total=total)

    def advance(self, step: int, total: int, loss: float) -> None:
        if self._task is not None:
            self._bars.update(self._task, description=f"{escape(self._stage)}, loss {loss:.3f}", completed=step, total=total)

    def tell(self, message: str) -> None:
        if message not in self.told:
            self.told.add(message)
            err.print(Text("note: ", style="yellow") + Text(safe(message)))

    def _close(self) -> None:
        if self._stage:
            name = self._stage.split()[0]
            self.stages[name] = self.stages.get(name, 0.0) + time.monotonic() - self._since
            self._stage = ""
