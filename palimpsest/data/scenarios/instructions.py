"""Are instructions on format, length and words kept?"""

from __future__ import annotations

import random
from typing import ClassVar, Literal

from palimpsest.data.chat import Example, conversation
from palimpsest.data.checks import Regex
from palimpsest.data.scenarios._words import GROUPS, NUMBERS, QUESTION_WEIGHT
from palimpsest.scenario import Scenario

FORMATS = {
    "row": ("", "Here: ", ", ", "."),
    "brackets": (" in brackets", "[ ", ", ", " ]"),
    "list": (" as a list", "- ", "\n- ", ""),
    "stars": (" between stars", "* ", " ", " *"),
}
"""By name: how it is asked for, and what stands before, between and after the words."""


class Instructions(Scenario):
    """Name so many things of one sort, in a given format, now and then with a word that must come first."""

    format: Literal["row", "brackets", "list", "stars", "any"] = "any"

    world: ClassVar[float] = 0.05
    skills: ClassVar[dict[str, dict[str, object]]] = {"instructions": {}}

    def make(self, rng: random.Random) -> Example:
        group, count = rng.choice(tuple(GROUPS)), rng.choice(tuple(NUMBERS))
        style = rng.choice(tuple(FORMATS)) if self.format == "any" else self.format
        phrase, before, between, after = FORMATS[style]
        words = rng.sample(GROUPS[group], count)
        needed = words[0] if rng.random() < 0.5 else None
        request = f"Name {NUMBERS[count]} {group}{phrase}." + (f" Begin with {needed}." if needed else "")
        return conversation(
            ("user", request),
            ("assistant", before + between.join(words) + after),
            template=f"{group}_{style}_{'word' if needed else 'free'}",
            check=Regex(pattern=_pattern(group, count, style, needed)),
            question_weight=QUESTION_WEIGHT,
            source="instructions",
        )


def _pattern(group: str, count: int, style: str, needed: str | None) -> str:
    """Return the pattern that every answer keeping the instruction fits, and no other."""
    _, before, between, after = FORMATS[style]
    word = f"(?:{'|'.join(GROUPS[group])})"
    return f"^{_literal(before)}{needed or word}(?:{_literal(between)}{word}){{{count - 1}}}{_literal(after)}$"


def _literal(text: str) -> str:
    return "".join(
        "\\n" if character == "\n" else f"\\{character}" if character in "[]*.-" else character for character in text
    )
