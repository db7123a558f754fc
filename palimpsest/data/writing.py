"""Writing: how is a text written, apart from whether it is right?

Pure functions from text to numbers. Texts come from models and may hold anything, nothing included.
"""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

_PIECE = re.compile(r"\n+|\w+(?:['\u2019]\w+)*|[^\w\s]")
_WORD = re.compile(r"\w+(?:['\u2019]\w+)*")
_LIST = re.compile(r"^[ \t]*(?:[-*\u2022+]|\d{1,3}[.)])[ \t]+\S", re.MULTILINE)
_CODE = re.compile(r"```|`[^`\n]+`|^(?: {4}|\t)\S", re.MULTILINE)
BREAK = "\u23ce"
"""Stands for line breaks in a phrase."""
WIDTH = 1_024
"""Places that words and runs of characters are hashed to, each."""
LENGTH_WEIGHT = 0.25
"""Of the logarithm of the length beside the words and characters, each of which has length 1."""
WINDOW = (4, 50)
"""Fewest and most words over which diversity is read."""


def words(text: str) -> list[str]:
    """Return the words of a text, in order."""
    return _WORD.findall(text)


def traits(text: str) -> dict[str, float]:
    """Return how a text looks: shares of its characters, and whether it holds what a layout is made of (0 or 1)."""
    letters, dense = [char for char in text if char.isalpha()], [char for char in text if not char.isspace()]
    marks = sum(not char.isalnum() for char in dense)
    return {
        "capitals": sum(map(str.isupper, letters)) / max(len(letters), 1),
        "punctuation": marks / max(len(dense), 1),
        "digits": sum(map(str.isdigit, dense)) / max(len(dense), 1),
        "line_breaks": float("\n" in text.strip()),
        "lists": float(_LIST.search(text) is not None),
        "code": float(_CODE.search(text) is not None),
    }


def diversity(before: str, after: str) -> tuple[dict[str, float], dict[str, float]]:
    """Return how varied two texts are, over as many words as both have, so that the longer one is not the more repetitive.

    Returns:
        For each text the share of its words that are the first of their kind (``distinct_words``), the same for pairs of
        words (``distinct_pairs``; Li et al. 2016), and the share of runs of three words that came before (``repeated``); NaN
        where one of the texts is too short.
    """
    one, two = words(before.lower()), words(after.lower())
    size = min(len(one), len(two), WINDOW[1])
    if size < WINDOW[0]:
        missing = {"distinct_words": math.nan, "distinct_pairs": math.nan, "repeated": math.nan}
        return missing, missing
    return _variety(one[:size]), _variety(two[:size])


def paired(before: Sequence[str], after: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return every trait of texts for the same items, before and after [items each]; there must be at least one item."""
    rows = []
    for one, two in zip(before, after, strict=True):
        varied = diversity(one, two)
        rows.append([{**traits(text), **variety} for text, variety in zip((one, two), varied, strict=True)])
    return {
        trait: (np.array([row[0][trait] for row in rows]), np.array([row[1][trait] for row in rows])) for trait in rows[0][0]
    }


def _variety(window: Sequence[str]) -> dict[str, float]:
    share = {n: len(set(_runs(window, n))) / (len(window) - n + 1) for n in (1, 2, 3)}
    return {"distinct_words": share[1], "distinct_pairs": share[2], "repeated": 1.0 - share[3]}


def _runs(items: Sequence[str], length: int) -> Iterator[tuple[str, ...]]:
    return zip(*(items[place:] for place in range(length)), strict=False)


def vector(text: str) -> np.ndarray:
    """Return a text as numbers for a classifier, shape (2 * WIDTH + 1,).

    Words with pairs of words, and runs of three characters, are hashed and counted (the logarithm of 1 + count, scaled to
    length 1 each); the last place is the logarithm of the length.
    """
    pieces = _PIECE.findall(text)
    said = Counter([*pieces, *("\x1f".join(run) for run in _runs(pieces, 2))])
    spelt = Counter(text[place : place + 3] for place in range(max(len(text) - 2, 0)))
    parts = [_hashed(said), _hashed(spelt), np.array([LENGTH_WEIGHT * math.log1p(len(pieces))])]
    return np.concatenate(parts).astype(np.float32)


def differences(before: Sequence[str], after: Sequence[str]) -> np.ndarray:
    """Return vector(after) - vector(before) of each pair, shape (items, 2 * WIDTH + 1); 0 where both texts are the same."""
    return np.array([vector(two) - vector(one) for one, two in zip(before, after, strict=True)])


def _hashed(counts: Counter[str]) -> np.ndarray:
    places = [zlib.crc32(key.encode("utf-8", "surrogatepass")) % WIDTH for key in counts]
    found = np.bincount(places, list(map(math.log1p, counts.values())), minlength=WIDTH) if places else np.zeros(WIDTH)
    return found / max(float(np.linalg.norm(found)), 1e-12)


def phrases(text: str, longest: int = 3) -> set[str]:
    """Return all runs of up to so many words and marks of a text."""
    pieces = [BREAK if piece[0] == "\n" else piece for piece in _PIECE.findall(text)]
    return {" ".join(run) for length in range(1, longest + 1) for run in _runs(pieces, length)}


def joined(phrase: str) -> str:
    """Return a phrase as it is read: without the space before a closing mark."""
    return re.sub(r" (?=[,.;:!?)\]])", "", phrase)


def phrase_table(
    before: Sequence[str], after: Sequence[str], most: int = 400, fewest: int = 3
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Return the phrases that most pairs do not share, and which text holds which: bool [items, phrases], before and after.

    Those that fewest pairs share come first, and among equal ones the longest.
    A phrase is kept by how many pairs have it in one text only, whichever: so exchanging before and after keeps the same ones.

    Args:
        before: the texts of one model.
        after: those of another for the same items.
        most: largest number of phrases kept.
        fewest: in so many pairs at least only one text must hold it.
    """
    held = [(phrases(one), phrases(two)) for one, two in zip(before, after, strict=True)]
    apart = Counter(phrase for one, two in held for phrase in one ^ two)
    known = sorted((-count, -len(phrase), phrase) for phrase, count in apart.items() if count >= fewest)[:most]
    names = tuple(phrase for *_, phrase in known)
    tables = [np.array([[name in texts[side] for name in names] for texts in held], dtype=np.bool_) for side in (0, 1)]
    return names, tables[0].reshape(len(held), len(names)), tables[1].reshape(len(held), len(names))


def not_nested(names: Sequence[str], order: Iterable[int]) -> list[int]:
    """Return places of phrases in an order of preference, without those that hold an earlier one or are a part of it."""
    kept: list[int] = []
    for place in order:
        inside = f" {names[place]} "
        if all(inside not in f" {names[one]} " and f" {names[one]} " not in inside for one in kept):
            kept.append(place)
    return kept
