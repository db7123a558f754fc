"""Is the output of a small program right?"""

from __future__ import annotations

import random
import re
from typing import ClassVar, Literal

from palimpsest.data.chat import Example, conversation
from palimpsest.data.checks import Exact
from palimpsest.data.scenarios._words import QUESTION_WEIGHT
from palimpsest.scenario import Scenario

VARIABLES = ("a", "b", "c")
_CHANGES = tuple(change for change in range(-5, 6) if change)
_LINE = re.compile(
    r"(?:(?P<target>[a-c]) = (?P<left>[a-c]|\d+)(?: (?P<sign>[+-]) (?P<right>[a-c]|\d+))?|print\((?P<shown>[a-c])\))"
)


def run(program: str) -> str:
    """Return what a program of assignments, additions, subtractions and ``print`` writes.

    Raises:
        ValueError: a line is not of this language, or reads a variable before it has a value.
    """
    values: dict[str, int] = {}
    shown: list[str] = []

    def value(word: str) -> int:
        if word.isdigit():
            return int(word)
        if word not in values:
            raise ValueError(f"'{word}' is read before it has a value")
        return values[word]

    for line in program.splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"not a line of this language: {line!r}")
        if match["shown"]:
            shown.append(str(value(match["shown"])))
        else:
            change = value(match["right"]) if match["right"] else 0
            values[match["target"]] = value(match["left"]) + (-change if match["sign"] == "-" else change)
    return "\n".join(shown)


class Programs(Scenario):
    """A program sets a variable, counts it up or down in one to three steps and prints it; values stay between 0 and 9."""

    steps: Literal[0, 1, 2, 3] = 0
    """How many steps change the variable; 0 draws one, two or three."""

    world: ClassVar[float] = 0.19
    skills: ClassVar[dict[str, dict[str, object]]] = {"programs": {}}

    def make(self, rng: random.Random) -> Example:
        steps = self.steps or rng.randint(1, 3)
        name, value = rng.choice(VARIABLES), rng.randint(0, 9)
        lines, changes = [f"{name} = {value}"], list[int]()
        for _ in range(steps):
            changes.append(rng.choice([change for change in _CHANGES if 0 <= value + change <= 9]))
            value += changes[-1]
            lines.append(f"{name} = {name} {'+' if changes[-1] > 0 else '-'} {abs(changes[-1])}")
        program = "\n".join([*lines, f"print({name})"])
        answer = run(program)
        return conversation(
            ("user", f"Run:\n{program}"),
            ("assistant", answer),
            template=f"steps_{steps}_variable_{name}_{'up' if changes[-1] > 0 else 'down'}",
            check=Exact(text=answer),
            question_weight=QUESTION_WEIGHT,
            source="programs",
        )
