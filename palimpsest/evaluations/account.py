"""Account: what does a comparison come to, in words and on a page?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from palimpsest.audit import Table
from palimpsest.core.estimate import Estimate
from palimpsest.core.stats.means import NO_SPREAD
from palimpsest.core.wording import MINUS, amount, chance, counted, shown
from palimpsest.evaluations import flips
from palimpsest.evaluations.comparison import Found
from palimpsest.evaluations.matching import Matched
from palimpsest.evaluations.paired import Compared, State, rows_of, sides
from palimpsest.store.account import Account, Figure, Part

WORDS: dict[State, str] = {
    "regression": "regression",
    "improvement": "improvement",
    "moved": "changed",
    "worse": "worse",
    "better": "better",
    "differs": "differs",
    "unchanged": "unchanged",
    "identical": "identical",
    "open": "not decided",
    "unknown": "could not say",
}
"""Each state in the words of the summary."""
_ORDER: tuple[State, ...] = (
    "regression", "worse", "moved", "differs", "open", "unknown", "improvement", "better", "unchanged", "identical",
)  # fmt: skip
COLUMNS = ("task, metric", "A", "B", f"B {MINUS} A", "items that moved", "McNemar p", "comes to")
_ROWS = 24
"""Rows of one figure."""
_NAMED = 4
_TOLD = 8
"""Comparisons told in sentences; all are in the table."""
_QUIET: tuple[State, ...] = ("open", "unchanged", "identical")
"""What only the table tells of."""
_COUNTED = ("regression", "improvement")
_CHANCE = 0.05
_METHOD = (
    "Every item is compared with itself: the difference B - A of its score (its mean over epochs, where there are several) is "
    "the unit, clustered where items belong together. 0/1 scores: Bonett and Price's interval for paired proportions with a "
    "design effect; other scores: CR2 with a t interval; scores that are means over words or bytes are weighted by them. The "
    "change is held against no change, and with two one-sided tests against the margin. Holm's correction goes over all tasks "
    "and metrics of the comparison."
)
_STATES = (
    "Regression: the whole 95% interval lies beyond the margin on the worse side, also after Holm's correction (then the exit "
    "code is 2). Worse: it differs from no change after Holm's correction, and could be less than the margin, or no margin was "
    "stated. "
    "Unchanged: two one-sided tests at 5% put the change inside the margin. Identical: no item has another score. Not decided: "
    "none of these; the smallest change that would have been found stands beside it."
)
_LIMITS = (
    "It speaks of these two sets of answers and of items like these, not of how the models were trained. Sampled answers vary "
    "from one evaluation to the next; the interval holds that too, because every item was answered anew, but more epochs make "
    "it narrower. The exact McNemar test takes items as independent."
)


def account(found: Found, packages: dict[str, str]) -> Account:
    """Return a comparison as an account, whose page ``palimpsest report FOLDER`` draws again; with versions of packages."""
    rows = sorted(found.compared, key=_rank)
    label, few = _label(found, rows), _few(found)
    return Account(
        kind="compare",
        title=" against ".join(reversed(found.names)),
        question="What does B answer differently from A, on the same items?",
        label="described" if few and label in ("identical", "unchanged") else label,
        headline=_headline(label, rows, _extent(found)),
        sure=f"not clear: fewer than half of the items are compared ({few})" if few else _sure(rows),
        reasons=tuple(_reasons(found, rows)),
        next_steps=tuple(_next(rows)),
        parts=(_summary(found), *flips.parts(found)),
        members=(),
        estimates={one.name: one.change for one in found.compared},
        notes=found.notes,
        provenance={"packages": packages, "kind of log": found.kind, "files": dict(found.digests)},
        specification=_specification(found),
    )


def is_regression(found: Found) -> bool:
    """Whether anything is worse by more than its margin, for sure."""
    return any(one.state == "regression" for one in found.compared)


def sentence(one: Compared) -> str:
    """Return what one comparison says."""
    change = one.change
    told = shown(change, change=True)
    before, after = _brief(one.before), _brief(one.after)
    if one.state == "unknown":
        by = f"{told.value} {told.unit}".strip()
        return (
            f"on {one.task}, {one.metric.name} went from {before} to {after} ({by}): could not say whether that is more than "
            f"chance ({_unknown(one)})"
        )
    moved = (
        f"stayed at {after}" if before == after else f"{'rose' if (change.value or 0) > 0 else 'fell'} from {before} to {after}"
    )
    if one.state == "identical":
        return f"on {one.task}, {one.metric.name}: no item has another score ({before})"
    return f"on {one.task}, {one.metric.name} {moved} ({told.sentence}): {WORDS[one.state]}{_against(one)}"


def _unknown(one: Compared) -> str:
    """Return why nothing can be said of a change."""
    if one.change.method == NO_SPREAD:
        return "every item moved by as much, so there is no spread to take an interval from"
    return shown(one.change, change=True).remark


def _against(one: Compared) -> str:
    margin = one.change.margin
    bound = f"±{amount(margin, one.change.unit)}" if margin is not None else ""
    if one.state in ("regression", "improvement", "moved"):
        return f", beyond {bound}"
    if one.state == "unchanged":
        return f" within {bound}"
    if one.state == "open" and one.change.minimum_detectable is not None:
        return f"; would have seen {amount(one.change.minimum_detectable, one.change.unit)} or more"
    return "" if bound else "; no margin was stated"


def _brief(one: Estimate) -> str:
    said = shown(one, change=False)
    return f"{said.value}{said.unit if said.unit == '%' else ''}"


def _label(
    found: Found, rows: Sequence[Compared]
) -> Literal["regression", "identical", "could_not_say", "unchanged", "described"]:
    states = {one.state for one in rows}
    if "regression" in states:
        return "regression"
    if states == {"identical"} and all(_same_answers(one) for one in found.matched):
        return "identical"
    if states == {"unknown"}:
        return "could_not_say"
    return "unchanged" if states <= {"unchanged", "identical"} and "unchanged" in states else "described"


def _few(found: Found) -> str:
    """Return the tasks of which fewer than half of a side's items are compared, in any score: they say little of the whole."""
    told = []
    for one in found.matched:
        compared = min((len(row.pairs) for row in rows_of(found.compared, one)), default=0)
        if 2 * compared < max(one.held):
            told.append(f"{one.before.task} {compared:,} of {max(one.held):,}")
    return ", ".join(told[:_NAMED]) + (f", and {len(told) - _NAMED} more" if len(told) > _NAMED else "")


