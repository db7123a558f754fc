"""Palimpsest: change one behaviour of a language model, then see everything else that moved.

``palimpsest.run`` trains and audits, ``palimpsest.tune`` finds how little training it takes, ``palimpsest.dream`` trains on the
model's own failures, ``palimpsest.diff`` audits any two checkpoints, ``palimpsest.compare`` compares two evaluations item by
item, whoever made them, ``palimpsest.study`` answers one question with many runs, ``palimpsest.load_report`` opens a stored
run. The command line calls the same functions.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from palimpsest.api import Comparison, Run, compare, diff, load_report, run
    from palimpsest.controller import tune
    from palimpsest.dreaming.interface import dream
    from palimpsest.study_runner import study

    __version__: str

__all__ = ["Comparison", "Run", "__version__", "compare", "diff", "dream", "load_report", "run", "study", "tune"]

_HOMES = {
    **dict.fromkeys(("Comparison", "Run", "compare", "diff", "load_report", "run"), "palimpsest.api"),
    "tune": "palimpsest.controller",
    "dream": "palimpsest.dreaming.interface",
    "study": "palimpsest.study_runner",
}


def __getattr__(name: str) -> Any:
    """Import the interface on first use, so that ``palimpsest --help`` needs no torch; and look up the version likewise."""
    if name == "__version__":
        return _version()
    if name not in _HOMES:
        raise AttributeError(f"module 'palimpsest' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("palimpsest-lm")
    except PackageNotFoundError:  # a checkout that was never installed
        return "0+unknown"
