"""Ledger: was this scenario trained on already, is it nearly one that was, or is it audited on?

Exact: the same prompt, in either pole (one prompt with two answers would contradict itself). Nearly: two prompts of one pole
that share ``alike`` of their runs of three words (Jaccard). Between poles prompts may be nearly the same on purpose: a
direction that is clear and one that is wrong differ by a word. Candidates come from MinHash with locality-sensitive hashing
(datasketch; Broder 1997), and each is then compared exactly, so that no refusal rests on an estimate.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from datasketch import MinHash, MinHashLSH

from palimpsest.core.spec import digest
from palimpsest.data.chat import POLES, Example, Pole

RUN = 3
"""Words of one run. Of 400 fresh scenarios of a template-made world the fewest are then alike by nature (docs/dream.md)."""
_WORD = re.compile(r"\w+|[^\w\s.,;:!?'\"“”‘’…]")
"""A word, or a mark that means something; the marks of a sentence do not tell two scenarios apart."""
_BANDS = (32, 4)
"""Bands and rows of the hashing: two prompts as alike as the default threshold of 0.7 are missed once in 6,000 times; a false
alarm costs one exact comparison."""
_PERMUTATIONS = 128


class Refusal(NamedTuple):
    """Why a scenario is refused, and which one it is too much like."""

    reason: str
    like: str


class Ledger:
    """Prompts that must not be trained on again.

    Args:
        alike: from which share of common runs of words two prompts count as one.
        held_out: items that are audited on; nothing like them is ever trained.
    """

    def __init__(self, alike: float, held_out: Iterable[Example] = ()) -> None:
        self.alike = alike
        self._exact: dict[str, tuple[str, str]] = {}
        self._runs: dict[str, tuple[str, frozenset[str], str]] = {}
        self._near = {pole: MinHashLSH(num_perm=_PERMUTATIONS, params=_BANDS) for pole in POLES}
        for example in held_out:
            self.add(example, "held out")

    def refuses(self, example: Example) -> Refusal | None:
        """Return why an example of a pole can't be taken, or ``None``."""
        prompt = prompt_of(example)
        if (found := self._exact.get(digest_of(example))) is not None:
            why, like = found
            return Refusal("an audit item" if why == "held out" else "the same prompt", like)
        own = runs(prompt)
        for key in sorted(map(str, self._near[_pole(example)].query(_sketch(own)))):
            like, other, why = self._runs[key]
            if jaccard(own, other) >= self.alike:
                return Refusal("nearly an audit item" if why == "held out" else "nearly the same prompt", like)
        return None

    def add(self, example: Example, why: str = "trained") -> None:
        """Note an example; one with the same prompt as another is noted once."""
        key = digest_of(example)
        if key in self._exact:
            return
        prompt = prompt_of(example)
        own = runs(prompt)
        self._exact[key] = (why, prompt)
        self._runs[key] = (prompt, own, why)
        self._near[_pole(example)].insert(key, _sketch(own))


def prompt_of(example: Example) -> str:
    """Return what stands before the decision, as it is compared: folded, with single spaces."""
    return " ".join(example.context.casefold().split())


def digest_of(example: Example) -> str:
    """Return the digest of a prompt, which tells exact repetitions."""
    return digest(prompt_of(example))


def runs(prompt: str) -> frozenset[str]:
    """Return all runs of three words of a prompt; of a shorter one the whole."""
    words = _WORD.findall(prompt.casefold())
    return frozenset(" ".join(words[place : place + RUN]) for place in range(max(len(words) - RUN + 1, 1)))


def jaccard(one: frozenset[str], two: frozenset[str]) -> float:
    """Return the share of runs that two prompts have in common."""
    return len(one & two) / len(one | two)


def _sketch(words: frozenset[str]) -> MinHash:
    made = MinHash(num_perm=_PERMUTATIONS, seed=1)
    made.update_batch([run.encode("utf-8", "surrogatepass") for run in sorted(words)])
    return made


def _pole(example: Example) -> Pole:
    assert example.pole is not None, "only examples of a pole are noted"
    return example.pole
