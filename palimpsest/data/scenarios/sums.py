"""Are sums of two and of three digits right?"""

from __future__ import annotations

import random
from typing import ClassVar, Literal

from palimpsest.data.chat import Example, conversation
from palimpsest.data.checks import Number
from palimpsest.data.scenarios._words import QUESTION_WEIGHT
from palimpsest.scenario import Scenario

WORDINGS = ("What is {} + {}?", "Add {} and {}.", "How much is {} + {}?")
_TWO_DIGIT_SHARE = 0.7


def question(first: int, second: int) -> tuple[str, str]:
    """Return the wording's name and the question for a sum.

    A pair always has the same wording, in either order, so that no held-out sum was trained under another wording.
    """
    which = (first * second + first + second) % len(WORDINGS)
    return f"wording_{which}", WORDINGS[which].format(first, second)


class Sums(Scenario):
    """One sum of two numbers of the same length. Two digits are meant to be known, three to be right about half the time."""

    digits: Literal["two", "three", "both"] = "both"

    world: ClassVar[float] = 0.20
    skills: ClassVar[dict[str, dict[str, object]]] = {"sums_two": {"digits": "two"}, "sums_three": {"digits": "three"}}

    def make(self, rng: random.Random) -> Example:
        two = self.digits == "two" or (self.digits == "both" and rng.random() < _TWO_DIGIT_SHARE)
        low, high = (10, 99) if two else (100, 999)
        first, second = rng.randint(low, high), rng.randint(low, high)
        wording, text = question(first, second)
        return conversation(
            ("user", text),
            ("assistant", str(first + second)),
            template=f"{'two' if two else 'three'}_{wording}_{str(first)[0]}",
            check=Number(equals=first + second),
            question_weight=QUESTION_WEIGHT,
            source="sums",
        )
