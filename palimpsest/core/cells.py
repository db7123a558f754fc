"""Cells: how does a network look, layer by layer, with what moved in it?

Draws rows of cells from the input at the bottom to the output at the top. A stronger colour is a larger number; the ramp is
one hue over the page's own paper, so that it can be read in light, in dark and by colour-blind people. Lengths are points.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from palimpsest.core.drawing import BEFORE, FAINT, INK, MUTED, SERIES, SMALL, WIDTH, alone
from palimpsest.core.wording import amount, one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEVELS = 12
"""Steps of a ramp."""
SPAN = -1
"""The column of a cell that reaches over all columns of its group."""
_FULL = 400.0
"""Height of all rows together where there are many."""
_THINNEST, _THICKEST = 4.5, 18.0
_GAP, _WIDEST = 10.0, 48.0
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LINE, _SIGN = 14.0, 10.0
_ROOM = 56
"""Characters in a line of the legend."""


_ORDER = ("embeddings", "attention", "recurrent", "mlp", "norm", "residual", "head")
_PROJECTIONS = ("", "q", "k", "v", "qkv", "o")
_NAME = 12

Where = tuple[int | None, str]
"""Layer (``None``: outside the layers) and part."""


def rows_of(places: Iterable[Where]) -> dict[Where, str]:
    """Return the rows of a network from the bottom up, with their labels: embeddings, every layer, what else lies outside.

    A layer's row is (layer, ""); what lies outside the layers has a row of its own.
    """
    found = list(places)
    outside = sorted({part for layer, part in found if layer is None}, key=part_order)
    layers = range(1 + max((layer for layer, _ in found if layer is not None), default=-1))
    below = [part for part in outside if part == "embeddings"]
    above = [part for part in outside if part != "embeddings"]
    return {
        **{(None, part): one_line(part, _NAME) for part in below},
        **{(layer, ""): str(layer) for layer in layers},
        **{(None, part): one_line(part, _NAME) for part in above},
    }


def part_order(part: str) -> tuple[int, int, str]:
    """Return where a kind of part stands among others; a finer kind ("attention q") stands with its own."""
    first, _, finer = part.partition(" ")
    own = _ORDER.index(first) if first in _ORDER else len(_ORDER)
    return own, _PROJECTIONS.index(finer) if finer in _PROJECTIONS else len(_PROJECTIONS), part


def network(axes: Axes, figure: Mapping[str, Any]) -> None:
    """Draw groups of columns over the same rows, each group with its own scale, and a legend below.

    Args:
        axes: to draw on; it becomes a sheet whose unit is the point.
        figure: ``rows``, labels from the bottom up; ``groups``, each with ``name``, ``unit``, ``least`` and ``most`` (the ends
            of its scale; below 0 the size counts), ``columns`` (labels), ``cells``, each [row, column or ``SPAN``, value or
            ``None`` for could not say, whether it is weak], and optionally ``colour`` (a place in the house's series);
            ``weak``, what a weak cell means.
    """
    rows, groups = figure["rows"], figure["groups"]
    tops = _tops(rows)
    left = 10.0 + 6.7 * max(len(label) for label in rows)
    head = 30.0 + 6.2 * max((len(label) for group in groups for label in group["columns"]), default=0)
    columns = sum(max(len(group["columns"]), 1) for group in groups)
    width = min((WIDTH - left - 2.0 - _GAP * (len(groups) - 1)) / columns, _WIDEST)
    legend = _legend(figure)
    below = head + tops[-1] + 16.0
    _sheet(axes, below + sum(one.height for one in legend))
    _row_labels(axes, rows, left, [head + top for top in tops])
    x, painted = left, _Painted()
    for index, group in enumerate(groups):
        _head(axes, group, index, x, width, head)
        for row, column, value, weak in group["cells"]:
            place = len(rows) - 1 - row
            at, wide = (x, width * max(len(group["columns"]), 1)) if column == SPAN else (x + column * width, width)
            box = (at, head + tops[place], wide, tops[place + 1] - tops[place])
            painted.add(box, value, weak, _colour(group, index), _most(group))
        x += width * max(len(group["columns"]), 1) + _GAP
    painted.draw(axes)
    for one in legend:
        one.draw(axes, below)
        below += one.height


def _tops(rows: Sequence[str]) -> list[float]:
    """Return where each row begins, from the top down, and where the last one ends; only layers are made thin."""
    thin = min(max(_FULL / len(rows), _THINNEST), _THICKEST)
    found = [0.0]
    for label in reversed(rows):
        found.append(found[-1] + (thin if label.isdigit() else _THICKEST))
    return found


Box = tuple[float, float, float, float]
"""Left, top, width, height."""


@dataclass
class _Painted:
    """Cells by their look; those that look alike become one path, which keeps the page small."""

    filled: dict[tuple[str, int], list[Box]] = field(default_factory=dict)
    struck: list[Box] = field(default_factory=list)
    unsaid: list[Box] = field(default_factory=list)
    below: list[Box] = field(default_factory=list)

    def add(self, box: Box, value: float | None, weak: bool, colour: str, most: float) -> None:
        if value is None:
            self.unsaid.append(box)
            return
        strength = abs(value) / most * (0.5 if weak else 1.0) if most else 0.0  # what is weak stands back
        level = max(round(LEVELS * strength), 1) if strength else 0  # only exactly nothing has no colour
        self.filled.setdefault((BEFORE if weak else colour, level), []).append(box)
        if weak:
            self.struck.append(box)
        if value < 0:
            self.below.append(box)

    def draw(self, axes: Axes) -> None:
        for (colour, level), boxes in sorted(self.filled.items()):
            _paint(axes, boxes, colour, level)
        _stroke(axes, [((x + 1, y + high - 1), (x + wide - 1, y + 1)) for x, y, wide, high in self.struck], 0.7)
        middles = [(x + wide / 2, y + high / 2) for x, y, wide, high in self.below]
        _stroke(axes, [((x - 3, y), (x + 3, y)) for x, y in middles], 1.2)
        if self.unsaid:
            _paint(axes, self.unsaid, FAINT, 0)
            dots = [(x + wide / 2 - 1.5, y + high / 2 - 1.5, 3.0, 3.0) for x, y, wide, high in self.unsaid]
            _paint(axes, dots, MUTED, LEVELS, edge=False)


@dataclass(frozen=True)
class _Entry:
    """One part of the legend: a scale with what it measures, or what a sign means."""

    lines: tuple[str, ...]
    letter: str = ""
    colour: str = ""
    ends: tuple[str, str] = ("", "")
    sign: str = ""

    @property
    def height(self) -> float:
        return _LINE * len(self.lines) + (28.0 if self.colour else 4.0)

    def draw(self, axes: Axes, top: float) -> None:
        if self.letter:
            _write(axes, 1.0, top + _LINE / 2, self.letter, color=INK, weight="bold")
        if self.sign:
            painted = _Painted()
            value, weak = {"weak": (0.6, True), "unsaid": (None, False), "below": (-0.6, False)}[self.sign]
            painted.add((1.0, top + 1.0, 14.0, 12.0), value, weak, SERIES[0], 1.0)
            painted.draw(axes)
        for index, line in enumerate(self.lines):
            _write(axes, 20.0, top + _LINE * (index + 0.5), line, color=MUTED)
        if self.colour:
            self._scale(axes, top + _LINE * len(self.lines) + 2.0)

    def _scale(self, axes: Axes, top: float) -> None:
        low, high = self.ends
        _write(axes, 20.0, top + _SIGN / 2, low, color=MUTED)
        left = 26.0 + 6.4 * len(low)
        for level in range(LEVELS + 1):
            _paint(axes, [(left + 9.0 * level, top, 9.0, _SIGN)], self.colour, level, edge=False)
        _write(axes, left + 9.0 * (LEVELS + 1) + 6.0, top + _SIGN / 2, one_line(high, 30), color=MUTED)


def _legend(figure: Mapping[str, Any]) -> list[_Entry]:
    found, groups = [], figure["groups"]
    scales: dict[tuple[str, str, str, float], list[str]] = {}
    for index, group in enumerate(groups):
        # groups that share a scale share its bar; each keeps its letter and name
        key = (_colour(group, index), group["unit"], "", _most(group))
        scales.setdefault(key, []).append(f"{_LETTERS[index % 26]}\0{group['name']}")
    for (colour, unit, _, most), named in scales.items():
        *others, last = (one.split("\0") for one in named)
        found += [_Entry(_lines(name), letter) for letter, name in others]
        found.append(_Entry(_lines(last[1]), last[0], colour, ("0", amount(most, unit))))
    cells = [cell for group in groups for cell in group["cells"]]
    if any(weak for *_, weak in cells):
        found.append(_Entry(_lines(figure["weak"]), sign="weak"))
    if any(value is None for _, _, value, _ in cells):
        found.append(_Entry(("a dot: could not say",), sign="unsaid"))
    if any(value is not None and value < 0 for _, _, value, _ in cells):
        found.append(_Entry(("below 0; the colour shows the size",), sign="below"))
    return found


def _lines(text: str) -> tuple[str, ...]:
    return tuple(textwrap.wrap(one_line(text, 2 * _ROOM), _ROOM)) or ("",)


def _most(group: Mapping[str, Any]) -> float:
    return max(abs(group["least"]), abs(group["most"]))


def _colour(group: Mapping[str, Any], index: int) -> str:
    return SERIES[group.get("colour", index) % len(SERIES)]


def _head(axes: Axes, group: Mapping[str, Any], index: int, x: float, width: float, head: float) -> None:
    """Write a group's letter over a line in its colour, and the names of its columns below it."""
    wide = width * max(len(group["columns"]), 1)
    _write(axes, x + wide / 2, 8.0, _LETTERS[index % 26], color=INK, ha="center", weight="bold")
    axes.plot([x + 1, x + wide - 1], [17.0, 17.0], color=_colour(group, index), linewidth=3.0, solid_capstyle="butt")
    for place, label in enumerate(group["columns"]):
        axes.annotate(
            label, (x + (place + 0.5) * width, head - 4.0), rotation=90, ha="center", va="bottom", color=MUTED, fontsize=SMALL
        )


def _row_labels(axes: Axes, rows: Sequence[str], left: float, tops: Sequence[float]) -> None:
    """Name each row, or where they are thin every fifth or tenth layer; what lies outside the layers is always named."""
    if any(label.isdigit() for label in rows):
        _write(axes, left - 6.0, tops[0] - 8.0, "layer", color=MUTED, ha="right", style="italic")
    heights = [low - high for high, low in zip(tops, tops[1:], strict=False)]
    every = next(step for step in (1, 2, 5, 10, 20, 50, 10**9) if step * min(heights) >= 11.0)
    for label, top, height in zip(reversed(rows), tops, heights, strict=False):
        if not (label.isdigit() and int(label) % every):
            _write(axes, left - 6.0, top + height / 2, label, color=MUTED, ha="right")


def _sheet(axes: Axes, height: float) -> None:
    """Make the axes a sheet in points, with 0 at the top left."""
    alone(axes, height, left=0.0, right=0.0, below=0.0, top=0.0)
    axes.set_xlim(0.0, WIDTH)
    axes.set_ylim(height, 0.0)
    axes.set_axis_off()


def _paint(axes: Axes, boxes: Sequence[Box], colour: str, level: int, *, edge: bool = True) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    corners = [[(x, y), (x + wide, y), (x + wide, y + high), (x, y + high), (x, y)] for x, y, wide, high in boxes]
    path = Path.make_compound_path(*(Path(points, closed=True) for points in corners))
    if level:
        axes.add_patch(PathPatch(path, facecolor=colour, edgecolor="none", alpha=level / LEVELS))
    if edge:
        axes.add_patch(PathPatch(path, facecolor="none", edgecolor=FAINT, linewidth=0.6))


def _stroke(axes: Axes, lines: Sequence[tuple[tuple[float, float], tuple[float, float]]], width: float) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    if lines:
        path = Path([end for line in lines for end in line], [Path.MOVETO, Path.LINETO] * len(lines))
        axes.add_patch(PathPatch(path, facecolor="none", edgecolor=INK, linewidth=width))


def _write(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    axes.annotate(text, (x, y), **{"fontsize": SMALL, "va": "center", **style})
