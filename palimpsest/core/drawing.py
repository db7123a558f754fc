"""Drawing: how does a stored number look, in the one house look?

Helpers for ``Audit.plot``: each takes matplotlib axes and plain data (labels, dumped estimates), and computes no statistics.
Rows carry their own label and number above the interval, so that a figure reads the same on a phone and on a laptop. When the
axes are alone in their figure, the helper sets its height to the number of rows. Lengths are points, at 72 to the inch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from palimpsest.core.estimate import Estimate
from palimpsest.core.wording import COULD_NOT_SAY, amount, one_line, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#1f2328"
MUTED = "#6a6d72"
FAINT = "#d5d3cc"
BEFORE = "#8a8a85"
AFTER = "#0072b2"
WORSE = "#d55e00"
BETTER = "#009e73"
THIRD = "#e69f00"
FOURTH = "#cc79a7"
PAPER = "#fcfbf8"
"""Okabe and Ito's colours, which colour-blind people can tell apart. The report maps each to one that also suits the dark."""

SERIES = (AFTER, WORSE, BETTER, THIRD, FOURTH)

WIDTH = 360.0
"""Width of a figure: that of a phone, where its text then has its own size."""
LABEL, SMALL = 12.0, 11.0
ROW, LINE = 42.0, 0.62
"""Height of a row with one interval, and where in it the interval lies."""
_SIDE, _BELOW, _NOTE = 1.0, 40.0, 14.0
_LETTERS, _NARROWER = 48, 0.8
"""Letters of a label that fill a figure's width, and the width of a number's beside them."""
_SQUEEZED = 5.0
"""So many times as wide as three quarters of the changes (or as the margin) makes the widest change squeeze the others."""


def before_after_rows(axes: Axes, figure: Mapping[str, Any]) -> None:
    """Draw for each row the value before and below it the value after, each with its interval and its number.

    Args:
        axes: to draw on.
        figure: ``labels`` [rows]; ``before`` and ``after`` [rows], dumped estimates (shares are drawn on 0 to 100%);
            ``changes`` [rows], written beside the label, and ``unit``, the axis label (both optional).
    """
    before, after = _read(figure["before"]), _read(figure["after"])
    labels, changes = figure["labels"], figure.get("changes")
    shares = all(one.unit == "share" for one in (*before, *after))
    low, high = (0.0, 1.0) if shares else limits_of((*before, *after))
    _rows(axes, len(labels), 66.0, (low, high))
    for row, (label, first, second) in enumerate(zip(labels, before, after, strict=True)):
        _line(axes, row, label, "" if changes is None else _rounded(*_read([changes[row]])))
        axes.hlines([row + 0.40, row + 0.69], low, high, color=FAINT, linewidth=0.8, zorder=1)
        _named(axes, "before", first, row + 0.40, BEFORE, filled=False, limits=(low, high))
        _named(axes, "after", second, row + 0.69, AFTER, filled=True, limits=(low, high))
    if shares:
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
        for label, side in zip((axes.get_xticklabels()[0], axes.get_xticklabels()[-1]), ("left", "right"), strict=True):
            label.set_horizontalalignment(side)
    _axis(axes, figure.get("unit", "share of answers that show the behaviour" if shares else before[0].unit))


