"""Curves: how do numbers over steps or doses look?

Lines that are named at their right end instead of in a legend, with their intervals as bands or bars.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from palimpsest.core.drawing import FAINT, MUTED, SERIES, SMALL, WIDTH, alone, limits_of, quiet
from palimpsest.core.estimate import Estimate
from palimpsest.core.wording import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COUNTED = 8
"""Up to so many whole numbers on an axis have a mark each."""


def curve(label: str, places: Sequence[float], values: Sequence[Estimate], factor: float = 1.0) -> dict[str, Any]:
    """Return one of the ``series`` of ``curves``: known estimates over places, each times ``factor``."""
    ends = [one.interval or (one.value, one.value) for one in values]
    return {
        "label": label,
        "x": list(places),
        "y": [_times(factor, one.value) for one in values],
        "low": [_times(factor, low) for low, _ in ends],
        "high": [_times(factor, high) for _, high in ends],
    }


def _times(factor: float, value: float | None) -> float | None:
    return None if value is None else factor * value


def curves(axes: Axes, figure: Mapping[str, Any]) -> None:
    """Draw lines over steps or doses, each named at its right end instead of in a legend.

    Args:
        axes: to draw on.
        figure: ``series``, each with ``label``, ``x`` and ``y`` [points] and optionally ``faint`` [points], values that are
            drawn as dots behind the line, and ``low`` and ``high`` [points], the ends of intervals, a band or with ``points``
            true a bar at each point; ``fit``, a mapping with ``x`` and ``y``, is a line drawn in place of the one through the
            points; ``x_label`` and ``unit``, the axis labels; ``scale``: "dose" is logarithmic with a place for 0; ``marks``,
            each with ``at``, ``label`` and optionally ``low`` and ``high``, are vertical lines with their intervals. (The last
            three are optional.)
    """
    alone(axes, 230.0, left=30.0, right=66.0, top=26.0)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    ends: list[tuple[float, str, str]] = []
    for index, one in enumerate(figure["series"]):
        colour = SERIES[index % len(SERIES)]
        if one.get("faint"):
            axes.plot(one["x"], one["faint"], "o", color=colour, markersize=2.6, alpha=0.45, markeredgewidth=0)
        if one.get("points"):
            _bars(axes, one, index - (len(figure["series"]) - 1) / 2, colour)
        elif one.get("low"):
            axes.fill_between(one["x"], one["low"], one["high"], color=colour, alpha=0.18, linewidth=0)
        line = one.get("fit") or one
        axes.plot(line["x"], line["y"], color=colour, linewidth=1.8, solid_capstyle="round")
        ends.append((line["y"][-1], one_line(one["label"], 12), colour))
    parts = [one.get(key, ()) for one in figure["series"] for key in ("y", "faint", "low", "high")]
    axes.set_ylim(*limits_of([], 0.0, *(value for part in parts for value in part)))
    places = sorted({x for one in figure["series"] for x in one["x"]})
    if figure.get("scale") == "dose":
        _dose_axis(axes, places)
    elif len(places) <= _COUNTED and all(isinstance(place, int) for place in places):
        axes.set_xticks(places)  # cycles, say: there is nothing between two of them
    for mark in figure.get("marks", ()):
        _vertical(axes, mark)
    bottom, top = axes.get_ylim()
    apart, lowest = 0.075 * (top - bottom), bottom - 1.0
    for value, label, colour in sorted(ends):
        lowest = max(value, lowest + apart)
        axes.annotate(
            label,
            (1.0, lowest),
            xycoords=axes.get_yaxis_transform(),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=SMALL,
        )
    axes.set_xlabel(one_line(figure["x_label"], 40), color=MUTED, fontsize=SMALL)
    axes.set_title(one_line(figure["unit"], 52), color=MUTED, fontsize=SMALL, loc="left", x=-30.0 / (WIDTH - 96.0), pad=10)
    quiet(axes, ("left", "bottom"))


def _bars(axes: Axes, one: Mapping[str, Any], place: float, colour: str) -> None:
    """Draw points with bars, a little aside of each other where several lines have the same places."""
    from matplotlib.transforms import ScaledTranslation

    figure = axes.figure
    aside = axes.transData + ScaledTranslation(3.5 * place / 72, 0.0, figure.dpi_scale_trans)
    if one.get("low"):
        axes.vlines(one["x"], one["low"], one["high"], color=colour, linewidth=1.6, alpha=0.75, transform=aside, clip_on=False)
    axes.plot(one["x"], one["y"], "o", color=colour, markersize=4.2, markeredgewidth=0, transform=aside, clip_on=False)


def _dose_axis(axes: Axes, doses: Sequence[float]) -> None:
    """Make the axis logarithmic, with a place for 0, and name the doses that were tried where there is room."""
    first = min((dose for dose in doses if dose > 0), default=1.0)
    axes.set_xscale("symlog", linthresh=first, linscale=0.45)
    axes.set_xlim(min(doses), 1.04 * max(doses))
    kept: list[float] = []
    for dose in doses:
        places = [axes.transData.transform((one, 0.0))[0] for one in (*kept[-1:], dose)]
        if len(places) == 1 or places[1] - places[0] > 19.0:
            kept.append(dose)
    axes.set_xticks(kept, [f"{dose:g}" for dose in kept])
    axes.set_xticks([], minor=True)


def _vertical(axes: Axes, mark: Mapping[str, Any]) -> None:
    """Draw a place on the horizontal axis with its interval and its name."""
    if mark.get("low") is not None:
        axes.axvspan(mark["low"], mark["high"], color=MUTED, alpha=0.12, linewidth=0)
    axes.axvline(mark["at"], color=MUTED, linewidth=1.0, linestyle=(0, (3, 2)))
    axes.annotate(
        one_line(mark["label"], 20),
        (mark["at"], 1.0),
        xycoords=axes.get_xaxis_transform(),
        xytext=(-4, -3),
        textcoords="offset points",
        ha="right",
        va="top",
        color=MUTED,
        fontsize=SMALL,
    )
