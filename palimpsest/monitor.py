"""Monitor: what does the trend of a memory come to, in words and on a page?

The statistics are in ``palimpsest.memory.trend``; here they are told, as an account in the look of the other reports.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from palimpsest.audit import Table
from palimpsest.core.curves import curve
from palimpsest.core.wording import amount, capital, chance, one_line, shown
from palimpsest.memory.records import Correction
from palimpsest.memory.schema import VERSION
from palimpsest.memory.store import COVERS, Memory
from palimpsest.memory.trend import ALPHA, Series, Window
from palimpsest.report.summary import POLES
from palimpsest.store.account import Account, Figure, Part

_MOST_CORRECTIONS = 12
_CLIP = 300
_METHOD = (
    "A watched answer comes back when it failed and a correction from another conversation, of the same behaviour and pole, "
    f"covers its situation (likeness {COVERS:g} or more). Whether that conversation came earlier or later does not count: "
    "otherwise the rate would climb by itself while the memory fills. The test is the largest likelihood ratio of two "
    "levels over one, over all cuts of the order, where each conversation also leans on the one before it; against shuffles of "
    "blocks of neighbouring conversations, as long as they fail alike; Holm-adjusted over all series."
)
_LIMITS = (
    "The false-alarm rate holds for one look: who looks every day will see one sooner or later. A change of what people ask "
    "moves the rate too; labels, poles and separate behaviours keep that apart only so far. Two changes that cancel are not "
    "found. Behaviours that nobody watches for are not seen."
)


def name_of(one: Series) -> str:
    """Return what a series is called."""
    return f"{one.behaviour}, {POLES[one.pole]}"


def sentence(one: Series) -> str:
    """Return what the trend of one series says."""
    change = one.change
    if change.p_value is None or one.chance is None:
        return f"{name_of(one)}: could not say: {change.method.removeprefix('could not say: ')}"
    if not one.found:
        finds = amount(change.minimum_detectable, "points") if change.minimum_detectable is not None else ""
        would = f"finds a rise of ≥ {finds} half way along" if finds else "too few answers to find any rise"
        return (
            f"{name_of(one)}: no change found (p {_chance(one.chance)}); corrections come back in "
            f"{shown(one.overall).sentence} of {change.trials:,} answers; {would}"
        )
    direction = "come back more often" if change.rose else "come back less often"
    return (
        f"{name_of(one)}: corrections {direction} from {_place(one, 0, change.place)} on "
        f"(95%: {_place(one, 1, change.places and change.places[0])} to {_place(one, 2, change.places and change.places[1])}; "
        f"p {_chance(one.chance)}): {shown(change.before).sentence} before, {shown(change.after).sentence} after"
    )


def account(folder: Path, found: Sequence[Series]) -> Account:
    """Return the trend as an account, whose page ``palimpsest report FOLDER`` draws again."""
    with Memory.open(folder) as memory:
        counts = memory.counts()
        parts = tuple(_part(memory, one) for one in found)
    rises = [one for one in found if one.regression]
    undecided = [one for one in found if one.chance is None]
    return Account(
        kind="memory",
        title=folder.absolute().name,
        question="Do corrections come back more often than they did?",
        label="could_not_say" if not found or len(undecided) == len(found) else "described",
        headline=_headline(found, rises, undecided),
        sure=_sure(found),
        reasons=tuple(sentence(one) for one in sorted(found, key=lambda one: not one.regression))
        or ("No answer was judged; see `palimpsest watch --help` for labels.",),
        next_steps=_next(rises, undecided),
        parts=parts,
        members=(),
        estimates={f"{one.behaviour}.{one.pole}": one.overall for one in found},
        provenance={**counts, "form of the memory": VERSION},
        specification={"covers from a likeness of": COVERS, "false alarms": ALPHA},
    )


def _sure(found: Sequence[Series]) -> str:
    if not found:
        return "nothing was judged"
    series = "this series" if len(found) == 1 else f"these {len(found)} series together"
    return f"a false alarm about {series} comes up in {100 * ALPHA:g} of 100 looks"


def _headline(found: Sequence[Series], rises: Sequence[Series], undecided: Sequence[Series]) -> str:
    if rises:
        return f"Corrections come back more often than they did: {'; '.join(map(name_of, rises))}"
    if not found or len(undecided) == len(found):
        return "Could not say whether corrections come back more often"
    falls = [one for one in found if one.found]
    if not falls:
        return "No change found in how often corrections come back"
    return f"Corrections come back less often than they did: {'; '.join(map(name_of, falls))}"


def _next(rises: Sequence[Series], undecided: Sequence[Series]) -> tuple[str, ...]:
    steps = [
        f"{name_of(one)}: look at what changed in the model about {_place(one, 0, one.change.place)}, and audit it against "
        "the model before with `palimpsest diff`"
        for one in rises
    ]
    if undecided:
        steps.append("watch more conversations")
    return tuple(steps)


def _part(memory: Memory, one: Series) -> Part:
    known = [each for each in memory.corrections(one.behaviour) if each.pole == one.pole]
    return Part(
        name=name_of(one),
        question="How often does a known failure come back, and since when?",
        answer=capital(sentence(one).split(": ", 1)[1]),
        figures=(_figure(one),) if len(one.windows) > 1 else (),
        tables=(_windows(one), _corrections(memory, known)) if known else (_windows(one),),
        cannot_say=_cannot(one),
        details={"Method": _METHOD, "Limits": _LIMITS},
    )


def _cannot(one: Series) -> tuple[str, ...]:
    said = ["whether the people who asked are others than before"]
    if not one.dated:
        said.append("when it changed: not every conversation has a time, so they stand in the order in which they were watched")
    return tuple(said)


def _figure(one: Series) -> Figure:
    middle = [(window.first + window.last) / 2 for window in one.windows]
    values = {"came back": [window.came_back for window in one.windows], "failed": [window.failed for window in one.windows]}
    lines = [curve(label, middle, found, 100.0) for label, found in values.items() if all(each.interval for each in found)]
    return Figure(
        title="Over time",
        caption=f"Windows of about {one.windows[0].last} conversations. Bands: 95% intervals over conversations.",
        drawing="curves",
        numbers={"series": lines, "x_label": "conversation, in order of time" if one.dated else "conversation, as watched",
                 "unit": "% of answers"},
        words=sentence(one),
    )  # fmt: skip


def _windows(one: Series) -> Table:
    rows = tuple((_span(window, one.dated), window.came_back, window.failed) for window in one.windows)
    return Table(title="By window", columns=("conversations", "came back", "failed"), rows=rows)


def _span(window: Window, dated: bool) -> str:
    places = f"{window.first} to {window.last}"
    if not dated or window.start is None or window.end is None:
        return places
    first, last = day(window.start), day(window.end)
    return f"{places} ({first})" if first == last else f"{places} ({first} to {last})"


def _corrections(memory: Memory, known: Sequence[Correction]) -> Table:
    rows = tuple(
        (
            f"#{one.id}",
            one_line(memory.situation(one.scenario).last, _CLIP),
            one_line(one.said, _CLIP),
            "not known" if one.better is None else one_line(one.better, _CLIP),
            f"{one.importance:.2f}",
            f"{one.failed} of {one.covered}",
        )
        for one in known[:_MOST_CORRECTIONS]
    )
    more = f" The {_MOST_CORRECTIONS} most important of {len(known):,}." if len(known) > _MOST_CORRECTIONS else ""
    return Table(
        title="Corrections",
        columns=("", "what was asked", "what the model said", "a better answer", "importance", "went wrong in"),
        rows=rows,
        note="Importance: (failures + 1) / (situations + 2) over the watched situations that a correction covers." + more,
    )


def _place(one: Series, which: int, place: int | None) -> str:
    time = one.when[which]
    number = "?" if place is None else f"conversation {place + 1:,}" + ("" if which else f" of {one.change.units:,}")
    return number if time is None else f"{number} ({day(time)})"


def _chance(value: float) -> str:
    text = chance(value)
    return text if text.startswith("<") else f"= {text}"


def day(time: float) -> str:
    """Return a time (seconds since 1970) as a date, in UTC."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d")
