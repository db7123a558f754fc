"""Formats: in which other shapes do people keep their conversations?

Each is brought into ours, ``{"messages": [{"role", "content"}]}``, before anything else is looked at: prompt and completion (as
TRL has them, texts or messages) and its pairs of a chosen and a rejected answer, ShareGPT (``conversations`` of ``from`` and
``value``) and Alpaca (``instruction``, ``input``, ``output``). Keys that belong to none of them (an id, a source) are left
aside; ``template``, ``options``, ``check`` and ``rejected`` are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from palimpsest.core.errors import UserError, nearest

ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "assistant": "assistant",
}
"""Who speaks in ShareGPT files, and what we call them."""
_OURS = ("template", "options", "check", "rejected")

Turn = dict[str, Any]


def in_messages(line: Any) -> Any:
    """Return a line in our own shape; one that is already, or that is in no known shape, as it is.

    Raises:
        UserError: it is in a known shape, and something in it is not as it must be.
    """
    if not isinstance(line, Mapping) or "messages" in line:
        return line
    if "conversations" in line:
        turns = _share_gpt(line)
    elif "prompt" in line and "completion" in line:
        turns = [*_side(line["prompt"], "prompt", "user"), *_side(line["completion"], "completion", "assistant")]
    elif "chosen" in line and "rejected" in line:
        return _preference(line)
    elif "instruction" in line and "output" in line:
        turns = _alpaca(line)
    else:
        known = "'messages', 'prompt' and 'completion', 'conversations', or 'instruction' and 'output'"
        raise UserError(f"must hold {known}; found {', '.join(map(repr, line)) or 'nothing'}")
    return {"messages": turns, **{key: line[key] for key in _OURS if key in line}}


def _share_gpt(line: Mapping[str, Any]) -> list[Turn]:
    given = line["conversations"]
    if not isinstance(given, list):
        raise UserError(f"'conversations' must be a list of turns, found {type(given).__name__}")
    turns = [{"role": "system", "content": _text(line, "system")}] if line.get("system") else []
    for place, turn in enumerate(given, start=1):
        if not isinstance(turn, Mapping) or "from" not in turn or "value" not in turn:
            raise UserError(f"turn {place} of 'conversations' must hold 'from' and 'value'")
        speaker = _text(turn, "from")
        if speaker not in ROLES:
            raise UserError(
                f"turn {place} is from '{speaker}', which is no known role; there are {', '.join(ROLES)}."
                f"{nearest(speaker, ROLES)}"
            )
        turns.append({"role": ROLES[speaker], "content": _text(turn, "value")})
    return turns


def _preference(line: Mapping[str, Any]) -> Any:
    """Return a pair of answers as one conversation with a worse answer. A prompt may stand apart, or begin both sides."""
    prompt = _side(line["prompt"], "prompt", "user") if "prompt" in line else []
    chosen, rejected = (_side(line[name], name, "assistant") for name in ("chosen", "rejected"))
    if not prompt:
        prompt, chosen = chosen[:-1], chosen[-1:]
        before, rejected = rejected[:-1], rejected[-1:]
        if before != prompt:
            raise UserError("'chosen' and 'rejected' must begin with the same messages")
    if len(chosen) != 1 or len(rejected) != 1 or "content" not in rejected[0]:
        raise UserError("'chosen' and 'rejected' must be one answer each")
    kept = {key: line[key] for key in _OURS if key in line and key != "rejected"}
    return {"messages": [*prompt, *chosen], **kept, "rejected": rejected[0]["content"]}


def _side(given: Any, name: str, role: str) -> list[Turn]:
    """Return one side of a prompt and completion: a text, or messages."""
    if isinstance(given, str):
        return [{"role": role, "content": given}]
    if isinstance(given, list) and all(isinstance(turn, dict) for turn in given):
        return given
    raise UserError(f"'{name}' must be a text or a list of messages, found {type(given).__name__}")


def _alpaca(line: Mapping[str, Any]) -> list[Turn]:
    turns = [{"role": "system", "content": _text(line, "system")}] if line.get("system") else []
    history = line.get("history") or []
    if not isinstance(history, list):
        raise UserError(f"'history' must be a list of pairs of texts, found {type(history).__name__}")
    for place, pair in enumerate(history, start=1):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(side, str) for side in pair):
            raise UserError(f"entry {place} of 'history' must be a pair of texts")
        turns += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    asked = _text(line, "instruction")
    if line.get("input"):
        asked = f"{asked}\n\n{_text(line, 'input')}"
    return [*turns, {"role": "user", "content": asked}, {"role": "assistant", "content": _text(line, "output")}]


def _text(line: Mapping[str, Any], key: str) -> str:
    if not isinstance(line[key], str):
        raise UserError(f"'{key}' must be a text, found {type(line[key]).__name__}")
    return line[key]


def text_of(content: Any) -> str | None:
    """Return the text of a message's content: of several parts those that are text; ``None`` where it is of another type."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list):
        texts = [part if isinstance(part, str) else part.get("text") for part in content if isinstance(part, str | Mapping)]
        return "\n".join(text for text in texts if isinstance(text, str))
    return None
