"""World of lm-eval: how does its code run inside this program without a trace?

It prints, draws random numbers from global streams, fetches data, and renders templates that could reach into Python. Inside
these blocks it is silent, starts from its own usual seeds, stays off the network where it should, and its templates are
sandboxed; afterwards everything is as it was.
"""

from __future__ import annotations

import io
import logging
import random
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import numpy as np
import regex

from palimpsest.data.templates import BoundedEnvironment, TooMuch
from palimpsest.models.quiet import offline as hub_offline
from palimpsest.models.quiet import quiet

RANDOM_SEED, NUMPY_SEED, FEWSHOT_SEED = 0, 1234, 1234
"""lm-eval's own defaults: the same documents and the same examples before a question as its command line has."""
_PATTERN_SECONDS = 5.0
_INHERITED = object()


@contextmanager
def theirs() -> Iterator[None]:
    """Run lm-eval's code silently, from its own seeds, with sandboxed templates."""
    streams = random.getstate(), np.random.get_state()
    with _silent():
        import lm_eval.tasks  # noqa: F401 - what it imports has much to say
        from lm_eval import utils

        templates = utils.env
        try:
            random.seed(RANDOM_SEED)
            np.random.seed(NUMPY_SEED)
            utils.env = _sandboxed(templates)
            yield
        finally:
            utils.env = templates
            random.setstate(streams[0])
            np.random.set_state(streams[1])


@contextmanager
def _silent() -> Iterator[None]:
    disabled = logging.root.manager.disable
    try:
        logging.disable(logging.CRITICAL)
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings(), quiet():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _sandboxed(templates: Any) -> Any:
    """Return its environment with templates that end; a pattern is theirs too, and has a time limit."""
    if "regex_replace" in templates.filters:
        templates = templates.overlay()
        templates.filters = {**templates.filters, "regex_replace": _regex_replace}
    return BoundedEnvironment(templates)


def _regex_replace(text: str, pattern: str, replacement: str, count: int = 0) -> str:
    try:
        return regex.sub(pattern, replacement, text, count=count, timeout=_PATTERN_SECONDS)
    except TimeoutError:
        raise TooMuch(f"the pattern {pattern[:60]!r} takes more than {_PATTERN_SECONDS:g} s on one text") from None


@contextmanager
def offline() -> Iterator[None]:
    """Let nothing be asked of a network: what is not on this machine is told at once, and nobody learns what is looked for."""
    from datasets import config

    places = (
        (config, "HF_HUB_OFFLINE", True),
        (config, "HF_DATASETS_OFFLINE", True),
        (socket, "getaddrinfo", _refuse),
        (socket.socket, "connect", _refuse),
        (socket.socket, "connect_ex", _refuse),
    )
    before = [vars(place).get(name, _INHERITED) for place, name, _ in places]
    try:
        for place, name, value in places:
            setattr(place, name, value)
        with hub_offline():
            yield
    finally:
        for (place, name, _), value in zip(places, before, strict=True):
            if value is _INHERITED:
                delattr(place, name)
            else:
                setattr(place, name, value)


def _refuse(*_: Any, **__: Any) -> Any:
    raise ConnectionError("nothing is asked of a network here")