def change_rows(axes: Axes, figure: Mapping[str, Any]) -> None:
    """Draw for each row a change with its interval, against the band in which it counts as unchanged.

    Unchanged is a filled circle, not decided a hollow one, beyond the margin a diamond (worse) or a square (better). Where a
    few changes are so large that the others would fall into one point, the axis is logarithmic away from 0, and says so.

    Args:
        axes: to draw on.
        figure: ``labels`` [rows]; ``changes`` [rows], dumped estimates; ``margin`` in their unit, or ``None``; ``unit``, the
            axis label; ``worse``, the side that is worse: "right" (the default), "left" or "neither".
    """
    labels, changes, margin = figure["labels"], _read(figure["changes"]), figure.get("margin")
    low, high = limits_of(changes, *((-1.25 * margin, 1.25 * margin) if margin else (0.0,)))
    straight = _straight(changes, margin)
    marks = [_mark(one, margin, figure.get("worse", "right")) for one in changes]
    notes = []
    if margin:
        notes.append("bars: 95%; unchanged: the 90% interval lies in the band")
    if straight is not None:
        notes.append(f"logarithmic beyond ±{amount(straight, changes[0].unit)}")
        axes.set_xscale("symlog", linthresh=straight, linscale=0.6)
        low, high = 1.15 * min(low, -1.5 * straight), 1.15 * max(high, 1.5 * straight)
    _rows(axes, len(labels), ROW, (low, high), above=22.0 if margin else 0.0, below=_BELOW + _NOTE * len(notes))
    _tracks(axes, len(labels), margin)
    if margin:
        _key(axes, [mark for mark in (_UNCHANGED, _OPEN, _WORSE, _BETTER, _LESS, _MORE) if mark in marks])
    for row, (label, change, (_, marker, colour, filled)) in enumerate(zip(labels, changes, marks, strict=True)):
        _line(axes, row, label, _sentence(change, unit=False))
        _interval(axes, change, row + LINE, colour, marker=marker, filled=filled)
    _scaled(axes, changes, straight)
    _axis(axes, figure.get("unit", changes[0].unit if changes else ""), *notes)


def value_rows(axes: Axes, figure: Mapping[str, Any]) -> None:
    """Draw for each row a value with its interval and its number.

    Args:
        axes: to draw on.
        figure: ``labels`` [rows]; ``values`` [rows], dumped estimates; ``unit``, the axis label (optional).
    """
    labels, values = figure["labels"], _read(figure["values"])
    _rows(axes, len(labels), ROW, limits_of(values, 0.0))
    _tracks(axes, len(labels), None)
    for row, (label, value) in enumerate(zip(labels, values, strict=True)):
        _line(axes, row, label, _sentence(value, unit=False))
        _interval(axes, value, row + LINE, AFTER, filled=value.known)
    _scaled(axes, values)
    _axis(axes, figure.get("unit", values[0].unit if values else ""))


def _read(dumped: Sequence[Any]) -> list[Estimate]:
    return [one if isinstance(one, Estimate) else Estimate.model_validate(one) for one in dumped]


def limits_of(estimates: Sequence[Estimate], *others: float) -> tuple[float, float]:
    """Return limits that hold every interval, with a little air."""
    ends = [bound for one in estimates if one.value is not None for bound in (one.interval or (one.value, one.value))]
    low, high = min((*ends, *others), default=0.0), max((*ends, *others), default=1.0)
    air = 0.05 * (high - low) or 0.5
    return (low if low == 0.0 else low - air), high + air


