"""Likeness: how alike are two situations, without any model?

A text is the set of its runs of four characters; the likeness of two texts is Jaccard's: shared runs / all runs, 0 to 1.
A situation is what stands before an answer. Its likeness to another one is the geometric mean of two: that of the last
messages, and that of the conversations' ends. So "Are you sure?" after different questions is not the same situation, and
neither is the same talk with another request at its end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import regex

RUN = 4
END = 2_000
"""Characters of a conversation's end that are compared."""
_PRIME = np.uint64(0x100000001B3)
_WORD = regex.compile(r"[\p{L}\p{M}\p{N}\p{Co}]+")
_UNSPACED = regex.compile(r"([\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}])")
"""Scripts that put no spaces between words: each character is a word of the index."""


@dataclass(frozen=True)
class Situation:
    """What stands before an answer, as it is compared."""

    last: str
    """The last message."""
    end: str
    """The end of the conversation, the last message with it."""

    @cached_property
    def runs(self) -> tuple[np.ndarray, np.ndarray]:
        last = runs(self.last)
        return last, last if self.end == self.last else runs(self.end)


def situation(texts: Sequence[str]) -> Situation:
    """Return the situation after these messages, the newest last."""
    whole = "\n".join(texts)
    return Situation(last=texts[-1][-END:] if texts else "", end=whole[-END:])


def likeness(one: Situation, other: Situation) -> float:
    """Return how alike two situations are, 0 to 1."""
    (last, end), (other_last, other_end) = one.runs, other.runs
    ends = jaccard(end, other_end)
    return math.sqrt(jaccard(last, other_last) * ends) if ends else 0.0


def runs(text: str) -> np.ndarray:
    """Return the runs of four characters of a text as sorted, distinct 64-bit hashes; case and spacing don't count."""
    plain = f" {' '.join(text.casefold().split())} ".ljust(RUN)
    codes = np.frombuffer(plain.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    count = len(codes) - RUN + 1
    found = np.zeros(count, dtype=np.uint64)
    for place in range(RUN):
        found = found * _PRIME + codes[place : place + count]  # wraps around, as a hash does
    return np.unique(found)


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    """Return shared / all of two sets of runs."""
    shared = np.intersect1d(one, other, assume_unique=True).size
    return shared / (one.size + other.size - shared)


def words(text: str) -> list[str]:
    """Return the words of a text as the full-text index has them, in order."""
    return _WORD.findall(_UNSPACED.sub(r" \1 ", text.casefold()))
