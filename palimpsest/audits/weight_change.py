"""Weight change: how far did the weights move, where, and in how many directions?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pydantic import Field

from palimpsest.audit import Audit, Case, Finding, NotApplicable, Place, Result, Table
from palimpsest.core import cells, roles, updates
from palimpsest.core.estimate import Estimate, exact
from palimpsest.core.measurement import Measurement, Need
from palimpsest.core.roles import CONTROL
from palimpsest.core.shapes import PLAIN, Shape
from palimpsest.core.stats.controlled import one_more, times_controls
from palimpsest.core.updates import NORM, Moved
from palimpsest.core.wording import capital, number


@dataclass(frozen=True)
class Data:
    """The update of the tuned model, and where there is a control its own and how far both models lie apart."""

    tuned: Moved
    control: Moved | None = None
    """The first control run."""
    apart_sq: np.ndarray | None = None
    """Squared norm of tuned minus control [weights]."""
    cannot_say: tuple[str, ...] = ()
    further: tuple[Moved, ...] = ()
    """Further control runs."""

    @property
    def controls(self) -> tuple[Moved, ...]:
        return () if self.control is None else (self.control, *self.further)


class WeightChange(Audit[Data]):
    """Size, place and rank of the update of the weights.

    Question:
        How far did the weights move from those of the base, in which layers and kinds of weight, and in how many directions?
    Method:
        The update is the tuned model's weights minus the base's, computed in float64 from the stored weights; tied weights
        count once, an adapter is merged first. Its size is its Frobenius norm as a share of that of the base weights. A kind's
        share is of the squared norm of the whole update, so that shares add up. Of each matrix (each expert for itself): the
        stable rank, squared Frobenius norm over squared spectral norm, tells in how many directions the update is strong; the
        effective rank (exponential of the entropy of the singular values) counts the weaker ones too; the rank above rounding
        counts the singular values that rounding to the stored type can't have made. Of several matrices the mean is given,
        weighted by their share of the squared update. The cosine of two updates follows from their norms and the distance
        of the two models.
    Reads:
        The weights of base and tuned, from their files; no text. Those of the rehearsal-only control, where there is one.
    Null:
        No change: every entry the same, and then the update is exactly 0. Any training moves weights, so the control shows how
        far training without the behaviour moves them.
    Limits:
        All numbers are exact (to rounding) and tell nothing about chance: another training seed gives other ones. A large
        update need not change what the model does (permuted heads change every weight and no answer), and a small one can.
        Beyond sides of 4,096 only the leading singular values are computed; ranks that need all of them could not be said.
    Reference:
        Rudelson and Vershynin 2007, arXiv math/0503442 (stable rank); Roy and Vetterli 2007 (effective rank); Hu et al. 2021,
        arXiv 2106.09685 (updates of low rank); Aghajanyan et al. 2020, arXiv 2012.13255.
    """

    cost: ClassVar = "forward"
    primary: ClassVar = ("relative_change",)
    planted: ClassVar = 5.0
    hostile: ClassVar = ()  # its numbers are exact: no sample, no interval

    told: int = Field(default=12, ge=1)
    """How many single weights, and how many layers of a deep model, are told in the tables: those that moved most."""

    def needs(self, case: Case) -> tuple[Need, ...]:
        found = [_need(role, "base") for role in case.control_runs if role != "base"]
        return (*found, _apart()) if CONTROL in case.roles else tuple(found)

    def gather(self, case: Case, measured: Mapping[str, Measurement]) -> Data:
        tuned = measured[_need("tuned", "base").name]
        if "why" in tuned.texts:
            raise NotApplicable(f"{tuned.texts['why'][0]} Give a tuned model with the shapes of the base.")
        if CONTROL not in case.roles:
            return Data(_moved(tuned), cannot_say=("How far any training moves them: give --control rehearsal_only=PATH.",))
        control, apart = measured[_need(CONTROL, "base").name], measured[_apart().name]
        if "why" in control.texts:
            return Data(_moved(tuned), cannot_say=(f"How far the rehearsal-only control moved. {control.texts['why'][0]}",))
        others = [measured[_need(role, "base").name] for role in roles.controls(case.roles)[1:]]
        further = tuple(_moved(other) for other in others if "why" not in other.texts)
        return Data(_moved(tuned), _moved(control), apart.arrays["update_sq"], further=further)

    def analyse(self, data: Data, rng: np.random.Generator) -> Result:
        estimates = _whole(data)
        said = _statement(estimates, data) + _in_another_order(data.tuned)
        return Result(
            summary=_sentence(data, estimates, said),
            estimates=estimates,
            findings=(
                Finding(
                    tag="inside",
                    statement=said,
                    estimate=estimates["relative_change"],
                    topic="change of the weights",
                ),
            ),
            tables=(_by_kind(data), _by_layer(data, self.told), *_largest(data.tuned, self.told)),
            figure=_figure(data),
            network=tuple(_places(data)),
            cannot_say=data.cannot_say,
        )

    def simulate(self, effect: float, rng: np.random.Generator, shape: Shape = PLAIN) -> Data:
        """Draw random weights and updates of known size: the tuned model's is ``effect`` percent of the norm, of rank 3."""
        base = _random_weights(rng)
        control = {name: _sized(rng.normal(size=value.shape), 0.01 * _norm(value)) for name, value in base.items()}
        tuned = {name: _sized(_low_rank(value.shape, 3, rng), 0.01 * effect * _norm(value)) for name, value in base.items()}
        apart = np.array([np.sum((tuned[name] - control[name]) ** 2) for name in base])
        return Data(updates.compared(base, tuned), updates.compared(base, control), apart)

    def truth(self, effect: float) -> dict[str, float]:
        return {"relative_change": effect}

    @staticmethod
    def plot(result: Result, axes) -> None:
        cells.network(axes, result.figure)