def _straight(changes: Sequence[Estimate], margin: float | None) -> float | None:
    """Return up to which distance from 0 the axis is linear, or ``None`` where all of it is."""
    reach = sorted(max(map(abs, one.interval or (one.value, one.value))) for one in changes if one.value is not None)
    usual = max(margin or 0.0, reach[3 * len(reach) // 4] if len(reach) > 1 else 0.0)
    if usual == 0.0 or reach[-1] <= _SQUEEZED * usual:
        return None
    return margin or usual


def _rows(axes: Axes, rows: int, height: float, limits: tuple[float, float], above: float = 0.0, below: float = _BELOW) -> None:
    """Give every row its height, number 0 at the top, with room above the first for a key and below for the axis."""
    total = max(rows, 1) * height + above
    alone(axes, total + below + 6, left=_SIDE, right=_SIDE, below=below, top=6)
    axes.set_ylim(max(rows, 1), -above / height)
    axes.set_xlim(*limits)
    axes.set_yticks([])
    quiet(axes, ("bottom",))


def _tracks(axes: Axes, rows: int, margin: float | None) -> None:
    """Draw under every interval its line, 0 on it, and the band of what counts as unchanged; labels stay clear of them."""
    places = [row + LINE for row in range(rows)]
    axes.hlines(places, *axes.get_xlim(), color=FAINT, linewidth=0.8, zorder=0)
    if margin:
        axes.barh(places, 2 * margin, height=0.34, left=-margin, color=AFTER, alpha=0.13, linewidth=0, zorder=1)
    axes.vlines([0.0] * rows, [y - 0.17 for y in places], [y + 0.17 for y in places], color=MUTED, linewidth=1.0, zorder=2)


def alone(axes: Axes, height: float, *, left: float, right: float, below: float = _BELOW, top: float = 12.0) -> None:
    """Fit the figure to the axes, where nothing else is drawn in it."""
    figure = axes.get_figure(root=True)
    if figure is None or len(figure.axes) != 1:
        return
    figure.set_layout_engine("none")
    figure.set_size_inches(WIDTH / 72, height / 72)
    axes.set_position((left / WIDTH, below / height, 1 - (left + right) / WIDTH, 1 - (below + top) / height))


def quiet(axes: Axes, kept: tuple[str, ...]) -> None:
    for side, spine in axes.spines.items():
        spine.set_visible(side in kept)
        spine.set_color(FAINT)
        spine.set_linewidth(0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=MUTED, labelsize=SMALL, pad=5)


def _axis(axes: Axes, label: str, *notes: str) -> None:
    axes.set_xlabel("\n".join(one_line(line, 56) for line in (label, *notes)), color=MUTED, fontsize=SMALL, labelpad=5)


def _scaled(axes: Axes, estimates: Sequence[Estimate], straight: float | None = None) -> None:
    """Write points and shares of 1 on the axis as what they are called: points and percent.

    Args:
        axes: whose limits are set.
        estimates: what is drawn.
        straight: up to which distance from 0 the axis is linear, where it is logarithmic beyond.
    """
    if straight is None:
        axes.locator_params(axis="x", nbins=5)
    else:
        ticks = _both_ways(axes, straight)
        axes.set_xticks(ticks, [f"{tick:g}".replace("-", "\N{MINUS SIGN}") for tick in ticks])
        axes.set_xticks([], minor=True)
    if estimates and all(one.unit in ("points", "share") for one in estimates):
        sign = "%" if estimates[0].unit == "share" else ""
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}{sign}".replace("-", "\N{MINUS SIGN}"))


def _both_ways(axes: Axes, straight: float) -> list[float]:
    """Return round places on an axis that is logarithmic away from 0, as many as their labels have room for."""
    low, high = axes.get_xlim()
    sizes = [straight, *(digit * 10.0**power for power in range(-9, 10) for digit in (1, 3) if digit * 10.0**power > straight)]

    def place(value: float) -> float:
        return axes.transAxes.inverted().transform(axes.transData.transform((value, 0.0)))[0]

    kept = [0.0]
    for side in (1, -1):
        last = 0.0
        for size in sizes:
            inside = low <= side * size <= high and 0.03 < place(side * size) < 0.97
            if inside and abs(place(side * size) - place(last)) > 0.1:
                last = side * size
                kept.append(last)
    return sorted(kept)


def _line(axes: Axes, row: int, label: str, said: str) -> None:
    """Write a row's label, as much of it as there is room beside its number; what is cut is its middle."""
    room = max(12, int(_LETTERS - _NARROWER * len(said)))
    _text(axes, 0.0, row, one_line(label, room, middle=True), ha="left", color=INK, fontsize=LABEL, weight="bold")
    _text(axes, 1.0, row, said, ha="right", color=MUTED, fontsize=SMALL)


def _rounded(one: Estimate) -> str:
    """Return a change in one line; whole points where it has two digits."""
    whole = one.unit == "points" and one.value is not None and abs(one.value) >= 0.0995
    return shown(one, decimals=0 if whole else None).sentence


def _sentence(one: Estimate, *, unit: bool = True) -> str:
    """Return an estimate in one line, without its unit where the axis names it."""
    said = shown(one)
    if unit or one.value is None:
        return said.sentence
    return replace(said, unit=said.unit if said.unit == "%" else "").sentence


def _text(axes: Axes, x: float, row: int, text: str, **style: Any) -> None:
    axes.annotate(
        text, (x, row), xycoords=axes.get_yaxis_transform(), xytext=(0, -13), textcoords="offset points", va="baseline", **style
    )


def _interval(axes: Axes, one: Estimate, y: float, colour: str, *, marker: str = "o", filled: bool = True) -> None:
    if one.value is None:
        return
    if one.interval is not None:
        axes.plot(one.interval, [y, y], color=colour, linewidth=2.2, solid_capstyle="round", zorder=3)
    axes.plot(
        [one.value],
        [y],
        marker=marker,
        color=colour,
        markerfacecolor=colour if filled else PAPER,
        markersize=7.0,
        markeredgewidth=1.8,
        zorder=4,
        clip_on=False,
    )


def _named(axes: Axes, name: str, one: Estimate, y: float, colour: str, *, filled: bool, limits: tuple[float, float]) -> None:
    """Draw an interval and write its number beside it, on the side that has room."""
    _interval(axes, one, y, colour, filled=filled)
    if one.value is None:
        _beside(axes, limits[0], y, f"{name}: {COULD_NOT_SAY}", "left", MUTED)
        return
    written = shown(one, decimals=0 if one.unit == "share" else None)
    low, high = one.interval or (one.value, one.value)
    share = (high - limits[0]) / (limits[1] - limits[0])
    text = f"{name} {written.value}{written.unit if written.unit == '%' else ' ' + written.unit}"
    text += "" if one.known else " (interval: could not say)"
    _beside(axes, *((high, y, text, "left") if share < 0.70 else (low, y, text, "right")), colour if filled else MUTED)


def _beside(axes: Axes, x: float, y: float, text: str, side: str, colour: str) -> None:
    offset = 9 if side == "left" else -9
    axes.annotate(
        text,
        (x, y),
        xytext=(offset, 0),
        textcoords="offset points",
        ha=side,
        va="center_baseline",
        color=colour,
        fontsize=SMALL,
    )


Mark = tuple[str, str, str, bool]
"""What it means, its shape, its colour, whether it is filled."""

_UNCHANGED: Mark = ("unchanged", "o", AFTER, True)
_OPEN: Mark = ("not decided", "o", MUTED, False)
_WORSE: Mark = ("worse", "D", WORSE, True)
_BETTER: Mark = ("better", "s", BETTER, True)
_MORE: Mark = ("more", "D", THIRD, True)
_LESS: Mark = ("less", "s", FOURTH, True)
_BEYOND = {"right": (_BETTER, _WORSE), "left": (_WORSE, _BETTER), "neither": (_LESS, _MORE)}
"""By the side that is worse: the marks of what lies beyond the margin on the left and on the right."""


def _mark(one: Estimate, margin: float | None, worse: str) -> Mark:
    """Return the mark of a change; its state never rests on colour alone."""
    if margin is None:
        return ("change", "o", AFTER, one.known)
    if one.equivalent:
        return _UNCHANGED
    if one.above(margin) is True:
        return _BEYOND[worse][1]
    if one.above(-margin) is False:
        return _BEYOND[worse][0]
    return _OPEN


def _key(axes: Axes, marks: Sequence[Mark]) -> None:
    """Name the marks that occur, in one line above the rows."""
    x, transform = 4.0, axes.transAxes
    for name, marker, colour, filled in marks:
        style = {"color": colour, "markerfacecolor": colour if filled else PAPER, "markeredgewidth": 1.6, "markersize": 6.0}
        at = x / (WIDTH - 2 * _SIDE)
        axes.plot([at], [1.0], marker=marker, transform=transform, clip_on=False, linestyle="none", **style)  # type: ignore[arg-type]
        axes.annotate(
            name, (at, 1.0), xycoords=transform, xytext=(8, 0), textcoords="offset points", va="center_baseline",
            color=MUTED, fontsize=SMALL,
        )  # fmt: skip
        x += 30 + 6.4 * len(name)
