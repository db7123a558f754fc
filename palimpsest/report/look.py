"""Look: how does a figure become part of a page, the same bytes every time, in light and in dark?

Matplotlib draws; the SVG is then cleaned so that it obeys the page: no style attributes (the page's policy forbids them), a
class beside every known colour (so that the style sheet can turn it for the dark), text as text, a title and a description.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import matplotlib
from cycler import cycler
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text

from palimpsest.core import drawing
from palimpsest.core.wording import visible

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # the reader's own font: sharp, selectable, and half the size
    "text.parse_math": False,  # a dollar in a file's name is a dollar
    "font.size": drawing.LABEL,
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that the layout is measured the same everywhere
    "axes.linewidth": 0.8,
    "axes.edgecolor": drawing.FAINT,
    "axes.labelcolor": drawing.MUTED,
    "axes.labelsize": drawing.SMALL,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=drawing.SERIES),
    "axes.unicode_minus": True,
    "grid.color": drawing.FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": drawing.SMALL,
    "lines.linewidth": 1.8,
    "text.color": drawing.INK,
    "xtick.color": drawing.MUTED,
    "ytick.color": drawing.MUTED,
    "xtick.labelsize": drawing.SMALL,
    "ytick.labelsize": drawing.SMALL,
}
COLOURS = {
    drawing.INK: "ink",
    drawing.MUTED: "muted",
    drawing.FAINT: "faint",
    drawing.BEFORE: "before",
    drawing.AFTER: "after",
    drawing.WORSE: "worse",
    drawing.BETTER: "better",
    drawing.THIRD: "third",
    drawing.FOURTH: "fourth",
    drawing.PAPER: "paper",
}
"""Each colour of the house to the name of its CSS variable."""

_SVG_DPI = 72
_DROPPED = {"metadata", "style"}
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


def draw(plot: Callable[[Axes], None], name: str, title: str, description: str) -> Markup:
    """Return a figure as an SVG element of the page.

    Args:
        plot: draws on the axes that it is given.
        name: unlike that of any other figure of the page; ids begin with it.
        title: what the figure shows, for who can't see it.
        description: what it says, in words.
    """
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a letter that DejaVu lacks; the reader's font is used instead
        layout = ConstrainedLayoutEngine()
        figure = Figure(figsize=(drawing.WIDTH / _SVG_DPI, 250 / _SVG_DPI), dpi=_SVG_DPI, layout=layout)
        canvas = FigureCanvasSVG(figure)
        plot(figure.add_subplot())
        for text in figure.findobj(Text):
            text.set_text(visible(text.get_text()))  # type: ignore[attr-defined]
        for part in (figure, *figure.axes):
            part.patch.set_facecolor("none")
        layout.execute(figure)
        figure.set_layout_engine("none")
        buffer = io.StringIO()
        # not savefig, which draws every mark a second time, unseen, for a layout that is done
        canvas.print_svg(buffer, metadata={"Date": None, "Creator": None})
    return _cleaned(buffer.getvalue(), name, title, description)


def draw_or_say(plot: Callable[[Axes], None], name: str, title: str, description: str) -> tuple[Markup | None, str]:
    """Return what ``draw`` does, or why it failed: a figure that fails costs itself and not the page."""
    try:
        return draw(plot, name, title, description), ""
    except Exception as error:
        return None, visible(f"{type(error).__name__}: {error}", 200)


def _cleaned(drawn: str, name: str, title: str, description: str) -> Markup:
    root = ElementTree.fromstring(drawn)
    for element in root.iter():
        for child in list(element):
            if _local(child.tag) in _DROPPED:
                element.remove(child)
        _clean(element, name)
    box = root.get("viewBox", "")
    root.attrib = {
        "viewBox": box,
        "class": "plot",
        "role": "img",
        "aria-labelledby": f"{name}-title {name}-desc",
    }
    for index, (tag, text) in enumerate((("title", title), ("desc", description))):
        child = ElementTree.Element(tag, {"id": f"{name}-{tag}"})
        child.text = visible(text)
        root.insert(index, child)
    # Not escaped again: ElementTree wrote it, and escaped every text in it.
    return Markup(re.sub(r">\s+<", "><", ElementTree.tostring(root, encoding="unicode")))


def _clean(element: ElementTree.Element, name: str) -> None:
    """Turn styles into attributes with classes, and make ids the figure's own."""
    element.tag = _local(element.tag)
    found = {_local(key): value for key, value in element.attrib.items()}
    for part in found.pop("style", "").split(";"):
        key, _, value = part.partition(":")
        if value and key.strip() != "font-family":
            found[key.strip()] = value.strip()
    classes = [f"{key}-{COLOURS[found[key]]}" for key in ("fill", "stroke") if found.get(key) in COLOURS]
    if element.tag == "text" and "fill" not in found:
        classes.append("fill-ink")
    if classes:
        found["class"] = " ".join(classes)
    if "id" in found:
        found["id"] = f"{name}-{found['id']}"
    if "href" in found:
        found["href"] = f"#{name}-{found['href'].removeprefix('#')}"
    if found.get("transform", "").startswith("rotate(-0 "):
        del found["transform"]
    element.attrib = {key: _REFERENCE.sub(rf"url(#{name}-\1)", value) for key, value in found.items()}
    if element.tag == "path":
        element.set("d", " ".join(element.get("d", "").split()))


def _local(name: str) -> str:
    return name.rsplit("}", 1)[-1]