# ---------------------------------------------------------------- needs and arrays


def _need(role: str, against: str) -> Need:
    return Need(measure="weight_change", role=role, against=against)


def _apart() -> Need:
    """Return the need for the distance of tuned and control, of which no singular values are asked."""
    return Need(measure="weight_change", role="tuned", against=CONTROL, parameters={"spectrum": 0})


def _moved(found: Measurement) -> Moved:
    texts = {key: np.array(found.texts[key]) for key in ("part", "kind")}
    return Moved(name=tuple(found.texts["name"]), **texts, **found.arrays)


def _whole(data: Data) -> dict[str, Estimate]:
    tuned, control = data.tuned, data.control
    found = {
        "relative_change": updates.relative(tuned),
        "changed_share": updates.changed(tuned),
        "largest_change": exact(float(tuned.largest.max(initial=0.0)), "largest absolute change", int(tuned.size.sum())),
        "cosine_update_base": updates.with_base(tuned),
        "cosine_base_tuned": updates.kept(tuned),
        "stable_rank": updates.stable_rank(tuned),
        "effective_rank": updates.effective_rank(tuned),
    }
    if control is None or data.apart_sq is None:
        return found
    one, other, apart = (float(values.sum()) for values in (tuned.update_sq, control.update_sq, data.apart_sq))
    times = times_controls(math.sqrt(one), [math.sqrt(float(run.update_sq.sum())) for run in data.controls])
    return found | {
        "control_relative_change": updates.relative(control),
        "times_control": times,
        "cosine_with_control": updates.cosine((one + other - apart) / 2, one, other, int(tuned.size.sum()), "no weight moved"),
    }


# ---------------------------------------------------------------- words


def _statement(estimates: Mapping[str, Estimate], data: Data) -> str:
    moved = estimates["relative_change"]
    if moved.value == 0.0:
        return "no weight changed: the update is exactly 0"
    if moved.value is None:
        return "the weights moved from 0"
    said = f"the weights moved by {_figures(moved.value)}% of their norm"
    times = estimates.get("times_control")
    if times is None or times.value is None:
        return said
    range_ = "" if times.interval is None else " [{}, {}]".format(*map(_figures, times.interval))
    return f"{said}, {_figures(times.value)}{range_} times as far as in {roles.called(len(data.controls))}"


