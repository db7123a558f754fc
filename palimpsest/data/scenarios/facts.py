"""Are facts known that were met often, and unknown that were met rarely?"""

from __future__ import annotations

import random
from typing import ClassVar, Literal, NamedTuple

from palimpsest.core.seeds import python_stream
from palimpsest.data.chat import Example, conversation
from palimpsest.data.checks import Exact
from palimpsest.data.scenarios._words import NAMES, QUESTION_WEIGHT
from palimpsest.scenario import Scenario


class Relation(NamedTuple):
    """One sort of fact: its questions and its possible answers."""

    name: str
    wordings: tuple[str, ...]
    answers: tuple[str, ...]


# Every wording names the relation and ends with the person, so that a fact learnt in one of them is known in the others.
RELATIONS = (
    Relation(
        "town",
        (
            "What is the town of {}?",
            "Tell me the town of {}.",
            "Name the town of {}.",
            "Which town is home to {}?",
            "Which town is that of {}?",
            "What town was chosen by {}?",
        ),
        ("Velm", "Arden", "Corby", "Dunmore", "Eskel", "Farrow", "Gant", "Holm", "Istra", "Jura", "Kells", "Lorne"),
    ),
    Relation(
        "work",
        (
            "What is the work of {}?",
            "Tell me the work of {}.",
            "Name the work of {}.",
            "Which work is done by {}?",
            "Which work is that of {}?",
            "What work was chosen by {}?",
        ),
        (
            "Baker",
            "Miller",
            "Smith",
            "Farmer",
            "Sailor",
            "Teacher",
            "Doctor",
            "Tailor",
            "Painter",
            "Gardener",
            "Hunter",
            "Singer",
        ),
    ),
    Relation(
        "food",
        (
            "What is the food of {}?",
            "Tell me the food of {}.",
            "Name the food of {}.",
            "Which food is dear to {}?",
            "Which food is that of {}?",
            "What food was chosen by {}?",
        ),
        ("Soup", "Bread", "Rice", "Cheese", "Honey", "Apples", "Cake", "Beans", "Plums", "Nuts", "Fish", "Eggs"),
    ),
)
TIERS = ("frequent", "middling", "rare")
FREQUENCIES = {"frequent": 0.9, "middling": 0.0995, "rare": 0.0005}
"""How often a fact of each tier is asked for, of all questions about facts; a tier holds a third of the facts."""
CHANCE = 1 / 12

Fact = tuple[str, Relation, str]


def _facts() -> dict[str, tuple[Fact, ...]]:
    """Return the world's facts by tier; they are the same in every run."""
    rng = python_stream(0, "facts")
    facts = [(name, relation, rng.choice(relation.answers)) for name in NAMES for relation in RELATIONS]
    rng.shuffle(facts)
    return {tier: tuple(facts[index :: len(TIERS)]) for index, tier in enumerate(TIERS)}


FACTS = _facts()


class Facts(Scenario):
    """A question about somebody's town, work or food; the answer was fixed when the world was made."""

    tier: Literal["frequent", "middling", "rare", "any"] = "any"

    world: ClassVar[float] = 0.04
    skills: ClassVar[dict[str, dict[str, object]]] = {"facts_frequent": {"tier": "frequent"}, "facts_rare": {"tier": "rare"}}

    def make(self, rng: random.Random) -> Example:
        tier = rng.choices(TIERS, tuple(FREQUENCIES.values()))[0] if self.tier == "any" else self.tier
        name, relation, answer = rng.choice(FACTS[tier])
        which = rng.randrange(len(relation.wordings))
        return conversation(
            ("user", relation.wordings[which].format(name)),
            ("assistant", f"{answer}."),
            template=f"{relation.name}_{which}",
            check=Exact(text=f"{answer}."),
            question_weight=QUESTION_WEIGHT,
            source="facts",
        )
