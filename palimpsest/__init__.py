"""Palimpsest: change one behaviour of a language model, then see everything else that moved.

``palimpsest.run`` trains and audits, ``palimpsest.tune`` finds how little training it takes, ``palimpsest.dream`` trains on the
model's own failures, ``palimpsest.diff`` audits any two checkpoints, ``palimpsest.study`` answers one question with many runs,
``palimpsest.load_report`` opens a stored run. The command line calls the same functions.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from palimpsest import dream
    from palimpsest.api import Run, diff, load_report, run
    from palimpsest.study_runner import run_study
    from palimpsest.controller import tune

try:
    __version__ = version("palimpsest-lm")
except PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0+unknown"

__all__ = ["Run", "__version__", "diff", "dream", "load_report", "run", "study", "tune"]


def __getattr__(name: str) -> Any:
    """Import the interface on first use, so that ``palimpsest --help`` needs no torch."""
    if name in ("Run", "diff", "load_report", "run"):
        from palimpsest import api

        return getattr(api, name)
    if name == "run_study":
        from palimpsest.study_runner import run_study

        return run_study
    if name == "tune":
        from palimpsest.controller import tune

        return tune
    if name == "dream":  # a package that is called like a function
        import importlib

        return importlib.import_module("palimpsest.dream")
    raise AttributeError(f"module 'palimpsest' has no attribute '{name}'")
