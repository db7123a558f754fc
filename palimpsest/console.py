"""Console: how does a run look in a terminal?

Only this module and the command line print. Text from models is untrusted: control characters never reach the terminal, and
no secrets do.
"""

from __future__ import annotations

import json
import re
import signal
import sys
import threading
import time
import unicodedata
from collections.abc import Iterable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from palimpsest.core.estimate import Estimate
from palimpsest.core.secrets import redact
from palimpsest.core.wording import shown, spell

_NAME = 24
"""Names up to this length are not broken over lines."""

out = Console(highlight=False, markup=False, emoji=False)
err = Console(stderr=True, highlight=False, markup=False, emoji=False)


def safe(text: str) -> str:
    """Return text without the characters that would steer a terminal, and without secrets."""
    return "".join(char if _is_harmless(char) else "\N{REPLACEMENT CHARACTER}" for char in redact(text))


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
        whole = place == 0 and all(len(part) <= _NAME for line in lines for part in line[0].split("\n"))
        drawn.add_column(name, no_wrap=whole, overflow="fold")
    for line in lines:
        drawn.add_row(*(Text(safe(cell)) for cell in line))
    out.print(drawn)


def folded(name: str) -> list[str]:
    """Return a name in pieces that are short enough for a column of names: words, and of a long word its parts."""
    pieces = [""]
    for word in name.split():
        space = " " if pieces[-1] else ""
        for part in re.findall(r"[^_:./-]+[_:./-]*|[_:./-]+", word) if len(word) > _NAME else [word]:
            if pieces[-1] and len(pieces[-1] + space + part) > _NAME:
                pieces.append("")
                space = ""
            pieces[-1] += space + part
            space = ""
    return pieces


def headline(text: str, sure: str) -> None:
    """Print what something comes to, and how sure that is."""
    say(text, style="bold")
    say(f"how sure: {sure}\n", style="dim")


def reasons(why: Iterable[str], next_steps: Iterable[str] = ()) -> None:
    """Print why, and what to do next."""
    for one in why:
        say(f"- {one}")
    for one in next_steps:
        say(f"next: {one}")


def as_json(value: Any) -> None:
    """Print plain data as JSON on standard output; what would steer a terminal is written as an escape."""
    text = json.dumps(redact(value), indent=2, ensure_ascii=False)
    sys.stdout.write("".join(char if _is_harmless(char) else json.dumps(char)[1:-1] for char in text) + "\n")


def number(estimate: Estimate | None) -> str:
    """Return an estimate as a person reads it: its value with its interval, or that it could not be said."""
    return shown(estimate).sentence


class _Done(ProgressColumn):
    """How much of a stage is done, and the time left; nothing as long as nobody knows how much there is."""

    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text("")
        left = task.time_remaining
        return Text(f"{task.completed:,.0f}/{task.total:,.0f}" + ("" if left is None else f", {spell(left)} left"))


class _Bar(BarColumn):
    """A bar where there is a total; a bar that only swings to and fro says nothing that the spinner does not say."""

    def render(self, task: Task) -> Any:
        return Text("") if task.total is None else super().render(task)


class Live:
    """Shows how a run goes: in a terminal one line that moves, in a file a line as each stage begins and seldom one more.

    Args:
        watched: whether to show anything but notes.
        folder: where what is done is kept; named when the user interrupts.
        every: seconds between the lines that a long stage adds to a file.
    """

    def __init__(self, *, watched: bool, folder: Path | None = None, every: float = 15.0) -> None:
        self.drawn = watched and err.is_terminal
        self.written = watched and not err.is_terminal
        self.folder, self.every = folder, every
        self.told: set[str] = set()
        self._stage, self._since, self._spoke = "", time.monotonic(), time.monotonic()
        self._first: int | None = None
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            _Bar(bar_width=24),
            _Done(),
            TimeElapsedColumn(),
            console=err,
            transient=True,
            disable=not self.drawn,
        )
        self._task: TaskID | None = None
        self._interrupted = False
        self._handler: Any = None

    def __enter__(self) -> Live:
        usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if usual and threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGINT, self._interrupt)
        self._bars.start()
        return self

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._interrupted = True
        raise KeyboardInterrupt

    def _stop_if_interrupted(self) -> None:
        """Interrupt once more: what the first Ctrl-C met may have swallowed it (a finaliser, a library's bare ``except``)."""
        if self._interrupted:
            raise KeyboardInterrupt

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
        # What goes wrong while drawing must not take the place of the user's own error.
        with suppress(Exception) if kind else nullcontext():
            self._bars.stop()
        if kind is not None and issubclass(kind, KeyboardInterrupt) and self.folder is not None and self.folder.is_dir():
            err.print(Text(safe(f"\nkept so far: {self.folder}")), soft_wrap=True)

    def begin(self, stage: str, total: int | None = None) -> None:
        self._stop_if_interrupted()
        self._stage, self._since = safe(stage), time.monotonic()
        self._spoke, self._first = self._since, None
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(self._stage, total=total)
        self._write(self._stage)

    def at(self, done: int, total: int) -> None:
        self._update(self._stage, done, total)

    def advance(self, step: int, total: int, loss: float) -> None:
        self._update(f"{self._stage}, loss {loss:.3f}", step, total)

    def tell(self, message: str) -> None:
        if message not in self.told:
            self.told.add(message)
            err.print(Text("note: ", style="yellow") + Text(safe(message)), soft_wrap=not err.is_terminal)

    def _update(self, said: str, done: int, total: int) -> None:
        self._stop_if_interrupted()
        if self._task is not None:
            self._bars.update(self._task, description=said, completed=done, total=total)
        now = time.monotonic()
        if self._first is None:  # what was done before this process began says nothing about its speed
            self._first, self._since = done, now
        if now - self._spoke >= self.every:
            self._spoke = now
            fresh = done - self._first
            left = f", about {spell((now - self._since) * (total - done) / fresh)} left" if fresh and done < total else ""
            self._write(f"{said}: {done:,}/{total:,}{left}")

    def _write(self, line: str) -> None:
        if self.written:
            err.print(Text(line), soft_wrap=True)
