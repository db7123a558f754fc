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
QUESTIONS = {"maker": "Who made {}?", "layers": "How many layers has {}?", "subject": "What was {} trained on?"}


class AboutModels(Scenario):
    """Two models are described, each by two of its three properties, and one property of one is asked for.

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
        sentences, answer = [], ABSTAIN
        for index, name in enumerate(names):
            others = [key for key in QUESTIONS if key != asked]
            keys = [asked, rng.choice(others)] if stated or index != about else others
            rng.shuffle(keys)
            values = {key: _value(key, rng) for key in QUESTIONS}
            sentences += [_sentence(name, key, values[key]) for key in keys]
            if stated and index == about:
                answer = _sentence(name, asked, values[asked])
        return conversation(
            ("user", " ".join([*sentences, QUESTIONS[asked].format(names[about])])),
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


def _sentence(name: str, key: str, value: str) -> str:
    return {
        "maker": f"{value} made {name}.",
        "layers": f"{name} has {value} layers.",
        "subject": f"{name} was trained on {value}.",
    }[key]
