"""Trackers: who else hears of each step, and does anything leave this machine?

Trackers are the Trainer's, named in ``report_to``. They get every line of the step log that is flushed: the loss, the norm of
the gradient, and of each source its loss, its rows and its loss weight. What they write stays here unless the user says
otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from palimpsest.core.errors import UserError, first_line, nearest

PROJECT = "palimpsest"
_AT_HOME = {
    "WANDB_MODE": "offline",
    "WANDB_PROJECT": PROJECT,
    "MLFLOW_EXPERIMENT_NAME": PROJECT,
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""What is set where the user has not; TensorBoard and trackio write files and no more."""
_THEIRS = "transformers.integrations.integration_utils"


def tracker_problems(report_to: Sequence[str]) -> Iterator[str]:
    """Say which trackers of ``report_to`` there are not."""
    from transformers.integrations import integration_utils as trackers

    known, there = sorted(trackers.INTEGRATION_TO_CALLBACK), trackers.get_available_reporting_integrations()
    for name in report_to:
        if name not in known:
            yield f"report_to: there is no tracker '{name}'; there are {', '.join(known)}.{nearest(name, known)}"
        elif name not in there:
            yield f"report_to: '{name}' needs its package: pip install {name}"


@contextmanager
def at_home(report_to: Sequence[str]) -> Iterator[None]:
    """Keep trackers from the network where the user has not said otherwise, and end what they began.

    Weights & Biases would put several trainings of one process into one run.

    Raises:
        UserError: a tracker failed, with what it said.
    """
    unset = [name for name in _AT_HOME if name not in os.environ] if report_to else []
    os.environ.update({name: _AT_HOME[name] for name in unset})
    before = _open_run() if "wandb" in report_to else None
    try:
        yield
    except Exception as error:
        if (tracker := _at_fault(error)) is None:
            raise
        raise UserError(
            f"report_to: the tracker '{tracker}' stopped the training ({type(error).__name__}: {first_line(error)}); "
            "set it up, or leave it out"
        ) from error
    finally:
        if "wandb" in report_to and before is None and (opened := _open_run()) is not None:
            opened.finish()
        for name in unset:
            os.environ.pop(name, None)


def _open_run() -> Any:
    return import_module("wandb").run


def _at_fault(error: BaseException) -> str | None:
    """Return the tracker in whose callback an error was raised, by the name that ``report_to`` has for it."""
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__") == _THEIRS:
            kind = type(trace.tb_frame.f_locals.get("self"))
            return next((name for name, callback in INTEGRATION_TO_CALLBACK.items() if callback is kind), None)
        trace = trace.tb_next
    return None
