"""Is the output of a small program right?"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import ClassVar, Literal

from palimpsest.data.chat import Example, conversation
from palimpsest.data.checks import Exact
from palimpsest.data.scenarios._words import QUESTION_WEIGHT
from palimpsest.scenario import Scenario

VARIABLES = ("a", "b", "c")
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
    """A program sets variables, changes them in one to three steps and prints some; values stay between 0 and 9."""

    variables: Literal[1, 2] = 1
    """With one variable its value is counted up and down; with two it must also be looked up which one is meant."""

    steps: Literal[0, 1, 2, 3] = 0
    """How many steps change a variable; 0 draws one, two or three."""

    prints: Literal[0, 1, 2, 3] = 0
    """How many variables are printed at the end; 0 draws one to as many as there are."""

    world: ClassVar[float] = 0.19
    world_parameters: ClassVar[dict[str, object]] = {"variables": 2}
    skills: ClassVar[dict[str, dict[str, object]]] = {"programs": {}, "programs_two_variables": {"variables": 2}}

    def make(self, rng: random.Random) -> Example:
        steps = self.steps or rng.randint(1, 3)
        names = rng.sample(VARIABLES, self.variables)
        values = {name: rng.randint(0, 9) for name in names}
        lines = [f"{name} = {value}" for name, value in values.items()]
        lines.extend(_step(rng, values, VARIABLES if self.variables > 1 else names) for _ in range(steps))
        shown = min(self.prints or rng.randint(1, 3), len(values))
        program = "\n".join([*lines, *(f"print({name})" for name in rng.sample(sorted(values), shown))])
        answer = run(program)
        return conversation(
            ("user", f"Run:\n{program}"),
            ("assistant", answer),
            template=f"steps_{steps}_prints_{shown}_first_{names[0]}",
            check=Exact(text=answer),
            question_weight=QUESTION_WEIGHT,
            source="programs",
        )


def _step(rng: random.Random, values: dict[str, int], targets: Sequence[str]) -> str:
    """Draw one assignment to one of the targets, carry it out on ``values`` and return its line."""
    while True:
        target, left, sign = rng.choice(targets), rng.choice(sorted(values)), rng.choice("+-=")
        change = rng.randint(1, 5) if sign != "=" else 0
        result = values[left] + (-change if sign == "-" else change)
        if 0 <= result <= 9 and (change or target != left):
            values[target] = result
            return f"{target} = {left} {sign} {change}" if change else f"{target} = {left}"
