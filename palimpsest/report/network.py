"""Network: where in the network did it move, as told by every audit that looks inside?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from palimpsest.audit import Place, Result
from palimpsest.core import cells
from palimpsest.core.estimate import Estimate
from palimpsest.core.stats.controlled import ONE_MORE_OF
from palimpsest.core.wording import COULD_NOT_SAY, one_line, shown
from palimpsest.report.look import draw
from palimpsest.report.picture import Panel

COLUMNS = 18
"""Columns for which a figure has room; more go into further figures."""
_TOLD = 3
_WEAK = "not above the rehearsal-only control"
_PART = 11


def network(results: Mapping[str, Result]) -> tuple[Panel, ...]:
    """Return pictures of the network, coloured by what moved; none where no audit looked inside. It names no audit."""
    by_quantity: dict[str, list[Place]] = {}
    for result in results.values():
        for place in result.network:
            by_quantity.setdefault(place.quantity, []).append(place)
    return tuple(_panel(index, some) for index, some in enumerate(_shared_out(by_quantity)))


def _shared_out(by_quantity: Mapping[str, list[Place]]) -> Iterator[dict[str, list[Place]]]:
    """Yield the quantities of each figure, as many as have room side by side."""
    some: dict[str, list[Place]] = {}
    taken = 0
    for quantity, places in by_quantity.items():
        wide = max(len(_parts(places)), 1)
        if some and taken + wide > COLUMNS:
            yield some
            some, taken = {}, 0
        some[quantity] = places
        taken += wide
    if some:
        yield some


def _panel(index: int, by_quantity: Mapping[str, list[Place]]) -> Panel:
    places = [place for several in by_quantity.values() for place in several]
    rows = cells.rows_of((place.layer, place.part) for place in places)
    figure = {
        "rows": list(rows.values()),
        "groups": [_group(quantity, several, list(rows)) for quantity, several in by_quantity.items()],
        "weak": f"grey, struck through: {_WEAK}",
    }
    words = " ".join(_words(quantity, several) for quantity, several in by_quantity.items())
    return Panel(
        "The network, layer by layer",
        f"{_caption(places)} Each column has the scale of its letter.",
        draw(lambda axes: cells.network(axes, figure), f"network-{index}", "Where in the network it moved", words),
        tuple(place.estimate for place in places),
    )


def _caption(places: Sequence[Place]) -> str:
    said = "From the input at the bottom to the output at the top; a stronger colour moved more."
    if all(place.floor is None for place in places):
        return f"{said} How much of it any training would have moved could not be said: there is no rehearsal-only control."
    floors = [place.floor for place in places if place.floor is not None]
    if floors and not any(ONE_MORE_OF in floor.method for floor in floors):
        return f"{said} What is grey is so beside one control run: another would leave other parts grey."
    return said


def _group(quantity: str, places: Sequence[Place], rows: Sequence[cells.Where]) -> dict[str, Any]:
    columns = _parts(places)
    values = [place.estimate.value for place in places if place.estimate.value is not None]
    return {
        "name": quantity,
        "unit": next((place.estimate.unit for place in places), ""),
        "least": min((*values, 0.0)),
        "most": max((*values, 0.0)),
        "columns": [one_line(part, _PART) for part in columns],
        "cells": [
            [
                rows.index((place.layer, "") if place.layer is not None else (None, place.part)),
                columns.index(place.part) if place.layer is not None else cells.SPAN,
                place.estimate.value,
                is_weak(place),
            ]
            for place in places
        ],
    }


def is_weak(place: Place) -> bool:
    """Return whether a part did not move more than in the control: their intervals (or exact numbers) do not lie apart."""
    if place.floor is None or place.estimate.value is None or place.floor.value is None:
        return False
    return not _ends(place.estimate)[0] > _ends(place.floor)[1]


def _ends(one: Estimate) -> tuple[float, float]:
    """Return the ends of an interval in size; a change below 0 is a change as well."""
    assert one.value is not None
    low, high = one.interval or (one.value, one.value)
    if low < 0.0 < high:
        return 0.0, max(-low, high)
    return min(abs(low), abs(high)), max(abs(low), abs(high))


def _parts(places: Iterable[Place]) -> list[str]:
    return sorted({place.part for place in places if place.layer is not None}, key=cells.part_order)


def _words(quantity: str, places: Sequence[Place]) -> str:
    """Return what a quantity's cells show, for who can't see them."""
    known = sorted((one for one in places if one.estimate.value is not None), key=lambda one: -abs(one.estimate.value or 0.0))
    told = [f"{_name(place)} {shown(place.estimate).sentence}" for place in known[:_TOLD]]
    said = f"{quantity}: {len(places)} parts; the largest: {', '.join(told) or COULD_NOT_SAY}."
    weak, unsaid = sum(map(is_weak, places)), len(places) - len(known)
    said += f" {weak} of {len(places)} are {_WEAK}." if any(place.floor is not None for place in places) else ""
    return said + (f" {unsaid}: {COULD_NOT_SAY}." if unsaid else "")


def _name(place: Place) -> str:
    return place.part if place.layer is None else f"{place.part} of layer {place.layer}"
