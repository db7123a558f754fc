"""Heat map: which cells of a table stand out?

Steps of the strength of one colour, which need no other scale for a colour-blind eye or a dark page, each drawn as one path
however many cells it has, with the scale below. Nothing is computed here but the steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from palimpsest.core.drawing import AFTER, FAINT, INK, MUTED, SMALL, WIDTH, alone
from palimpsest.core.wording import number, one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STEPS = 6
"""About so many steps of strength, as many as an eye tells apart."""
_WEAKEST, _STRONGEST = 0.10, 1.0
_LEFT, _TOP = 40.0, 24.0
_SCALE = 58.0
_NUMBERED = 8
"""Up to so many columns, cells carry their number."""
_MARKED = 32
"""Up to so many columns, a mark in a cell can be seen."""


def heat_map(axes: Axes, figure: Mapping[str, Any]) -> None:
    """Draw a table of numbers as cells of stronger colour where they are larger; what is not above 0 is an empty cell.

    Args:
        axes: to draw on; alone in their figure, its height is set.
        figure: ``cells`` [rows][columns], numbers or ``None``; ``rows`` and ``columns``, labels; ``row_label`` and
            ``column_label``, what they are; ``unit``, what a number is; ``factor``, by which numbers are multiplied to be
            written; optionally ``marked`` [rows][columns], ``mark``, what a marked cell means, and ``marked_after``, the
            estimate that must stand among all questions of a run before single cells are marked.
    """
    cells = np.array([[np.nan if value is None else figure["factor"] * value for value in row] for row in figure["cells"]])
    rows, columns = cells.shape
    height = min(26.0, max(4.0, 300.0 / rows))
    notes = [figure["mark"]] if figure.get("mark") and columns <= _MARKED else []
    below = _SCALE + 14.0 * len(notes)
    alone(axes, _TOP + rows * height + below, left=_LEFT, right=1.0, below=below, top=_TOP)
    axes.set_xlim(0, columns)
    axes.set_ylim(rows, 0)
    edges = _edges(float(np.nanmax(cells, initial=0.0)))
    step = np.where(cells > 0, np.digitize(cells, edges[1:-1], right=True), -1)
    for index in range(-1, len(edges) - 1):
        places = np.argwhere((step == index) & ~np.isnan(cells))
        _cells(axes, places, _strength(index, len(edges) - 1) if index >= 0 else None)
    if columns <= _NUMBERED:
        _numbers(axes, cells)
    if notes:
        _marks(axes, np.array(figure["marked"]), numbered=columns <= _NUMBERED)
    _labels(axes, figure, rows, columns, height)
    _scale(axes, edges, figure["unit"], notes, rows * height)


def _edges(largest: float) -> list[float]:
    """Return round limits of the steps, from 0 to what holds the largest number."""
    if largest <= 0:
        return [0.0, 1.0]
    rough = largest / _STEPS
    power = 10.0 ** math.floor(math.log10(rough))
    width = next(digit * power for digit in (1, 2, 2.5, 5, 10) if digit * power >= rough)
    return [width * index for index in range(math.ceil(largest / width - 1e-9) + 1)]


def _strength(index: int, steps: int) -> float:
    return _WEAKEST + (_STRONGEST - _WEAKEST) * index / max(steps - 1, 1)


def _cells(axes: Axes, places: np.ndarray, strength: float | None) -> None:
    """Draw all cells of one step as one path; an empty one is an outline."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    if not len(places):
        return
    gap = 0.04 if strength is not None else 0.06
    squares = [
        Path([(x + gap, y + gap), (x + 1 - gap, y + gap), (x + 1 - gap, y + 1 - gap), (x + gap, y + 1 - gap), (0, 0)],
             [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY])
        for y, x in places.tolist()
    ]  # fmt: skip
    style = {"facecolor": "none", "edgecolor": FAINT, "linewidth": 0.8}
    if strength is not None:
        style = {"facecolor": AFTER, "alpha": strength, "linewidth": 0.0}
    axes.add_patch(PathPatch(Path.make_compound_path(*squares), **style))  # type: ignore[arg-type]


def _numbers(axes: Axes, cells: np.ndarray) -> None:
    decimals = 1 if np.nanmax(np.abs(cells)) >= 1 else 2
    for (row, column), value in np.ndenumerate(cells):
        if not np.isnan(value):
            text = number(value, decimals)
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center_baseline", color=INK, fontsize=SMALL)


def _marks(axes: Axes, marked: np.ndarray, *, numbered: bool) -> None:
    aside = 0.9 if numbered else 0.5
    for row, column in np.argwhere(marked).tolist():
        axes.plot([column + aside], [row + 0.5], "o", color=INK, markersize=3.0, markeredgewidth=0, zorder=4)


def _labels(axes: Axes, figure: Mapping[str, Any], rows: int, columns: int, height: float) -> None:
    across, down = _every(columns, (WIDTH - _LEFT) / columns, 20.0), _every(rows, height, 13.0)
    axes.set_xticks([place + 0.5 for place in across], [one_line(str(figure["columns"][place]), 6) for place in across])
    axes.set_yticks([place + 0.5 for place in down], [one_line(str(figure["rows"][place]), 5) for place in down])
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelcolor=MUTED, labelsize=SMALL, pad=3)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.annotate(
        one_line(figure["row_label"], 12), (0, 0.5), xycoords="axes fraction", xytext=(4 - _LEFT, 0), ha="center", va="center",
        textcoords="offset points", rotation=90, color=MUTED, fontsize=SMALL,
    )  # fmt: skip
    axes.annotate(
        one_line(figure["column_label"], 6), (0, 1), xycoords="axes fraction", xytext=(-4, 6.5), textcoords="offset points",
        ha="right", va="baseline", color=MUTED, fontsize=SMALL,
    )  # fmt: skip


def _every(count: int, size: float, room: float) -> list[int]:
    """Return which of so many places have room for a label."""
    return list(
        range(0, count, next(step for step in (1, 2, 4, 5, 8, 10, 16, 20, 32, 50, 64, 128, 1024) if step * size >= room))
    )


def _scale(axes: Axes, edges: Sequence[float], unit: str, notes: Sequence[str], body: float) -> None:
    """Draw the steps with their limits below the table, and say what a number is."""
    from matplotlib.patches import Rectangle

    steps, wide = len(edges) - 1, WIDTH - _LEFT - 1
    width = min(44.0, (wide - 20) / steps) / wide
    high, top = 9.0 / body, -10.0 / body
    for index in range(steps):
        axes.add_patch(
            Rectangle((index * width, top - high), width, high, transform=axes.transAxes, clip_on=False, facecolor=AFTER,
                      alpha=_strength(index, steps), linewidth=0.0)
        )  # fmt: skip
    for index, edge in enumerate(edges):
        axes.annotate(
            f"{edge:g}", (index * width, top - high), xycoords="axes fraction", xytext=(0, -11), textcoords="offset points",
            ha="center" if index else "left", va="baseline", color=MUTED, fontsize=SMALL,
        )  # fmt: skip
    for line, text in enumerate((unit, *notes)):
        axes.annotate(
            one_line(text, 58), (0, 0), xycoords="axes fraction", xytext=(4 - _LEFT, -44 - 14 * line),
            textcoords="offset points", ha="left", va="baseline", color=MUTED, fontsize=SMALL,
        )  # fmt: skip
