"""Bench: can this dream be dreamt, and what does every step of it work with?"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from palimpsest.casework import PAIRS
from palimpsest.core.errors import Problems, UserError
from palimpsest.core.progress import Progress, Within
from palimpsest.data.chat import POLES, Example, Pole
from palimpsest.data.mixture import counts_for
from palimpsest.dreaming import source as sources
from palimpsest.dreaming.hot import Hot
from palimpsest.dreaming.ledger import Ledger
from palimpsest.dreaming.request import DreamRequest
from palimpsest.dreaming.source import ScenarioSource
from palimpsest.dreaming.variations import Writer, can_be_varied
from palimpsest.planning import Plan, prepare
from palimpsest.store.atomic import to_json, write_bytes
from palimpsest.store.cache import Cache
from palimpsest.store.run_folder import RunFolder


@dataclass(frozen=True)
class DreamPlan:
    """A dream that was checked."""

    request: DreamRequest
    plan: Plan
    """One cycle as an ordinary run."""
    sources: dict[str, ScenarioSource]
    """By how they were written on the command line."""
    targets: dict[Pole, int]
    """Examples of each pole in a full cycle."""
    held_out: tuple[Example, ...]
    """Every item of a pole that any audit of this dream reads."""

    @property
    def identity(self) -> dict[str, Any]:
        return {"dream": self.request.model_dump(mode="json"), "models": {"base": self.plan.models["base"].digest}}

    @property
    def prefers(self) -> bool:
        """Whether good answers are preferred to what was said; a behaviour that is taught by preference says so itself."""
        return self.request.preference or self.plan.settings.preference is not None

    @property
    def weights(self) -> dict[str, float]:
        """How much each source gives."""
        return {one.written: one.share for one in self.request.sources}

    def ledger(self) -> Ledger:
        """Return a ledger that knows the audit items and no example."""
        return Ledger(self.request.alike, self.held_out)


@dataclass(frozen=True)
class Bench:
    """What every step of one dream works with."""

    planned: DreamPlan
    run: RunFolder
    cache: Cache
    progress: Progress
    hot: Hot
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    """By cycle and stage; kept beside the record, because they differ from run to run."""

    @property
    def request(self) -> DreamRequest:
        return self.planned.request

    @property
    def plan(self) -> Plan:
        return self.planned.plan

    def within(self, cycle: int) -> Bench:
        """Return the bench with a progress that names the cycle."""
        return replace(self, progress=Within(self.progress, f"cycle {cycle} of {self.request.cycles}"))

    @contextmanager
    def timed(self, cycle: int, stage: str) -> Iterator[None]:
        """Note how long a stage took."""
        begun = time.monotonic()
        yield
        mine = self.seconds.setdefault(str(cycle), {})
        mine[stage] = round(mine.get(stage, 0.0) + time.monotonic() - begun, 2)

    def write_times(self) -> None:
        """Keep the times of this process beside those of earlier ones."""
        path = self.run.path / "times.json"
        try:
            before = json.loads(path.read_bytes())
        except (OSError, ValueError):
            before = {}
        write_bytes(path, to_json({**before, **self.seconds}))


def check(request: DreamRequest) -> DreamPlan:
    """Check all that can be checked before work starts.

    Raises:
        UserError: what is wrong, all of it at once.
    """
    problems = Problems("This can't be dreamt:")
    plan = _prepared(request, problems)
    problems.raise_if_any()
    assert plan is not None
    targets = _targets(request, plan, problems)
    opened = _open(request, plan, problems)
    if any(isinstance(one, Writer) for one in opened.values()) and not _can_vary(plan):
        problems.add("a writer needs scenarios with a prompt and a whole answer, which this behaviour does not have")
    problems.raise_if_any()
    return DreamPlan(request, plan, opened, targets, tuple(_held_out(request, plan)))


def cycle_folder(run: Path, cycle: int) -> Path:
    """Return where a cycle is kept."""
    return run / "cycles" / f"{cycle:02d}"


def _prepared(request: DreamRequest, problems: Problems) -> Plan | None:
    """Return one cycle as a checked run; the audits of the last cycle and of the end are checked as well."""
    first = request.planned()
    try:
        plan = prepare(first)
    except UserError as error:
        problems.extend(_lines(error))
        return None
    later = {
        "the audit of the last cycle": first.model_copy(update={"block": request.cycles - 1}),
        "the last audit": request.last_audit(request.base),
    }
    again: list[str] = []
    for name, one in later.items():
        try:
            again += _in_common(plan, prepare(one))
        except UserError as error:
            problems.extend(f"{name}: {line} (or lower --cycles or --audit-items)" for line in _lines(error))
    small = ", ".join(dict.fromkeys(again))
    note = f"Too small for items of their own in every audit, so the same ones are read each time: {small}."
    return replace(plan, notes=(*plan.notes, note)) if again else plan


def _in_common(one: Plan, other: Plan) -> list[str]:
    """Return the held-out item sets of two audits that share items."""
    if one.request.block == other.request.block:
        return []
    sets = ((name, items, other.case.items.get(name)) for name, items in one.case.items.items() if name != PAIRS)
    return [
        name for name, mine, theirs in sets if theirs and {item.id for item in mine.items} & {item.id for item in theirs.items}
    ]


def _lines(error: UserError) -> list[str]:
    """Return the problems that an error lists, without its heading."""
    lines = [line.strip(" -") for line in str(error).splitlines()]
    return lines[1:] if len(lines) > 1 else lines


def _targets(request: DreamRequest, plan: Plan, problems: Problems) -> dict[Pole, int]:
    behaviour = request.behaviour
    for pole in POLES:
        if (source := getattr(behaviour, pole)) is not None and source.text is not None:
            problems.add(f"{pole}: a bare text has no prompt that could be asked; give a scenario or conversations")
    counts = counts_for(request.examples, plan.settings.rehearsal_share, behaviour.express_share)
    targets: dict[Pole, int] = {"express": counts.express, "withhold": counts.withhold}
    return {pole: count for pole, count in targets.items() if count}


def _open(request: DreamRequest, plan: Plan, problems: Problems) -> dict[str, ScenarioSource]:
    opened = {}
    for one in request.sources:
        if one.written in opened:
            problems.add(f"the source '{one.written}' is given twice; give it once with a share, as in {one.written}=2")
        try:
            opened[one.written] = sources.find(one.name)(one.argument, plan)
        except UserError as error:
            problems.add(f"--source {one.written}: {error}")
    return opened


def _can_vary(plan: Plan) -> bool:
    materials = [one for one in (plan.materials.express, plan.materials.withhold) if one is not None]
    return all(can_be_varied(example) for one in materials for example in one.training(plan.request.seed, "shown", 1))


def _held_out(request: DreamRequest, plan: Plan) -> Iterator[Example]:
    last = request.last_audit(request.base)
    behaviour = request.behaviour
    count = (last.block + 1) * behaviour.held_out
    for pole in POLES:
        if (material := getattr(plan.materials, pole)) is not None:
            for example in material.held_out(request.seed, pole, count):
                yield behaviour.complete(example, pole)
