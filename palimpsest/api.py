"""Interface: what a notebook calls; the command line calls the same.

>>> import palimpsest
>>> result = palimpsest.run("directions")
>>> result.verdict.headline
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from palimpsest import behaviour as behaviours
from palimpsest.behaviour import Behaviour
from palimpsest.core import launch, roles
from palimpsest.core.errors import UserError
from palimpsest.core.estimate import Estimate
from palimpsest.core.progress import Progress, Silent
from palimpsest.core.spec import digest
from palimpsest.report import render_account
from palimpsest.request import Request
from palimpsest.store import account as accounts
from palimpsest.store import seal
from palimpsest.store.account import Account
from palimpsest.store.atomic import to_json, write_bytes
from palimpsest.store.record import RunRecord
from palimpsest.verdict import Verdict

if TYPE_CHECKING:
    from palimpsest.planning import Plan

RUNS = Path("runs")


@dataclass(frozen=True, repr=False)
class Run:
    """A finished run: its record, and the folder with everything that it is made of."""

    record: RunRecord
    folder: Path

    @property
    def verdict(self) -> Verdict:
        return self.record.verdict

    @property
    def report(self) -> Path:
        """The report's file; written when it is not there yet."""
        path = self.folder / "report.html"
        if not path.exists():
            write_report(self.record, self.folder)
        return path

    def estimates(self, audit: str) -> dict[str, Estimate]:
        """Return the estimates of one audit (first seed).

        Raises:
            UserError: the audit did not run or could not answer.
        """
        for outcome in self.record.seeds[0].outcomes:
            if outcome.audit == audit:
                if outcome.result is None:
                    raise UserError(f"{audit} could not say: {outcome.why}")
                return dict(outcome.result.estimates)
        raise UserError(f"{audit} did not run; there are {', '.join(one.audit for one in self.record.seeds[0].outcomes)}")

    def __repr__(self) -> str:
        return f"<Run {self.record.title}: {self.verdict.headline}; folder {self.folder}; report {self.folder / 'report.html'}>"

    def _repr_html_(self) -> str:
        from palimpsest.report import fragment

        return fragment(self.record)


