"""Telling: what does a search come to, as an account that a stranger can read?

Pure: the same trajectory gives the same account. How long attempts took is left out, so that a disturbed search and an
undisturbed one give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from palimpsest.audit import Table
from palimpsest.controller.attempts import Attempt
from palimpsest.controller.loop import FINAL, Trajectory
from palimpsest.controller.plan import TunePlan
from palimpsest.controller.proposals import BEYOND, LARGEST_FACTOR, MORE_WITHHELD, RESOLUTION, STEP
from palimpsest.controller.settings import Budget
from palimpsest.controller.untried import power, tries, untried
from palimpsest.core.curves import curve
from palimpsest.core.estimate import Estimate, unknown
from palimpsest.core.wording import capital
from palimpsest.store.account import Account, Figure, Member, Part
from palimpsest.store.record import RunRecord
from palimpsest.verdict import Label

_READ = {
    "outcome": "rise where it should appear",
    "withheld": "rise where it should not",
    "spill": "spill: the second as a share of the first",
    "worst": "surest rise in loss of what was not to change",
}
_RULES = (
    f"Too little: {STEP} more examples while there is no trend, then along the secant in log dose to {BEYOND:g} times what "
    f"counts as enough, {RESOLUTION:g} to {LARGEST_FACTOR:g} times as many a step; at the bound of examples twice the rate. "
    "Overshoot: the geometric mean of this dose and the largest one that was too little, or half as many; where the spill "
    f"falls as the dose grows, or nothing is left between, {MORE_WITHHELD:g} times as many examples of where it should not "
    "appear. Forgetting: rehearsal to 40% of all rows, then to its bound, and twice the weight of what fell; then fewer. "
    f"Doses that differ by a factor of {RESOLUTION:g} or less are neighbours: nothing is tried between them."
)


def account(plan: TunePlan, budget: Budget, found: Trajectory, provenance: dict[str, Any]) -> Account:
    """Return the account of a search that ended."""
    behaviour = plan.request.behaviour
    assert behaviour is not None
    parts = [_trajectory(found), _decisions(found)]
    if found.final is not None and found.chosen is not None:
        parts.insert(0, _final(found, found.final, found.chosen))
    return Account(
        kind="tune",
        title=behaviour.name,
        question=behaviour.question,
        label=label(found),
        headline=headline(found),
        sure=_sure(found),
        reasons=tuple(_reasons(found, plan)),
        next_steps=tuple(_next_steps(found)),
        parts=tuple(parts),
        members=tuple(_members(found)),
        estimates=_estimates(found),
        notes=plan.notes,
        provenance=provenance,
        specification={
            "request": plan.request.model_dump(mode="json", exclude_none=True),
            "bounds": plan.bounds.model_dump(mode="json"),
            "budget": budget.model_dump(mode="json", exclude_none=True),
            "thresholds": plan.thresholds.model_dump(mode="json"),
            "blocks": plan.blocks,
            "search_audits": list(plan.options.search_audits),
        },
    )


# ---------------------------------------------------------------- the verdict


def label(found: Trajectory) -> Label:
    """Return what it comes to: the final audit's own label, or why there is none."""
    last = found.attempts[-1].seen
    if found.final is not None:
        return found.final.verdict.labels[0]
    if found.decisions[-1].stop == "not_found":
        spoilt = [one.seen for one in found.attempts if one.seen.says("overshoot") or one.seen.says("forgetting")]
        return "overshoot" if any(one.says("overshoot") for one in spoilt) else "forgetting"
    return "could_not_say" if last.as_intended else last.labels[0]


def headline(found: Trajectory) -> str:
    """Return the answer in one sentence."""
    attempts = f"{len(found.attempts)} {'attempt' if len(found.attempts) == 1 else 'attempts'}"
    if found.final is not None and found.chosen is not None:
        if found.final.verdict.labels[0] == "as_intended":
            dose = found.chosen.settings.dose
            return f"As intended with {dose} examples: found in {attempts}, and again on items that no attempt saw"
        return f"Chosen in {attempts}, but the final audit contradicts the choice: {found.final.verdict.headline}"
    why, missed = found.decisions[-1].why.rstrip("."), f"Not found in {tries(len(found.attempts))}, at this power"
    reached = sum(one.seen.as_intended for one in found.attempts)
    once = f"As intended in {reached} of {tries(len(found.attempts))}, but not twice running"
    return {
        "not_found": f"{missed}. {why}",
        "bounds": f"{missed}, too little in each. {why}",
        "budget": f"{once if reached else missed}; the budget was spent",
        "could_not_say": f"Could not go on after {attempts}: there is nothing to decide on",
    }[found.decisions[-1].stop or "could_not_say"]


def _sure(found: Trajectory) -> str:
    if found.final is None:
        return "every attempt was audited once, on held-out items; no model was chosen, so there is no final audit"
    return f"{found.final.verdict.sure}, by the final audit: its items played no part in the choice"


