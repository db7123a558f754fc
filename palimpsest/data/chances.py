"""Chances: may the probability of a named answer stand for the rate at which it is written?

What is judged is the rate of answers that were written. Where an answer begins with one of several named options, the
probability of the graded one has the same expectation and less noise, so it may be read in place of the rate; but only where
hardly anything else is written. A share among options is no rate: it says nothing of what else is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from palimpsest.core import stats
from palimpsest.core.estimate import Estimate
from palimpsest.core.measurement import Measurement
from palimpsest.core.wording import shown
from palimpsest.data.chat import ItemSet
from palimpsest.data.checks import Check, Choice
from palimpsest.data.grading import clusters, expected_option

HELD = 0.9
"""Options that together hold more of the probability than this, with the whole interval, are nearly all that is written."""
NAMED = {"express": "where it should appear", "withhold": "where it should not"}
WHEN = ("before", "after")
OPTION_ROWS = (("the graded option's share among the options", "share"), ("probability that the options hold together", "held"))
"""What tables call that which is told beside the rate, and its estimates."""


@dataclass(frozen=True)
class Chances:
    """How likely answers are to begin with the options of their items: three numbers an item, each of shape (items,)."""

    probability: np.ndarray
    """That the answer begins with the graded option, and with no other one that begins with it."""
    held: np.ndarray
    """That it begins with any of the options."""
    share: np.ndarray | None
    """The first of the second; ``None`` where no item has two options."""

    @staticmethod
    def simulated(rate: np.ndarray, leads: bool, rng: np.random.Generator) -> Chances:
        """Return options of a simulated world: nearly all that is written, or little of it and with shares unlike the rate.

        Args:
            rate: how likely each item's answer is to show the behaviour, shape (items,).
            leads: whether the options hold nearly everything.
            rng: of the world.
        """
        held = rng.uniform(0.96, 1.0, rate.shape) if leads else rng.uniform(0.02, 0.2, rate.shape)
        if not leads:
            share = rng.uniform(0.9, 1.0, rate.shape)
            return Chances(share * held, held, share)
        held = np.maximum(held, rate)
        return Chances(rate, held, rate / held)


def chances(items: ItemSet, check: Check | None, measured: Measurement) -> Chances | None:
    """Return what the measure ``options`` comes to, or ``None`` where an item has no option that means the behaviour."""
    expected = [expected_option(check, item) for item in items.items]
    if any(name is None for name in expected):
        return None
    log_p, within, start = (measured.arrays[name] for name in ("log_probability", "within", "start"))
    owner = np.repeat(np.arange(len(expected)), np.diff(start))
    shift = np.maximum.reduceat(log_p, start[:-1])  # so that shares of next to nothing are shares all the same
    whole = np.exp(log_p - shift[owner])
    inner = np.flatnonzero(within >= 0)
    own = np.maximum(whole - np.bincount(within[inner], whole[inner], minlength=len(whole)), 0.0)
    graded = np.array(measured.texts["names"]) == np.array(expected)[owner]
    share = np.bincount(owner, own * graded) / np.bincount(owner, own)
    held = np.minimum(np.exp(shift) * np.bincount(owner, own), 1.0)
    return Chances(share * held, held, share if np.diff(start).max() > 1 else None)


@dataclass(frozen=True)
class Options:
    """The options of every pole in both models, and whether their probability may be read as the rate of what is written."""

    chances: Mapping[tuple[str, str], Chances]
    """By pole and "before" or "after"; without a pole whose items have no graded option."""
    clusters: Mapping[str, np.ndarray]
    """Of the items of each pole that the behaviour has."""
    doubt: str = ""
    """Why a written answer is not graded by the option that is read, if it isn't."""

    def estimates(self, pole: str) -> dict[str, Estimate]:
        """Return ``probability``, ``share`` and ``held`` of one pole, each ``_before``, ``_after`` and ``_change``."""
        both = [self.chances[pole, when] for when in WHEN if (pole, when) in self.chances]
        same = len(both) == 2 and all(_equal(*(getattr(one, name) for one in both)) for name in ("share", "held"))
        found: dict[str, Estimate] = {}
        for name in ("probability", "share", "held") if len(both) == 2 else ():
            before, after = (getattr(one, name) for one in both)
            if before is not None and after is not None:
                found[f"{name}_before"] = stats.level(before, self.clusters[pole], unit="share")
                found[f"{name}_after"] = stats.level(after, self.clusters[pole], unit="share")
                found[f"{name}_change"] = stats.mean_difference(before, after, self.clusters[pole], unit="points", same=same)
        return found

    def why_not(self) -> str:
        """Return in one sentence why the probability of the graded option may not stand for the written rate, or nothing.

        It may where the options hold more than ``HELD`` of the probability in every pole of both models (the lower bound of
        the mean where there is one) and a written answer is graded by the option that it begins with.
        """
        held = {}
        for pole in self.clusters:
            found = self.estimates(pole)
            if "held_before" not in found:
                return f"Items {NAMED[pole]} have no such options, so the rate of what is written is read."
            held |= {(pole, when): found[f"held_{when}"] for when in WHEN}
        (pole, when), least = min(held.items(), key=lambda one: _lower(one[1]))
        if _lower(least) <= HELD:
            said = shown(least, decimals=1, change=False).sentence
            return (
                f"The options together hold {said} of the probability ({NAMED[pole]}, {when}): their share says nothing of "
                "what else is written."
            )
        return self.doubt


def _lower(estimate: Estimate) -> float:
    return (estimate.interval or (estimate.value or 0.0,))[0]


def read_options(
    poles: Mapping[str, ItemSet],
    check: Check | None,
    generation: Mapping[str, Any],
    measured: Mapping[tuple[str, str], Measurement],
) -> Options | None:
    """Return what the options come to, or ``None`` where nothing was read of them.

    Args:
        poles: the items of every pole that the behaviour has.
        check: the behaviour's.
        generation: how answers are written (``temperature``, ``max_new_tokens``).
        measured: ``options`` by pole and "before" or "after".
    """
    found = {
        (pole, when): one for (pole, when), read in measured.items() if (one := chances(poles[pole], check, read)) is not None
    }
    if not found:
        return None
    longest = max(int(read.arrays["tokens"].max()) for read in measured.values())
    return Options(found, {pole: clusters(items) for pole, items in poles.items()}, _doubt(poles, check, generation, longest))


def _doubt(poles: Mapping[str, ItemSet], check: Check | None, generation: Mapping[str, Any], longest: int) -> str:
    graded = isinstance(check, Choice) and all(
        item.options == check.options for items in poles.values() for item in items.items
    )
    if not graded:
        return "The check asks for more than which option an answer begins with, so the rate of what is written is read."
    temperature, most = generation.get("temperature", 1.0), generation.get("max_new_tokens")
    if temperature != 1.0:
        return f"Answers are written at temperature {temperature:g}, where an option is not as likely as was read (at 1)."
    if most is not None and most < longest:
        return f"Answers are cut after {most} tokens, and an option has {longest}."
    return ""


def _equal(before: np.ndarray | None, after: np.ndarray | None) -> bool:
    return before is not None and after is not None and bool(np.array_equal(before, after))
