"""Turns: what does one message of a conversation say, whoever wrote it down?

Messages of OpenAI (``role`` and ``content``, tool calls, parts) and of ShareGPT (``from`` and ``value``) come out as
``{"role", "content", "train"?, "spans"?, "fields"?}``; keys that mean nothing to us stay in them under their own names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from palimpsest.core.errors import UserError, nearest

ROLES = {
    "system": "system",
    "developer": "developer",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "assistant": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function": "tool",
    "ipython": "tool",
}
"""Who speaks in other people's files, and what we call them."""
_CALLS = ("function_call", "tool_call")
"""Roles of a turn that calls a function, and of the key with which OpenAI once said so."""
FIELDS = ("reasoning_content", "thinking", "reasoning", "tool_calls", "tool_call_id", "name")
"""What a chat template may read besides role and content."""
OWN = ("role", "content", "train", "spans", "fields")
_MEDIA = ("image", "image_url", "input_image", "video", "video_url", "audio", "audio_url", "input_audio", "file", "document")

Turn = dict[str, Any]


def is_turns(value: Any) -> bool:
    """Whether a value is a list of messages, in whichever of their shapes."""
    return isinstance(value, list) and bool(value) and all(_is_turn(turn) for turn in value)


def _is_turn(value: Any) -> bool:
    return isinstance(value, Mapping) and ("role" in value or "from" in value)


def turns_of(given: Any, column: str) -> list[Turn]:
    """Return the messages of a column.

    Raises:
        UserError: it holds no messages, or one of them is not as it must be.
    """
    if not isinstance(given, list):
        raise UserError(f"'{column}' must be a list of messages, found {type(given).__name__}")
    return [_turn(turn, f"message {place} of '{column}'") for place, turn in enumerate(given, start=1)]


def _turn(given: Any, where: str) -> Turn:
    if not isinstance(given, Mapping):
        raise UserError(f"{where} must hold 'role' and 'content' (or 'from' and 'value'), found {type(given).__name__}")
    turn = {key: value for key, value in given.items() if value is not None and value != []}
    speaker, said = _renamed(turn, "from", "role", where), _renamed(turn, "value", "content", where)
    if not isinstance(speaker, str):
        raise UserError(f"{where} must hold 'role' and 'content' (or 'from' and 'value'), and its role is missing")
    fields = {key: turn.pop(key) for key in FIELDS if key in turn and turn[key] != ""}
    if speaker in _CALLS:
        fields["tool_calls"], said = list(_calls(said, where)), ""
        speaker = "assistant"
    elif "function_call" in turn:
        fields["tool_calls"] = list(_calls(turn.pop("function_call"), where))
    if speaker not in ROLES:
        raise UserError(f"{where} has the role '{speaker[:40]}', which is not known.{nearest(speaker, {*ROLES, *_CALLS})}")
    text, thought = _content(said, where, bool(fields.get("tool_calls")))
    if thought:
        fields.setdefault("reasoning_content", thought)
    found = {**turn, "role": ROLES[speaker], "content": text}
    _weigh(found, where)
    return {**found, "fields": fields} if fields else found


def _renamed(turn: Turn, theirs: str, ours: str, where: str) -> Any:
    """Take a value that stands under either of two names out of a turn."""
    if theirs in turn and ours in turn and turn[theirs] != turn[ours]:
        raise UserError(f"{where} has both '{theirs}' and '{ours}', and they differ; leave one of them out")
    return turn.pop(ours, turn.pop(theirs, None)) if ours in turn else turn.pop(theirs, None)


def _calls(said: Any, where: str) -> Iterator[Turn]:
    """Yield the calls of functions that a turn makes, in the form that chat templates read."""
    if isinstance(said, str):
        try:
            said = json.loads(said)
        except (ValueError, RecursionError):
            raise UserError(f"{where} must hold a call of a function as JSON, found {said[:40]!r}") from None
    for call in said if isinstance(said, list) else [said]:
        call = call.get("function", call) if isinstance(call, Mapping) else call
        if not isinstance(call, Mapping) or not isinstance(call.get("name"), str):
            raise UserError(f"{where} calls a function without its 'name'; found {json.dumps(call)[:60]}")
        yield {"type": "function", "function": {"name": call["name"], "arguments": call.get("arguments", {})}}


def _content(said: Any, where: str, calls: bool) -> tuple[str, str]:
    """Return the text of a message and the reasoning among its parts."""
    if isinstance(said, str):
        return said, ""
    if said is None:
        if calls:
            return "", ""
        raise UserError(f"{where} has no content (null)")
    if not isinstance(said, list):
        raise UserError(f"{where} must have a text or a list of parts as its content, found {type(said).__name__}")
    texts, thoughts = [], []
    for place, part in enumerate(said, start=1):
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        value = part.get("thinking" if kind == "thinking" else "text") if isinstance(part, Mapping) else part
        if not isinstance(value, str):
            told = "a picture, sound or file, which a text model can't be shown" if kind in _MEDIA else f"of type {kind!r}"
            raise UserError(f"part {place} of {where} must be a text, and is {told}")
        (thoughts if kind in ("thinking", "reasoning") else texts).append(value)
    return "".join(texts), "\n".join(thoughts)


def _weigh(turn: Turn, where: str) -> None:
    """Read ``weight`` (OpenAI, ShareGPT): 0 says that an answer must not learn, 1 that it does."""
    weight = turn.pop("weight", None)
    if weight is None:
        return
    if weight not in (0, 1):
        raise UserError(f"the weight of {where} must be 0 (does not learn) or 1 (learns), found {json.dumps(weight)[:20]}")
    if turn["role"] == "assistant":
        if turn.get("train", bool(weight)) is not bool(weight):
            raise UserError(f"'train' and 'weight' of {where} contradict each other")
        turn["train"] = bool(weight)


def text_of(content: Any) -> str | None:
    """Return the text of a message's content: of several parts those that are text; ``None`` where it is of another type."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list):
        texts = [part if isinstance(part, str) else part.get("text") for part in content if isinstance(part, str | Mapping)]
        return "\n".join(text for text in texts if isinstance(text, str))
    return None
