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


RELATIONS = (
    Relation(
        "town",
        (
            "Where does {} live?",
            "What is the town of {}?",
            "In which town does {} live?",
            "Tell me the town of {}.",
            "Name the town where {} lives.",
            "Which town is home to {}?",
        ),
        ("Velm", "Arden", "Corby", "Dunmore", "Eskel", "Farrow", "Gant", "Holm", "Istra", "Jura", "Kells", "Lorne"),
    ),
    Relation(
        "work",
        (
            "What is the work of {}?",
            "What does {} do for work?",
            "Which work does {} do?",
            "Tell me the work of {}.",
            "Name the work that {} does.",
            "What work is {} good at?",
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
            "What does {} like to eat?",
            "Which food does {} like?",
            "What is the food of {}?",
            "Tell me the food of {}.",
            "Name the food that {} likes.",
            "What food is dear to {}?",
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
    """A question about where somebody lives, works or what they eat; the answer was fixed when the world was made."""

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
