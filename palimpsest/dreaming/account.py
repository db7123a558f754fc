"""Account: what does a dream say, told together?

Does it fail less from cycle to cycle, does that hold on items that it never saw, what was forgotten, where does it still fail,
and where does every example come from?
"""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence

from palimpsest.audit import Sample, Table
from palimpsest.core import stats
from palimpsest.core.curves import curve
from palimpsest.core.estimate import Estimate, exact, unknown
from palimpsest.core.wording import one_line
from palimpsest.data.chat import POLES, Pole
from palimpsest.dreaming.bench import Bench
from palimpsest.dreaming.cycle import Done, settled
from palimpsest.dreaming.difficulty import Tally, bounds, rate, upper_bound
from palimpsest.dreaming.request import DreamRequest
from palimpsest.store import provenance
from palimpsest.store.account import Account, Figure, Member, Part
from palimpsest.store.record import RunRecord
from palimpsest.verdict import Step, beyond

NAMED: dict[Pole, str] = {"express": "where it should appear", "withhold": "where it should not"}
SHORT: dict[Pole, str] = {"express": "should", "withhold": "should not"}
_TEMPLATES, _SAMPLES = 16, 24
_WITHOUT_ANSWERS = (
    "What failed had no good answer to be trained: write one beside each (`better`), or let the model answer with the "
    "behaviour's instruction (--answers distil)."
)


def tell_all(bench: Bench, done: Sequence[Done], last: RunRecord, tally: Tally) -> Account:
    """Return the account of a finished dream.

    Args:
        bench: what it worked with.
        done: its cycles.
        last: the audit of the end.
        tally: of every answer.
    """
    request, verdict = bench.request, last.verdict
    failed = any(any(one.answers.failed) for one in done)
    return Account(
        kind="dream",
        title=request.behaviour.name,
        question=request.behaviour.question,
        label=verdict.labels[0],
        headline=verdict.headline,
        sure=f"{verdict.sure}, on held-out items that no cycle had seen",
        reasons=(_in_short(bench, done), *verdict.reasons),
        next_steps=_next_steps(bench, done, last) if _trained(done) or not failed else (_WITHOUT_ANSWERS,),
        parts=(
            _failures(bench, done),
            _fresh(bench, done, last),
            _forgetting(done, last),
            _templates(tally),
            _examples(done),
            _repeats(bench, done),
        ),
        members=tuple(_members(done, last)),
        estimates=_estimates(bench, done, last),
        notes=tuple(dict.fromkeys((*bench.plan.notes, *(note for one in done for note in one.summary.notes)))),
        provenance=provenance.stable(
            bench.plan.device, [request.seed], {"base": bench.plan.models["base"].digest}, request.command
        ),
        specification={"dream": request.model_dump(mode="json", exclude_none=True)},
    )


def _next_steps(bench: Bench, done: Sequence[Done], last: RunRecord) -> tuple[str, ...]:
    """Return what a dream can do about each step of its last verdict, with the command; what it can't do is said as it is."""
    return (
        tuple(dict.fromkeys(_dreamt(bench.request, step, len(done)) for step in last.verdict.steps)) or last.verdict.next_steps
    )


