"""Palimpsest: change one behaviour of a language model, then see everything else that moved.

``palimpsest.run`` trains and audits, ``palimpsest.tune`` finds how little training it takes, ``palimpsest.dream`` trains on the
model's own failures, ``palimpsest.diff`` audits any two checkpoints, ``palimpsest.compare`` compares two evaluations item by
item, whoever made them, ``palimpsest.study`` answers one question with many runs, ``palimpsest.load_report`` opens a stored
run. The command line calls the same functions.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from palimpsest.api import Comparison, Run, compare, diff, load_report, run
    from palimpsest.controller import tune
    from palimpsest.dreaming.interface import dream
    from palimpsest.study_runner import study

try:
    __version__ = version("palimpsest-lm")
except PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0+unknown"

__all__ = ["Comparison", "Run", "__version__", "compare", "diff", "dream", "load_report", "run", "study", "tune"]

_HOMES = {
    **dict.fromkeys(("Comparison", "Run", "compare", "diff", "load_report", "run"), "palimpsest.api"),
    "tune": "palimpsest.controller",
    "dream": "palimpsest.dreaming.interface",
    "study": "palimpsest.study_runner",
}


def __getattr__(name: str) -> Any:
    """Import the interface on first use, so that ``palimpsest --help`` needs no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'palimpsest' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
