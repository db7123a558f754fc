"""Sections: what does each audit's docstring say, and what does its part of the page hold?"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from palimpsest import audit as audits
from palimpsest.audit import Outcome, Result, Sample, Table
from palimpsest.core import docstrings
from palimpsest.core.estimate import Estimate
from palimpsest.core.wording import COULD_NOT_SAY, shown, visible
from palimpsest.report.look import draw

Value = str | int | Estimate | None
_NUMBER = re.compile(r"^[+\-\u2212]?[\d,.]+(e[+-]?\d+)?%?$")
_SHORT, _CELL = 14, 300


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
class Grid:
    """A table as it is drawn."""

    title: str
    columns: tuple[tuple[str, str, str], ...]
    """(name, the unit of everything in the column where it is one, ``text`` or ``number``)."""
    rows: tuple[tuple[Cell, ...], ...]
    note: str
    count: int
    """How many columns."""
    width: str
    """``narrow``, ``usual``, or ``wide``: on a phone it has to be scrolled."""
    intervals: tuple[str, ...]
    """How the intervals in it were made."""


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
    grids: tuple[Grid, ...] = ()
    samples: tuple[Sample, ...] = ()


def section(outcome: Outcome, holm: Mapping[str, bool]) -> Section:
    """Return what the page says of one audit."""
    details = docstring_sections(outcome.audit)
    question = details.pop("Question", "")
    result = outcome.result
    if result is None:
        return Section(outcome.audit, outcome.state, outcome.why, question, details)
    figure, problem = _figure(outcome.audit, result)
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
    methods = dict.fromkeys(
        cell.method for row in table.rows for cell in row if isinstance(cell, Estimate) and cell.interval is not None
    )
    asked = [place for place in range(len(table.columns)) if any(row[place] is not None for row in table.rows)]
    names, rows = [table.columns[place] for place in asked], [[row[place] for place in asked] for row in table.rows]
    columns = [list(column) for column in zip(*rows, strict=True)]
    units, kinds = [_unit(column) for column in columns], [_kind(column) for column in columns]
    return Grid(
        title=table.title,
        columns=tuple((name, "" if unit in name else unit, kind) for name, unit, kind in zip(names, units, kinds, strict=True)),
        rows=tuple(
            tuple(
                _cell(cell, unit, kind, chance, level=_is_level(name) or _is_level(str(row[0])))
                for cell, name, unit, kind in zip(row, names, units, kinds, strict=True)
            )
            for row in rows
        ),
        note=table.note,
        count=len(names),
        width="narrow" if len(names) < 4 else "usual" if len(names) < 6 else "wide",
        intervals=tuple(methods),
    )


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


def _cell(value: Value, unit: str, kind: str, chance: Sequence[Estimate], *, level: bool) -> Cell:
    if value is None:
        return Cell("empty", "–")
    if isinstance(value, Estimate):
        said = shown(value, change=False if level else None)
        remark = said.remark or ("could be chance among so many questions" if value in chance else "")
        remark = f"no interval: {remark}" if said.state == "no interval" else remark
        return Cell(
            "unknown" if said.state == "unknown" else "estimate",
            said.value,
            said.interval,
            "" if unit else said.unit,
            remark.replace(f" {unit}", "") if unit else remark,
        )
    if isinstance(value, int):
        return Cell("count", f"{value:,}")
    return Cell("count" if kind == "number" else "short" if len(value) <= _SHORT else "text", visible(value, _CELL))


def _figure(name: str, result: Result) -> tuple[Markup | None, str]:
    """Return an audit's figure; a plot that fails costs the figure and not the page."""
    if not result.figure:
        return None, ""
    if name not in audits.names():
        return None, "this version of Palimpsest has no audit of that name to draw it"
    try:
        plot = type(audits.load(name)).plot
        return draw(lambda axes: plot(result, axes), f"figure-{name}", f"Figure of the audit {name}", result.summary), ""
    except Exception as error:
        return None, visible(f"{type(error).__name__}: {error}", 200)


__all__ = ["COULD_NOT_SAY", "Cell", "Grid", "Section", "docstring_sections", "grid", "section"]
