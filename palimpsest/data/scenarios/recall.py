"""Is what was said a moment ago found again, and is it admitted when it was not said?"""

from __future__ import annotations

import random
from typing import ClassVar, Literal

from pydantic import Field

from palimpsest.data.chat import Example, Span, conversation
from palimpsest.data.checks import Exact
from palimpsest.data.scenarios._words import ITEMS, NAMES, QUESTION_WEIGHT
from palimpsest.scenario import Scenario

ABSTAIN = "I do not know."
LOADS = (2, 3, 4, 6, 8)
PEOPLE = NAMES[:12]
_PRESENT = 0.75


class Recall(Scenario):
    """Some people have one thing each; one person is asked about, who now and then is not among them."""

    load: Literal[0, 2, 3, 4, 6, 8] = 0
    """How many people there are; 0 draws one of the loads."""
    present: Literal["yes", "no", "any"] = "any"

    people: Literal["in_order", "any"] = "in_order"
    """Whether it is always the first few of the same row of people, or any of them in any order."""
    turns: int = Field(default=1, ge=1, le=4)
    """How many people are asked about, one after the other; every answer learns."""

    world: ClassVar[float] = 0.10
    world_parameters: ClassVar[dict[str, object]] = {"turns": 3, "people": "any"}
    skills: ClassVar[dict[str, dict[str, object]]] = {"recall": {"present": "yes"}, "abstaining": {"present": "no"}}

    def make(self, rng: random.Random) -> Example:
        load = self.load or rng.choice(LOADS)
        everybody = rng.sample(PEOPLE, load + self.turns) if self.people == "any" else list(PEOPLE)
        names, absent = everybody[:load], everybody[load:]
        if self.people == "in_order":
            rng.shuffle(absent)
        items = rng.sample(ITEMS, load)
        pairs = [
            f"{name} has a {item}" if not place else f"{name} a {item}"
            for place, (name, item) in enumerate(zip(names, items, strict=True))
        ]
        turns: list[tuple[str, str]] = []
        support: dict[str, Span] = {}
        asked = ""
        for turn in range(self.turns):
            place = rng.randrange(load)
            present = self.present == "yes" or (self.present == "any" and rng.random() < _PRESENT)
            person = names[place] if present else absent[turn]
            asked = asked or person
            question = f"What does {person} have?"
            turns.append(("user", question if turn else f"{', '.join(pairs)}. {question}"))
            turns.append(("assistant", f"A {items[place]}." if present else ABSTAIN))
            if present and not turn:
                start = len("".join(f"{pair}, " for pair in pairs[:place]))
                support = {"support": Span(message=0, start=start, end=start + len(pairs[place]))}
        return conversation(
            *turns,
            decisions=tuple(Span(message=2 * turn + 1, start=0, end=len(turns[2 * turn + 1][1])) for turn in range(self.turns)),
            template=f"load_{load}_{asked}",
            options={"know": "A", "abstain": "I"},
            check=Exact(text=turns[1][1]),
            spans=support,
            question_weight=QUESTION_WEIGHT,
            source="recall",
        )
