"""Foreseen: what would the first attempt take, and what could the whole search take at most?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from palimpsest import api, cost
from palimpsest.controller.plan import TunePlan
from palimpsest.controller.settings import Budget, Settings
from palimpsest.core.machine import in_words


@dataclass(frozen=True)
class ForeseenSearch:
    """What a search would do and take."""

    bounds: dict[str, str]
    first: str
    """The settings of the first attempt."""
    seconds_first: float
    seconds_most: float
    """All attempts at the largest settings, and the final audit; the budget's minutes may end it sooner."""
    disk_most: int
    sentences: tuple[str, ...]
    problems: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        """Return everything as data for JSON."""
        return asdict(self)


def foresee(plan: TunePlan, budget: Budget, folder: Path) -> ForeseenSearch:
    """Return what a planned search would do, without doing any of it."""
    first = cost.foresee(plan.first, folder)
    largest = _largest(plan, budget)
    most = cost.foresee(api.plan(plan.attempt(largest, plan.request.seed, 1)), folder)
    final = cost.foresee(api.plan(plan.final(largest, plan.request.seed)), folder)
    low, high = (factor * (budget.attempts * most.seconds + final.seconds) for factor in (1 / 2.5, 2.5))
    disk = budget.attempts * most.disk.needed + final.disk.needed
    short = final.disk.free is not None and disk > final.disk.free
    return ForeseenSearch(
        bounds={**plan.bounds.in_words, "budget": budget.in_words},
        first=plan.start.in_words,
        seconds_first=first.seconds,
        seconds_most=budget.attempts * most.seconds + final.seconds,
        disk_most=disk,
        sentences=(
            f"first attempt: {plan.start.in_words}",
            f"its time: {first.time} (a rough estimate)",
            f"at most: {budget.attempts} attempts of {largest.in_words}, and a final audit with all audits: "
            f"{_minutes(low)} to {_minutes(high)}"
            + (f", and {budget.minutes:g} minutes by the budget" if budget.minutes else ""),
            f"memory: about {in_words(max(most.memory.needed, final.memory.needed))} needed",
            f"disk: at most {in_words(disk)}, because every attempt keeps its model{', more than is free' if short else ''}",
            *plan.notes,
        ),
        problems=tuple(dict.fromkeys((*first.problems, *final.problems))),
    )


def _largest(plan: TunePlan, budget: Budget) -> Settings:
    """Return the largest settings inside the bounds: the most rows that one attempt can have."""
    start, bounds = plan.start, plan.bounds
    top = min(bounds.max_dose, budget.examples or bounds.max_dose)
    long = start.but(dose=bounds.largest_dose(start, top))
    wide = long.but(rehearsal_share=bounds.max_rehearsal)
    return wide if bounds.holds(wide) else long


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
