"""Comparison: which words of an answer did training change?"""

from __future__ import annotations

import difflib
import re

from palimpsest.core.wording import visible

SHOWN = 1_200
"""Characters of an answer that are shown."""
_WORDS = 400
_ALIKE = 0.3
_PIECES = re.compile(r"\s+|\w+\s*|[^\w\s]\s*")
"""Words and marks, each with the space after it, so that marked words next to each other are marked as one."""

Piece = tuple[bool, str]
"""(whether it is only on this side, text)."""


def marked(before: str, after: str) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
    """Return both texts in pieces, those that are only on one side marked.

    Nothing is marked where the texts are too long to compare or have too little in common for marks to help.
    """
    before, after = visible(before, SHOWN), visible(after, SHOWN)
    first, second = _PIECES.findall(before), _PIECES.findall(after)
    if before == after or not first or not second or max(len(first), len(second)) > _WORDS:
        return ((False, before),), ((False, after),)
    matcher = difflib.SequenceMatcher(a=[one.strip() for one in first], b=[one.strip() for one in second], autojunk=False)
    if matcher.ratio() < _ALIKE:
        return ((False, before),), ((False, after),)
    left: list[Piece] = []
    right: list[Piece] = []
    for kind, a, b, c, d in matcher.get_opcodes():
        if b > a:
            left.append((kind != "equal", "".join(first[a:b])))
        if d > c:
            right.append((kind != "equal", "".join(second[c:d])))
    return tuple(left), tuple(right)
