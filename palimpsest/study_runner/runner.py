"""Runner: which points are done, which may start now, and what is told of those that failed?"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from palimpsest import api
from palimpsest.core import roles
from palimpsest.core.errors import Problems, UserError
from palimpsest.core.progress import Progress, Silent
from palimpsest.core.spec import digest
from palimpsest.core.wording import spell
from palimpsest.store.account import Account, Member
from palimpsest.store.run_folder import RunFolder, RunReader
from palimpsest.studies._study import Grid, Point, Reading, Study, reading
from palimpsest.study_runner.executors import Executor, Task

POINTS = "points"
_CHECKED = "checked"


@dataclass(frozen=True)
class Checked:
    """A study whose every point could be planned."""

    name: str
    study: Study
    grid: Grid
    points: tuple[Point, ...]
    identity: dict[str, Any]
    """What makes this study this one; its folder belongs to it alone."""


def check(name: str, study: Study, grid: Grid, folder: Path, progress: Progress | None = None) -> Checked:
    """Plan every point without starting any work; a study that was checked before is not checked twice.

    Raises:
        UserError: what is wrong with any of the points, all of it at once.
    """
    progress = progress or Silent()
    points = study.points(grid)
    problems = Problems(f"The study '{name}' can't be run:")
    _check_order(points, problems)
    problems.raise_if_any()
    settings = one_of_each(points)
    progress.begin("checking the runs", len(settings))
    wrong: dict[str, list[str]] = {}
    base = _planned(study, points[0], wrong)
    identity = {
        "study": name,
        "grid": grid,
        "parameters": study.model_dump(mode="json"),
        "model": base.identity["models"]["base"] if base else "",
        "runs": digest([point.model_dump(mode="json") for point in points]),  # another version may make other runs of it
    }
    if base is None or not _was_checked(folder, identity):
        for done, point in enumerate(settings[1:], start=1):
            progress.at(done, len(settings))
            _planned(study, point, wrong)
    for told, where in wrong.items():
        problems.add(f"{where[0]}{f' and {len(where) - 1} more' if len(where) > 1 else ''}: {told}")
    problems.raise_if_any()
    return Checked(name, study, grid, points, identity)


def _check_order(points: Sequence[Point], problems: Problems) -> None:
    """Check that what a point needs comes before it, which also rules out circles."""
    before: set[str] = set()
    if not points:
        problems.add("it has no runs at all; give it more than one value to compare")
    for point in points:
        problems.extend(
            f"run '{point.name}' needs '{name}', which does not come before it" for name in point.needs if name not in before
        )
        before.add(point.name)


def one_of_each(points: Sequence[Point]) -> list[Point]:
    """Return the first point of every setting: those of other seeds read other examples of the same sources, as many."""
    first: dict[str, Point] = {}
    for point in points:
        first.setdefault(point.setting, point)
    return list(first.values())


def _planned(study: Study, point: Point, wrong: dict[str, list[str]]) -> Any:
    """Plan a point on the study's own model (the one that it will start from has the same shape), or note what is wrong."""
    try:
        return api.plan(study.request(point))
    except UserError as error:
        lines = str(error).splitlines()
        told = " ".join(line.strip().removeprefix("- ") for line in lines[1:]) or lines[0]
        wrong.setdefault(told, []).append(point.setting)
        return None


def _was_checked(folder: Path, identity: dict[str, Any]) -> bool:
    try:
        reader = RunReader(folder)
        return reader.committed(_CHECKED) and reader.read_json("spec.json") == identity
    except UserError:
        return False


@dataclass(frozen=True)
class Finished:
    """What is kept in memory of a finished run."""

    reading: Reading
    models: dict[str, str]
    """Folder of the model of each role that it trained, from the run's own folder."""
    notes: tuple[str, ...]
    provenance: dict[str, Any]


@dataclass
class Progressing:
    """Which points are where."""

    checked: Checked
    home: RunFolder
    done: dict[str, Finished] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)
    seconds: list[float] = field(default_factory=list)

    @property
    def waiting(self) -> list[Point]:
        return [one for one in self.checked.points if one.name not in {*self.done, *self.failed, *self.running}]

    def ready(self) -> list[Point]:
        """Return the points that may start now; what needs a failed one fails with it."""
        for point in self.waiting:
            if lost := [name for name in point.needs if name in self.failed]:
                self.failed[point.name] = f"it needs the run '{lost[0]}', which failed"
        return [point for point in self.waiting if all(name in self.done for name in point.needs)]

    def folder(self, name: str) -> Path:
        return self.home.path / POINTS / name

    def told(self, jobs: int) -> str:
        """Return how it goes, in one line."""
        total = len(self.checked.points)
        parts = [f"{len(self.done)} of {total} runs done", f"{len(self.running)} running"]
        parts += [f"{len(self.failed)} failed"] if self.failed else []
        left = total - len(self.done) - len(self.failed)
        if self.seconds and left:
            seconds = sum(self.seconds) / len(self.seconds) * left / jobs
            parts.append(f"about {spell(seconds)} left")
        return f"{self.checked.name}: " + ", ".join(parts)


def finish(checked: Checked, folder: Path, start: Callable[[], Executor], progress: Progress | None = None) -> Account:
    """Carry out the points that are not done, and write the account and its page.

    Raises:
        UserError: the folder holds something else or is in use; an executor that can't start; not one finished run.
    """
    progress = progress or Silent()
    with RunFolder(folder, checked.identity) as home:
        home.commit(_CHECKED)
        state = Progressing(checked, home)
        for point in checked.points:
            if (record := _finished(state.folder(point.name))) is not None:
                state.done[point.name] = record
                state.seconds += _noted(home, point.name)
        if state.waiting:
            with start() as work:
                _carry_out(state, work, progress)
        progress.begin("telling what they say together")
        account = _account(state)
        api.write_account(account, home.path)
    return account


