"""How well is text followed whose exact probability is known?"""

from __future__ import annotations

import math
import random
import re
from typing import ClassVar, Literal, NamedTuple

from pydantic import Field

from palimpsest.core.errors import UserError
from palimpsest.data.chat import Example, Message, whole
from palimpsest.data.scenarios._words import NAMES
from palimpsest.scenario import Scenario

SENTENCES = 8
LEVELS = 10
HEADER = "A {style} story of {name} at the {topic}, rain {level}:"

OBJECTS = {
    "harbour": ("boat", "net", "rope", "sail", "anchor", "crate", "gull", "pier"),
    "farm": ("barn", "plough", "goat", "field", "fence", "hay", "cart", "well"),
    "market": ("stall", "basket", "scale", "coin", "cloth", "melon", "bell", "crowd"),
    "forest": ("pine", "moss", "path", "nest", "stream", "stone", "deer", "fern"),
    "kitchen": ("oven", "spoon", "kettle", "table", "bowl", "dough", "stove", "jar"),
}
VERBS = ("saw", "found", "watched", "touched", "passed", "liked", "drew", "missed")
FEELINGS = ("glad", "calm", "sleepy", "brave", "lonely", "proud")
ADJECTIVES = {
    "plain": ("old", "small", "good", "long"),
    "lively": ("shiny", "merry", "wild", "lovely"),
    "formal": ("ancient", "modest", "noble", "remarkable"),
}
STYLES = tuple(ADJECTIVES)


class Production(NamedTuple):
    """One sort of sentence: its share among the sentences of its kind, and its wording in each style."""

    share: float
    wordings: dict[str, str]


DRY = {
    "act": Production(
        0.5,
        {
            "plain": "{name} {verb} the {adjective} {object}.",
            "lively": "Look, {name} {verb} a {adjective} {object}!",
            "formal": "Indeed {name} {verb} the {adjective} {object}.",
        },
    ),
    "place": Production(
        0.3,
        {
            "plain": "There was a {object} near the {topic}.",
            "lively": "What a {adjective} {object} by the {topic}!",
            "formal": "One {object} belonged to the {topic}.",
        },
    ),
    "feeling": Production(
        0.2,
        {
            "plain": "{name} felt {feeling}.",
            "lively": "Oh, {name} felt so {feeling}!",
            "formal": "It is said that {name} felt {feeling}.",
        },
    ),
}
WET = {
    "rain": Production(
        1.0,
        {
            "plain": "Rain fell on the {object}.",
            "lively": "Splash, rain on the {object}!",
            "formal": "Rain descended upon the {object}.",
        },
    )
}


class Opening(NamedTuple):
    """What a story's first sentence announces."""

    style: str
    name: str
    topic: str
    level: int


class Stories(Scenario):
    """A bare text from an unambiguous grammar: an opening that announces everything, then eight sentences.

    The opening names style, person, place and the rain level r (0 to 9); each later sentence is about rain with
    probability r/10, and every choice is independent given the opening, so the text's probability is known exactly.
    """

    topic: Literal["harbour", "farm", "market", "forest", "kitchen", "any"] = "any"
    style: Literal["plain", "lively", "formal", "any"] = "any"
    rain: int | None = Field(default=None, ge=0, lt=LEVELS)
    """The scalable attribute; none draws a level."""

    world: ClassVar[float] = 0.02
    skills: ClassVar[dict[str, dict[str, object]]] = {"stories": {}}

    def make(self, rng: random.Random) -> Example:
        opening = Opening(
            rng.choice(STYLES) if self.style == "any" else self.style,
            rng.choice(NAMES),
            rng.choice(tuple(OBJECTS)) if self.topic == "any" else self.topic,
            rng.randrange(LEVELS) if self.rain is None else self.rain,
        )
        sentences = [HEADER.format(**opening._asdict()), *(_draw(opening, rng) for _ in range(SENTENCES))]
        messages = (Message(role="text", content=" ".join(sentences)),)
        return Example(
            messages=messages,
            decisions=(whole(messages),),
            template=f"{opening.style}_{opening.topic}",
            question_weight=1.0,
            source="stories",
        )


