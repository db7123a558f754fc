"""Study runner: how do the points of a study become finished runs, and these an account?

``study`` checks every point before any work, carries the points out (``executors``), and tells what they say together. It
may be killed at any moment; the same call goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_origin

from palimpsest import behaviour as behaviours
from palimpsest.api import RUNS
from palimpsest.behaviour import Behaviour
from palimpsest.core.progress import Progress
from palimpsest.core.spec import digest
from palimpsest.store.account import Account
from palimpsest.studies import _study as studies
from palimpsest.studies._study import Grid, Study
from palimpsest.study_runner.executors import check_executor, executor
from palimpsest.study_runner.foresight import foresee_study as foresee
from palimpsest.study_runner.runner import Checked, check, finish


def load(name: str, behaviour: str | Path | Behaviour = "directions", parameters: Mapping[str, Any] | None = None) -> Study:
    """Return a study with its parameters.

    Args:
        name: of the study.
        behaviour: a name in the library, a YAML file, or a ``Behaviour``.
        parameters: fields of the study (``model``, ``seeds``, ``doses`` ...).

    Raises:
        UserError: there is no such study or behaviour, or a parameter that can't be, with the nearest name.
    """
    kind = studies.find(name)
    loaded = behaviours.load(behaviour)
    given = {key: _as_list(kind, key, value) for key, value in (parameters or {}).items()}
    return kind.read({**given, "behaviour": loaded}, f"the study '{name}'")


def _as_list(kind: type[Study], key: str, value: Any) -> Any:
    """Return one value as a list of one, where the parameter is a list (``--set doses=200``)."""
    known = kind.model_fields.get(key)
    is_list = known is not None and get_origin(known.annotation) is tuple
    return [value] if is_list and not isinstance(value, list | tuple) else value


def folder_for(name: str, study: Study, grid: Grid) -> Path:
    """Return the folder in which this very study runs."""
    return RUNS / f"{name.replace('_', '-')}-{digest([name, grid, study.model_dump(mode='json')])[:8]}"


def study(
    name: str,
    model: str | Path = "pocket",
    behaviour: str | Path | Behaviour = "directions",
    *,
    grid: Grid = "default",
    jobs: int | None = None,
    executor: str = "local",
    ray_address: str | None = None,
    folder: str | Path | None = None,
    progress: Progress | None = None,
    **parameters: Any,
) -> Account:
    """Carry out a study, or the rest of it, and write its account and report.

    Args:
        name: of the study.
        model: a Hugging Face folder, a hub id, or ``"pocket"``.
        behaviour: a name in the library, a YAML file, or a ``Behaviour``.
        grid: ``"default"`` ends within an hour on two cores with the embedded model; ``"full"`` is all of it.
        jobs: runs at once; by default as many as there are cores, at most 4.
        executor: ``"local"`` (processes of this machine) or ``"ray"``.
        ray_address: of a Ray cluster that is there; without it one is started here.
        folder: the study's own folder; by default ``runs/NAME-HASH``, so that the same call goes on with its own study.
        progress: who is told how it goes.
        parameters: fields of the study (``seeds``, ``doses`` ...).

    Raises:
        UserError: what is wrong with the study, before any work starts; or that not one of its runs could be finished.
    """
    check_executor(executor, jobs, ray_address)
    study = load(name, behaviour, {"model": str(model), **parameters})
    where = Path(folder) if folder else folder_for(name, study, grid)
    return carry_out(check(name, study, grid, where, progress), where, jobs, executor, ray_address, progress)


def carry_out(
    checked: Checked,
    folder: Path,
    jobs: int | None = None,
    kind: str = "local",
    ray_address: str | None = None,
    progress: Progress | None = None,
) -> Account:
    """Do what was checked, or the rest of it."""
    return finish(checked, folder, lambda: executor(kind, jobs, ray_address), progress)


__all__ = ["Checked", "carry_out", "check", "check_executor", "folder_for", "foresee", "load", "study"]