def _in_another_order(moved: Moved) -> str:
    """Return of how many weights nothing but the order changed; empty where of none."""
    differ, same = int((moved.changed > 0).sum()), int(moved.reordered.sum())
    if not same:
        return ""
    which = f"all {differ} that differ hold" if same == differ else f"{same} of the {differ} that differ {_hold(same)}"
    return f"; {which} exactly the base's numbers in another order, as where heads or units were permuted"


def _sentence(data: Data, estimates: Mapping[str, Estimate], said: str) -> str:
    tuned = data.tuned
    parts = {part: float(tuned.update_sq[tuned.part == part].sum()) for part in sorted(set(tuned.part.tolist()))}
    if sum(parts.values()) > 0:
        most = max(parts, key=lambda part: parts[part])
        said += f"; {_article(most)} {100 * parts[most] / sum(parts.values()):.0f}% of the squared update"
    shared = estimates.get("cosine_with_control")
    if shared is not None and shared.value is not None:
        which = "the" if len(data.controls) == 1 else "the first"
        said += f". Its direction and {which} control's have a cosine of {number(shared.value, 2, signed=True)}"
    return capital(said) + "."


def _article(part: str) -> str:
    return f"{part} {_hold(2 if part.endswith('s') else 1)}"


def _hold(count: int) -> str:
    return "holds" if count == 1 else "hold"


def _figures(value: float) -> str:
    return f"{value:.3g}" if 1e-4 <= value < 1e4 else f"{value:.1e}"


# ---------------------------------------------------------------- tables and pictures


def _by_kind(data: Data) -> Table:
    kinds = sorted(set(data.tuned.kind.tolist()), key=cells.part_order)
    groups = {"all weights": np.ones(len(data.tuned.name), dtype=bool)} | {kind: data.tuned.kind == kind for kind in kinds}
    return Table(
        title="The update by kind of weight",
        columns=(
            "", "weights", "relative change", "rehearsal only: relative change", "share of the squared update",
            "entries that changed", "stable rank", "cosine with the base's weights",
        ),
        rows=tuple(
            (
                name,
                int(data.tuned.size[own].sum()),
                updates.relative(data.tuned, own),
                None if data.control is None else updates.relative(data.control, own),
                updates.share(data.tuned, own),
                updates.changed(data.tuned, own),
                updates.stable_rank(data.tuned, own),
                updates.with_base(data.tuned, own),
            )
            for name, own in groups.items()
        ),
        note="Stable rank: in how many directions the update is strong. A cosine above 0 enlarges weights, below 0 shrinks.",
    )  # fmt: skip


def _by_layer(data: Data, told: int) -> Table:
    tuned = data.tuned
    layers = sorted(set(tuned.layer.tolist()))
    squared = {layer: float(tuned.update_sq[tuned.layer == layer].sum()) for layer in layers}
    chosen = sorted(sorted(layers, key=lambda layer: -squared[layer])[:told])
    return Table(
        title="The update by layer",
        columns=("layer", "relative change", "rehearsal only: relative change", "share of the squared update"),
        rows=tuple(
            (
                "outside the layers" if layer < 0 else str(layer),
                updates.relative(tuned, tuned.layer == layer),
                None if data.control is None else updates.relative(data.control, tuned.layer == layer),
                updates.share(tuned, tuned.layer == layer),
            )
            for layer in chosen
        ),
        note="" if len(chosen) == len(layers) else f"The {len(chosen)} of {len(layers)} with the largest updates.",
    )


def _largest(moved: Moved, told: int) -> tuple[Table, ...]:
    """Return the single weights with the largest share of the update; nothing where no weight moved."""
    order = [int(place) for place in np.argsort(-moved.update_sq, kind="stable")[:told] if moved.update_sq[place] > 0]
    if not order:
        return ()
    return (
        Table(
            title="Weights with the largest updates",
            columns=(
                "", "share of the squared update", "relative change", "stable rank", "effective rank",
                "rank above rounding, of at most", "largest change of an entry", "cosine with the base's weights",
            ),
            rows=tuple(
                (
                    moved.name[place],
                    updates.share(moved, _only(place)),
                    updates.relative(moved, _only(place)),
                    updates.stable_rank(moved, _only(place)),
                    updates.effective_rank(moved, _only(place)),
                    _ranks(moved, place),
                    f"{moved.largest[place]:.3g}",
                    updates.with_base(moved, _only(place)),
                )
                for place in order
            ),
        ),
    )  # fmt: skip