def _extent(found: Found) -> str:
    """Return which items are compared, such as "the 2 items that both hold, of 80"; nothing where it is all of both sides."""
    compared = sum(max((len(row.pairs) for row in rows_of(found.compared, one)), default=0) for one in found.matched)
    before, after = (sum(one.held[side] for one in found.matched) for side in (0, 1))
    if compared == before == after:
        return ""
    both_hold = compared == sum(len(one.pairs) for one in found.matched)
    which = f"the {counted(compared, 'item')} that both {'hold' if both_hold else 'have scores for'}"
    return f"{which}, of {before:,}" + (f" in A and {after:,} in B" if before != after else "")


def _headline(label: str, rows: Sequence[Compared], extent: str = "") -> str:
    if label == "identical":
        rounded = ", up to rounding" if any(one.rounded for one in rows) else ""
        if extent:
            return f"Identical: {extent}, have the same answer and the same score{rounded}"
        return f"Identical: every item has the same answer and the same score{rounded}"
    said = _comes_to(label, rows)
    return f"{said}, on {extent}" if extent else said


def _comes_to(label: str, rows: Sequence[Compared]) -> str:
    if label == "regression":
        worse = [one for one in rows if one.state == "regression"]
        said = [f"{one.metric.name} on {one.task} by {amount(one.change.value, one.change.unit)}" for one in worse[:_NAMED]]
        more = f", and {len(worse) - _NAMED} more" if len(worse) > _NAMED else ""
        return f"B is worse than A beyond the margin: {', '.join(said)}{more}"
    if label == "unchanged":
        return "Unchanged: every score lies within its margin"
    if label == "could_not_say":
        return f"Could not say: {'; '.join(dict.fromkeys(_unknown(one) for one in rows))}"
    worse = [one for one in rows if one.state == "worse"]
    if worse:
        said = ", ".join(
            f"{one.metric.name} on {one.task} by {amount(one.change.value, one.change.unit)}" for one in worse[:_NAMED]
        )
        unstated = all(one.change.margin is None for one in worse)
        how = "with no margin stated" if unstated else "not shown to be by more than the margin"
        more = f", and {len(worse) - _NAMED} more" if len(worse) > _NAMED else ""
        return f"B is worse than A in {len(worse)} of {len(rows)} comparisons, {how}: {said}{more}"
    if len(rows) == 1:
        said = sentence(rows[0])
        return said[:1].upper() + said[1:]
    return f"No regression beyond the margin is shown: {_counted(rows, tuple(WORDS))}"


