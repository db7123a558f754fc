"""Attempts: what was tried, and what did its audit show?

The numbers are those from which the verdict was made: findings are read by their tags, and no audit is named.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from palimpsest.audit import Finding
from palimpsest.controller.settings import Settings
from palimpsest.core.estimate import Estimate
from palimpsest.core.spec import Spec
from palimpsest.core.wording import number, shown
from palimpsest.store.record import RunRecord
from palimpsest.verdict import Label, Step, Sureness, Verdict, beyond, steps_for

Purpose = Literal["search", "confirm"]


class Fell(Spec):
    """One ability or text that fell beyond its margin, with the estimate that says so."""

    name: str
    estimate: Estimate


class Seen(Spec):
    """What one audit showed."""

    labels: tuple[Label, ...]
    headline: str
    sure: Sureness
    steps: tuple[Step, ...]
    outcome: Estimate | None = None
    """Rise of the behaviour where it should appear."""
    withheld: Estimate | None = None
    """Its rise where it should not."""
    spill: Estimate | None = None
    """The second as a share of the first."""
    fell: tuple[Fell, ...] = ()
    worst: Estimate | None = None
    """The rise in loss of what was not to change whose interval begins highest."""

    @property
    def as_intended(self) -> bool:
        return self.labels[0] == "as_intended"

    def says(self, label: Label) -> bool:
        return label in self.labels

    @property
    def in_words(self) -> str:
        """Return the numbers in one line, each with its interval."""
        parts = [f"where it should appear {_said(self.outcome)}"]
        if self.withheld is not None:
            share = f" (spill {_said(self.spill)})" if self.spill is not None and self.spill.known else ""
            parts.append(f"where it should not {_said(self.withheld)}{share}")
        if self.fell:
            parts.append("fell: " + ", ".join(f"{one.name} {_said(one.estimate)}" for one in self.fell))
        return "; ".join(parts)


def _said(estimate: Estimate | None) -> str:
    whole = estimate is not None and estimate.unit in ("points", "share")
    return "could not say" if estimate is None else shown(estimate, decimals=0 if whole else None).sentence


def seen(verdict: Verdict, findings: Sequence[Finding]) -> Seen:
    """Return what a verdict rests on."""

    def first(tag: str) -> Estimate | None:
        return next((one.estimate for one in findings if one.tag == tag), None)

    fell = {one.subject: one.estimate for one in reversed(beyond(findings))}
    losses = [one.estimate for one in findings if one.tag == "forgetting" and one.estimate.unit == "nats/token"]
    known = [(one.interval[0], one) for one in losses if one.interval is not None]
    labels = verdict.leaning or verdict.labels  # a search goes on by the estimates where the verdict does not decide
    return Seen(
        labels=labels,
        headline=verdict.headline,
        sure=verdict.sure,
        steps=tuple(steps_for(labels, list(dict.fromkeys(fell)))) if verdict.leaning else verdict.steps,
        outcome=first("outcome"),
        withheld=first("withheld"),
        spill=first("spill"),
        fell=tuple(Fell(name=name, estimate=fell[name]) for name in reversed(fell)),
        worst=max(known, key=lambda one: one[0])[1] if known else None,
    )


def seen_in(record: RunRecord) -> Seen:
    """Return what the audits of a finished run showed (a run of one seed)."""
    return seen(record.verdict, record.seeds[0].findings)


class Attempt(Spec):
    """One training run with its audit."""

    number: int
    """From 1."""
    purpose: Purpose
    settings: Settings
    training_seed: int
    block: int
    """Which held-out items it was audited on; no two attempts share any."""
    seen: Seen
    seconds: float
    """Of the process that finished it."""

    @property
    def name(self) -> str:
        return f"{self.number:02d}"


def points(estimate: Estimate | None) -> str:
    """Return a change in whole points without its unit, with its interval."""
    if estimate is None or estimate.value is None:
        return "could not say"
    text = number(100 * estimate.value, 0, signed=True)
    if estimate.interval is not None:
        text += " [{}, {}]".format(*(number(100 * bound, 0, signed=True) for bound in estimate.interval))
    return text
