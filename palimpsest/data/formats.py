"""Formats: in which other shapes do people keep their conversations?

Each line is brought into messages by the names of its columns: those of TRL, LLaMA-Factory, axolotl, ShareGPT, Alpaca and
OpenAI (docs/data.md has a line for each). A column that carries meaning is used, or the line is refused with one reason; what
carries none (an id, a score) is left aside.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from palimpsest.core.errors import UserError, slip_of
from palimpsest.data import pairs
from palimpsest.data.columns import ANSWERED, ASKED, BESIDE, CHOSEN, CONVERSATIONS, REJECTED, SYSTEM, Row, is_absent, side
from palimpsest.data.turns import Turn, is_turns, turns_of

MARKS = ("label", "kto_tag", "weight")
"""What may say of a whole line that it must not be learnt."""
OWN = ("template", "options", "check", "rejected", "tools")
"""What a line of our own may hold besides its messages."""
_MEDIA = ("image", "images", "video", "videos", "audio", "audios")
_NO_PLACE = {
    **dict.fromkeys(_MEDIA, "a text model can't be shown pictures, videos or sounds"),
    "completions": "answers in steps that are judged one by one can't be learnt from",
    "labels": "answers in steps that are judged one by one can't be learnt from",
    "choices": "write the choices into the question",
    "reflection": "write it into the answer, or leave the column out",
    "corrected": "write it into the answer, or leave the column out",
    "chat_template_kwargs": "a template is given no settings of single lines",
    "functions": "call the column 'tools'",
}
_MEANS = {*CONVERSATIONS, *ASKED, *BESIDE, *ANSWERED, *SYSTEM, *CHOSEN, *REJECTED, "history", "tools", "segments", *_NO_PLACE}
"""Columns that are never dropped."""


@dataclass(frozen=True)
class Shaped:
    """One line as messages."""

    messages: list[Turn]
    used: frozenset[str]
    """The columns that it was made from."""
    rejected: str | None = None
    tools: tuple[Any, ...] = ()


def shaped(line: Any) -> Shaped:
    """Return a line as messages.

    Raises:
        UserError: it is in no known shape, or something in it is not as it must be.
    """
    if not isinstance(line, Mapping):
        raise UserError(f"must be keys and values, found {type(line).__name__}")
    row = Row(line)
    tools = row.tools()
    if "segments" in row.columns:
        return Shaped([_segments(row.take("segments"))], frozenset(row.used))
    if row.has(*CHOSEN) and row.has(*REJECTED):
        turns, rejected = pairs.pair(row)
        return Shaped(turns, frozenset(row.used), rejected, tools)
    turns = row.conversation()
    if turns is None:
        turns = row.asked()
    if turns is not None and _waits(turns) and (answer := row.one_of(ANSWERED, "the answer")):
        turns = [*turns, *side(*answer)]
    elif turns is not None and not row.has(*CONVERSATIONS):
        wanted = ", ".join(map(repr, ANSWERED[:4]))
        raise UserError(f"holds a question and no answer ({wanted} or the like); found {', '.join(map(repr, line))}")
    if turns is None:
        raise UserError(_unknown(row))
    return Shaped(turns, frozenset(row.used), tools=tools)


def refuse_unread(line: Mapping[str, Any], found: Shaped) -> list[str]:
    """Return the columns that are left aside, having made sure that none of them carries meaning.

    Raises:
        UserError: one carries meaning that the messages do not hold, or is one of ours with a letter wrong.
    """
    row = Row(line)
    said = [turn["content"].strip() for turn in found.messages]
    aside = []
    for name, value in row.columns.items():
        if name in found.used or name in OWN or name in MARKS or value == "":
            continue
        if name in _MEANS and not _is_said(value, found.messages, said):
            why = _NO_PLACE.get(name, f"the line is read from {', '.join(sorted(found.used)) or 'other columns'}")
            raise UserError(f"'{name}' carries meaning that would be lost ({why}); leave it out, or write it into the messages")
        if meant := slip_of(name, (*OWN, *sorted(_MEANS))):
            raise UserError(f"'{name}' is no known column. Did you mean '{meant}'?")
        aside.append(name)
    return aside


def mark_of(line: Mapping[str, Any]) -> bool:
    """Return whether a line may be learnt: ``False`` where it is marked as bad (``label``, ``kto_tag``, a weight of 0).

    Raises:
        UserError: it has such a mark, and it says neither yes nor no.
    """
    for name in MARKS:
        value = line.get(name)
        if is_absent(value) or (isinstance(value, str) and value.casefold() not in _WORDS):
            continue
        known = _WORDS.get(value.casefold()) if isinstance(value, str) else value
        if known not in (0, 1):
            raise UserError(
                f"'{name}' must say whether the answer is good (true, 1) or bad (false, 0), found {json.dumps(value)[:40]}; "
                "if it says something else, call it by another name"
            )
        if not known:
            return False
    return True


_WORDS = {
    **dict.fromkeys(("true", "good", "chosen", "desirable", "1"), True),
    **dict.fromkeys(("false", "bad", "rejected", "undesirable", "0"), False),
}


def _waits(turns: list[Turn]) -> bool:
    return bool(turns) and turns[-1]["role"] != "assistant"


def _segments(given: Any) -> Turn:
    """Return axolotl's pieces of one text, each with whether it learns: a bare text with spans."""
    if not isinstance(given, list) or not all(
        isinstance(part, Mapping) and isinstance(part.get("text"), str) and isinstance(part.get("label"), bool)
        for part in given
    ):
        raise UserError("'segments' must be a list of {'text': ..., 'label': true or false}")
    text, spans = "", []
    for part in given:
        if part["label"] and part["text"]:
            spans.append((len(text), len(text) + len(part["text"])))
        text += part["text"]
    return {"role": "text", "content": text, "train": False, "spans": spans}


def _unknown(row: Row) -> str:
    if isinstance(row.columns.get("text"), str):
        return "holds a bare text and no conversation; a file of those is given as 'text' and not as 'data'"
    known = "'messages', 'prompt' and 'completion', 'conversations', 'instruction' and 'output', or 'chosen' and 'rejected'"
    return f"must hold {known}; found {', '.join(map(repr, row.columns)) or 'nothing'}"


def _is_said(value: Any, turns: list[Turn], said: Iterable[str]) -> bool:
    """Whether the messages hold what a column says, so that nothing is lost without it."""
    if isinstance(value, str):
        return not value.strip() or value.strip() in said
    if is_turns(value):
        contents = [turn["content"] for turn in turns_of(value, "it")]
        return contents == [turn["content"] for turn in turns][: len(contents)]
    return False