def _counted(rows: Sequence[Compared], order: Sequence[State]) -> str:
    """Return how many came to what, such as "2 regressions, 1 unchanged"."""
    counts = [(WORDS[state], sum(one.state == state for one in rows)) for state in order]
    return ", ".join(f"{count} {word}{'s' if count > 1 and word in _COUNTED else ''}" for word, count in counts if count)


def _of_these(items: int) -> str:
    """Return what items that are all alike say of others: were more to differ, all of these would seldom be alike."""
    most = amount(1.0 - _CHANCE ** (1.0 / items), "share")
    return f"clear for these items: no score differs; of others like them up to {most} could (n = {items}, 95%)"


def _sure(rows: Sequence[Compared]) -> str:
    over = f", also after Holm's correction over {len(rows)} comparisons" if len(rows) > 1 else ""
    states = {one.state for one in rows}
    if "regression" in states:
        return f"clear, the whole 95% interval lies beyond the margin{over}"
    if "worse" in states:
        return "likely: something got worse, but it could be by less than its margin, or no margin was stated"
    if states <= {"identical"}:
        return _of_these(min(one.change.n or len(one.pairs) for one in rows))
    if states <= {"unchanged", "identical", "improvement", "better"}:
        return "clear, nothing got worse by more than its margin"
    if states & {"moved", "differs"} and not states & {"open", "unknown"}:
        return "clear that it changed; whether that is worse can't be told, as nobody says which direction is better"
    return "not decided, the items are too few to tell"


def _reasons(found: Found, rows: Sequence[Compared]) -> list[str]:
    sides = zip("AB", (found.matched[0].before, found.matched[0].after), found.paths, strict=True)
    told = [f"{letter} is {one.subject} ({path})" for letter, one, path in sides]
    told += [f"left out: {one}" for one in found.left_out]
    if differing := _asked_differently(found.matched):
        told.append(f"asked differently, so not all of the change need be the model's: {'; '.join(differing)}")
    if len(rows) > 1:  # of one alone the headline says it
        told += [sentence(one) for one in rows if one.state not in _QUIET][:_TOLD]
    return told


def _asked_differently(matched: Sequence[Matched]) -> list[str]:
    """Return each way in which the two were asked differently, once, with the tasks that it holds of."""
    tasks: dict[str, list[str]] = {}
    for each in matched:
        for how in each.differing:
            tasks.setdefault(how, []).append(each.before.task)
    return [
        how if len(matched) == 1 else f"{how} (in {'all tasks' if len(names) == len(matched) else ', '.join(names)})"
        for how, names in tasks.items()
    ]


def _next(rows: Sequence[Compared]) -> list[str]:
    steps = []
    if undirected := sorted({one.metric.name for one in rows if one.sign == 0 and one.state not in ("identical", "unchanged")}):
        steps.append(f"Say which direction is better of {', '.join(undirected)}: --better {undirected[0]}=higher (or =lower).")
    if unbounded := sorted({one.metric.name for one in rows if one.change.margin is None and one.state != "identical"}):
        steps.append(f"State what counts as unchanged of {', '.join(unbounded)}: --margin {unbounded[0]}=SIZE.")
    if any(one.state == "open" for one in rows):
        steps.append("To decide what is not decided, evaluate both on more items, or with more epochs.")
    return steps


