"""World of lm-eval: how does its code run inside this program without a trace?

It prints, draws random numbers from global streams, fetches data, and renders templates that could reach into Python. Inside
these blocks it is silent, starts from its own usual seeds, stays off the network where it should, and its templates are
sandboxed; afterwards everything is as it was.
"""

from __future__ import annotations

import io
import logging
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import numpy as np
import regex

from palimpsest.data.templates import BoundedEnvironment, TooMuch
from palimpsest.models.quiet import quiet

RANDOM_SEED, NUMPY_SEED, FEWSHOT_SEED = 0, 1234, 1234
"""lm-eval's own defaults: the same documents and the same examples before a question as its command line has."""
_SECONDS = 5.0
_PATTERN_SECONDS = 5.0


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
    """Let no data be looked for on the network, so that what is not here is known at once."""
    import huggingface_hub
    from datasets import config

    places = (
        (config, "HF_HUB_OFFLINE"),
        (config, "HF_DATASETS_OFFLINE"),
        (huggingface_hub.constants, "HF_HUB_OFFLINE"),
    )
    before = [getattr(place, name) for place, name in places]
    try:
        for place, name in places:
            setattr(place, name, True)
        yield
    finally:
        for (place, name), value in zip(places, before, strict=True):
            setattr(place, name, value)


def why_offline() -> str:
    """Return why the hub can't be asked for data, in words; empty where it can."""
    from datasets import config
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE or config.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE (or HF_DATASETS_OFFLINE) is set"
    try:
        get_session().head(constants.ENDPOINT, timeout=_SECONDS)
    except Exception:  # whatever keeps it from being reached
        return f"{constants.ENDPOINT} can't be reached"
    return ""
