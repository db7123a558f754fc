"""The picture of the network: every quantity with its scale, what is weak or unknown told apart, safe with any text."""

from __future__ import annotations

import re

import pytest

from palimpsest.audit import Outcome, Place, Result
from palimpsest.core.estimate import Estimate, exact, unknown
from palimpsest.core.stats.controlled import one_more
from palimpsest.report import render
from palimpsest.report.look import COLOURS
from palimpsest.report.network import COLUMNS, is_weak, network
from tests.report import worlds
from tests.report.test_page import Page

ATTACK = "<script>alert(1)</script> \u202e$\\frac{$ \x00 {{7*7}} ]]>"


def place(
    layer: int | None, part: str, value: Estimate | float, floor: Estimate | None = None, quantity: str = "shift"
) -> Place:
    estimate = exact(value, "% of the norm") if isinstance(value, float) else value
    return Place(layer=layer, part=part, quantity=quantity, estimate=estimate, floor=floor)


def result(*places: Place) -> Result:
    return Result(summary="It moved.", estimates={}, network=places)


def svg(*places: Place) -> str:
    (panel,) = network({"any": result(*places)})
    return str(panel.svg)


def words(drawn: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", drawn)


def layers(count: int, part: str = "mlp", quantity: str = "shift") -> list[Place]:
    return [place(layer, part, 0.1 + layer, quantity=quantity) for layer in range(count)]


def test_nothing_is_drawn_where_no_audit_looked_inside() -> None:
    assert network({"a": Result(summary="", estimates={})}) == ()
    assert "Where in the network" not in render(worlds.as_intended())


def test_results_of_several_audits_stand_side_by_side() -> None:
    (panel,) = network({
        "one": result(*layers(3), place(None, "embeddings", 0.5), place(None, "head", 0.7)),
        "two": result(*layers(3, "residual", "drift")),
    })  # fmt: skip
    told = words(str(panel.svg))
    assert {"A", "B", "shift", "drift", "mlp", "residual", "embeddings", "head", "0", "1", "2"} <= set(told)
    assert told.index("head") < told.index("2") < told.index("0") < told.index("embeddings")
    assert len(panel.drawn) == 8


def test_each_quantity_has_its_own_scale_with_its_unit() -> None:
    drawn = words(svg(*layers(3), *(place(layer, "mlp", worlds.distance(0.02), quantity="kl") for layer in range(3))))
    assert "2.1% of the norm" in drawn and "0.02 nats/token" in drawn


def test_what_is_not_above_the_control_is_weak() -> None:
    low, high = (worlds.change(value, 0.1, "nats") for value in (0.3, 0.6))
    assert is_weak(place(0, "mlp", low, high)) and is_weak(place(0, "mlp", low, low))
    assert not is_weak(place(0, "mlp", high, low))
    assert is_weak(place(0, "mlp", worlds.change(0.45, 0.1, "nats"), low)), "intervals that overlap"
    assert not is_weak(place(0, "mlp", worlds.change(-0.6, 0.1, "nats"), low)), "a large change downwards is one as well"
    assert is_weak(place(0, "mlp", 1.0, exact(1.0, "% of the norm")))
    assert not is_weak(place(0, "mlp", 1.1, exact(1.0, "% of the norm")))
    assert not is_weak(place(0, "mlp", 1.1)) and not is_weak(place(0, "mlp", 1.1, unknown("nats", 1, "few")))


def test_weak_unknown_and_negative_cells_are_told_apart_without_colour() -> None:
    floor = exact(5.0, "% of the norm")
    drawn = svg(place(0, "mlp", 1.0, floor), place(1, "mlp", 9.0, floor), place(2, "mlp", unknown("x", 2, "few")),
                place(3, "mlp", -9.0, floor))  # fmt: skip
    legend = " ".join(words(drawn))
    assert "struck through: not above the rehearsal-only control" in legend
    assert "a dot: could not say" in legend and "below 0" in legend
    assert "fill-before" in drawn and "fill-after" in drawn
    plain = " ".join(words(svg(place(0, "mlp", 1.0))))
    assert "struck" not in plain and "could not say" not in plain and "below 0" not in plain


def test_a_missing_control_is_told() -> None:
    (panel,) = network({"a": result(place(0, "mlp", 1.0))})
    assert "there is no rehearsal-only control" in panel.caption
    (panel,) = network({"a": result(place(0, "mlp", 1.0, exact(0.5, "% of the norm")))})
    assert "one control run: another would leave other parts grey" in panel.caption
    (panel,) = network({"a": result(place(0, "mlp", 1.0, one_more([0.5, 0.6, 0.4], unit="% of the norm")))})
    assert "control" not in panel.caption


def test_the_description_says_what_the_cells_show() -> None:
    floor = exact(1.5, "% of the norm")
    drawn = svg(*(place(layer, "mlp", float(layer), floor) for layer in range(5)), place(5, "mlp", unknown("x", 1, "few")))
    told = re.search(r"<desc[^>]*>([^<]*)</desc>", drawn)
    assert told and "mlp of layer 4 4.00% of the norm" in told[1]
    assert "2 of 6 are not above the rehearsal-only control" in told[1] and "1: could not say" in told[1]


@pytest.mark.parametrize("count", [1, 12, 80, 200])
def test_many_layers_are_readable(count: int) -> None:
    drawn = svg(*layers(count), place(None, "embeddings", 1.0), place(None, "head", 1.0))
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawn)
    assert box and float(box[1]) == 360.0 and float(box[2]) < 1200
    found = re.findall(
        r'translate\(([\d.]+) ([\d.]+)\)[^>]*>([^<]+)</text>|y="([\d.]+)"[^>]*>(\d+|embeddings|head)</text>', drawn
    )
    heights = sorted(
        float(one[1] or one[3]) for one in found if (one[2] or one[4]).isdigit() or one[4] in ("embeddings", "head")
    )
    assert len(heights) >= min(count, 10)
    assert all(low - high > 9.0 for high, low in zip(heights, heights[1:], strict=False))