def _summary(found: Found) -> Part:
    rows = found.compared
    items = sum(len(one.pairs) for one in found.matched)
    tasks = f"{len(found.matched)} task{'s' if len(found.matched) > 1 else ''}"
    return Part(
        name="all comparisons",
        question="By how much does each score differ, and is that beyond its margin?",
        answer=f"{items:,} items of {tasks}, {len(rows)} comparison{'s' if len(rows) > 1 else ''}: "
        + f"{_counted(rows, _ORDER)}.",
        figures=tuple(_figures(rows)),
        tables=(table(sorted(rows, key=_rank)),),
        cannot_say=tuple(f"Asked differently: {how}" for how in _asked_differently(found.matched)),
        details={"Method": _METHOD, "What it comes to": _STATES, "Limits": _LIMITS,
                 "Reference": "Miller 2024, arXiv 2411.00640 (paired, clustered); Bonett and Price 2012; McNemar 1947; "
                 "Schuirmann 1987; Holm 1979."},
    )  # fmt: skip


def table(rows: Sequence[Compared]) -> Table:
    """Return all comparisons as a table."""
    return Table(
        title="All comparisons",
        columns=COLUMNS,
        rows=tuple(
            (one.name, one.before, one.after, one.change, _items_moved(one),
             None if one.exact is None else chance(one.exact), WORDS[one.state])
            for one in rows
        ),
        note=_note(rows),
    )  # fmt: skip


def _items_moved(one: Compared) -> str:
    """Return how many items moved to which side; where nobody says which is better, the score only fell or rose."""
    if one.same:
        return "no item differs"
    down, up = sides(bool(one.sign))
    return f"{one.worse:,} {down}, {one.improved:,} {up}"


def _note(rows: Sequence[Compared]) -> str:
    told = []
    if any(one.metric.name.split(",")[0] in ("word_perplexity", "byte_perplexity", "perplexity") for one in rows):
        told.append("Perplexities are compared as their logarithms, in nats.")
    if left := [f"{one.name} ({one.left})" for one in rows if one.left]:
        told.append(f"Items without a score on one side, left out: {', '.join(left)}.")
    return " ".join(told)


def _figures(rows: Sequence[Compared]) -> list[Figure]:
    """Return figures of the changes: those of one unit, one margin and one better side together."""
    tasks = _short([one.task for one in rows])
    groups: dict[tuple[str, float | None, int], list[Compared]] = {}
    for one in rows:
        if one.change.value is not None:
            groups.setdefault((one.change.unit, one.change.margin, one.sign), []).append(one)
    found = []
    ordered = {key: sorted(members, key=_rank) for key, members in groups.items()}
    for (unit, margin, sign), members in sorted(ordered.items(), key=lambda group: _rank(group[1][0])):
        kept = members[:_ROWS]
        side = {1: "left is worse", -1: "right is worse", 0: "nobody says which side is worse"}[sign]
        more = f" The {_ROWS} that matter most of {len(members)}." if len(members) > _ROWS else ""
        found.append(
            Figure(
                title=f"Change, {shown(kept[0].change).unit or 'in its own unit'} ({side})",
                caption=f"B - A on the same items, with 95% intervals over clusters.{more}",
                drawing="change_rows",
                numbers={
                    "labels": [f"{tasks[one.task]} {one.metric.name}".strip() for one in kept],
                    "changes": [one.change.model_dump() for one in kept],
                    "margin": margin,
                    "unit": f"{'percentage points' if unit == 'points' else unit or 'score'}, B - A",
                    "worse": {1: "left", -1: "right", 0: "neither"}[sign],
                },
                words="; ".join(map(sentence, kept)),
            )
        )
    return found


def _rank(one: Compared) -> tuple[int, bool]:
    return _ORDER.index(one.state), one.sign == 0


def _short(tasks: Sequence[str]) -> dict[str, str]:
    """Return tasks without the words with which all of them begin; a single task needs no name."""
    names = list(dict.fromkeys(tasks))
    first, last = min(names), max(names)
    alike = next((place for place, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))
    end = 1 + max(first[:alike].rfind(mark) for mark in "_:-/. ")
    return {name: name[end:] if len(names) > 1 else "" for name in names}


def _same_answers(matched: Matched) -> bool:
    return all(
        [one.answer for one in pair.before.answers] == [one.answer for one in pair.after.answers] for pair in matched.pairs
    )


def _specification(found: Found) -> dict[str, Any]:
    return {
        "A": str(found.paths[0]),
        "B": str(found.paths[1]),
        "comparisons": {
            one.name: {
                "better": one.metric.better or "not known",
                "margin": one.change.margin,
                "items": len(one.pairs),
                "clusters": one.change.n,
                "state": one.state,
            }
            for one in found.compared
        },
    }