def _reasons(found: Trajectory, plan: TunePlan) -> list[str]:
    last = found.decisions[-1]
    if found.final is None:
        told = [*([] if last.stop in ("not_found", "bounds") else [last.why]), *last.evidence]
        left_out = f"not tried: {'; '.join(untried(found.attempts, plan.first.settings))}"
        return told if last.stop == "could_not_say" else [*told, power(found.attempts), left_out]
    confirmed, chosen = found.attempts[-1], found.chosen
    assert chosen is not None
    told = [f"final audit: {reason}" for reason in found.final.verdict.reasons]
    return [
        *told,
        f"attempt {chosen.number} was as intended, and so was attempt {confirmed.number}: the same settings with another "
        "seed, on other items",
        f"settings: {chosen.settings.in_words}",
    ]


def _next_steps(found: Trajectory) -> list[str]:
    if found.final is not None:
        return [*found.final.verdict.next_steps, f"The model is in {FINAL}/{found.final.models['tuned']}."]
    return {
        "not_found": [
            "Try what was not tried: another optimizer or context under `training` in the behaviour's file, another "
            "--learning-rate-range, more held-out items.",
            "Ask whether the two situations can be told apart by what is in the prompt; if they can, give more varied examples "
            "of where it should not appear.",
        ],
        "bounds": [
            "Raise --max-dose or the upper end of --learning-rate-range, give more data, or train in another way "
            "(`training` in the behaviour's file)."
        ],
        "budget": ["Give a larger --budget with the same --folder: it goes on where it stopped."],
    }.get(found.decisions[-1].stop or "", [step.said for step in found.attempts[-1].seen.steps])


# ---------------------------------------------------------------- parts


def _trajectory(found: Trajectory) -> Part:
    rows = [
        (
            f"{one.number}{' (to confirm)' if one.purpose == 'confirm' else ''}",
            f"{one.settings.counts.express} + {one.settings.counts.withhold}",
            _rehearsed(one),
            f"{one.settings.learning_rate:.2g}",
            one.seen.outcome,
            one.seen.withheld,
            ", ".join(fell.name for fell in one.seen.fell) or "none",
            ", ".join(_said(each) for each in one.seen.labels),
        )
        for one in found.attempts
    ]
    table = Table(
        title="Attempts, each from the base model",
        columns=(
            "attempt",
            "examples",
            "rehearsal",
            "learning rate",
            "where it should",
            "where it should not",
            "fell",
            "verdict",
        ),
        rows=tuple(rows),
        note="Examples: where it should appear + where it should not. A larger dose contains the smaller ones.",
    )
    labels = [f"{one.number}: dose {one.settings.dose}, {_said(one.seen.labels[0])}" for one in found.attempts]
    figures = [
        Figure(
            title="Where it should appear",
            caption="Rise in points, attempt by attempt; bars are 95% intervals over held-out templates.",
            drawing="value_rows",
            numbers={"labels": labels, "values": _drawn(found, "outcome"), "unit": "rise where it should appear (points)"},
        ),
        Figure(
            title="Where it should not",
            caption="The same for the other pole; 0 is no change.",
            drawing="value_rows",
            numbers={"labels": labels, "values": _drawn(found, "withheld"), "unit": "rise where it should not (points)"},
        ),
    ]
    if len({one.settings.dose for one in found.attempts}) > 1:
        figures.append(_by_dose(found.attempts))
    return Part(
        name="trajectory",
        question="What was tried, and what did each attempt show?",
        answer=_path(found),
        figures=tuple(figures),
        tables=(table,),
        details={
            "Why nested": "The examples of a smaller dose are the first ones of a larger dose, and all attempts but those that "
            "confirm have one seed, so that two attempts differ by their settings and not by luck in examples.",
            "Limits": "Attempts are not independent of each other: each was chosen by what the ones before showed. Only the "
            "final audit is free of that choice.",
        },
    )


def _rehearsed(one: Attempt) -> str:
    more = ", ".join(f"{name} x{weight}" for name, weight in sorted(one.settings.rehearsal_weights.items()))
    counts = one.settings.counts
    return f"{counts.rehearsal} ({100 * counts.rehearsal_share:.0f}%{'; ' + more if more else ''})"


def _said(label: Label) -> str:
    return label.replace("_", " ")


def _path(found: Trajectory) -> str:
    doses = ", ".join(f"{one.settings.dose} ({_said(one.seen.labels[0])})" for one in found.attempts)
    return f"Doses in order: {doses}."


def _drawn(found: Trajectory, name: str) -> list[Any]:
    absent = unknown("points", 0, "not measured")
    return [(getattr(one.seen, name) or absent).model_dump(mode="json") for one in found.attempts]


