"""Errors: what must hold, what was found, what to do.

A ``UserError`` is something the user can mend; the command line prints it without a traceback.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from palimpsest.core.secrets import redact

_PLACES = (
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR),
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE),
)
"""What the system says of a file or folder that a user can mend; that one is not there at all may be our own mistake."""
_LIMITS = ("failed to map segment", "Cannot allocate memory", "can't start new thread", "can't allocate memory")
"""How libraries tell that a process may have no more of the machine."""

_LONG_ENOUGH = 5
"""Letters of a name in which one wrong letter is a slip and no other name."""


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


def of_the_machine(error: BaseException) -> str:
    """Return what a user can do about an error of the machine that nobody foresaw; empty of any other error.

    A last resort of whole programs: what is known beforehand is told before work starts, all at once.
    """
    if isinstance(error, OSError) and error.errno in _PLACES and error.filename is not None:
        return f"{error.filename} can't be used: {error.strerror}"
    limited = isinstance(error, OSError) and error.errno in (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN)
    if limited or isinstance(error, MemoryError) or any(sign in str(error) for sign in _LIMITS):
        return (
            f"the machine gives this process no more memory, files or threads ({first_line(error)}); look at `ulimit -a` and "
            "at what else runs, and give the same command again: what is finished is kept"
        )
    return ""


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


def slip_of(name: str, known: Iterable[str]) -> str | None:
    """Return the known name of which this is one with a letter added, left out, changed, or two exchanged; short ones aside.

    For names among which unknown ones are welcome: ``prompt_id`` is no slip of ``prompt``, and ``promt`` is one.
    """
    return next((word for word in known if name != word and len(word) >= _LONG_ENOUGH and _is_slip(name, word)), None)


def _is_slip(name: str, word: str) -> bool:
    alike = min(len(name), len(word))
    begin = next((place for place in range(alike) if name[place] != word[place]), alike)
    left, right = name[begin:], word[begin:]
    exchanged = left[:2] == right[1::-1] and left[2:] == right[2:]
    return left[1:] == right[1:] or left[1:] == right or left == right[1:] or exchanged
