"""Controller: how little training makes a behaviour as intended, of what was tried?

The practical plan as a closed loop: begin with few examples, audit, read the verdict, decide, train again from the base model.
``decision`` holds the rules, ``loop`` carries them out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palimpsest.controller.settings import Budget
from palimpsest.core.progress import Progress

if TYPE_CHECKING:
    from palimpsest.behaviour import Behaviour
    from palimpsest.controller.loop import Told, Trajectory
    from palimpsest.controller.plan import Options, TunePlan
    from palimpsest.request import Request
    from palimpsest.store.account import Account


@dataclass(frozen=True, repr=False)
class Tuned:
    """A search that ended: its account, every attempt and decision, and the folder that holds them."""

    account: Account
    trajectory: Trajectory
    folder: Path

    @property
    def as_intended(self) -> bool:
        """Whether the final audit says so."""
        return self.trajectory.final is not None and self.account.label == "as_intended"

    @property
    def model(self) -> Path | None:
        """The folder of the chosen model, or ``None`` where none was chosen."""
        final = self.trajectory.final
        return None if final is None else self.folder / "final" / final.models["tuned"]

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    def __repr__(self) -> str:
        return f"<Tuned {self.account.title}: {self.account.headline}; report {self.report}>"


def tune(
    behaviour: str | Path | Behaviour,
    model: str | Path = "pocket",
    *,
    budget: str | Budget | None = None,
    folder: str | Path | None = None,
    progress: Progress | None = None,
    told: Told | None = None,
    options: Options | None = None,
    **settings: Any,
) -> Tuned:
    """Find a small training that makes a behaviour as intended, or say what was tried in vain and what was not tried.

    Args:
        behaviour: a name in the library, a YAML file, or a ``Behaviour`` with both poles. Its dose is not read.
        model: a Hugging Face folder, a hub id, or ``"pocket"``.
        budget: like ``"10 attempts, 2000 examples, 30 minutes"``.
        folder: the search's folder; by default ``runs/tune-NAME-HASH``, so that the same call goes on with its own search.
        progress: who is told how each run goes.
        told: called with each attempt and the decision that follows it.
        options: bounds and what else may be set.
        settings: fields of ``palimpsest.request.Request`` (``text``, ``device``, ``seed`` ...); ``audits`` are those of the
            final audit.

    Raises:
        UserError: what is wrong, before any work starts.
    """
    from palimpsest import behaviour as behaviours
    from palimpsest.request import Request

    loaded = behaviours.load(behaviour)
    given = {name: value for name, value in settings.items() if value is not None}
    request = Request.read({"kind": "run", "base": str(model), "behaviour": loaded, **given}, "the request")
    ready = Budget.parse(budget) if isinstance(budget, str) else budget or Budget()
    planned = prepare(request, options, ready)
    return carry_out(planned, ready, Path(folder) if folder else folder_for(request, options), progress, told)


def prepare(request: Request, options: Options | None, budget: Budget) -> TunePlan:
    """Check a search without starting any work."""
    from palimpsest.controller import plan

    return plan.prepare(request, options or plan.Options(), budget)


def folder_for(request: Request, options: Options | None) -> Path:
    """Return the folder in which this very search runs; the budget has no part in its name."""
    from palimpsest.api import RUNS
    from palimpsest.controller.plan import Options
    from palimpsest.core.spec import digest

    asked = {"request": request.model_dump(mode="json"), "options": (options or Options()).model_dump(mode="json")}
    return RUNS / f"tune-{request.title}-{digest(asked)[:8]}"


def carry_out(
    planned: TunePlan, budget: Budget, folder: Path, progress: Progress | None = None, told: Told | None = None
) -> Tuned:
    """Do the search, or the rest of it, and write its account and its page."""
    from palimpsest.api import write_account
    from palimpsest.controller.loop import search
    from palimpsest.controller.telling import account
    from palimpsest.store import provenance
    from palimpsest.store.run_folder import RunFolder

    with RunFolder(folder, planned.identity) as run:
        found = search(planned, budget, run, progress, told)
        seeds = sorted({one.training_seed for one in found.attempts})
        digests = {role: info.digest for role, info in planned.first.models.items()}
        stable = provenance.stable(planned.first.device, seeds, digests, planned.command(budget))
        told_of = account(planned, budget, found, stable)
        write_account(told_of, run.path)
    return Tuned(told_of, found, folder)
