"""Sections: what does each audit's docstring say, and what does its part of the page hold?"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from palimpsest import audit as audits
from palimpsest.audit import Outcome, Result, Sample, Table
from palimpsest.core import docstrings
from palimpsest.core.estimate import Estimate
from palimpsest.core.wording import COULD_NOT_SAY, amount, remark, shown, visible
from palimpsest.report.look import draw_or_say

Value = str | int | Estimate | None
_NUMBER = re.compile(r"^[+\-\u2212]?[\d,.]+(e[+-]?\d+)?%?$")
_FIGURE = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.]*\d)")
_SHORT, _LONG, _CELL = 14, 40, 300
_EXACT = "These numbers are exact: they come from no sample and have no interval."


@dataclass(frozen=True)
class Cell:
    """One place of a table."""

    kind: str
    """``text``, ``short`` (text that is kept in one line), ``count``, ``estimate``, ``unknown`` or ``empty``."""
    text: str
    interval: str = ""
    unit: str = ""
    remark: str = ""


@dataclass(frozen=True)
class Column:
    """The head of a column."""

    name: str
    unit: str
    """Of everything in the column, where it is one."""
    kind: str
    """``text`` or ``number``."""
    margin: str
    """The equivalence margin of all its estimates, as written; empty where they do not share one."""

    @property
    def told_unit(self) -> str:
        return "" if self.unit in self.name else self.unit


@dataclass(frozen=True)
class Grid:
    """A table as it is drawn."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...]
    width: str
    """``narrow``, ``usual``, or, with rows that are cards on a phone, ``wide`` (many columns) and ``texts`` (long ones)."""
    judged: bool
    """Whether the second column says in a word what the others come to."""
    methods: tuple[str, ...]
    """How the interval of each estimate in it was made."""

    @property
    def count(self) -> int:
        return len(self.columns)


@dataclass(frozen=True)
class Section:
    """One audit's part of the page."""

    name: str
    state: str
    why: str
    question: str
    details: dict[str, str]
    """The docstring's other sections."""
    result: Result | None = None
    figure: Markup | None = None
    figure_problem: str = ""
    in_picture: bool = False
    """Whether the page's first picture shows already what its figure would."""
    grids: tuple[Grid, ...] = ()
    samples: tuple[Sample, ...] = ()

    @property
    def intervals(self) -> tuple[tuple[str, int], ...]:
        """Each way in which an interval was made, and for how many estimates."""
        return grouped(method for grid in self.grids for method in grid.methods)


def section(outcome: Outcome, holm: Mapping[str, bool], *, in_picture: bool = False) -> Section:
    """Return what the page says of one audit.

    Args:
        outcome: of the audit.
        holm: as in the record.
        in_picture: whether its figure is left out, because the page's first picture shows the same.
    """
    details = docstring_sections(outcome.audit)
    question = details.pop("Question", "")
    result = outcome.result
    if result is None:
        return Section(outcome.audit, outcome.state, outcome.why, question, details)
    figure, problem = (None, "") if in_picture else _figure(outcome.audit, result)
    chance = [
        estimate
        for name, estimate in result.estimates.items()
        if holm.get(f"{outcome.audit}.{name}") is False and estimate.above(0.0) is not None
    ]
    return Section(
        name=outcome.audit,
        state=outcome.state,
        why=outcome.why,
        question=question,
        details=details,
        result=result,
        figure=figure,
        figure_problem=problem,
        in_picture=in_picture,
        grids=tuple(grid(table, chance) for table in result.tables),
        samples=result.samples,
    )


def docstring_sections(name: str) -> dict[str, str]:
    """Return an audit's docstring by section; empty where this version has no audit of that name."""
    if name not in audits.names():
        return {}
    found = docstrings.sections(inspect.getdoc(type(audits.load(name))) or "")
    return {title: " ".join(body.split()) for title, body in found.items()}


def grid(table: Table, chance: Sequence[Estimate] = ()) -> Grid:
    """Return a table as it is drawn; a column about which nothing was asked in any row is left out.

    Args:
        table: as the audit stored it.
        chance: estimates whose interval excludes 0, but not after Holm's correction over all primary questions.
    """
    asked = [place for place in range(len(table.columns)) if any(row[place] is not None for row in table.rows)]
    columns = {place: [row[place] for row in table.rows] for place in asked}
    width = _width(list(columns.values()))
    name = table.columns[-1]
    alone = not name or table.columns.count(name) == 1  # where others are called the same, it is about the one before it
    judged = alone and _is_verdict([columns[place] for place in asked])
    order = [asked[0], asked[-1], *asked[1:-1]] if judged else asked
    exact = _is_exact(columns.values())
    heads = [Column(table.columns[at], _unit(columns[at]), _kind(columns[at]), _margin(columns[at])) for at in order]
    if judged and not heads[1].name:
        heads[1] = replace(heads[1], name="verdict")
    return Grid(
        title=table.title,
        columns=tuple(heads),
        rows=tuple(
            tuple(
                _cell(
                    row[place],
                    head,
                    chance,
                    brief=width == "wide",
                    level=_is_level(head.name) or _is_level(str(row[asked[0]])),
                    exact=exact,
                )
                for place, head in zip(order, heads, strict=True)
            )
            for row in table.rows
        ),
        notes=tuple(note for note in (table.note, _on_margins(heads), _EXACT if exact else "") if note),
        width=width,
        judged=judged,
        methods=tuple(
            cell.method for cells in columns.values() for cell in cells if isinstance(cell, Estimate) and cell.interval
        ),
    )


