"""Loop: attempts, each from the base model, until it is as intended twice running or nothing is left.

Every decision is written before the attempt that it asks for begins. Killed at any moment, the same call goes on: what was
decided stands, and would be decided again from what is stored.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from palimpsest import api
from palimpsest.controller.attempts import Attempt, Seen, seen_in
from palimpsest.controller.decision import Decision, begin, decide
from palimpsest.controller.plan import TunePlan
from palimpsest.controller.settings import Budget
from palimpsest.core.progress import Progress, Silent, Within
from palimpsest.store.atomic import whole_folder
from palimpsest.store.record import RunRecord
from palimpsest.store.run_folder import RunFolder

Told = Callable[[Attempt | None, Decision], None]
FINAL = "final"


@dataclass(frozen=True)
class Trajectory:
    """What a finished search leaves: its attempts, a decision after each and one before the first, and the final audit."""

    attempts: tuple[Attempt, ...]
    decisions: tuple[Decision, ...]
    final: RunRecord | None

    @property
    def chosen(self) -> Attempt | None:
        """The attempt whose model is the result: the one that was confirmed."""
        return self.attempts[-2] if self.decisions[-1].stop == "confirmed" else None

    @property
    def final_seen(self) -> Seen | None:
        return None if self.final is None else seen_in(self.final)


def search(
    plan: TunePlan, budget: Budget, run: RunFolder, progress: Progress | None = None, told: Told | None = None
) -> Trajectory:
    """Do the search, or the rest of it.

    Args:
        plan: from ``plan.prepare``.
        budget: what it may cost; more of it goes on with a search that stopped for want of it.
        run: the search's own folder.
        progress: who is told how each run goes.
        told: called with each attempt and the decision that follows it; first with ``None`` and the beginning.

    Raises:
        UserError: a run went wrong, or a folder can't be used.
    """
    progress, told = progress or Silent(), told or (lambda *_: None)
    for note in plan.notes:
        progress.tell(note)
    attempts: list[Attempt] = []
    decisions = [_committed(run, 0, lambda: begin(plan.start))]
    told(None, decisions[0])
    while (wanted := decisions[-1]).next is not None:
        attempts.append(_attempt(plan, wanted, attempts, run, progress))
        decisions.append(_committed(run, len(attempts), lambda: decide(attempts, plan.bounds, budget, plan.thresholds)))
        told(attempts[-1], decisions[-1])
    found = Trajectory(tuple(attempts), tuple(decisions), None)
    if found.chosen is None:
        return found
    return Trajectory(found.attempts, found.decisions, _final(plan, found.chosen, run, Within(progress, "final audit")))


def _committed(run: RunFolder, after: int, made: Callable[[], Decision]) -> Decision:
    """Return the decision that was written, or make it and write it; one that only lacked budget is made again."""
    name = f"decisions/{after:02d}.json"
    found = run.read_json(name)
    if found is not None:
        stored = Decision.model_validate(found)
        if stored.stop != "budget":
            return stored
    decision = made()
    run.write_json(name, decision.model_dump(mode="json"))
    return decision


def _attempt(plan: TunePlan, wanted: Decision, before: Sequence[Attempt], run: RunFolder, progress: Progress) -> Attempt:
    """Carry out one attempt, or read it where it is done."""
    number = len(before) + 1
    name = f"attempts/{number:02d}"
    found = run.read_json(f"{name}.json")
    if found is not None:
        return Attempt.model_validate(found)
    assert wanted.next is not None
    confirmed = sum(one.purpose == "confirm" for one in before)
    seed = plan.request.first_seed + (1 + confirmed if wanted.purpose == "confirm" else 0)
    named = Within(progress, f"attempt {number}" + (", to confirm" if wanted.purpose == "confirm" else ""))
    start = time.monotonic()
    named.begin("checking")
    asked = plan.attempt(wanted.next, seed, number)
    planned = plan.first if asked == plan.first.request else api.plan(asked)
    record = api.carry_out(planned, run.path / name, named)
    attempt = Attempt(
        number=number,
        purpose=wanted.purpose,
        settings=wanted.next,
        training_seed=seed,
        block=planned.request.block,
        seen=seen_in(record),
        seconds=round(time.monotonic() - start, 1),
    )
    run.write_json(f"{name}.json", attempt.model_dump(mode="json"))
    return attempt


def _final(plan: TunePlan, chosen: Attempt, run: RunFolder, progress: Progress) -> RunRecord:
    """Audit the chosen attempt's own model once more, on items that no attempt saw."""
    progress.begin("checking")
    planned = api.plan(plan.final(chosen.settings, chosen.training_seed))
    folder = run.path / FINAL
    trained = f"training/tuned-{chosen.training_seed}"
    with RunFolder(folder, planned.identity):
        if not (folder / trained).exists():
            with whole_folder(folder / trained) as target:
                shutil.copytree(
                    run.path / "attempts" / chosen.name / trained, target, copy_function=_linked, dirs_exist_ok=True
                )
    return api.carry_out(planned, folder, progress)


def _linked(source: str, target: str) -> None:
    """Make a hard link, or a copy where the file system has none; neither file is ever written in place."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
