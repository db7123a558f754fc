"""Decision: after these attempts, what is tried next, or why does it stop?

A pure function: the same attempts, bounds and budget give the same decision. The verdict says what is wrong and names the next
steps; here stands only by how much, and what to do when a step has no room left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from palimpsest.controller.attempts import Attempt, Purpose, Seen
from palimpsest.controller.proposals import Proposal, Search
from palimpsest.controller.settings import Bounds, Budget, Settings
from palimpsest.controller.untried import misses, nearest
from palimpsest.core.spec import Spec
from palimpsest.verdict import Thresholds

Stop = Literal["confirmed", "budget", "bounds", "not_found", "could_not_say"]


class Decision(Spec):
    """One decision, as it is written before the next attempt starts."""

    after: int
    """The attempt that it follows; 0 at the beginning."""
    seen: Seen | None = None
    rule: str
    """Which rule was applied."""
    why: str
    """The reason, with the numbers."""
    evidence: tuple[str, ...] = ()
    """What else speaks for it, one line each."""
    next: Settings | None = None
    purpose: Purpose = "search"
    stop: Stop | None = None


def begin(settings: Settings) -> Decision:
    """Return the decision with which a search begins."""
    return Decision(after=0, rule="begin small", why="The plan begins with few examples and some rehearsal.", next=settings)


def decide(attempts: Sequence[Attempt], bounds: Bounds, budget: Budget, thresholds: Thresholds) -> Decision:
    """Return what follows the last attempt.

    Args:
        attempts: all of them, in order; at least one.
        bounds: what no proposal may cross.
        budget: what the search may cost.
        thresholds: those of the verdict.
    """
    last = attempts[-1]

    def stopping(stop: Stop, rule: str, why: str, *evidence: str) -> Decision:
        return Decision(after=last.number, seen=last.seen, rule=rule, why=why, evidence=evidence, stop=stop)

    if last.seen.as_intended and last.purpose == "confirm":
        why = f"As intended twice running, with another seed and on other items: {last.seen.in_words}."
        return stopping("confirmed", "confirmed", why)
    if last.seen.labels[0] in ("could_not_say", "identical"):
        return stopping("could_not_say", "nothing to decide on", f"{last.seen.headline}.")
    left = _affordable(attempts, bounds, budget)
    wanted = _wanted(attempts, left, thresholds) if left else None
    unlimited = wanted or _wanted(attempts, bounds, thresholds)
    if unlimited is None:
        stop, why, evidence = Search(attempts, bounds, thresholds).why_nothing_is_left()
        return stopping(stop, "nothing left to try", why, *evidence, _nearest(attempts, thresholds))
    if (short := _short_of(attempts, budget)) or wanted is None:
        why = f"{short or 'The budget has too few examples left'}; next would have come: {unlimited.rule}."
        return stopping("budget", "budget spent", why, _nearest(attempts, thresholds))
    return Decision(
        after=last.number, seen=last.seen, rule=wanted.rule, why=wanted.why, next=wanted.settings, purpose=wanted.purpose
    )


def _wanted(attempts: Sequence[Attempt], bounds: Bounds, thresholds: Thresholds) -> Proposal | None:
    last = attempts[-1]
    if last.seen.as_intended:
        if not bounds.holds(last.settings):
            return None
        why = f"As intended: {last.seen.in_words}. Once is not enough: the same settings with another seed, on other items."
        return Proposal("confirm", why, last.settings, "confirm")
    return Search(attempts, bounds, thresholds).proposal()


def _affordable(attempts: Sequence[Attempt], bounds: Bounds, budget: Budget) -> Bounds | None:
    """Return the bounds with what is left of the examples, or ``None`` where that is too little for any attempt."""
    if budget.examples is None:
        return bounds
    left = budget.examples - sum(one.settings.dose for one in attempts)
    return bounds.model_copy(update={"max_dose": min(left, bounds.max_dose)}) if left >= bounds.min_dose else None


def _short_of(attempts: Sequence[Attempt], budget: Budget) -> str:
    """Return what the budget has too little of for another attempt; empty where there is enough."""
    if len(attempts) >= budget.attempts:
        return f"All {budget.attempts} attempts of the budget were made"
    used, longest = sum(one.seconds for one in attempts), max(one.seconds for one in attempts)
    if budget.minutes is not None and used + longest > 60 * budget.minutes:
        return (
            f"{used / 60:.1f} of {budget.minutes:g} minutes were used, and the longest attempt so far took {longest / 60:.1f}"
        )
    return ""


def _nearest(attempts: Sequence[Attempt], thresholds: Thresholds) -> str:
    """Return the attempt that came nearest, in words."""
    good = [one for one in attempts if one.seen.as_intended]
    if good:
        return f"Attempt {good[-1].number} was as intended ({good[-1].settings.in_words}), but it was not confirmed."
    best = nearest(attempts, thresholds)
    return (
        f"Nearest came attempt {best.number} ({best.settings.in_words}), which misses {misses(best, thresholds)}: "
        f"{best.seen.in_words}."
    )
