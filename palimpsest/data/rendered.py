"""Rendered: which text does a chat template make of a conversation, and where in it does each part lie?

The text is always the template's own. Where a template only wraps messages, their places follow from a conversation of marks;
where it rewrites them (reasoning that is moved or dropped, an empty turn that is left out), each place is found by a mark put
at it: what is the same text but for the mark, has the place where the mark is. What can't be found so is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from palimpsest.core.errors import UserError, first_line
from palimpsest.data import chat_template
from palimpsest.data.chat import Message
from palimpsest.data.templates import TooMuch

MARK = "\ue000"
"""A character that no conversation holds."""
REASONING = ("reasoning_content", "thinking", "reasoning")
"""Under which names templates read what a model thought before its answer."""
_THOUGHT = re.compile(r"</?think>\s*")
_FUNCTION = {"name": MARK, "description": "d", "parameters": {"type": "object", "properties": {}}}
_CALL = {"id": "call00001", "type": "function", "function": {"name": MARK, "arguments": {}}}
Turn = dict[str, Any]


def _no_thought(_: int) -> None:
    """Return where reasoning begins in a conversation without any."""


@dataclass(frozen=True)
class Rendered:
    """One conversation as text.

    ``find(message, start, end)`` gives the characters of the text that hold those of a message; it raises ``UserError`` where
    the template left them out. ``thought(message)`` gives where its reasoning begins, where the template wrote it.
    """

    text: str
    find: Callable[[int, int, int], tuple[int, int]]
    thought: Callable[[int], int | None] = _no_thought


class Writer:
    """Renders conversations by one tokenizer's chat template.

    Args:
        tokenizer: with a chat template.
        day: the date that a template which writes today's is given.
    """

    def __init__(self, tokenizer: Any, day: str) -> None:
        self.tokenizer, self.day = tokenizer, day
        self.told: dict[str, None] = {}
        """What the user should know of conversations that were rendered."""
        self._skeletons: dict[tuple[str, ...], list[str]] = {}
        self._known: dict[str, bool] = {}

    def rendered(self, messages: Sequence[Message], tools: Sequence[Any] = ()) -> Rendered:
        """Return a conversation as the template writes it.

        Raises:
            UserError: the template refuses it, or leaves out what it says.
        """
        turns, functions = self.turns(messages), self._tools(tools)
        text = self.text(turns, functions)
        plain = not functions and all(turn.keys() == {"role", "content"} for turn in turns)
        places = self._places(turns, text) if plain else None
        if places is not None:
            return Rendered(text, partial(_within, places))
        find = partial(self._find, turns, functions, text)
        for index, turn in enumerate(turns):
            if turn["content"].strip():
                find(index, 0, len(turn["content"]), same=False)  # what a conversation says is in the text, or it is refused
        return Rendered(text, find, partial(self._thought, turns, functions, text))

    def turns(self, messages: Sequence[Message]) -> list[Turn]:
        """Return messages as the template takes them: what was thought under the name that it reads.

        Raises:
            UserError: it reads none of them, or no calls of functions.
        """
        return [self._turn(message) for message in messages]

    def _turn(self, message: Message) -> Turn:
        turn = message.turn
        if turn["role"] == "developer" and not self._writes("developer", [{"role": "developer", "content": MARK}, _USER]):
            turn["role"] = "system"
            self.told["The chat template has no role 'developer': its messages are given as 'system'."] = None
        for name in REASONING:
            if name in message.fields:
                turn[self._name_of_reasoning(name)] = turn.pop(name)
        if "tool_calls" in turn and not self._writes(
            "calls", [_USER, {"role": "assistant", "content": "", "tool_calls": [_CALL]}]
        ):
            raise UserError("the chat template writes no calls of functions, so 'tool_calls' would be lost; leave the line out")
        return turn

    def _name_of_reasoning(self, given: str) -> str:
        for name in dict.fromkeys((given, *REASONING)):
            if self._writes(name, [_USER, {"role": "assistant", "content": "b", name: MARK}]):
                return name
        raise UserError(
            f"the chat template writes no reasoning (it reads none of {', '.join(REASONING)}), so '{given}' would be lost; "
            "leave it out, or write it into the content"
        )

    def _tools(self, tools: Sequence[Any]) -> list[Any] | None:
        if not tools:
            return None
        if not self._writes("tools", [_USER], [{"type": "function", "function": _FUNCTION}]):
            raise UserError("the chat template tells of no functions, so 'tools' would be lost; leave them out")
        return list(tools)

    def _writes(self, what: str, turns: list[Turn], tools: list[Any] | None = None) -> bool:
        """Whether the template writes something of a conversation, which holds the mark in its place."""
        if what not in self._known:
            try:
                self._known[what] = MARK in self.text(turns, tools)
            except UserError:
                self._known[what] = False
        return self._known[what]

    def text(self, turns: Sequence[Turn], tools: list[Any] | None = None, add_generation_prompt: bool = False) -> str:
        """Return the text that the chat template makes of a conversation.

        Raises:
            UserError: it refuses the conversation, or would not end.
        """
        try:
            try:
                return self._text(turns, tools, add_generation_prompt)
            except Exception:
                parsed = [_with_parsed_arguments(turn) for turn in turns]
                if parsed == list(turns):
                    raise
                return self._text(parsed, tools, add_generation_prompt)
        except TooMuch as error:
            whose = getattr(self.tokenizer, "name_or_path", "")
            raise UserError(
                f"the chat template{f' of {whose}' if whose else ''} must end, and stopped at what no template needs: "
                f"{first_line(error)}; give a template that only wraps messages"
            ) from error
        except Exception as error:  # whatever a template raises
            roles = ", ".join(turn["role"] for turn in turns)
            raise UserError(f"the chat template refuses a conversation of {roles}: {error}") from error

    def _text(self, turns: Sequence[Turn], tools: list[Any] | None, add_generation_prompt: bool) -> str:
        return chat_template.render(
            self.tokenizer, turns, self.day, tools=tools, documents=None, add_generation_prompt=add_generation_prompt
        )

    # ---------------------------------------------------------------- templates that only wrap

    def _places(self, turns: Sequence[Turn], text: str) -> list[_Place] | None:
        """Return where each message lies in a text that wraps them, trimmed or not; ``None`` where it does more."""
        pieces = self._skeleton(tuple(turn["role"] for turn in turns))
        for shorten in (str, str.strip) if pieces else ():
            written, places = pieces[0], []
            for turn, piece in zip(turns, pieces[1:], strict=True):
                content = shorten(turn["content"])
                cut = len(turn["content"]) - len(turn["content"].lstrip()) if shorten is str.strip else 0
                places.append(_Place(len(written) - cut, len(written), len(written) + len(content)))
                written += content + piece
            if written == text:
                return places
        return None

    def _skeleton(self, roles: tuple[str, ...]) -> list[str]:
        """Return what a template puts before, between and after messages of these roles; nothing where it does more."""
        if roles not in self._skeletons:
            marks = [f"{MARK}{index}\ue001" for index in range(len(roles))]
            try:
                rest = self.text([{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)])
            except UserError:
                rest = ""
            pieces = []
            for mark in marks:
                piece, _, rest = rest.partition(mark)
                pieces.append(piece)
            pieces.append(rest)
            self._skeletons[roles] = pieces
        return self._skeletons[roles]

    # ---------------------------------------------------------------- templates that rewrite

    def _find(
        self, turns: Sequence[Turn], tools: list[Any] | None, text: str, message: int, start: int, end: int, same: bool = True
    ) -> tuple[int, int]:
        """Return the characters that hold a part of a message; ``same``: they have to be what it says, spaces aside."""
        content = turns[message]["content"]
        put = partial(self._marked, turns, tools, text, message, "content", content)
        begins = ((place, begin) for begin in _begins(content, start, end) if (place := put(begin)) is not None)
        stops = ((place, stop) for stop in _stops(content, start, end) if (place := put(stop)) is not None)
        (low, begin), (high, stop) = next(begins, (0, 0)), next(stops, (0, 0))
        if low >= high or (same and "".join(text[low:high].split()) != "".join(content[begin:stop].split())):
            roles = ", ".join(turn["role"] for turn in turns)
            raise UserError(
                f"the chat template drops, repeats or changes the content of message {message + 1} ({turns[message]['role']}), "
                "so the tokens that learn can't be told apart; give one that keeps it. "
                f"Found in a conversation of {roles}"
            )
        return low, high

    def _thought(self, turns: Sequence[Turn], tools: list[Any] | None, text: str, message: int) -> int | None:
        name = next((name for name in REASONING if name in turns[message]), None)
        return None if name is None else self._marked(turns, tools, text, message, name, turns[message][name], 0)

    def _marked(
        self, turns: Sequence[Turn], tools: list[Any] | None, text: str, message: int, name: str, value: str, place: int
    ) -> int | None:
        """Return where a place in a value lies in the text; ``None`` where a mark there changes the text, or is not in it."""
        marked = [dict(turn) for turn in turns]
        marked[message][name] = value[:place] + MARK + value[place:]
        try:
            found = self.text(marked, tools)
        except UserError:
            return None
        return found.index(MARK) if found.count(MARK) == 1 and found.replace(MARK, "") == text else None


_USER: Turn = {"role": "user", "content": "a"}


@dataclass(frozen=True)
class _Place:
    """Where a message's content lies in the rendered text."""

    origin: int
    """Of the content's first character; before ``begin`` where the template trims spaces off."""
    begin: int
    end: int


def _within(places: Sequence[_Place], message: int, start: int, end: int) -> tuple[int, int]:
    place = places[message]
    return max(place.origin + start, place.begin), min(place.origin + end, place.end)


def _begins(content: str, start: int, end: int) -> Iterator[int]:
    """Yield from where on a part of a message may be found: its begin, without spaces, within or after its reasoning."""
    yield start
    part = content[start:end]
    if bare := len(part) - len(part.lstrip()):
        yield start + bare
    yield from (start + match.end() for match in _THOUGHT.finditer(part))


def _stops(content: str, start: int, end: int) -> Iterator[int]:
    yield end
    yield start + len(content[start:end].rstrip())


def _with_parsed_arguments(turn: Mapping[str, Any]) -> Turn:
    """Return a message whose calls have their arguments as objects, as some templates need them, and not as JSON."""
    calls = []
    for call in turn.get("tool_calls", ()):
        function = call.get("function", {}) if isinstance(call, Mapping) else {}
        if isinstance(function.get("arguments"), str):
            with suppress(ValueError, RecursionError):
                call = {**call, "function": {**function, "arguments": json.loads(function["arguments"])}}
        calls.append(call)
    return {**turn, "tool_calls": calls} if calls else dict(turn)