def grouped(methods: Iterable[str]) -> tuple[tuple[str, int], ...]:
    """Return the ways in which intervals were made, the most used first, and for how many; their numbers become ranges."""
    found: dict[str, list[list[float]]] = {}
    for method in methods:
        found.setdefault(_FIGURE.sub("\0", method), []).append([float(one) for one in _FIGURE.findall(method)])
    told = [(_with_ranges(words, numbers), len(numbers)) for words, numbers in found.items()]
    return tuple(sorted(told, key=lambda one: -one[1]))


def _with_ranges(words: str, numbers: Sequence[Sequence[float]]) -> str:
    parts = words.split("\0")
    ranges = [
        f"{min(one):g}" if min(one) == max(one) else f"{min(one):g} to {max(one):g}" for one in zip(*numbers, strict=True)
    ]
    return parts[0] + "".join(said + part for said, part in zip(ranges, parts[1:], strict=True))


def _is_verdict(columns: Sequence[Sequence[Value]]) -> bool:
    """Return whether the last column says in a word what the estimates before it come to."""
    if len(columns) < 4 or sum(any(isinstance(cell, Estimate) for cell in column) for column in columns) < 2:
        return False
    return all(isinstance(cell, str) and len(cell) <= _SHORT and not _NUMBER.match(cell) for cell in columns[-1])


def _is_exact(columns: Iterable[Sequence[Value]]) -> bool:
    """Return whether all of several known estimates are exact, so that it is told once and not in every cell."""
    known = [cell for column in columns for cell in column if isinstance(cell, Estimate) and cell.value is not None]
    return len(known) > 1 and all(cell.method == "exact" for cell in known)


def _margin(column: Iterable[Value]) -> str:
    """Return the equivalence margin that all estimates of a column share, as written; empty where they do not."""
    margins = {(cell.margin, cell.unit) for cell in column if isinstance(cell, Estimate) and cell.value is not None}
    size, unit = margins.pop() if len(margins) == 1 else (None, "")
    return "" if size is None else f"±{amount(size, unit)}"


def _on_margins(heads: Sequence[Column]) -> str:
    told = [f"{head.name} {head.margin}" for head in heads if head.margin]
    return f"Margins: {', '.join(told)}; beyond: the whole 95% interval lies outside." if told else ""


def _width(columns: Sequence[Sequence[Value]]) -> str:
    intervals = sum(any(isinstance(cell, Estimate) and cell.interval for cell in column) for column in columns)
    if len(columns) > 5 or intervals > 3:
        return "wide"
    if any(isinstance(cell, str) and len(cell) > _LONG for column in columns[1:] for cell in column):
        return "texts"
    return "narrow" if len(columns) < 4 else "usual"


def _unit(column: Iterable[Value]) -> str:
    """Return the unit that all estimates of a column share, as written; percent stays with its number."""
    units = {shown(cell).unit for cell in column if isinstance(cell, Estimate) and cell.value is not None}
    return units.pop() if len(units) == 1 and "%" not in units else ""


def _kind(column: Iterable[Value]) -> str:
    """Return whether a column is read as text, or compared as numbers (which may have been written out already)."""
    return "text" if any(isinstance(cell, str) and not _NUMBER.match(cell) for cell in column) else "number"


def _is_level(name: str) -> bool:
    """Return whether a row or column names a state and not a change of it."""
    words = set(re.findall(r"\w+", name.lower()))
    return bool(words & {"before", "after"}) and not words & {"change", "difference", "gained"}


def _cell(value: Value, head: Column, chance: Sequence[Estimate], *, brief: bool, level: bool, exact: bool) -> Cell:
    if value is None:
        return Cell("empty", "–")
    if isinstance(value, Estimate):
        said = shown(value, change=False if level else None)
        told = remark(value, brief=True) if (brief or head.margin) and said.remark and said.state == "known" else said.remark
        told = told or ("could be chance among so many questions" if value in chance else "")
        told = f"no interval: {told}" if said.state == "no interval" else "" if exact and said.state == "exact" else told
        return Cell(
            "unknown" if said.state == "unknown" else "estimate",
            said.value,
            said.interval,
            "" if head.unit else said.unit,
            told.replace(f" {head.unit}", "") if head.unit else told,
        )
    if isinstance(value, int):
        return Cell("count", f"{value:,}")
    kind = "count" if head.kind == "number" else "short" if len(value) <= _SHORT else "text"
    return Cell(kind, visible(value, _CELL))


def _figure(name: str, result: Result) -> tuple[Markup | None, str]:
    """Return an audit's figure; a plot that fails costs the figure and not the page."""
    if not result.figure:
        return None, ""
    if name not in audits.names():
        return None, "this version of Palimpsest has no audit of that name to draw it"
    plot = type(audits.load(name)).plot
    return draw_or_say(lambda axes: plot(result, axes), f"figure-{name}", f"Figure of the audit {name}", result.summary)


__all__ = ["COULD_NOT_SAY", "Cell", "Column", "Grid", "Section", "docstring_sections", "grid", "grouped", "section"]
