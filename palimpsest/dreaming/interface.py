"""Interface: what a notebook calls to dream; the command line calls the same.

>>> import palimpsest
>>> result = palimpsest.dream("directions", cycles=3)
>>> result.account.headline
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palimpsest import behaviour as behaviours
from palimpsest.api import RUNS, write_account
from palimpsest.behaviour import Behaviour
from palimpsest.core.progress import Progress, Silent
from palimpsest.core.spec import digest
from palimpsest.dreaming.request import DreamRequest, SourceShare
from palimpsest.store.account import Account
from palimpsest.store.atomic import remove_leftovers

if TYPE_CHECKING:
    from palimpsest.dreaming.bench import Bench, DreamPlan
    from palimpsest.dreaming.cycle import Done


@dataclass(frozen=True)
class Dream:
    """A finished dream: its account, its folder, and the model that came of it."""

    account: Account
    folder: Path
    model: Path

    @property
    def report(self) -> Path:
        """The account's page."""
        return self.folder / "report.html"


def dream(
    behaviour: str | Path | Behaviour,
    model: str | Path = "pocket",
    *,
    sources: Iterable[str] = (),
    text: Iterable[str | Path] = (),
    folder: str | Path | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Dream:
    """Change a behaviour from the model's own failures, cycle by cycle, and report how it went.

    Args:
        behaviour: a name in the library, a YAML file, or a ``Behaviour``.
        model: a Hugging Face folder, a hub id, or ``"pocket"``.
        sources: where scenarios come from, as ``--source`` takes them; the behaviour's own generators by default.
        text: files of general text on which forgetting and divergence are measured.
        folder: the dream's folder; by default ``runs/dream-NAME-HASH``, so that the same call goes on with its own dream.
        progress: who is told how it goes.
        settings: fields of ``palimpsest.dreaming.request.DreamRequest`` (``cycles``, ``examples``, ``answers`` ...).

    Raises:
        UserError: what is wrong with the request, before any work starts; or a source that can't be asked any more.
    """
    request = asked(behaviour, model, sources=sources, text=text, **settings)
    where = Path(folder) if folder else folder_for(request)
    return carry_out(plan(request), where, progress)


def asked(
    behaviour: str | Path | Behaviour,
    model: str | Path = "pocket",
    *,
    sources: Iterable[str] = (),
    text: Iterable[str | Path] = (),
    **settings: Any,
) -> DreamRequest:
    """Return the request that a call of ``dream`` makes."""
    loaded = behaviours.load(behaviour)
    given = {name: value for name, value in settings.items() if value is not None}
    if parsed := tuple(SourceShare.parse(one) for one in sources):
        given["sources"] = parsed
    data = {"base": str(model), "behaviour": loaded, "text": tuple(Path(one).absolute() for one in text), **given}
    return DreamRequest.read(data, "the request")


def folder_for(request: DreamRequest) -> Path:
    """Return the folder in which this very dream lies."""
    return RUNS / f"{request.title}-{digest(request)[:8]}"


def plan(request: DreamRequest) -> DreamPlan:
    """Check a request without starting any work."""
    from palimpsest.dreaming.bench import check

    return check(request)


def carry_out(planned: DreamPlan, folder: Path, progress: Progress | None = None) -> Dream:
    """Dream what was planned, or the rest of it, and write the account."""
    from palimpsest.cost import refuse_what_cant_fit
    from palimpsest.dreaming.bench import Bench
    from palimpsest.dreaming.hot import Hot
    from palimpsest.store.cache import Cache
    from palimpsest.store.run_folder import RunFolder

    progress = progress or Silent()
    refuse_what_cant_fit(planned.plan, folder)
    if not (folder / "cycles").exists():
        for one in planned.sources.values():
            one.ready()
    hot = Hot(planned.plan)
    try:
        with RunFolder(folder, planned.identity) as run:
            for left in (run.path / "cycles").glob("*"):
                remove_leftovers(left)
            bench = Bench(planned, run, Cache(tell=progress.tell), progress, hot)
            return _dream(bench)
    finally:
        hot.close()


def _dream(bench: Bench) -> Dream:
    from palimpsest.dreaming.account import tell_all
    from palimpsest.dreaming.cycle import audit, live, settled
    from palimpsest.dreaming.difficulty import Tally

    request, run = bench.request, bench.run
    for note in bench.plan.notes:
        bench.progress.tell(note)
    ledger, tally = bench.planned.ledger(), Tally()
    done: list[Done] = []
    for cycle in range(1, request.cycles + 1):
        begun = time.monotonic()
        done.append(live(bench.within(cycle), cycle, done, ledger, tally))
        bench.write_times()
        _tell(bench, done[-1], time.monotonic() - begun)
        if settled(request, done):
            break
    last = done[-1].info
    base = bench.plan.models["base"]
    tuned = request.base if last.digest == base.digest else str(last.path)
    with bench.timed(0, "last audit"):
        record = audit(bench, request.last_audit(tuned), run.path / "audit")
    bench.write_times()
    account = tell_all(bench, done, record, tally)
    write_account(account, run.path)
    return Dream(account, run.path, last.path)


def _tell(bench: Bench, one: Done, seconds: float) -> None:
    """Tell how a cycle went, how long it took and how long the rest may take."""
    stages = bench.seconds.get(str(one.summary.cycle), {})
    if seconds < 1:
        return  # it was there already
    spent = ", ".join(f"{name} {value:.0f} s" for name, value in stages.items() if value >= 0.5)
    left = (bench.request.cycles - one.summary.cycle) * seconds
    failed = sum(one.answers.failed)
    bench.progress.tell(
        f"cycle {one.summary.cycle}: {failed} of {len(one.answers.failed)} scenarios failed, trained on {one.summary.examples} "
        f"examples; {one.audit.verdict.headline}. {seconds:.0f} s ({spent}); at most {left / 60:.1f} min of cycles left"
    )
