"""Account page: how do several runs, told together, become one HTML file in the look of the others?

Pure: the same account gives the same bytes, and what models or users wrote is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from palimpsest.audit import Table
from palimpsest.core import drawing, yaml_files
from palimpsest.core.curves import curves
from palimpsest.report.look import draw_or_say
from palimpsest.report.page import (
    FIRST_SAMPLES,
    LABELS,
    PASSES,
    PROMPT_SHOWN,
    Shown,
    environment,
    flat,
    shown_sample,
    style,
)
from palimpsest.report.sections import Grid, grid, grouped
from palimpsest.store.account import Account, Figure, Part

BRAND = {
    "study": "a study of many runs",
    "tune": "a change, dosed step by step",
    "dream": "a change, from the model's own failures",
    "memory": "what comes back in real conversations",
    "compare": "the same questions, two models",
}

SCORED = "Picked because their scores differ: those that fell first. Words that only one of the two wrote are marked."

_DRAWINGS = {
    "curves": curves,
    "value_rows": drawing.value_rows,
    "change_rows": drawing.change_rows,
    "before_after_rows": drawing.before_after_rows,
}


@dataclass(frozen=True)
class ShownPart:
    """One part of the account as it is drawn."""

    part: Part
    figures: tuple[tuple[Figure, Markup | None, str], ...]
    """Each figure with its drawing, or with why it could not be drawn."""
    grids: tuple[Grid, ...]
    samples: tuple[Shown, ...]

    @property
    def intervals(self) -> tuple[tuple[str, int], ...]:
        """Each way in which an interval was made, and for how many estimates."""
        return grouped(method for one in self.grids for method in one.methods)


def render(account: Account) -> str:
    """Return the page of an account: one self-contained HTML page."""
    css, css_hash = style()
    return (
        environment()
        .get_template("account.html.j2")
        .render(
            account=account,
            brand=BRAND[account.kind],
            labels=LABELS,
            style=css,
            style_hash=css_hash,
            parts=[_part(place, one) for place, one in enumerate(account.parts)],
            members=_members(account),
            provenance=tuple(flat(account.provenance)),
            specification=yaml_files.dump(account.specification),
            first_samples=FIRST_SAMPLES,
            prompt_shown=PROMPT_SHOWN,
            passes=SCORED if account.kind == "compare" else PASSES[None],
        )
    )


def _part(place: int, part: Part) -> ShownPart:
    figures = tuple((one, *_drawn(f"figure-{place}-{number}", one)) for number, one in enumerate(part.figures))
    return ShownPart(part, figures, tuple(grid(table) for table in part.tables), tuple(map(shown_sample, part.samples)))


def _drawn(name: str, figure: Figure) -> tuple[Markup | None, str]:
    helper = _DRAWINGS[figure.drawing]
    return draw_or_say(lambda axes: helper(axes, figure.numbers), name, figure.title, figure.words or figure.caption)


def _members(account: Account) -> Grid:
    rows: Sequence[tuple[str, str, str, str]] = [(one.name, one.state, one.told, one.folder) for one in account.members]
    return grid(Table(title="Runs", columns=("run", "state", "what it says", "folder"), rows=tuple(rows)))