def log_probability(text: str) -> float:
    """Return the exact log-probability of a text under the grammar with all parameters drawn, in nats.

    Raises:
        UserError: the text is not one that the grammar can make.
    """
    opening, rest = _read_opening(text)
    total = -math.log(len(STYLES) * len(NAMES) * len(OBJECTS) * LEVELS)
    sentences = re.findall(r"[^.!]+[.!]", rest)
    if len(sentences) != SENTENCES or "".join(sentences) != rest:
        raise UserError(f"a story has {SENTENCES} sentences after its opening, found {len(sentences)}: {text!r}")
    return total + sum(_sentence_log_probability(sentence.strip(), opening) for sentence in sentences)


def entropy_nats() -> float:
    """Return the exact entropy of a whole text, in nats (its mean negative log-probability)."""
    total = math.log(len(STYLES) * len(NAMES) * len(OBJECTS) * LEVELS)
    for style in STYLES:
        for level in range(LEVELS):
            rain = level / LEVELS
            total += (
                SENTENCES
                * (_binary(rain) + rain * _branch(WET, style) + (1 - rain) * _branch(DRY, style))
                / (len(STYLES) * LEVELS)
            )
    return total


def _draw(opening: Opening, rng: random.Random) -> str:
    productions = WET if rng.random() < opening.level / LEVELS else DRY
    production = rng.choices(tuple(productions.values()), [each.share for each in productions.values()])[0]
    slots = {slot: rng.choice(words) for slot, words in _slots(opening).items()}
    return production.wordings[opening.style].format(**slots)


def _slots(opening: Opening) -> dict[str, tuple[str, ...]]:
    return {
        "name": (opening.name,),
        "topic": (opening.topic,),
        "verb": VERBS,
        "object": OBJECTS[opening.topic],
        "adjective": ADJECTIVES[opening.style],
        "feeling": FEELINGS,
    }


def _read_opening(text: str) -> tuple[Opening, str]:
    pattern = HEADER.format(style=r"(\w+)", name=r"(\w+)", topic=r"(\w+)", level=r"(\d)")
    match = re.match(pattern, text)
    if match is None or match[1] not in STYLES or match[2] not in NAMES or match[3] not in OBJECTS:
        raise UserError(f"a story opens like '{HEADER}', found {text[:60]!r}")
    return Opening(match[1], match[2], match[3], int(match[4])), text[match.end() :]


def _sentence_log_probability(sentence: str, opening: Opening) -> float:
    rain = opening.level / LEVELS
    for productions, probability in ((WET, rain), (DRY, 1 - rain)):
        for production in productions.values():
            wording = production.wordings[opening.style]
            if probability > 0 and re.fullmatch(_pattern(wording, opening), sentence):
                return math.log(probability * production.share) - _slot_entropy(wording, opening)
    raise UserError(f"the grammar can't make this sentence after such an opening: {sentence!r}")


def _pattern(wording: str, opening: Opening) -> str:
    return wording.format(**{slot: f"(?:{'|'.join(words)})" for slot, words in _slots(opening).items()})


def _slot_entropy(wording: str, opening: Opening) -> float:
    return sum(math.log(len(words)) for slot, words in _slots(opening).items() if "{" + slot + "}" in wording)


def _branch(productions: dict[str, Production], style: str) -> float:
    """Return the entropy of one sentence of this kind, in nats."""
    opening = Opening(style, NAMES[0], next(iter(OBJECTS)), 0)
    return sum(
        each.share * (_slot_entropy(each.wordings[style], opening) - math.log(each.share)) for each in productions.values()
    )


def _binary(probability: float) -> float:
    if probability in (0.0, 1.0):
        return 0.0
    return -probability * math.log(probability) - (1 - probability) * math.log(1 - probability)
