"""Is a row of words copied, when the copies seen in training had a known share of errors?"""

from __future__ import annotations

import math
import random
from typing import ClassVar

from pydantic import Field

from palimpsest.data.chat import Example, conversation
from palimpsest.data.checks import Exact
from palimpsest.data.scenarios._words import ITEMS, QUESTION_WEIGHT
from palimpsest.scenario import Scenario

NOISE = 0.1


class Copying(Scenario):
    """A row of words is to be copied; each word of the answer is replaced by a random one with probability ``noise``."""

    noise: float = Field(default=NOISE, ge=0, le=1)
    length: int = Field(default=0, ge=0, le=8)
    """How many words; 0 draws three to six."""

    world: ClassVar[float] = 0.02
    skills: ClassVar[dict[str, dict[str, object]]] = {"copying": {}}

    def make(self, rng: random.Random) -> Example:
        length = self.length or rng.randint(3, 6)
        words = [rng.choice(ITEMS) for _ in range(length)]
        copy = [rng.choice(ITEMS) if rng.random() < self.noise else word for word in words]
        return conversation(
            ("user", f"Copy {' '.join(words)}"),
            ("assistant", " ".join(copy)),
            template=f"length_{length}_{words[0]}",
            check=Exact(text=" ".join(words)),
            question_weight=QUESTION_WEIGHT,
            source="copying",
        )


def floor_nats(noise: float = NOISE) -> float:
    """Return the least mean loss per copied word, in nats: the entropy of the noise."""
    wrong = noise / len(ITEMS)
    right = 1 - noise + wrong
    return -right * math.log(right) - (len(ITEMS) - 1) * (wrong * math.log(wrong) if wrong else 0.0)
