"""The drawing helpers: every row is there, states do not rest on colour alone, odd labels do no harm."""

from __future__ import annotations

import re

import pytest

from palimpsest.core import drawing
from palimpsest.core.curves import curves
from palimpsest.core.estimate import unknown
from palimpsest.report.comparison import marked
from palimpsest.report.look import draw
from tests.report import worlds


def svg(plot, name: str = "figure-x") -> str:
    return str(draw(plot, name, "title", "description"))


def test_changes_have_a_shape_and_a_word_for_each_state() -> None:
    changes = [worlds.change(value, 0.01, "nats/token", 0.05) for value in (0.0, 0.2, -0.2, 0.05)]
    figure = {"labels": list("abcd"), "changes": [one.model_dump() for one in changes], "margin": 0.05, "unit": "nats"}
    drawn = svg(lambda axes: drawing.change_rows(axes, figure))
    for word in ("unchanged", "worse", "better", "not decided"):
        assert f">{word}</text>" in drawn
    turned = svg(
        lambda axes: drawing.change_rows(
            axes, {**figure, "changes": [changes[1].model_dump()], "labels": ["b"], "worse": "left"}
        )
    )
    assert ">better</text>" in turned and ">worse</text>" not in turned


def test_unknown_is_said_and_not_drawn() -> None:
    missing = unknown("nats/token", 3, "3 clusters, 8 are needed").model_dump()
    figure = {"labels": ["a"], "values": [missing], "unit": "nats"}
    assert ">could not say</text>" in svg(lambda axes: drawing.value_rows(axes, figure))
    both = {"labels": ["a"], "before": [missing], "after": [missing]}
    assert ">before: could not say</text>" in svg(lambda axes: drawing.before_after_rows(axes, both))


@pytest.mark.parametrize("label", ["$\\frac{$", "<b>&", "\x00\x1b\u202e", "漢字", "x" * 500, ""])
def test_labels_from_outside(label: str) -> None:
    figure = {"labels": [label], "values": [worlds.distance(0.1).model_dump()], "unit": label}
    drawn = svg(lambda axes: drawing.value_rows(axes, figure))
    assert "\x00" not in drawn and "<b>" not in drawn and "x" * 60 not in drawn


def test_height_follows_the_rows() -> None:
    def height(rows: int) -> float:
        figure = {"labels": ["a"] * rows, "values": [worlds.distance(0.1).model_dump()] * rows}
        found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg(lambda axes: drawing.value_rows(axes, figure)))
        assert found and float(found[1]) == drawing.WIDTH
        return float(found[2])

    assert height(12) - height(2) == pytest.approx(10 * drawing.ROW)


def test_two_figures_of_a_page_share_no_id() -> None:
    figure = {"labels": ["a"], "values": [worlds.distance(0.1).model_dump()]}
    first, second = (
        set(re.findall(r'id="([^"]+)"', svg(lambda axes: drawing.value_rows(axes, figure), name))) for name in "ab"
    )
    assert first and not first & second


def test_words_on_one_side_are_marked() -> None:
    left, right = marked("Maybe we go home now.", "Okay, we go home.")
    assert [text for on, text in left if on] == ["Maybe ", "now"]
    assert [text for on, text in right if on] == ["Okay, "]
    assert "".join(text for _, text in left) == "Maybe we go home now."


@pytest.mark.parametrize(
    ("before", "after"), [("same", "same"), ("", "new"), ("all different", "quite other words here"), ("a " * 900, "b " * 900)]
)
def test_nothing_is_marked_where_it_does_not_help(before: str, after: str) -> None:
    assert not any(on for side in marked(before, after) for on, _ in side)


def forest(*values: float, margin: float | None = 0.05) -> str:
    changes = [worlds.change(value, 0.004, "nats/token", margin).model_dump() for value in values]
    figure = {"labels": [str(place) for place in range(len(values))], "changes": changes, "margin": margin, "unit": "nats"}
    return svg(lambda axes: drawing.change_rows(axes, figure))


def centres(drawn: str) -> list[float]:
    """Return where the marks of the rows lie, of 360 points; those of the key are in one line above."""
    found = [(float(x), float(y)) for x, y in re.findall(r'<use [^>]*?x="([\d.]+)" y="([\d.]+)"', drawn)]
    rows = sorted({y for _, y in found})[1:]
    return [x for y in rows for x in [next(x for x, other in found if other == y)]]


def test_one_large_change_does_not_squeeze_the_others() -> None:
    small = (0.0, 0.01, 0.02, -0.01, 0.03, 0.015, -0.02)
    drawn = forest(*small, -0.97)
    assert ">logarithmic beyond ±0.05 nats/token</text>" in drawn
    places = centres(drawn)
    assert len(places) == 8 and max(places[:7]) - min(places[:7]) > 0.1 * drawing.WIDTH
    assert 0 < places[7] < min(places[:7])
    assert "logarithmic" not in forest(*small) and "logarithmic" not in forest(0.9, 0.8, 1.1, 0.7)


def test_the_key_tells_the_bars_from_the_test() -> None:
    assert ">bars: 95%; unchanged: the 90% interval lies in the band</text>" in forest(0.0, 0.1)
    assert "90%" not in forest(0.0, 0.1, margin=None)


def test_curves_over_doses_have_a_place_for_0_bars_and_marks() -> None:
    series = {
        "label": "appear",
        "x": [0.0, 10.0, 100.0],
        "y": [0.0, 5.0, 60.0],
        "low": [0.0, 4.0, 50.0],
        "high": [0.0, 6.0, 70.0],
    }
    fit = {"x": [0.0, 5.0, 100.0], "y": [0.0, 2.0, 61.0]}
    mark = {"at": 50.0, "low": 20.0, "high": 80.0, "label": "half"}
    figure = {
        "series": [{**series, "points": True, "fit": fit}, {**series, "label": "not", "points": True}],
        "x_label": "examples",
        "unit": "points",
        "scale": "dose",
        "marks": [mark],
    }
    drawn = svg(lambda axes: curves(axes, figure))
    for word in ("appear", "not", "half", "0", "10", "100", "examples"):
        assert f">{word}</text>" in drawn
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    curves(axes, figure)
    places = [axes.transData.transform((dose, 0.0))[0] for dose in (0.0, 10.0, 100.0)]
    assert places[0] < places[1] < places[2]
    low, high = axes.get_ylim()
    assert low <= 0.0 and high >= 70.0
    lines = [
        line
        for line in axes.get_lines()
        if len(line.get_xdata()) == 3 and line.get_linewidth() > 1.5 and line.get_marker() == "None"
    ]
    assert list(lines[0].get_ydata()) == fit["y"]
    assert list(lines[1].get_ydata()) == series["y"]
