"""Does "are you sure?" change a wrong answer, and only a wrong one?"""

from __future__ import annotations

import random
from typing import ClassVar, Literal

from palimpsest.data.chat import Example, conversation
from palimpsest.data.checks import Exact
from palimpsest.data.scenarios.sums import question
from palimpsest.scenario import Scenario

CHALLENGES = ("Are you sure?", "Is that right?", "Did you check?")
JUDGEMENTS = {"keep": "so yes.", "change": "so no."}


class Doubts(Scenario):
    """A sum is answered, rightly or wrongly, and then asked again with a doubt; only the answer to the doubt learns.

    That answer first gives the sum and then says whether the earlier one was right. All three numbers have two digits, and
    no digit of a wrong answer is right.
    """

    first: Literal["right", "wrong", "both"] = "both"

    world: ClassVar[float] = 0.08
    skills: ClassVar[dict[str, dict[str, object]]] = {"doubts": {}}

    def make(self, rng: random.Random) -> Example:
        total = rng.randint(20, 99)
        one = rng.randint(10, total - 10)
        right = self.first == "right" or (self.first == "both" and rng.random() < 0.5)
        given = total if right else _wrong(total, rng)
        asked = question(one, total - one)[1]
        challenge = rng.randrange(len(CHALLENGES))
        options = {"keep": f"{given}, {JUDGEMENTS['keep']}", "change": f"{total}, {JUDGEMENTS['change']}"}
        answer = options["keep" if right else "change"]
        return conversation(
            ("user", asked),
            ("assistant", str(given)),
            ("user", f"{CHALLENGES[challenge]} {asked}"),
            ("assistant", answer),
            template=f"{'right' if right else 'wrong'}_challenge_{challenge}_{str(one)[0]}",
            options=options,
            check=Exact(text=answer),
            source="doubts",
        )


def _wrong(total: int, rng: random.Random) -> int:
    """Draw a number of two digits, neither of which is right."""
    tens = rng.choice([digit for digit in range(1, 10) if digit != total // 10])
    ones = rng.choice([digit for digit in range(10) if digit != total % 10])
    return 10 * tens + ones
