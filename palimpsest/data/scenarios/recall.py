"""Is what was said a moment ago found again, and is it admitted when it was not said?"""

from __future__ import annotations

import random
from typing import ClassVar, Literal

from palimpsest.data.chat import Example, Span, conversation
from palimpsest.data.checks import Exact
from palimpsest.data.scenarios._words import ITEMS, NAMES, QUESTION_WEIGHT
from palimpsest.scenario import Scenario

ABSTAIN = "I do not know."
LOADS = (2, 3, 4, 6, 8)
PEOPLE = NAMES[:12]
_PRESENT = 0.75
_OPENING = "Today "


class Recall(Scenario):
    """Some people have one thing each; one person is asked about, who now and then is not among them."""

    load: Literal[0, 2, 3, 4, 6, 8] = 0
    """How many people there are; 0 draws one of the loads."""
    present: Literal["yes", "no", "any"] = "any"

    world: ClassVar[float] = 0.10
    skills: ClassVar[dict[str, dict[str, object]]] = {"recall": {"present": "yes"}, "abstaining": {"present": "no"}}

    def make(self, rng: random.Random) -> Example:
        load = self.load or rng.choice(LOADS)
        *names, absent = rng.sample(PEOPLE, load + 1)
        items = rng.sample(ITEMS, load)
        pairs = [f"{name} has a {item}" for name, item in zip(names, items, strict=True)]
        place = rng.randrange(load)
        present = self.present == "yes" or (self.present == "any" and rng.random() < _PRESENT)
        asked = names[place] if present else absent
        answer = f"A {items[place]}." if present else ABSTAIN
        start = len(_OPENING) + len("".join(f"{pair}, " for pair in pairs[:place]))
        return conversation(
            ("user", f"{_OPENING}{', '.join(pairs)}. What does {asked} have?"),
            ("assistant", answer),
            template=f"load_{load}_{asked}",
            options={"know": "A", "abstain": "I"},
            check=Exact(text=answer),
            spans={"support": Span(message=0, start=start, end=start + len(pairs[place]))} if present else {},
            question_weight=QUESTION_WEIGHT,
            source="recall",
        )
