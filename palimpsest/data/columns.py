"""Columns: what does each column of a line of somebody's data hold, and which of them were read?"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from palimpsest.core.errors import UserError
from palimpsest.data.turns import Turn, is_turns, turns_of

CONVERSATIONS = ("messages", "conversations", "conversation")
ASKED = ("instruction", "prompt", "question", "query", "input", "article", "message_1")
BESIDE = ("input", "context", "query")
"""What an instruction or a question may be about."""
ANSWERED = ("completion", "response", "output", "answer", "generation", "summary", "message_2")
SYSTEM = ("system", "system_prompt", "system_message")
CHOSEN, REJECTED = ("chosen", "chosen_response"), ("rejected", "rejected_response")
_TABLED = (*CONVERSATIONS, *ASKED, *ANSWERED, *CHOSEN, *REJECTED, "history", "tools", "segments")
"""What tables keep as a text of JSON."""


class Row:
    """The columns of a line that hold something, and which of them were read."""

    def __init__(self, line: Mapping[str, Any]) -> None:
        self.columns = {str(name): _unpacked(str(name), value) for name, value in line.items() if not is_absent(value)}
        self.used: set[str] = set()

    def has(self, *names: str) -> str | None:
        """Return the first of these columns that is there."""
        return next((name for name in names if name in self.columns), None)

    def take(self, name: str) -> Any:
        self.used.add(name)
        return self.columns[name]

    def one_of(self, names: Sequence[str], what: str) -> tuple[str, Any] | None:
        """Return name and value of the one column of these; several have to say the same.

        Raises:
            UserError: they say different things.
        """
        there = [name for name in names if name in self.columns]
        if not there:
            return None
        differing = [name for name in there if self.columns[name] != self.columns[there[0]]]
        if differing:
            raise UserError(f"'{there[0]}' and '{differing[0]}' both hold {what}, and they differ; leave one of them out")
        self.used.update(there)
        return there[0], self.columns[there[0]]

    def conversation(self) -> list[Turn] | None:
        """Return the messages that the line holds as such, after its system text."""
        name = self.has(*CONVERSATIONS)
        return None if name is None else self.after_system(turns_of(self.take(name), name))

    def asked(self) -> list[Turn] | None:
        """Return the question of the line, after its system text and its history."""
        name = self.has(*ASKED)
        if name is None:
            return None
        given = self.take(name)
        if isinstance(given, list):
            return self.after_system(turns_of(given, name))
        text = _text(name, given)
        about = self.one_of([one for one in BESIDE if one != name and self.columns.get(one) not in ("", given)], "its matter")
        if about:
            matter = _text(*about)
            text = f"{matter}\n\n{text}" if name in ("question", "query") and about[0] == "context" else f"{text}\n\n{matter}"
        return self.after_system([*self._history(), {"role": "user", "content": text}])

    def after_system(self, turns: list[Turn]) -> list[Turn]:
        """Return messages after the system text that the line holds beside them, if it holds one."""
        found = self.one_of(SYSTEM, "a system text")
        text = _text(*found) if found else ""
        if not text.strip():
            return turns
        if turns and turns[0]["role"] in ("system", "developer"):
            if turns[0]["content"] != text:
                raise UserError("the messages begin with a system text, and the line holds another one; leave one of them out")
            return turns
        return [{"role": "system", "content": text}, *turns]

    def _history(self) -> list[Turn]:
        if "history" not in self.columns:
            return []
        given, turns = self.take("history"), []
        if is_turns(given):
            return turns_of(given, "history")
        if not isinstance(given, list):
            raise UserError(f"'history' must be a list of pairs of texts, found {type(given).__name__}")
        for place, pair in enumerate(given, start=1):
            if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(side, str) for side in pair):
                raise UserError(f"entry {place} of 'history' must be a pair of texts")
            turns += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
        return turns

    def tools(self) -> tuple[Any, ...]:
        given = self.take("tools") if "tools" in self.columns else []
        if not isinstance(given, list) or not all(isinstance(tool, Mapping) for tool in given):
            raise UserError(f"'tools' must be a list of functions, found {json.dumps(given)[:60]}")
        return tuple(given)


def side(name: str, given: Any) -> list[Turn]:
    """Return an answer, which may be a text, a message or messages.

    Raises:
        UserError: it is none of them.
    """
    if isinstance(given, str):
        return [{"role": "assistant", "content": given}]
    if isinstance(given, Mapping):
        return turns_of([given], name)
    if is_turns(given):
        return turns_of(given, name)
    raise UserError(f"'{name}' must be a text or a list of messages, found {type(given).__name__}")


def is_absent(value: Any) -> bool:
    """Whether a column holds nothing: null, not-a-number as tables write it, an empty list."""
    return value is None or value == [] or value == {} or (isinstance(value, float) and math.isnan(value))


def _unpacked(name: str, value: Any) -> Any:
    """Return what a column holds; where tables keep a list of messages or tools as a text of JSON, that list."""
    if isinstance(value, str) and name in _TABLED and value.lstrip()[:1] in ("[", "{"):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            return value
        of_objects = isinstance(found, list) and all(isinstance(entry, Mapping) for entry in found)
        if is_turns(found) or is_turns([found]) or (name in ("tools", "segments") and of_objects):
            return found
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise UserError(f"'{name}' must be a text, found {type(value).__name__}")
    return value
