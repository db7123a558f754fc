"""Forecast: what would a dream do at most, and how long would it take?"""

from __future__ import annotations

from pathlib import Path

from palimpsest.core.machine import in_words
from palimpsest.core.spec import Spec
from palimpsest.cost import foresee as foresee_run
from palimpsest.dreaming.bench import DreamPlan
from palimpsest.planning import prepare


class Forecast(Spec):
    """The most that a dream may do."""

    cycles: int
    scenarios_a_cycle: int
    examples_a_cycle: int
    rehearsal_a_cycle: int
    seconds_a_cycle: float
    seconds_at_the_end: float
    disk_bytes: int
    sentences: tuple[str, ...]


def foresee(planned: DreamPlan, folder: Path) -> Forecast:
    """Return what a dream would do, counted for cycles of full size.

    Args:
        planned: from ``check``.
        folder: where it would lie.
    """
    request, plan = planned.request, planned.plan
    one = foresee_run(plan, folder)
    asking = foresee_run(prepare(request.planned().model_copy(update={"audits": ("outcome",), "capability_items": 8})), folder)
    asked = request.examples * (request.asked_at_most if request.choose == "failures" else 1)
    # an audit asks two models about one pole
    seconds = one.seconds + asking.seconds * asked / (2 * request.audit_items) / 4
    end = foresee_run(prepare(request.last_audit(request.base)), folder).seconds
    disk = request.cycles * one.disk.needed
    return Forecast(
        cycles=request.cycles,
        scenarios_a_cycle=asked,
        examples_a_cycle=request.examples,
        rehearsal_a_cycle=plan.counts.rehearsal,
        seconds_a_cycle=round(seconds, 1),
        seconds_at_the_end=round(end, 1),
        disk_bytes=disk,
        sentences=(
            f"At most {request.cycles} cycles, each: up to {asked} fresh scenarios from {', '.join(planned.weights)}; up to "
            f"{request.examples} examples and {plan.counts.rehearsal} rows of rehearsal in one pass; an audit on "
            f"{request.audit_items} held-out items a pole.",
            f"It stops when {request.stop_after} audits running say as intended."
            if request.stop_after
            else "It does not stop early.",
            f"About {seconds:.0f} s a cycle and {end:.0f} s for the last audit on this machine, "
            f"{(request.cycles * seconds + end) / 60:.0f} min in all at most; a rough guess, two or three times less or more.",
            f"At most {in_words(disk)} on the disk: each cycle keeps its model.",
            f"It would lie in {folder}. Nothing was started.",
        ),
    )
