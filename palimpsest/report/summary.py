"""Summary: what does a run say in a few lines, for a terminal or a notebook?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from palimpsest.audit import Finding, Result
from palimpsest.core.estimate import Estimate
from palimpsest.reach import Reach, reach
from palimpsest.store.record import RunRecord
from palimpsest.verdict import Thresholds, Verdict, beyond

POLES = {"express": "where it should appear", "withhold": "where it should not appear"}
_TAG_OF_POLE = {"express": "outcome", "withhold": "withheld"}
_WORSE_BY = {"nats/token": "rise in loss", "points": "right answers lost"}
_SURE = {
    "clear": "the whole intervals lie on one side of the thresholds",
    "likely": "the estimates say so, but not all of it is shown; see the reasons",
    "not decided": "the measurements do not tell; see the reasons",
}
_WITHOUT_THRESHOLD = {
    "identical": "nothing of what was read differs",
    "described": "it was measured; nothing was said to be intended, so there is no threshold for the change itself",
}

Row = tuple[str, Estimate | None, Estimate | None, Estimate | None]


@dataclass(frozen=True)
class Summary:
    """The verdict and its most telling numbers."""

    headline: str
    sure: str
    """How sure the verdict is, and what that means."""
    rows: tuple[Row, ...]
    """(what, before, after, change); ``None`` where there is no such number."""

    def tables(self) -> Iterator[tuple[tuple[str, ...], list[tuple[str, tuple[Estimate | None, ...]]]]]:
        """Yield (columns, rows): what has a before or an after, then what is a change only. No table is empty."""
        with_levels = [(what, (before, after, change)) for what, before, after, change in self.rows if before or after]
        if with_levels:
            yield ("", "before", "after", "change"), [(what, numbers) for what, numbers in with_levels]
        changes = [(what, (change,)) for what, before, after, change in self.rows if not (before or after)]
        if changes:
            yield ("", "change"), [(what, numbers) for what, numbers in changes]


def how_sure(verdict: Verdict) -> str:
    """Return how sure a verdict is, with what that means."""
    known = _WITHOUT_THRESHOLD.get(verdict.labels[0]) if verdict.sure == "clear" else None
    return f"{verdict.sure}, {known or _SURE[verdict.sure]}"


def summary(record: RunRecord) -> Summary:
    """Return the verdict with the behaviour in each pole, what got worse beyond its margin, every task, and the divergence."""
    results = measured(record)
    findings = [finding for result in results.values() for finding in result.findings]
    rows = [row for pole in POLES if (row := _pole(pole, results, findings))]
    tasks = list(_tasks(results))
    told = {(before, after) for _, before, after, _ in tasks if before}
    for one in beyond(findings):
        before, after = levels(one, results)
        if (before, after) not in told:
            rows.append((f"{one.subject}: {worse_by(one.estimate.unit)}", before, after, one.estimate))
    rows += tasks
    moved = next((one for one in findings if one.tag == "divergence"), None)
    if moved is not None:
        rows.append((moved.topic or "predictions on general text", None, None, moved.estimate))
    return Summary(record.verdict.headline, how_sure(record.verdict), tuple(rows))


def reach_of(record: RunRecord) -> tuple[Reach, ...]:
    """Return what the first seed's comparison could have shown; nothing where both models are the same."""
    if not record.seeds or record.verdict.labels[0] == "identical":
        return ()
    behaviour = (record.specification.get("request") or {}).get("behaviour") or {}
    thresholds = Thresholds.read(behaviour.get("thresholds") or {}, "the record's thresholds")
    return reach(record.seeds[0].findings, thresholds)


def _tasks(results: Mapping[str, Result]) -> Iterator[Row]:
    """Yield the row of every task of lm-eval, whatever came out: somebody asked for each by its name.

    A task is known by its own metrics (``score_change:arc_easy/acc``), which nothing else has.
    """
    for result in results.values():
        found = result.estimates
        metrics: dict[str, str] = {}
        for key in found:
            kind, _, name = key.partition(":")
            if kind == "score_change":
                metrics.setdefault(name.rpartition("/")[0], key)
        for task, key in metrics.items():
            for kind, word in (("accuracy", "right answers"), ("loss", "loss")):
                if f"{kind}_change:{task}" in found:
                    before, after, change = (found.get(f"{kind}_{part}:{task}") for part in ("before", "after", "change"))
                    yield f"{task}: {word}", before, after, change
                    break
            else:
                yield f"{task}: {key.rpartition('/')[2]}", None, None, found[key]


def levels(finding: Finding, results: Mapping[str, Result]) -> tuple[Estimate | None, Estimate | None]:
    """Return the level before and after of what a finding is about, as far as the record has them.

    An audit names the three alike: ``loss_before:copying``, ``loss_after:copying`` and ``loss_change:copying``.
    """
    for result in results.values():
        for name, estimate in result.estimates.items():
            if estimate == finding.estimate and name.endswith(f":{finding.subject}"):
                kind = name.partition(":")[0].rpartition("_")[0]
                before, after = (result.estimates.get(f"{kind}_{when}:{finding.subject}") for when in ("before", "after"))
                return before, after
    return None, None


def measured(record: RunRecord) -> dict[str, Result]:
    """Return the results of the first seed by audit, in reading order: the behaviour first, then what it cost."""
    results = record.seeds[0].results if record.seeds else {}
    return dict(sorted(results.items(), key=lambda one: (_place(one[1]), one[0])))


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


def _place(result: Result) -> int:
    order = ("outcome", "withheld", "spill", "forgetting", "divergence", "depth", "identical")
    return min((order.index(finding.tag) for finding in result.findings if finding.tag in order), default=len(order))


def _pole(pole: str, results: dict[str, Result], findings: list[Finding]) -> Row | None:
    change = change_of(pole, findings)
    rates = before_after(pole, results)
    if change is None and rates is None:
        return None
    before, after = rates or (None, None)
    return POLES[pole], before, after, change


def unanswered(record: RunRecord) -> Iterator[tuple[str, str, str]]:
    """Yield (audit, state, why) of each audit of the first seed that gave no numbers and could with something else given.

    Of identical models every answer is known, so that only audits that failed are left to tell.
    """
    known = record.verdict.labels[0] == "identical"
    for outcome in record.seeds[0].outcomes if record.seeds else ():
        if outcome.result is None and outcome.mendable and not (known and outcome.state == "not_applicable"):
            yield outcome.audit, outcome.state, outcome.why
