"""Chat template: which text does a tokenizer's template make of a conversation, and on which date?

transformers' own rendering, with two things of its environment replaced: what it compiles ends (``templates``), and the clock
of ``strftime_now`` stands still, so that a model that is asked today reads what one that was asked yesterday read.
"""

from __future__ import annotations

import importlib
import types
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time
from functools import cache, lru_cache, partial
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import TemplateError

from palimpsest.data.templates import BoundedEnvironment

_CLOCK = "strftime_now"
_NOON = time(12)
"""The hour that a template is told: it would ask each model of a pair at another one."""


def today() -> str:
    """Return the date that a template which writes one is given, where nothing says another: ``2026-07-30``."""
    return date.today().isoformat()


def writes_date(template: Any) -> bool:
    """Whether a chat template (or one of several by name) asks for today's date; one that can't be read asks for nothing."""
    if isinstance(template, Mapping):
        return any(map(writes_date, template.values()))
    return isinstance(template, str) and _CLOCK in template and _reads_clock(template)


@lru_cache
def _reads_clock(template: str) -> bool:
    try:
        return any(name.name == _CLOCK for name in _environment().parse(template).find_all(nodes.Name))
    except (TemplateError, RecursionError):
        return False


def pinned(template: Any, day: str | None = None) -> str | None:
    """Return the date that a template is given (today's, where none is said), or ``None`` where it writes no date."""
    return (day or today()) if writes_date(template) else None


def render(tokenizer: Any, messages: Sequence[Mapping[str, Any]], day: str | None, **more: Any) -> str:
    """Return the text that a tokenizer's template makes of one conversation.

    Args:
        tokenizer: with a chat template.
        messages: with ``role`` and ``content``.
        day: what a template that writes today's date is given; today's own where it is ``None``.
        more: ``add_generation_prompt``, ``tools`` and other variables of the template.

    Raises:
        TooMuch: it doesn't end within reason.
        jinja2.TemplateError: it refuses the conversation.
    """
    given = [{key: value for key, value in message.items() if value is not None} for message in messages]
    names = {**tokenizer.special_tokens_map, **more}
    template = tokenizer.get_chat_template(None, more.get("tools"))
    texts, _ = _rendering(day or today())(conversations=[given], chat_template=template, **names)
    return texts[0]


def _theirs() -> Any:
    # by name: what reads no model can be imported without transformers
    return importlib.import_module("transformers.utils.chat_template_utils")


@cache
def _environment() -> BoundedEnvironment:
    return BoundedEnvironment(_theirs()._compile_jinja_template("").environment)


@lru_cache(maxsize=8)
def _rendering(day: str) -> Callable[..., Any]:
    """Return transformers' function that renders, with a compiler of ours: nothing of theirs is changed for others."""
    theirs = _theirs().render_jinja_template
    names = {**theirs.__globals__, "_compile_jinja_template": partial(_compiled, day)}
    ours = types.FunctionType(theirs.__code__, names, theirs.__name__, theirs.__defaults__, theirs.__closure__)
    ours.__kwdefaults__ = theirs.__kwdefaults__
    return ours


@lru_cache
def _compiled(day: str, template: str) -> Any:
    clock = datetime.combine(date.fromisoformat(day), _NOON)
    return _environment().from_string(template, globals={_CLOCK: clock.strftime})