def test_more_quantities_than_a_figure_holds_make_several() -> None:
    places = [place(0, "mlp", 1.0, quantity=f"quantity {index}") for index in range(COLUMNS + 2)]
    found = network({"a": result(*places)})
    assert [len(panel.drawn) for panel in found] == [COLUMNS, 2]
    text = render(worlds.record(worlds.outcome(), Outcome(audit="divergence", state="measured", result=result(*places))))
    ids = [one["id"] for _, one in Page(text).elements if "id" in one]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("text", [ATTACK, "x" * 500, "", "漢字", "3"])
def test_text_from_outside_does_no_harm(text: str) -> None:
    places = [place(layer, text, 1.0, quantity=text) for layer in (0, 1)]
    places += [place(None, text, exact(2.0, text), quantity=text), place(1, "mlp", unknown("x", 1, text), quantity=text)]
    page = render(worlds.record(worlds.outcome(), Outcome(audit="divergence", state="measured", result=result(*places))))
    found = Page(page)
    assert "Where in the network it moved" in found.words
    assert not {tag for tag, _ in found.elements} & {"script", "img"}
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", page)


def test_the_picture_obeys_the_page() -> None:
    places = [*layers(4), place(None, "embeddings", unknown("x", 1, "few")), place(3, "norm", -1.0, exact(2.0, "x"))]
    record = worlds.record(worlds.outcome(), Outcome(audit="divergence", state="measured", result=result(*places)))
    page = render(record)
    assert render(type(record).model_validate_json(record.model_dump_json())) == page
    assert page.index('id="picture"') < page.index('id="network"') < page.index('id="audit-divergence"')
    for tag, attributes in Page(page).elements:
        assert "style" not in attributes, tag
        for key in ("fill", "stroke"):
            assert attributes.get(key) in {None, "none", *COLOURS}, attributes
