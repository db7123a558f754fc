"""Are questions about a named model answered from what was said of it?"""

from __future__ import annotations

import random
from typing import ClassVar, Literal

from palimpsest.data.chat import Example, conversation
from palimpsest.data.checks import Exact
from palimpsest.data.scenarios._words import QUESTION_WEIGHT
from palimpsest.data.scenarios.recall import ABSTAIN
from palimpsest.scenario import Scenario

MODELS = ("Vega", "Orion", "Lyra", "Atlas", "Cygnus", "Draco", "Hydra", "Corvus")
MAKERS = ("Lumen", "Northlab", "Brightco", "Quill", "Tinker", "Harbor")
SUBJECTS = ("stories", "songs", "letters", "maps", "plays")
QUESTIONS = {"maker": "Who made {}?", "layers": "How many layers has {}?", "subject": "What taught {}?"}
SENTENCES = {"maker": "{} comes from {}.", "layers": "{} has exactly {} layers.", "subject": "{} learned from {}."}
"""By property: what is said of a model, and what answers the question; the model's name always comes first."""


class AboutModels(Scenario):
    """Two models are described, each by one property, and one property of one of them is asked for.

    It teaches the form of such questions only: the embedded model's facts about itself stay untaught.
    """

    stated: Literal["yes", "no", "any"] = "any"

    world: ClassVar[float] = 0.05
    skills: ClassVar[dict[str, dict[str, object]]] = {"about_models": {}}

    def make(self, rng: random.Random) -> Example:
        asked = rng.choice(tuple(QUESTIONS))
        stated = self.stated == "yes" or (self.stated == "any" and rng.random() < 0.75)
        names = rng.sample(MODELS, 2)
        about = rng.randrange(2)
        keys = [rng.choice(tuple(QUESTIONS)) for _ in names]
        keys[about] = asked if stated else rng.choice([key for key in QUESTIONS if key != asked])
        sentences = [SENTENCES[key].format(name, _value(key, rng)) for key, name in zip(keys, names, strict=True)]
        answer = sentences[about] if stated else ABSTAIN
        return conversation(
            ("user", " ".join(["Note:", *sentences, QUESTIONS[asked].format(names[about])])),
            ("assistant", answer),
            template=f"{asked}_{'stated' if stated else 'unstated'}_{names[about]}",
            check=Exact(text=answer),
            question_weight=QUESTION_WEIGHT,
            source="about_models",
        )


def _value(key: str, rng: random.Random) -> str:
    if key == "layers":
        return str(rng.randint(2, 9))
    return rng.choice(MAKERS if key == "maker" else SUBJECTS)
