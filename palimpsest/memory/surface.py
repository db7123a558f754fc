"""Surface: which corrections matter for a conversation?

Scenarios like the conversation are found by the full-text index, and from them one step along the links to scenarios like
those. A correction's score is likeness times importance (for a linked one times the link's weight as well). What was already
surfaced in the same conversation is not shown again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from palimpsest.core.wording import number
from palimpsest.memory.likeness import Situation, likeness, situation
from palimpsest.memory.records import Correction
from palimpsest.memory.store import Memory
from palimpsest.memory.transcripts import Conversation, Turn

LEAST = 0.3
"""A scenario that is less like the conversation does not matter for it."""
LEAST_SCORE = 0.1
SAME = 0.8
"""Of corrections whose scenarios are at least so alike, one says what the others would say."""


@dataclass(frozen=True)
class Surfaced:
    """A correction that matters, and why."""

    correction: Correction
    score: float
    why: str


def surface(folder: Path, conversation: Conversation, count: int = 3, *, again: bool = False) -> list[Surfaced]:
    """Return the corrections that matter most for a conversation, and record that they were surfaced in it.

    Args:
        folder: the memory.
        conversation: up to what a user says; an answer that follows is left aside.
        count: how many at most.
        again: also those that were surfaced in this conversation before.

    Raises:
        UserError: there is no memory, or another process writes it for long.
    """
    wanted = situation([turn.text for turn in _asked(conversation)])
    with Memory.open(folder) as memory:
        seen = [] if again else memory.surfaced_in(conversation.key)
        found = _unlike(_scored(memory, wanted), seen, memory, count)
    if found:
        when = conversation.time if conversation.time is not None else time.time()
        with Memory.open(folder, "write", alone=False) as memory:
            memory.surfaced(conversation.key, when, [(one.correction.id, one.score, one.why) for one in found])
    return found


def _unlike(scored: list[Surfaced], seen: list[Correction], memory: Memory, count: int) -> list[Surfaced]:
    """Return the best, leaving out what repeats a better one, or one that was surfaced before: the same behaviour and pole in
    nearly the same scenario."""
    known = [(_side(one), memory.situation(one.scenario)) for one in seen]
    kept: list[Surfaced] = []
    for one in scored:
        if len(kept) == count:
            break
        side, own = _side(one.correction), memory.situation(one.correction.scenario)
        if not any(side == other and likeness(own, there) >= SAME for other, there in known):
            known.append((side, own))
            kept.append(one)
    return kept


def _side(one: Correction) -> tuple[str, str]:
    return one.behaviour, one.pole


def _asked(conversation: Conversation) -> list[Turn]:
    turns = list(conversation.turns)
    while len(turns) > 1 and turns[-1].role == "assistant":
        turns.pop()
    return turns


def _scored(memory: Memory, wanted: Situation) -> list[Surfaced]:
    best: dict[int, Surfaced] = {}
    near = [(scenario, alike) for scenario, alike in memory.like(wanted) if alike >= LEAST]
    for scenario, alike in near:
        _offer(memory, best, scenario, alike, f"its scenario is like this one ({number(alike, 2)})")
    for scenario, alike in near:
        for other, weight in memory.links(scenario, "like"):
            why = f"its scenario is like one ({number(weight, 2)}) that is like this one ({number(alike, 2)})"
            _offer(memory, best, other, alike * weight, why)
    return sorted(best.values(), key=lambda one: (-one.score, -one.correction.id))


def _offer(memory: Memory, best: dict[int, Surfaced], scenario: int, alike: float, why: str) -> None:
    for one in memory.corrections_of(scenario):
        score = alike * one.importance
        if score >= LEAST_SCORE and (one.id not in best or best[one.id].score < score):
            failed = f"went wrong in {one.failed} of {one.covered} situations that it covers"
            best[one.id] = Surfaced(one, score, f"{why}; {one.strength}: {failed}")
