"""Trust: what could spoil these numbers, and does it?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from palimpsest.audit import Table
from palimpsest.core.checkup import STATES, State, told
from palimpsest.report.sections import Grid, grid
from palimpsest.store.record import RunRecord, SubjectRecord


@dataclass(frozen=True)
class Trust:
    """What the checks of all models of a run come to."""

    answer: str
    doubts: tuple[str, ...]
    """What touches the numbers, by model."""
    notes: tuple[str, ...]
    """What is worth knowing and touches none of them."""
    checks: Grid


def trust(record: RunRecord) -> Trust | None:
    """Return what is said about the numbers themselves; ``None`` where no model was checked."""
    checked = [one for one in record.subjects if one.checks]
    if not checked:
        return None
    doubts = tuple(_sentences(checked, "failed"))
    count = len({answer.about for one in checked for answer in one.checks})
    names = ", ".join(dict.fromkeys(one.role.replace("_", " ") for one in checked))
    answer = (
        f"Not without care: {len(doubts)} of what was checked touches the numbers."
        if doubts
        else f"Yes, as far as {count} checks of each model tell ({names})."
    )
    notes = tuple(_sentences(checked, "told"))
    table = Table(title="What was checked", columns=("what", "model", "state", "found"), rows=tuple(_rows(checked)), note=_NOTE)
    return Trust(answer, doubts, notes, grid(table))


_NOTE = (
    "Read on a few hundred tokens of each model before it was measured. What may be rounding follows from the type of the "
    "weights, the model's depth and width, and its largest logit."
)


def _sentences(checked: list[SubjectRecord], state: State) -> Iterator[str]:
    """Yield what is said of each model, once where it is said of several."""
    said: dict[str, list[str]] = {}
    roles = Counter(one.role for one in checked)
    for one in checked:
        for sentence in told(one.checks, state):
            said.setdefault(sentence, []).append(one.name if roles[one.role] > 1 else one.role.replace("_", " "))
    for sentence, names in said.items():
        yield sentence if len(names) == len(checked) and len(checked) > 1 else f"{', '.join(names)}: {sentence}"


def _rows(checked: list[SubjectRecord]) -> Iterator[tuple[str, str, str, str]]:
    """Yield a line for each thing checked and each answer to it, the worst first."""
    found: dict[tuple[str, State, str], list[str]] = {}
    for one in checked:
        for answer in one.checks:
            found.setdefault((answer.about, answer.state, answer.found), []).append(one.role.replace("_", " "))
    places = {about: place for place, about in enumerate(dict.fromkeys(about for about, *_ in found))}
    for about, state, words in sorted(found, key=lambda one: (STATES.index(one[1]), places[one[0]])):
        roles = found[about, state, words]
        yield about, "all" if len(roles) == len(checked) > 1 else ", ".join(dict.fromkeys(roles)), state, words
