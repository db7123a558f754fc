"""Errors: what must hold, what was found, what to do.

A ``UserError`` is something the user can mend; the command line prints it without a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from palimpsest.core.secrets import redact


class UserError(Exception):
    """Bad input, told before work starts. One line a problem.

    What is quoted from a file may hold halves of characters, which no terminal and no file takes: they are spelt out. What a
    library says may hold a key or a password: they are struck out.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(redact(message.encode("utf-8", "backslashreplace").decode()))


class AlreadyTold(UserError):
    """What went wrong in another of several processes, which tells the user."""


class Problems:
    """Collects problems so that a user sees all of them at once, not one a run."""

    def __init__(self, heading: str) -> None:
        self.heading = heading
        self.found: list[str] = []

    def add(self, problem: str) -> None:
        self.found.append(problem)

    def extend(self, problems: Iterable[str]) -> None:
        self.found.extend(problems)

    def raise_if_any(self) -> None:
        """Raise one ``UserError`` that lists every problem, or return if there is none."""
        if self.found:
            lines = "\n".join(f"  - {problem}" for problem in self.found)
            raise UserError(f"{self.heading}\n{lines}")


def is_panic(error: BaseException) -> bool:
    """Whether a library written in Rust gave up: what it raises then is no ``Exception``, and its class can't be imported."""
    return type(error).__name__ == "PanicException"


@contextmanager
def panics_told(what: str) -> Iterator[None]:
    """Tell a panic of a library inside the block as an error of the file that brought it about.

    Raises:
        UserError: there was one.
    """
    try:
        yield
    except BaseException as error:
        if not is_panic(error):
            raise
        raise UserError(
            f"{what} is broken: the library that reads it stopped ({first_line(error)}); copy it again from the model it is of"
        ) from None


def first_line(error: BaseException) -> str:
    """Return the first line of what a library's error says, or the name of its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def nearest(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the closest known name, or a list of all when none is close."""
    known = sorted(known)
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if match:
        return f" Did you mean '{match[0]}'?"
    return f" Known: {', '.join(known)}." if known else ""