def _carry_out(state: Progressing, work: Executor, progress: Progress) -> None:
    """Keep the executor busy. The first run is alone, so that the time for the rest is known before it starts."""
    total, handles, since = len(state.checked.points), {}, {}
    while state.ready() or state.running:
        most = work.jobs if state.seconds or state.failed else 1
        for point in state.ready()[: max(0, most - len(state.running))]:
            handles[point.name] = work.submit(_task(state, point))
            since[point.name] = time.monotonic()
            state.running.add(point.name)
        progress.begin(state.told(work.jobs), total)
        progress.at(len(state.done) + len(state.failed), total)
        for name in work.wait({name: handles[name] for name in state.running}):
            problem = work.problem(handles.pop(name))
            state.running.discard(name)
            _note(state, name, problem, time.monotonic() - since[name], progress)


def _note(state: Progressing, name: str, problem: str, seconds: float, progress: Progress) -> None:
    record = None if problem else _finished(state.folder(name))
    if record is None:
        state.failed[name] = problem or "it ended without leaving a record"
        progress.tell(f"the run '{name}' failed: {state.failed[name]}")
        return
    first = not state.seconds
    state.done[name] = record
    state.seconds.append(seconds)
    state.home.commit(f"{POINTS}/{name}", {"seconds": round(seconds, 1)})
    if first and len(state.checked.points) > 1:
        progress.tell(f"the first run took {spell(seconds)}; there are {len(state.checked.points)}")


def _task(state: Progressing, point: Point) -> Task:
    """Return what a worker is told: the request, with the models of the points that this one needs."""

    def model(name: str, role: str) -> str:
        return str(state.folder(name) / state.done[name].models[role])

    base = model(point.after, "tuned") if point.after else ""
    runs = roles.controls(state.done[point.control].models) if point.control else []
    controls = {role: model(point.control, role) for role in runs}
    request = state.checked.study.request(point, base, controls)
    return Task(
        point=point.name,
        request=request.model_dump(mode="json"),
        folder=str(state.folder(point.name)),
        directory=str(Path.cwd()),
    )


def _finished(folder: Path) -> Finished | None:
    """Return a finished point, or ``None`` where it is not finished or not whole."""
    if not (folder / "report.html").is_file():  # written last
        return None
    try:
        record = api.load_report(folder).record
    except UserError:
        return None
    shared = {key: value for key, value in record.provenance.items() if key not in ("command", "seeds", "digests")}
    return Finished(reading(record), record.models, record.notes, shared)


def _noted(home: RunFolder, name: str) -> list[float]:
    note = home.commit_note(f"{POINTS}/{name}")
    return [float(note["seconds"])] if isinstance(note, dict) and "seconds" in note else []


def _account(state: Progressing) -> Account:
    checked = state.checked
    done = {point.name: state.done[point.name] for point in checked.points if point.name in state.done}
    if not done:
        reasons = dict.fromkeys(state.failed.values())
        raise UserError("not one run could be finished:\n" + "\n".join(f"  - {reason}" for reason in reasons))
    told = checked.study.collect({name: one.reading for name, one in done.items()}, checked.grid)
    sections = checked.study.sections()
    return Account(
        kind="study",
        title=checked.name.replace("_", " "),
        question=sections.get("Question", ""),
        label="described",
        headline=told.headline,
        sure=told.sure,
        reasons=(*told.reasons, *_lost(state)),
        parts=(
            *(one.model_copy(update={"details": {**sections, **one.details}}) for one in told.parts[:1]),
            *told.parts[1:],
        ),
        members=tuple(_member(state, point) for point in checked.points),
        estimates=told.estimates,
        notes=tuple(dict.fromkeys(note for one in done.values() for note in one.notes)),
        provenance=_provenance(checked, next(iter(done.values()))),
        specification=checked.identity,
    )


def _lost(state: Progressing) -> list[str]:
    if not state.failed:
        return []
    return [
        f"{len(state.failed)} of {len(state.checked.points)} runs failed and are missing here; the same command tries again"
    ]


def _member(state: Progressing, point: Point) -> Member:
    folder = f"{POINTS}/{point.name}"
    if point.name in state.done:
        return Member(name=point.name, folder=folder, state="finished", told=state.done[point.name].reading.headline)
    if point.name in state.failed:
        return Member(name=point.name, folder=folder, state="failed", told=state.failed[point.name])
    return Member(name=point.name, folder="", state="not done", told="")


def _provenance(checked: Checked, one: Finished) -> dict[str, Any]:
    """Return with what the runs were made, as the first of them noted it; nothing that depends on where or how they ran."""
    return {
        **one.provenance,
        "seeds": list(checked.study.train_seeds),
        "digests": {"base": checked.identity["model"]},
        "command": list(command(checked)),
    }


def command(checked: Checked) -> tuple[str, ...]:
    """Return the command line that asks for this study, in its shortest form; a behaviour not in the library is a file."""
    study = checked.study
    words = ["palimpsest", "study", checked.name, "--model", study.model]
    words += ["--behaviour", study.behaviour.written]
    words += ["--grid", checked.grid] if checked.grid != "default" else []
    for name in sorted(study.model_fields_set - {"model", "behaviour"}):
        value = getattr(study, name)
        if value != type(study).model_fields[name].default:
            said = ",".join(map(str, value)) + ("," if len(value) < 2 else "") if isinstance(value, tuple) else str(value)
            words += [f"--{name}", said] if name in ("seeds", "device", "dtype") else ["--set", f"{name}={said}"]
    return tuple(words)