def run(
    behaviour: str | Path | Behaviour,
    model: str | Path = "pocket",
    *,
    tasks: Iterable[str | Path] = (),
    folder: str | Path | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Run:
    """Change a behaviour of a model, audit what moved, and write a report.

    Args:
        behaviour: a name in the library, a YAML file, or a ``Behaviour``.
        model: a Hugging Face folder, a hub id, ``"pocket"`` or ``"hybrid-pocket"``.
        tasks: tasks of lm-eval that are not to get worse, by name or as YAML files.
        folder: the run's folder; by default ``runs/NAME-HASH``, so that the same call goes on with its own run.
        progress: who is told how it goes.
        settings: fields of ``palimpsest.request.Request`` (``seeds``, ``audits``, ``text``, ``device`` ...).

    Raises:
        UserError: what is wrong with the request, before any work starts.
    """
    loaded = behaviours.load(behaviour)
    data = {"kind": "run", "base": str(model), "behaviour": loaded, "tasks": _named(tasks), **_plain(settings)}
    request = Request.read(data, "the request")
    return _execute(request, folder, progress)


def diff(
    base: str | Path,
    tuned: str | Path,
    *,
    behaviour: str | Path | Behaviour | None = None,
    text: Iterable[str | Path] = (),
    tasks: Iterable[str | Path] = (),
    controls: Mapping[str, str | Path | Sequence[str | Path]] | None = None,
    folder: str | Path | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Run:
    """Audit any two checkpoints with the same tokens, whoever made them, and write a report.

    Args:
        base: the model before.
        tuned: the model after; also a PEFT adapter.
        behaviour: what was meant to change, if that is known.
        text: files of general text on which forgetting and divergence are measured.
        tasks: as in ``run``.
        controls: other models by role, such as ``{"rehearsal_only": PATH}``, or a list of several runs of that control.
        folder: as in ``run``.
        progress: as in ``run``.
        settings: as in ``run``.

    Raises:
        UserError: what is wrong with the request, before any work starts.
    """
    loaded = None if behaviour is None else behaviours.load(behaviour)
    data = {
        "kind": "diff",
        "base": str(base),
        "tuned": str(tuned),
        "behaviour": loaded,
        "text": tuple(Path(path) for path in text),
        "tasks": _named(tasks),
        "controls": roles.numbered(_each(controls or {})),
        **_plain(settings),
    }
    return _execute(Request.read(data, "the request"), folder, progress)


@dataclass(frozen=True, repr=False)
class Comparison:
    """Two logs, compared: what it comes to, and the folder with the report and every pair (``pairs.jsonl``)."""

    account: Account
    folder: Path
    regression: bool
    """Whether anything is worse by more than its margin, for sure."""

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    @property
    def estimates(self) -> dict[str, Estimate]:
        """The change of every metric of every task, by ``"TASK METRIC"``."""
        return dict(self.account.estimates)

    def __repr__(self) -> str:
        return f"<Comparison {self.account.title}: {self.account.headline}; report {self.report}>"


def compare(
    before: str | Path,
    after: str | Path,
    *,
    cluster: str | None = None,
    margin: float | Mapping[str, float] | None = None,
    better: Mapping[str, Literal["higher", "lower"]] | None = None,
    metrics: Iterable[str] = (),
    tasks: Iterable[str] = (),
    folder: str | Path | None = None,
) -> Comparison:
    """Compare two evaluations of the same tasks item by item, and write a report.

    Args:
        before: an inspect log (``.eval``, ``.json``), a samples file of lm-eval, a run of ours, or a folder of logs.
        after: another one of the same kind.
        cluster: the field of a sample's metadata (inspect) or of a document (lm-eval) whose value is its cluster.
        margin: what counts as unchanged: a number for all scores between 0 and 1 (0.05 by default), or a size for each metric
            by its name, in its own unit (``""`` for all scores between 0 and 1).
        better: which direction of a metric is better, where the log does not say.
        metrics: only these; all that are in both logs by default.
        tasks: only these; all that are in both logs by default.
        folder: where the report is written; by default ``runs/compare-NAMES-HASH``.

    Raises:
        UserError: what is wrong with the logs, all of it at once.
    """
    from palimpsest.evaluations import account as telling
    from palimpsest.evaluations import comparison
    from palimpsest.evaluations.paired import Options
    from palimpsest.store.provenance import packages
    from palimpsest.store.run_folder import RunFolder

    options = Options.given(margin, better, metrics)
    found = comparison.carry_out(Path(before), Path(after), options, cluster=cluster, tasks=tuple(tasks))
    told = telling.account(found, packages(("palimpsest-lm",)))
    spec = {"kind": "compare", **told.specification, "cluster": cluster, "files": dict(found.digests)}
    where = Path(folder) if folder else RUNS / f"compare-{'-'.join(found.names)}-{digest(spec)[:8]}".replace(" ", "-")
    with RunFolder(where, spec) as held:
        held.write_text("pairs.jsonl", comparison.lines(found))
        write_account(told, where)
    return Comparison(told, where, telling.is_regression(found))


def load_report(folder: str | Path) -> Run:
    """Open a finished run.

    Raises:
        UserError: the folder holds no finished run, or a record that is not what was written.
    """
    path = Path(folder)
    try:
        raw = (path / "record.json").read_bytes()
        files = (seal.read(path) or {}).get("files", {})
        if "record.json" in files and hashlib.sha256(raw).hexdigest() != files["record.json"]:
            raise _altered(path, ["record.json is not what was written (its checksum differs)"])
        return Run(RunRecord.model_validate_json(raw), path)
    except FileNotFoundError:
        why = "there is no record.json in it" if path.is_dir() else "there is no such folder"
        raise UserError(f"{path} holds no finished run: {why}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} holds no finished run: {getattr(error, 'strerror', None) or error}") from error


def write_report(record: RunRecord, folder: Path) -> Path:
    """Draw a record and write it beside its data."""
    from palimpsest.report import render

    path = folder / "report.html"
    write_bytes(path, render(record).encode(), "The record is kept.")
    return path


def write_account(account: Account, folder: Path) -> Path:
    """Write what several runs say together, and then its page; return the page's file."""
    path = folder / "report.html"
    data = to_json(account.model_dump(mode="json"))
    write_bytes(folder / accounts.NAME, data, "The runs are kept.")
    told = Account.model_validate_json(data)  # as a reader of the file gets it, so that drawing it again gives the same page
    write_bytes(path, render_account(told).encode(), "The account is kept.")
    return path


def redraw(folder: str | Path) -> Path:
    """Draw the report of a finished run again, or that of several runs told together; return its file.

    Raises:
        UserError: the folder holds neither, or what the run left is not what was written.
    """
    path = Path(folder)
    if (path / accounts.NAME).is_file():
        return write_account(accounts.read(path), path)
    if wrong := list(altered(path)):
        raise _altered(path, wrong)
    found = load_report(path)
    return write_report(found.record, found.folder)


def is_sealed(folder: Path) -> bool:
    """Whether a run's folder says what was written there; those of earlier versions do not."""
    return seal.read(folder) is not None


def altered(folder: Path) -> Iterator[str]:
    """Say what of a finished run is not what was written; nothing of a run without a seal.

    A trained model that was removed as a whole, to save space, is not missed.
    """
    sealed = seal.read(folder)
    if sealed == {}:
        yield f"{seal.NAME} can't be read"
    if sealed:
        yield from seal.altered(folder, sealed["files"])
        yield from _altered_models(folder, sealed.get("models", {}))


def _altered_models(folder: Path, models: Mapping[str, str]) -> Iterator[str]:
    from palimpsest.models import contents
    from palimpsest.models.folder import look
    from palimpsest.models.weights import BrokenWeightsError

    for name, value in models.items():
        if (folder / name).is_dir():
            try:
                now = contents.digest_of([contents.read(look(folder / name))[0]])
            except (OSError, BrokenWeightsError) as error:
                yield f"{name} can't be read: {error}"
                continue
            if now != value:
                yield f"{name} is not what was written (its digest differs)"


def _altered(folder: Path, wrong: Sequence[str]) -> UserError:
    lines = "\n".join(f"  - {line}" for line in wrong)
    return UserError(
        f"{folder} is not as the run left it; put back what was there, or give the run's command again, which tells what has "
        f"to be made anew:\n{lines}"
    )


def folder_for(request: Request) -> Path:
    """Return the folder in which this very request runs."""
    return RUNS / f"{request.title.replace(' ', '-')}-{digest(request)[:8]}"


def plan(request: Request) -> Plan:
    """Check a request without starting any work; of several processes that were launched together each has to."""
    from palimpsest.planning import prepare, see

    seen = see(request) if launch.count() == 1 else None  # what is misspelt is told before torch is imported
    from palimpsest import ranks

    ranks.connect(request.device)
    return ranks.together(lambda: prepare(request, seen))


def carry_out(planned: Plan, folder: Path, progress: Progress | None = None) -> RunRecord:
    """Do what was planned, or the rest of it, and write the report."""
    from palimpsest import ranks
    from palimpsest.cost import refuse_what_cant_fit
    from palimpsest.pipeline import execute
    from palimpsest.store.cache import Cache
    from palimpsest.store.provenance import Timed

    timed = progress if isinstance(progress, Timed) else Timed(progress or Silent())
    ranks.together(lambda: refuse_what_cant_fit(planned, folder))
    record = execute(planned, folder, Cache(tell=timed.tell), timed)
    if ranks.own() == 0:
        timed.begin("drawing the report")
        write_report(record, folder)
        timed.keep(folder)
    ranks.wait()
    return record


def _execute(request: Request, folder: str | Path | None, progress: Progress | None) -> Run:
    where = Path(folder) if folder else folder_for(request)
    return Run(carry_out(plan(request), where, progress), where)


def _each(controls: Mapping[str, str | Path | Sequence[str | Path]]) -> Iterator[tuple[str, str]]:
    for role, given in controls.items():
        for path in (given,) if isinstance(given, str | Path) else given:
            yield role, str(path)


def _named(tasks: Iterable[str | Path]) -> tuple[str, ...]:
    return (tasks,) if isinstance(tasks, str) else tuple(map(str, tasks))


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}
