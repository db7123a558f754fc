"""Grading: which answers showed the behaviour?

Pure functions from stored measurements to one number an item.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from palimpsest.core.measurement import Measurement
from palimpsest.data.chat import Example, ItemSet
from palimpsest.data.checks import Check, Choice


def clusters(items: ItemSet) -> np.ndarray:
    """Return each item's template, the unit that statistics count."""
    return np.array([item.template for item in items.items])


def passes(items: ItemSet, check: Check | None, answers: Sequence[str]) -> np.ndarray:
    """Return whether each answer passes: float [items].

    Args:
        items: what was answered.
        check: the behaviour's, where items that bring one of their own are held against that; ``None``: which answer is right.
        answers: of each item.
    """
    checks = [(item.shows or check) if check else item.check for item in items.items]
    return np.array([float(one.passes(answer)) for one, answer in zip(checks, answers, strict=True)])  # type: ignore[union-attr]


def expected_option(check: Check | None, item: Example) -> str | None:
    """Return the name of the option that means the behaviour: the check's, or the item's first."""
    if isinstance(check, Choice):
        return check.expected if check.expected in item.options else None
    return next(iter(item.options), None)


def chosen_options(check: Check | None, answers: Sequence[str]) -> list[str | None] | None:
    """Return the option that each answer begins with, or ``None`` when the check is not a choice."""
    return [check.chosen(answer) for answer in answers] if isinstance(check, Choice) else None


def losses_and_hits(measured: Measurement) -> tuple[np.ndarray, np.ndarray]:
    """Return nats a token and whether every token was the most likely one (0 or 1), for each item of ``losses``."""
    start = measured.arrays["start"]
    lengths = np.diff(start)
    loss = np.add.reduceat(measured.arrays["nats"].astype(np.float64), start[:-1]) / np.maximum(lengths, 1)
    right = np.add.reduceat(measured.arrays["correct"].astype(np.float64), start[:-1]) == lengths
    return loss, right.astype(float)


def is_free(items: ItemSet) -> bool:
    """Whether several answers are right, so that an answer has to be written and checked."""
    return all(item.check is not None for item in items.items) and any(
        item.check is not None and item.check.kind not in ("exact", "number") for item in items.items
    )