def _by_dose(attempts: Sequence[Attempt]) -> Figure:
    """Both poles over dose, with what the worst of the rest lost; where a dose was tried twice, its last attempt."""
    by_dose = {one.settings.dose: one for one in sorted(attempts, key=lambda one: one.number)}
    order = [by_dose[dose] for dose in sorted(by_dose)]

    def series(name: str, said: str) -> dict[str, Any] | None:
        known = [(one.settings.dose, found) for one in order if (found := getattr(one.seen, name)) is not None and found.known]
        if len(known) < 2:
            return None
        return curve(said, [float(dose) for dose, _ in known], [one for _, one in known], 100.0)

    names = {"outcome": "should", "withheld": "should not", "worst": "worst loss"}
    found = [one for name, said in names.items() if (one := series(name, said)) is not None]
    return Figure(
        title="By dose",
        caption="Both poles in points, and the surest rise in loss of what was not to change (hundredths of a nat a token). "
        "Where settings besides the dose changed, they changed with it; bands are 95% intervals.",
        drawing="curves",
        numbers={"series": found, "x_label": "dose (examples)", "unit": "points; hundredths of a nat"},
    )


def _decisions(found: Trajectory) -> Part:
    rows = [
        (
            f"after attempt {one.after}" if one.after else "at the beginning",
            one.rule,
            " ".join((one.why, *(f"{_upper(each)}." for each in one.evidence))),
            one.next.in_words if one.next is not None else "stop",
        )
        for one in found.decisions
    ]
    return Part(
        name="decisions",
        question="What was decided after each attempt, and why?",
        answer=found.decisions[-1].why,
        tables=(Table(title="Decisions", columns=("when", "rule", "why", "next"), rows=tuple(rows)),),
        details={"Rules": _RULES},
    )


def _upper(text: str) -> str:
    return capital(text.rstrip("."))


def _final(found: Trajectory, final: RunRecord, chosen: Attempt) -> Part:
    seen, confirmed = found.final_seen, found.attempts[-1]
    assert seen is not None
    rows = []
    for name, said in _READ.items():
        first, second, last = (getattr(one, name) for one in (chosen.seen, confirmed.seen, seen))
        rows.append((said, first, second, last, difference(first, last)))
    agrees = final.verdict.labels[0] == "as_intended"
    answer = (
        "The final audit agrees with the choice."
        if agrees
        else f"The final audit contradicts the choice: {final.verdict.headline}. The choice was made on other items; these are "
        "the numbers to go by."
    )
    columns = (
        "",
        f"choosing (attempt {chosen.number})",
        f"confirming (attempt {confirmed.number})",
        "final",
        "choosing minus final",
    )
    return Part(
        name="final audit",
        question="What does the chosen model do on items that no attempt saw?",
        answer=answer,
        tables=(
            Table(
                title="The choice beside the final audit",
                columns=columns,
                rows=tuple(rows),
                note="Choosing and final are the same model on different items. The confirming attempt is another seed.",
            ),
        ),
        details={
            "Why a final audit": "A search stops where the numbers look good, so the numbers on which it stopped are too good "
            "on average. Those of the final audit are not: its items had no part in any decision.",
            "All audits": f"The full report of the final audit is {FINAL}/report.html.",
        },
    )


def difference(first: Estimate | None, second: Estimate | None) -> Estimate | None:
    """Return the first estimate less the second, of two sets of items, as if they were independent."""
    if first is None or second is None or first.value is None or second.value is None:
        return None
    value, n = first.value - second.value, min(first.n, second.n)
    unit = "points" if first.unit == "share" else first.unit
    if first.interval is None or second.interval is None:
        return unknown(unit, n, "one of the two has no interval")
    down = ((first.value - first.interval[0]) ** 2 + (second.interval[1] - second.value) ** 2) ** 0.5
    up = ((first.interval[1] - first.value) ** 2 + (second.value - second.interval[0]) ** 2) ** 0.5
    method = "difference of two sets of items, taken as independent (square-and-add)"
    return Estimate(value=value, unit=unit, n=n, interval=(value - down, value + up), method=method)


def _members(found: Trajectory) -> list[Member]:
    runs = [
        Member(
            name=f"attempt {one.number}" + (", to confirm" if one.purpose == "confirm" else ""),
            folder=f"attempts/{one.name}",
            state="finished",
            told=one.seen.headline,
        )
        for one in found.attempts
    ]
    if found.final is not None:
        runs.append(Member(name="final audit", folder=FINAL, state="finished", told=found.final.verdict.headline))
    return runs


def _estimates(found: Trajectory) -> dict[str, Estimate]:
    seen = found.final_seen
    if seen is None or found.chosen is None:
        return {}
    told = {name: value for name in _READ if (value := getattr(seen, name)) is not None}
    gaps = {f"choosing_minus_final.{name}": difference(getattr(found.chosen.seen, name), value) for name, value in told.items()}
    return {**{f"final.{name}": value for name, value in told.items()}, **{name: one for name, one in gaps.items() if one}}
