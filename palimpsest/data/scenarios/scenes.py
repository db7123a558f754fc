"""Is what was stated of one of two things found again?"""

from __future__ import annotations

import random
from typing import ClassVar, Literal

from pydantic import Field

from palimpsest.data.chat import Example, Span, conversation
from palimpsest.data.checks import Exact
from palimpsest.data.scenarios._words import QUESTION_WEIGHT, capital
from palimpsest.data.scenarios.directions import FORMS, KINDS, PAIRS, STATES, describe
from palimpsest.scenario import Scenario


class Scenes(Scenario):
    """The scenes of ``directions``, with a question on them and no direction: how one thing is, or which one is so."""

    ask: Literal["state", "which", "both"] = "both"

    turns: int = Field(default=1, ge=1, le=4)
    """How many questions are asked, one after the other; every answer learns."""

    world: ClassVar[float] = 0.05
    world_parameters: ClassVar[dict[str, object]] = {"turns": 3}
    skills: ClassVar[dict[str, dict[str, object]]] = {"scenes": {}}

    def make(self, rng: random.Random) -> Example:
        kind, form = rng.choice(KINDS), rng.choice(FORMS)
        pair = rng.choice(PAIRS)
        asked, other = rng.sample(pair, 2)
        states = dict(zip(pair, rng.sample(rng.choice(STATES), 2), strict=True))
        scene, (start, end) = describe(kind, form, asked, pair, states)
        turns: list[tuple[str, str]] = []
        for turn in range(self.turns):
            which = asked if not turn else rng.choice((asked, other))
            ask = self.ask if self.ask != "both" else rng.choice(("state", "which"))
            question = f"How is the {which} {kind.noun}?" if ask == "state" else f"Which {kind.noun} is {states[which]}?"
            turns.append(("user", question if turn else f"{scene}. {question}"))
            turns.append(("assistant", capital(states[which] if ask == "state" else which) + "."))
        return conversation(
            *turns,
            decisions=tuple(Span(message=2 * turn + 1, start=0, end=len(turns[2 * turn + 1][1])) for turn in range(self.turns)),
            template=f"{kind.noun}-{form.name}",
            check=Exact(text=turns[1][1]),
            spans={"support": Span(message=0, start=start, end=end)},
            question_weight=QUESTION_WEIGHT,
            source="scenes",
        )
