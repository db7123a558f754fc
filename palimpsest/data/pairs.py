"""Pairs: what was asked, where two answers to it are held against each other?

The question may stand in columns of its own, begin both conversations, or begin both texts.
"""

from __future__ import annotations

import re

from palimpsest.core.errors import UserError
from palimpsest.data.columns import CHOSEN, REJECTED, Row, side
from palimpsest.data.turns import Turn

_TURN = re.compile(r"\n\n(Human|Assistant):")
"""How a turn begins in a transcript of Anthropic's."""
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}


def pair(row: Row) -> tuple[list[Turn], str]:
    """Return a conversation that ends with the better answer, and the worse answer.

    Raises:
        UserError: they do not answer the same, or there is no telling where the answers begin.
    """
    better, worse = row.one_of(CHOSEN, "the better answer"), row.one_of(REJECTED, "the worse answer")
    assert better is not None and worse is not None, "only pairs come here"
    before = row.conversation()
    if before is None:
        before = row.asked()
    if isinstance(better[1], str) and isinstance(worse[1], str):
        chosen, rejected = _of_texts(better[1], worse[1], before)
    else:
        chosen, rejected = side(*better), side(*worse)
    if before and len(chosen) == 1 and before[-1] == chosen[0]:
        before = before[:-1]  # the conversation was kept with its better answer
    begun, good, bad = _common_beginning(chosen, rejected)
    question = _joined(before or [], begun) if before or begun else row.after_system([])
    if len(good) != 1 or len(bad) != 1 or {good[0]["role"], bad[0]["role"]} != {"assistant"}:
        raise UserError("'chosen' and 'rejected' must begin with the same messages, and then be one answer each")
    if not any(turn["role"] != "system" for turn in question):
        raise UserError("holds two answers and no question: give it in 'prompt', or as the beginning of both")
    if bad[0].get("fields"):
        raise UserError("the worse answer must be a text; it has reasoning or calls of functions")
    return [*question, good[0]], bad[0]["content"]


def _common_beginning(chosen: list[Turn], rejected: list[Turn]) -> tuple[list[Turn], list[Turn], list[Turn]]:
    """Return the messages with which both conversations begin, and the rest of each; an equal last answer stays a rest."""
    count = 0
    while count < min(len(chosen), len(rejected)) - 1 and chosen[count] == rejected[count]:
        count += 1
    return chosen[:count], chosen[count:], rejected[count:]


def _joined(before: list[Turn], begun: list[Turn]) -> list[Turn]:
    """Return the question, where a part of it may stand in its own column and in both conversations.

    Raises:
        UserError: they differ.
    """
    if not before or not begun:
        return before or begun
    system = [turn for turn in before[:1] if turn["role"] == "system" and begun[0]["role"] != "system"]
    own = before[len(system) :] if system else before
    if begun[: len(own)] == own or begun[-len(own) :] == own:
        return [*system, *begun]
    if before[-len(begun) :] == begun:
        return before
    raise UserError("what was asked stands beside the answers and begins both of them, and it differs; leave one of them out")


def _of_texts(chosen: str, rejected: str, before: list[Turn] | None) -> tuple[list[Turn], list[Turn]]:
    """Return two texts as conversations: transcripts, texts with a common beginning, or answers alone."""
    transcripts = _transcript(chosen), _transcript(rejected)
    if transcripts[0] and transcripts[1]:
        return transcripts  # type: ignore[return-value]  # neither is None
    if before:
        asked = before[-1]["content"]
        if len(asked.split()) > 1 and chosen.startswith(asked) and rejected.startswith(asked):
            chosen, rejected = chosen[len(asked) :], rejected[len(asked) :]
        return [_answer(chosen)], [_answer(rejected)]
    cut = _cut(chosen, rejected)
    if not cut:
        return [_answer(chosen)], [_answer(rejected)]
    question: Turn = {"role": "user", "content": chosen[:cut]}
    return [question, _answer(chosen[cut:])], [question, _answer(rejected[cut:])]


def _cut(chosen: str, rejected: str) -> int:
    """Return where the answers begin in two whole texts: after their last common line, or else after their last common word."""
    shorter = min(len(chosen), len(rejected)) - 1  # an answer is never empty
    alike = next((place for place in range(shorter) if chosen[place] != rejected[place]), max(shorter, 0))
    common = chosen[:alike]
    line = common.rfind("\n") + 1
    word = max((place + 1 for place, letter in enumerate(common) if letter.isspace()), default=0)
    cut = line or word
    return cut if common[:cut].strip() else 0


def _transcript(text: str) -> list[Turn] | None:
    """Return the turns of a transcript with ``Human:`` and ``Assistant:``, or ``None`` where it is none."""
    whole = "\n\n" + text.lstrip("\n")
    if not whole.startswith("\n\nHuman:"):
        return None
    _, *parts = _TURN.split(whole)
    return [{"role": _SPEAKERS[who], "content": said.strip()} for who, said in zip(parts[::2], parts[1::2], strict=True)]


def _answer(text: str) -> Turn:
    return {"role": "assistant", "content": text}
