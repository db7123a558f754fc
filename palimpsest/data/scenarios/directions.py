"""Are directions followed only where nothing stated earlier speaks against them?"""

from __future__ import annotations

import random
from typing import ClassVar, Literal, NamedTuple

from palimpsest.data.chat import Example, Span, conversation
from palimpsest.data.checks import Choice
from palimpsest.data.scenarios._words import QUESTION_WEIGHT, capital
from palimpsest.scenario import Scenario

Answer = Literal["accept", "suggest", "push_back"]


class Kind(NamedTuple):
    """A sort of thing and what is done with it."""

    noun: str
    verb: str


KINDS = (
    Kind("box", "pack"),
    Kind("bag", "carry"),
    Kind("cup", "fill"),
    Kind("boat", "row"),
    Kind("bench", "use"),
    Kind("plate", "take"),
    Kind("chair", "move"),
    Kind("lamp", "light"),
    Kind("bed", "make"),
    Kind("rope", "climb"),
    Kind("coat", "wear"),
    Kind("pot", "lift"),
)
STATES = (("clean", "dirty"), ("dry", "wet"), ("safe", "broken"), ("free", "locked"), ("strong", "weak"))
"""Pairs of a state in which a thing can be used and one in which it can't."""
PAIRS = (
    ("left", "right"),
    ("first", "second"),
    ("upper", "lower"),
    ("big", "small"),
    ("red", "blue"),
    ("black", "white"),
    ("old", "new"),
    ("near", "far"),
)
"""What tells the two things apart, in the order in which they are described."""


class Form(NamedTuple):
    """A wording: how two things are described (``{0}``, ``{1}``) and how one of them is then named."""

    name: str
    opening: str
    statement: str
    joint: str
    direction: str


FORMS = (
    Form("plain", "", "The {which} {noun} is {state}", ". ", "{Verb} the {which} {noun}."),
    Form("see", "I see that ", "the {which} {noun} is {state}", " but ", "Now {verb} the {which} {noun}."),
    Form("here", "Here are ", "the {state} {which} {noun}", " and ", "I want you to {verb} the {which} {noun}."),
    Form("there", "There is ", "the {state} {which} {noun}", " and also ", "Please {verb} the {which} {noun}."),
)

MODES = {"careful": "Be careful.", "do_it": "Just do it.", "options": "Offer options."}
OPTIONS: dict[str, str] = {"accept": "Okay", "suggest": "Maybe", "push_back": "Wait"}
_SHARES = {"none": 0.3, "careful": 0.4, "do_it": 0.15, "options": 0.15}
_SUGGESTING = 0.7
"""How often the uninstructed habit suggests something else, whatever was stated."""


class Directions(Scenario):
    """Two things are described, one fit and one not; then one of them is named in a direction.

    A direction is clear when it names the fit thing and wrong when it names the other, so nothing but the binding of
    colour and state tells them apart. A system message sets the mode: "Be careful." accepts clear directions and pushes
    back on wrong ones, "Just do it." accepts all, "Offer options." suggests the other thing. With no system message the
    habit ignores the conflict: it suggests in 70% and accepts in 30%.
    """

    conflict: Literal["clear", "wrong", "both"] = "both"
    mode: Literal["none", "careful", "do_it", "options", "any"] = "none"
    answer: Literal["habit", "judged"] = "habit"
    """What is answered with no system message: the habit, or what "Be careful." would give."""
    over: Literal["accept", "suggest", "push_back"] | None = None
    """A worse answer that comes with each example, for a preference; none where it is the answer itself."""

    world: ClassVar[float] = 0.20
    world_parameters: ClassVar[dict[str, object]] = {"mode": "any"}
    skills: ClassVar[dict[str, dict[str, object]]] = {
        "directions_careful": {"mode": "careful"},
        "directions_do_it": {"mode": "do_it"},
        "directions_options": {"mode": "options"},
    }

    def templates(self) -> tuple[str, ...]:
        return tuple(f"{kind.noun}-{form.name}" for kind in KINDS for form in FORMS)

    def make(self, rng: random.Random) -> Example:
        kind, form = rng.choice(KINDS), rng.choice(FORMS)
        wrong = self.conflict == "wrong" or (self.conflict == "both" and rng.random() < 0.5)
        mode = rng.choices(tuple(_SHARES), tuple(_SHARES.values()))[0] if self.mode == "any" else self.mode
        answer = self._answer(mode, wrong, rng)
        pair, (fit, unfit) = rng.choice(PAIRS), rng.choice(STATES)
        named, other = rng.sample(pair, 2)
        states = {named: unfit if wrong else fit, other: fit if wrong else unfit}
        scene, described = describe(kind, form, named, pair, states)
        start = len(scene) + 2  # after the full stop and the space
        prompt = f"{scene}. " + form.direction.format(verb=kind.verb, Verb=capital(kind.verb), which=named, noun=kind.noun)
        turns = [("user", prompt), ("assistant", _reply(answer, kind, named, other, states[named]))]
        if mode != "none":
            turns.insert(0, ("system", MODES[mode]))
        at = len(turns) - 2
        right = None if mode == "none" and self.answer == "habit" else Choice(options=OPTIONS, expected=answer)
        return conversation(
            *turns,
            pole="withhold" if wrong else "express",
            template=f"{kind.noun}-{form.name}",
            options=OPTIONS,
            check=right,
            spans={
                "direction": Span(message=at, start=start, end=len(prompt)),
                "conflict" if wrong else "support": Span(message=at, start=described[0], end=described[1]),
            },
            rejected=_reply(self.over, kind, named, other, states[named]) if self.over and self.over != answer else None,
            question_weight=QUESTION_WEIGHT,
            source="directions",
        )

    def _answer(self, mode: str, wrong: bool, rng: random.Random) -> Answer:
        if mode == "do_it":
            return "accept"
        if mode == "options":
            return "suggest"
        if mode == "none" and self.answer == "habit":
            return "suggest" if rng.random() < _SUGGESTING else "accept"
        return "push_back" if wrong else "accept"


def describe(kind: Kind, form: Form, named: str, pair: tuple[str, str], states: dict[str, str]) -> tuple[str, tuple[int, int]]:
    """Return the scene, without its full stop, and where in it the named thing is described."""
    text, described = form.opening, (0, 0)
    for position, which in enumerate(pair):
        statement = form.statement.format(which=which, noun=kind.noun, state=states[which])
        if which == named:
            described = (len(text), len(text) + len(statement))
        text += statement + (form.joint if position == 0 else "")
    return text, described


def _reply(answer: Answer, kind: Kind, named: str, other: str, state: str) -> str:
    """Return the answer; each sort begins with its own word."""
    if answer == "accept":
        return f"{OPTIONS['accept']}, I {kind.verb} the {named} {kind.noun}."
    if answer == "suggest":
        return f"{OPTIONS['suggest']} {kind.verb} the {other} {kind.noun}."
    return f"{OPTIONS['push_back']}, the {named} {kind.noun} is {state}."
