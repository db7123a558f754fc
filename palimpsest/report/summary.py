"""Summary: what does a run say in a few lines, for a terminal or a notebook?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from palimpsest.audit import Finding, Result
from palimpsest.core.estimate import Estimate
from palimpsest.store.record import RunRecord

POLES = {"express": "where it should appear", "withhold": "where it should not appear"}
_TAG_OF_POLE = {"express": "outcome", "withhold": "withheld"}
_WORSE_BY = {"nats/token": "rise in loss", "points": "right answers lost"}

Row = tuple[str, Estimate | None, Estimate | None, Estimate | None]


@dataclass(frozen=True)
class Summary:
    """The verdict and its most telling numbers."""

    headline: str
    sure: str
    rows: tuple[Row, ...]
    """(what, before, after, change); ``None`` where there is no such number."""


def summary(record: RunRecord) -> Summary:
    """Return the verdict with the behaviour in each pole, what got worse beyond its margin, and the divergence."""
    results = measured(record)
    findings = [finding for result in results.values() for finding in result.findings]
    rows = [row for pole in POLES if (row := _pole(pole, results, findings))]
    rows += [
        (f"{one.subject}: {worse_by(one.estimate.unit)}", None, None, one.estimate)
        for one in findings
        if one.tag == "forgetting" and one.estimate.margin is not None and one.estimate.above(one.estimate.margin)
    ]
    moved = next((one for one in findings if one.tag == "divergence"), None)
    if moved is not None:
        rows.append(("predictions on general text", None, None, moved.estimate))
    return Summary(record.verdict.headline, record.verdict.sure, tuple(rows))


def measured(record: RunRecord) -> dict[str, Result]:
    """Return the results of the first seed by audit, in reading order: the behaviour first, then what it cost."""
    outcomes = [one for one in record.seeds[0].outcomes if one.result is not None] if record.seeds else []
    return {one.audit: one.result for one in sorted(outcomes, key=lambda one: (_place(one.result), one.audit)) if one.result}


def worse_by(unit: str) -> str:
    """Return what a positive forgetting estimate counts."""
    return _WORSE_BY.get(unit, f"change for the worse ({unit})")


def before_after(pole: str, results: dict[str, Result]) -> tuple[Estimate, Estimate] | None:
    """Return the behaviour's rates in one pole, from the first result that has them."""
    for result in results.values():
        before, after = (result.estimates.get(f"{pole}_{when}") for when in ("before", "after"))
        if before is not None and after is not None:
            return before, after
    return None


def change_of(pole: str, findings: Sequence[Finding]) -> Estimate | None:
    """Return by how much the behaviour moved in one pole."""
    return next((one.estimate for one in findings if one.tag == _TAG_OF_POLE[pole]), None)


def _place(result: Result | None) -> int:
    order = ("outcome", "withheld", "spill", "forgetting", "divergence", "depth", "identical")
    return (
        min((order.index(finding.tag) for finding in result.findings if finding.tag in order), default=len(order))
        if result
        else 0
    )


def _pole(pole: str, results: dict[str, Result], findings: list[Finding]) -> Row | None:
    change = change_of(pole, findings)
    rates = before_after(pole, results)
    if change is None and rates is None:
        return None
    before, after = rates or (None, None)
    return POLES[pole], before, after, change


def unanswered(record: RunRecord) -> Iterator[tuple[str, str, str]]:
    """Yield (audit, state, why) of each audit of the first seed that gave no numbers."""
    for outcome in record.seeds[0].outcomes if record.seeds else ():
        if outcome.result is None:
            yield outcome.audit, outcome.state, outcome.why