def _dreamt(request: DreamRequest, step: Step, lived: int) -> str:
    match step.action:
        case "more_examples":
            if lived < request.cycles:
                return f"Nothing is left to be learnt from these scenarios: give others, {_again(request)} --source FILE."
            return f"Dream on for more cycles: {_again(request, cycles=2 * request.cycles)}."
        case "less_or_withhold":
            fewer = _again(request, examples=max(2, request.examples // 2))
            return (
                f"Dream again from the base model with fewer examples a cycle: {fewer}; or give more scenarios of where it "
                "should not appear (--source)."
            )
        case "rehearse":
            return (
                f"Raise rehearsal_share to 0.4 under `training` in the behaviour's file, name {', '.join(step.about)} under "
                f"its `rehearsal`, and dream again: {_again(request)}."
            )
        case "give_withhold_pole":
            return f"Give the behaviour a 'withhold' pole (where it should not appear), and dream again: {_again(request)}."
        case "more_items":
            held = request.behaviour.held_out
            wanted = max(2 * held, 24)
            return (
                f"Raise `held_out` in the behaviour's file from {held} to {wanted} or more, and dream again: {_again(request)}."
            )
        case _:
            return step.said


def _again(request: DreamRequest, **changes: int) -> str:
    return f"`{shlex.join(request.model_copy(update=changes).command)}`"


def estimates_of(record: RunRecord, audit: str) -> dict[str, Estimate]:
    """Return the estimates of one audit of a record; none where it could not answer."""
    result = record.seeds[0].results.get(audit)
    return dict(result.estimates) if result else {}


def shown(record: RunRecord, pole: Pole, when: str) -> Estimate | None:
    """Return how often the behaviour is shown in a pole; both poles are measured alike, so that they can be compared."""
    found = (estimates_of(record, audit).get(f"{pole}_{when}") for audit in ("judgement", "outcome"))
    return next((one for one in found if one is not None), None)


def failure_rate(one: Done, pole: Pole) -> Estimate:
    """Return how often the broadly drawn scenarios of a pole failed in a cycle."""
    pairs = [
        (proposal.example.template, failed)
        for proposal, failed in zip(one.scenarios.proposals, one.answers.failed, strict=True)
        if proposal.pole == pole and proposal.area == "broad"
    ]
    if not pairs:
        return unknown("share", 0, "no scenarios")
    return stats.rate([float(failed) for _, failed in pairs], [template for template, _ in pairs])


def _paired(first: Done, last: Done, pole: Pole) -> Estimate | None:
    """Return the change of a pole's failure rate between two cycles on the same scenarios; ``None`` where they are others."""
    if first is last or first.scenarios.proposals != last.scenarios.proposals:
        return None
    asked = first.scenarios.proposals
    taken = [place for place, one in enumerate(asked) if one.pole == pole and one.area == "broad"]
    before, after = ([float(one.answers.failed[place]) for place in taken] for one in (first, last))
    return stats.rate_difference(before, after, [asked[place].example.template for place in taken]) if taken else None


def _in_short(bench: Bench, done: Sequence[Done]) -> str:
    failures = sum(one.summary.failures for one in done)
    why = "no more cycles were allowed"
    if settled(bench.request, done):
        why = f"{bench.request.stop_after} audits running said as intended"
    return f"{len(done)} cycles, {_trained(done)} examples ({failures} of them failures); it ended because {why}"


# ---------------------------------------------------------------- parts


def _failures(bench: Bench, done: Sequence[Done]) -> Part:
    poles: list[Pole] = [pole for pole in POLES if pole in bench.planned.targets]
    rates = {pole: [failure_rate(one, pole) for one in done] for pole in poles}
    rows = [
        (
            str(one.summary.cycle),
            *(rates[pole][place] for pole in poles),
            len(one.answers.failed),
            one.summary.failures,
            one.summary.anchors,
            one.summary.rehearsal,
            one.summary.without_answer,
        )
        for place, one in enumerate(done)
    ]
    columns = ("asked", "trained: failures", "anchors", "rehearsal", "no answer")
    told = [f"{NAMED[pole]} {_went(rates[pole][0], rates[pole][-1], _paired(done[0], done[-1], pole))}" for pole in poles]
    return Part(
        name="failures",
        question="How often does the model fail on scenarios that it was never trained on, cycle by cycle?",
        answer=f"Before each cycle's training it failed {' and '.join(told)}.",
        figures=_curve(
            "How often it fails", [(SHORT[pole], rates[pole]) for pole in poles], [one.summary.cycle for one in done]
        ),
        tables=(
            Table(
                title="Failures before each cycle's training",
                columns=("cycle", *(f"failed {NAMED[pole]}" for pole in poles), *columns),
                rows=tuple(rows),
                note="Anchors are scenarios that it answered rightly, taken so that every batch holds both poles; 'no answer' "
                "counts failures for which no good answer was found.",
            ),
        ),
        details={
            "Method": "The scenarios are drawn from the sources and refused where they repeat. The model answers each once, "
            "at the behaviour's temperature, and the behaviour's check judges the answer. Only broadly drawn scenarios count "
            "here, so edge cases do not make it look worse. A pole that fails less than "
            f"{100 * bench.request.broad_above:.0f}% of the "
            "time gets half of its scenarios from the templates with the highest upper bound on their failure rate.",
            "Limits": "Scenarios come from templates that are also trained on; the held-out templates are in the next part.",
        },
    )


def _fresh(bench: Bench, done: Sequence[Done], last: RunRecord) -> Part:
    audits = [*((str(one.summary.cycle), one.audit) for one in done), ("last", last)]
    rows = []
    for name, record in audits:
        levels = [shown(record, pole, "after") for pole in POLES]
        rows.append((name, *levels, estimates_of(record, "judgement").get("d_prime_after"), record.verdict.headline))
    before, after = (shown(last, "express", when) for when in ("before", "after"))
    change = shown(last, "express", "change") or _outcome(last)
    curves = [(SHORT[pole], [shown(record, pole, "after") for _, record in audits[:-1]]) for pole in POLES]
    known = [(label, [one for one in values if one is not None]) for label, values in curves]
    return Part(
        name="fresh_items",
        question="Does it show on items that were never trained on, and only where it should?",
        answer=f"On the items of the last audit, where it should appear, the behaviour went {_went(before, after, change)}.",
        figures=_curve(
            "The behaviour on held-out items",
            [(label, values) for label, values in known if len(values) == len(done)],
            [one.summary.cycle for one in done],
        ),
        tables=(
            Table(
                title="Each audit has held-out items of its own",
                columns=("after cycle", "shown where it should", "shown where it should not", "told apart", "verdict"),
                rows=tuple(rows),
                note=f"{bench.request.audit_items} items a pole after a cycle, {bench.request.behaviour.held_out} at the end. "
                "Both poles are measured alike: by the probability of the graded choice where hardly anything but "
                "the named choices is written, else by answers.",
            ),
        ),
        details={
            "Method": "After every cycle the base model and the model as trained so far answer the same held-out items, with "
            "the same dice. No two audits have an item in common, so stopping at a good one does not flatter the last.",
            "Limits": "One dream with one seed: an interval covers items and templates, not another dream.",
        },
    )


def _forgetting(done: Sequence[Done], last: RunRecord) -> Part:
    rows = []
    for name, record in (*((str(one.summary.cycle), one.audit) for one in done), ("last", last)):
        findings = record.seeds[0].findings
        fell = dict.fromkeys(one.subject for one in beyond(findings))
        told = dict.fromkeys(one.subject for one in findings if one.tag == "forgetting")
        rows.append((name, len(told), len(fell), ", ".join(fell)))
    lost = rows[-1][3]
    return Part(
        name="forgetting",
        question="What else got worse on the way?",
        answer=f"At the end these had fallen beyond their margin: {lost}."
        if lost
        else "At the end nothing had fallen beyond its margin.",
        tables=(
            Table(
                title="Abilities and texts that fell beyond their margin",
                columns=("after cycle", "looked at", "fell", "which"),
                rows=tuple(rows),
                note="A cycle's audit looks at few items of each, so it finds large losses only; the last one decides.",
            ),
        ),
    )


def _templates(tally: Tally) -> Part:
    order = sorted(tally.tried.items(), key=lambda one: (-upper_bound(one[1]), one[0]))
    most = [(where, failed) for where, failed in order if len(failed) > 1][:_TEMPLATES]
    rows = tuple((f"{template} ({NAMED[pole]})", sum(failed), len(failed), _share(failed)) for (pole, template), failed in most)
    told = (
        f"The highest rate that can't be ruled out is that of {rows[0][0]}: {rows[0][1]} of {rows[0][2]} failed."
        if rows
        else ""
    )
    return Part(
        name="templates",
        question="Where does it fail most?",
        answer=told or "No template came twice, so no template can be named.",
        tables=(
            Table(
                title="Templates with the highest upper bound on their failure rate, all cycles together",
                columns=("template", "failed", "asked", "share"),
                rows=rows,
                note="Edge cases count too, and early failures with late ones: it tells where to look, not how good it is.",
            ),
        )
        if rows
        else (),
    )


def _examples(done: Sequence[Done]) -> Part:
    taken = [example for one in done for example in one.taken]
    origins = Counter((one.cycle, one.source, one.kind, one.answer_from) for one in taken)
    shown = [example for one in done for example in one.taken[: max(1, _SAMPLES // len(done))]][:_SAMPLES]
    return Part(
        name="examples",
        question="What was it trained on, and where does each example come from?",
        answer=f"{len(taken)} examples, each with its scenario, what the model said and what it was to say instead.",
        tables=(
            Table(
                title="Examples by where they come from",
                columns=("cycle", "source", "kind", "answer from", "examples"),
                rows=tuple(
                    (str(cycle), source, kind, answer, count)
                    for (cycle, source, kind, answer), count in sorted(origins.items())
                ),
                note="Every one stands in cycles/NN/examples.jsonl with its source, its place there, and its digest.",
            ),
        ),
        samples=tuple(
            Sample(
                title=f"cycle {one.cycle}, {NAMED[one.pole]}, {one.kind}: {one.source} {_place(one.origin)}",
                prompt=one.prompt,
                before=one.said,
                after=one.answer,
                before_passes=not one.failed,
                after_passes=None,
                sides=("said", "trained to say"),
            )
            for one in shown
        ),
        details={"Reading": "What the model said is its answer in that cycle, before the cycle's training."},
    )


def _repeats(bench: Bench, done: Sequence[Done]) -> Part:
    refused: Counter[str] = Counter()
    for one in done:
        refused.update(one.scenarios.refused)
    asked = sum(len(one.answers.said) for one in done)
    shown = [each for one in done for each in one.scenarios.shown][:_TEMPLATES]
    alone = sum(one.summary.batches_of_one_pole for one in done)
    return Part(
        name="repeats",
        question="Was anything trained twice, or trained and audited?",
        answer=f"{sum(refused.values())} of {asked + sum(refused.values())} scenarios were refused; "
        + (
            "nothing was trained."
            if not _trained(done)
            else "every batch held both poles."
            if not alone and len(bench.planned.targets) > 1
            else f"{alone} of {sum(one.summary.batches for one in done)} batches lacked a pole."
        ),
        tables=(
            Table(
                title="Refused scenarios",
                columns=("reason", "scenarios"),
                rows=tuple((reason, count) for reason, count in sorted(refused.items())) or (("none", 0),),
            ),
            *(
                (
                    Table(
                        title="Some of them",
                        columns=("reason", "source", "refused", "too much like"),
                        rows=tuple(
                            (one.reason, one.source, one_line(one.prompt, 160), one_line(one.like, 160)) for one in shown
                        ),
                    ),
                )
                if shown
                else ()
            ),
        ),
        details={
            "Method": "A scenario is refused when its prompt was trained on or is an audit item, or when it shares "
            f"{100 * bench.request.alike:.0f}% or more of its runs of three words with one of the same pole that is. "
            "Candidates come from MinHash, and each is then compared exactly. A scenario that was asked and not trained may "
            "be asked again."
        },
    )


# ---------------------------------------------------------------- pieces


def _trained(done: Sequence[Done]) -> int:
    return sum(one.summary.examples for one in done)


def _curve(title: str, series: Sequence[tuple[str, Sequence[Estimate]]], cycles: Sequence[int]) -> tuple[Figure, ...]:
    """Return a figure of shares over cycles with their intervals; none for a single cycle or without intervals."""
    drawn = [(label, values) for label, values in series if values and all(one.known for one in values)]
    if len(cycles) < 2 or not drawn:
        return ()
    lines = [curve(label, cycles, values, 100.0) for label, values in drawn]
    words = "; ".join(f"{label}: {', '.join(_percent(one) for one in values)}" for label, values in drawn)
    return (
        Figure(
            title=title,
            caption="Lines: shares by cycle, where the behaviour should appear and where it should not; bands: 95% intervals, "
            "clustered by template.",
            drawing="curves",
            numbers={"series": lines, "x_label": "cycle", "unit": "percent"},
            words=words,
        ),
    )


def _members(done: Sequence[Done], last: RunRecord) -> list[Member]:
    found = [
        Member(
            name=f"after cycle {one.summary.cycle}",
            folder=f"cycles/{one.summary.cycle:02d}/audit",
            state="finished",
            told=one.audit.verdict.headline,
        )
        for one in done
    ]
    return [*found, Member(name="last audit", folder="audit", state="finished", told=last.verdict.headline)]


def _estimates(bench: Bench, done: Sequence[Done], last: RunRecord) -> dict[str, Estimate]:
    found = {f"failed_{pole}:{one.summary.cycle}": failure_rate(one, pole) for one in done for pole in bench.planned.targets}
    for one in done:
        found |= {
            f"{pole}_after:{one.summary.cycle}": value
            for pole in POLES
            if (value := shown(one.audit, pole, "after")) is not None
        }
    found |= {
        f"last:{audit}.{key}": value for audit in ("outcome", "judgement") for key, value in estimates_of(last, audit).items()
    }
    return found | {"examples": exact(float(_trained(done)), "examples")}


def _place(origin: Mapping[str, str | int]) -> str:
    """Return where in its source an example stands, in short."""
    return ", ".join(f"{key} {value}" for key, value in origin.items() if key in ("index", "line", "number"))


def _outcome(record: RunRecord) -> Estimate | None:
    """Return the paired change of the behaviour where it should appear, on the same items before and after."""
    return next((one.estimate for one in record.seeds[0].findings if one.tag == "outcome"), None)


def _went(before: Estimate | None, after: Estimate | None, change: Estimate | None = None) -> str:
    """Return "from 70% to 48%" with intervals, and whether that is told from no change.

    By the paired change where there is one; else the two are on different items and stand for themselves: the interval of
    their difference is put together from both (Newcombe's square-and-add).
    """
    said = f"from {_ranged(before)} to {_ranged(after)}"
    if before is None or after is None or before.value is None or after.value is None or before is after:
        return said
    told = change.above(0.0) if change is not None else _differ(before, after)
    return said if told is not None else f"{said}, which can't be told from no change"


def _differ(before: Estimate, after: Estimate) -> bool | None:
    """Return whether the second is larger (True) or smaller (False) than the first; ``None`` where that can't be told."""
    if before.value is None or after.value is None or before.interval is None or after.interval is None:
        return None
    change = after.value - before.value
    down = math.hypot(after.value - after.interval[0], before.interval[1] - before.value)
    up = math.hypot(after.interval[1] - after.value, before.value - before.interval[0])
    return True if change > down else False if change < -up else None


def _ranged(estimate: Estimate | None) -> str:
    if estimate is None or estimate.interval is None:
        return _percent(estimate)
    low, high = (f"{100 * bound:.0f}" for bound in estimate.interval)
    return f"{_percent(estimate)} [{low}, {high}]"


def _share(failed: list[bool]) -> Estimate:
    """Return the failure rate of one template, whose scenarios are all that there is to count."""
    method = "Wilson interval, scenarios of one template taken as independent"
    return Estimate(value=rate(failed), unit="share", n=len(failed), interval=bounds(failed), method=method)


def _percent(estimate: Estimate | None) -> str:
    if estimate is None or estimate.value is None:
        return "an unknown share"
    return f"{100 * estimate.value:.0f}%"
