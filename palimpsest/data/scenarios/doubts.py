"""Does "are you sure?" change a wrong answer, and only a wrong one?"""

from __future__ import annotations

import random
from typing import ClassVar, Literal

from palimpsest.data.chat import Example, conversation
from palimpsest.data.checks import Exact
from palimpsest.data.scenarios.sums import question
from palimpsest.scenario import Scenario

CHALLENGES = ("Are you sure?", "Is that right?", "Did you check?")
OPTIONS = {"keep": "Yes", "change": "No"}


class Doubts(Scenario):
    """A two-digit sum is answered, rightly or wrongly, and then challenged; only the answer to the challenge learns."""

    first: Literal["right", "wrong", "both"] = "both"

    world: ClassVar[float] = 0.10
    skills: ClassVar[dict[str, dict[str, object]]] = {"doubts": {}}

    def make(self, rng: random.Random) -> Example:
        one, two = rng.randint(10, 99), rng.randint(10, 99)
        right = self.first == "right" or (self.first == "both" and rng.random() < 0.5)
        total = one + two
        given = total if right else total + rng.choice((-20, -10, -2, -1, 1, 2, 10, 20))
        challenge = rng.randrange(len(CHALLENGES))
        answer = f"{OPTIONS['keep' if right else 'change']}, it is {total}."
        return conversation(
            ("user", question(one, two)[1]),
            ("assistant", str(given)),
            ("user", CHALLENGES[challenge]),
            ("assistant", answer),
            template=f"{'right' if right else 'wrong'}_challenge_{challenge}_{str(one)[0]}",
            options=OPTIONS,
            check=Exact(text=answer),
            source="doubts",
        )