def _only(place: int) -> np.ndarray:
    return np.array([place])


def _ranks(moved: Moved, place: int) -> str | None:
    """Return the rank above rounding of a matrix and its shorter side; of experts the range over them."""
    own = np.flatnonzero(moved.weight == place)
    if not len(own):
        return None
    if not moved.whole[own].all():
        return f"could not say, of {int(moved.side[own[0]])}"
    low, high = int(moved.rank[own].min()), int(moved.rank[own].max())
    return f"{low if low == high else f'{low} to {high}'} of {int(moved.side[own[0]])}"


def _cells_of(moved: Moved, names: np.ndarray) -> dict[cells.Where, np.ndarray]:
    """Return the weights of each layer and kind; outside the layers by kind alone."""
    found: dict[cells.Where, np.ndarray] = {}
    for layer, name in sorted(set(zip(moved.layer.tolist(), names.tolist(), strict=True))):
        found[layer if layer >= 0 else None, name] = (moved.layer == layer) & (names == name)
    return found


def _figure(data: Data) -> dict[str, object]:
    """Return the heat map of layers by kinds: the tuned model's update, and on the same scale the control's."""
    where = _cells_of(data.tuned, data.tuned.kind)
    rows, columns = cells.rows_of(where), sorted({kind for layer, kind in where if layer is not None}, key=cells.part_order)
    models = {"tuned": data.tuned, "rehearsal only": data.control}
    found = {name: [(at, updates.relative(one, own).value) for at, own in where.items()] for name, one in models.items() if one}
    most = max((value for several in found.values() for _, value in several if value is not None), default=0.0)
    return {
        "rows": list(rows.values()),
        "groups": [
            {
                "name": f"relative change of the weights, {name}",
                "unit": NORM,
                "least": 0.0,
                "most": most,
                "colour": 0,
                "columns": columns,
                "cells": [_cell(at, value, list(rows), columns) for at, value in several],
            }
            for name, several in found.items()
        ],
        "weak": "",
    }


def _cell(at: cells.Where, value: float | None, rows: Sequence[cells.Where], columns: Sequence[str]) -> list[object]:
    layer, kind = at
    inside = layer is not None
    return [rows.index((layer, "") if inside else at), columns.index(kind) if inside else cells.SPAN, value, False]


def _places(data: Data) -> Iterable[Place]:
    for (layer, part), own in _cells_of(data.tuned, data.tuned.part).items():
        yield Place(
            layer=layer,
            part=part,
            quantity="relative change of the weights",
            estimate=updates.relative(data.tuned, own),
            floor=_floor(data, own),
        )


def _floor(data: Data, own: np.ndarray) -> Estimate | None:
    """Return how far training on rehearsal alone moved some weights: of one run, or where one more of several would lie."""
    found = [updates.relative(run, own) for run in data.controls]
    known = [one.value for one in found if one.value is not None]
    if not found:
        return None
    return found[0] if len(known) < 2 or len(known) < len(found) else one_more(known, unit=found[0].unit)


# ---------------------------------------------------------------- worlds


def _random_weights(rng: np.random.Generator) -> dict[str, np.ndarray]:
    shapes = {"embeddings": (24, 8)}
    for layer in range(3):
        shapes |= {f"{layer} attention {kind}": (8, 8) for kind in "qkvo"} | {f"{layer} mlp": (16, 8), f"{layer} norm": (8,)}
    return {name: rng.standard_t(5, shape) * rng.gamma(4.0, 0.1) for name, shape in shapes.items()}


def _low_rank(shape: tuple[int, ...], rank: int, rng: np.random.Generator) -> np.ndarray:
    if len(shape) < 2:
        return rng.normal(size=shape)
    return rng.normal(size=(shape[0], rank)) @ rng.normal(size=(rank, shape[1]))


def _sized(update: np.ndarray, norm: float) -> np.ndarray:
    return update * (norm / _norm(update))


def _norm(values: np.ndarray) -> float:
    return float(np.sqrt(np.sum(values**2)))
