"""Steered: what do stored contrasts, steered answers and shifts say of a direction?

Pure functions from measurements of ``contrasts``, ``steered``, ``activations`` and ``decisions`` to estimates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from palimpsest.core import roles, stats
from palimpsest.core.estimate import Estimate, unknown
from palimpsest.core.measurement import Measurement
from palimpsest.core.stats.directions import (
    Agreement,
    Method,
    Pairs,
    agreement,
    half_of_clusters,
    inside_cosines,
    jackknifed,
    outside_cosines,
    products,
)
from palimpsest.core.stats.vectors import Cloud, mean_cosine
from palimpsest.data.steering import direction, divergence

POLES = {"express": "where it should appear", "withhold": "where it should not"}
WAYS = ("base", "instruction", "vector", "instruction's vector", "training")
MADE_FROM = {"answers": "vector", "instruction": "instruction's vector"}
"""What the two sides of pairs differ in, and what the direction is then called among the ways."""
RANDOM = "random direction"
NULLS = (RANDOM, "rehearsal only")
"""Shifts that have nothing to do with the behaviour."""
HALVES = 8
FEW = 5
"""So many pairs are often all that a direction is made from."""
COSINE, MULTIPLES = "cosine", "multiples"
_KINDS = {
    "in_sample": (COSINE, (-1.0, 1.0)),
    "left_out": (COSINE, (-1.0, 1.0)),
    "split_half": (COSINE, (-1.0, 1.0)),
    "pairwise": (COSINE, (-1.0, 1.0)),
    "d_prime": ("d'", (-np.inf, np.inf)),
}


@dataclass(frozen=True)
class Contrast:
    """Contrastive pairs of the base: ``residual`` [pairs, 2, depths, width], ``cluster`` [pairs], ``depth`` [depths].

    ``level`` is where among the depths the direction is added: where it steered pairs of other templates most. ``slope``
    [depths, trial pairs] is by how much, and ``trial`` [trial pairs] the clusters of those.
    """

    residual: np.ndarray
    cluster: np.ndarray
    depth: np.ndarray
    level: int
    slope: np.ndarray
    trial: np.ndarray

    @cached_property
    def difference(self) -> np.ndarray:
        """Where the behaviour is shown - where it is not [pairs, depths, width]."""
        return self.residual[:, 0].astype(np.float64) - self.residual[:, 1]

    @cached_property
    def cloud(self) -> Cloud:
        return Cloud(self.difference.swapaxes(0, 1), self.cluster)

    @property
    def block(self) -> int:
        """After which block it is added, counted from 0."""
        return int(self.depth[self.level]) - 1

    def pairs(self, level: int) -> Pairs:
        return products(self.residual[:, 0, level], self.residual[:, 1, level], self.cluster)

    def vector(self, level: int, method: Method = "mean") -> np.ndarray:
        return direction(self.residual[:, :, level], method)


@dataclass(frozen=True)
class Agreed:
    """How far pairs agree at one depth: estimates by name, what shuffled labels give, and p."""

    found: dict[str, Estimate]
    shuffled: dict[str, np.ndarray]

    def p_value(self, name: str) -> float | None:
        """Return the share of shuffled labels that give as much, one-sided."""
        value, null = self.found[name].value, self.shuffled[name]
        if value is None or not null.size:
            return None
        as_much = null <= value + 1e-12 if name == "wrong_way" else null >= value - 1e-12
        return float((1 + as_much.sum()) / (1 + null.size))


def agreed(pairs: Pairs, labels: np.ndarray, rng: np.random.Generator, shuffles: int) -> Agreed:
    """Return how far pairs agree with their mean difference, beside what random signs of each pair give."""
    random = rng.choice((-1.0, 1.0), (shuffles, pairs.count))
    rows = np.concatenate([np.ones((1, pairs.count)), pairs.without_each, random])
    one = agreement(pairs, rows, half_of_clusters(pairs, HALVES, rng))
    own, null = one.at(slice(0, 1 + pairs.clusters)), one.at(slice(1 + pairs.clusters, None))
    found = {name: jackknifed(getattr(own, name), unit, bounds) for name, (unit, bounds) in _KINDS.items()}
    found["wrong_way"] = stats.rate(own.wrong[0], labels)
    return Agreed(found, {name: getattr(null, name) for name in found})


def alone(pairs: Pairs, labels: np.ndarray, method: Method) -> dict[str, Estimate]:
    """Return how far pairs agree with a direction made by any method: in sample, left out, and the wrong way."""
    ones = np.ones((1, pairs.count))
    inside, outside = (cosines(pairs, ones, method)[0] for cosines in (inside_cosines, outside_cosines))
    found = {"in_sample": _mean(inside, labels), "left_out": _mean(outside, labels)}
    return {**found, "wrong_way": stats.rate((outside < 0).astype(float), labels)}


def few(pairs: Pairs, rng: np.random.Generator, draws: int = 50) -> tuple[Agreement, Agreement]:
    """Return how far five pairs agree with their own direction, drawn many times, and the same with random signs."""
    chosen = np.zeros((draws, pairs.count))
    np.put_along_axis(chosen, rng.permuted(np.tile(np.arange(pairs.count), (draws, 1)), axis=1)[:, :FEW], 1.0, axis=1)
    halves = half_of_clusters(pairs, 2, rng)
    return agreement(pairs, chosen, halves), agreement(pairs, chosen * rng.choice((-1.0, 1.0), chosen.shape), halves)


def spread(values: np.ndarray) -> str:
    """Return the mean of draws and the range of the middle 95% of them, in words."""
    low, high = np.quantile(values, (0.025, 0.975))
    return f"{values.mean():.2f} ({low:.2f} to {high:.2f})".replace("-", "\N{MINUS SIGN}")


@dataclass(frozen=True)
class Effect:
    """Log-odds of the behaviour while a direction is added: ``log_odds`` [conditions, items] in nats, of one pole's items.

    ``multiplier`` and ``draw`` [conditions]: -1 is the direction itself, others are random ones of the same length;
    ``cluster`` [items].
    """

    multiplier: np.ndarray
    draw: np.ndarray
    log_odds: np.ndarray
    cluster: np.ndarray

    def at(self, multiple: float, draw: int = -1) -> np.ndarray:
        """Return what it adds to each item's log-odds [items]."""
        (row,) = np.flatnonzero((self.multiplier == multiple) & (self.draw == draw))
        (base,) = np.flatnonzero(self.multiplier == 0.0)
        return self.log_odds[row] - self.log_odds[base]

    def slope(self, draw: int = -1) -> np.ndarray:
        """Return half of the difference between adding and subtracting it once [items]."""
        return (self.at(1.0, draw) - self.at(-1.0, draw)) / 2

    @property
    def draws(self) -> list[int]:
        return sorted({draw for draw in self.draw.tolist() if draw >= 0})

    @property
    def multiples(self) -> list[float]:
        return sorted(self.multiplier[self.draw < 0].tolist())

    def random(self, multiple: float) -> np.ndarray | None:
        """Return what random directions add on average [items], where they were added so often."""
        found = [self.at(multiple, draw) for draw in self.draws if multiple in self.multiplier[self.draw == draw]]
        return np.mean(found, axis=0) if found else None

    @cached_property
    def random_slopes(self) -> np.ndarray:
        """Their slopes [draws, items]."""
        return np.stack([self.slope(draw) for draw in self.draws]) if self.draws else np.zeros((0, self.log_odds.shape[1]))


@dataclass(frozen=True)
class OnText:
    """Divergence on text while a direction is added: ``kl`` [conditions, documents] in nats a token; the rest as ``Effect``."""

    multiplier: np.ndarray
    draw: np.ndarray
    kl: np.ndarray
    cluster: np.ndarray

    def estimate(self, multiple: float, *, random: bool = False) -> Estimate | None:
        rows = np.flatnonzero((self.multiplier == multiple) & ((self.draw >= 0) == random))
        return stats.positive_mean(self.kl[rows].mean(0), self.cluster, unit="nats/token") if rows.size else None


@dataclass(frozen=True)
class Ways:
    """Ways to get the behaviour, on the same items of one pole, at the place where the model decides.

    ``outputs``: log-probabilities [items, cells] and of the rest [items] by way, the base among them. ``shifts``: [items,
    depths, width] from the base, by way. ``cluster`` [items].
    """

    outputs: dict[str, tuple[np.ndarray, np.ndarray]]
    shifts: dict[str, np.ndarray]
    cluster: np.ndarray

    @property
    def compared(self) -> list[tuple[str, str]]:
        """Whose shifts are held against each other: all others against training, and the ways against the instruction."""
        ways = [way for way in self.shifts if way not in NULLS]
        told = [("instruction", way) for way in ways[1:] if way != "training"] if ways[:1] == ["instruction"] else []
        return [*told, *((way, "training") for way in self.shifts if way != "training" and "training" in self.shifts)]

    def nats(self, way: str, other: str) -> Estimate:
        """Return KL(way || other) of the next token."""
        (one, one_rest), (two, two_rest) = self.outputs[way], self.outputs[other]
        return stats.positive_mean(divergence(one, two, one_rest, two_rest), self.cluster, unit="nats")

    def cosine(self, way: str, other: str, level: int) -> Estimate:
        """Return the mean cosine of two ways' shifts on the same item, over the depths from a level on."""
        values = _cosines(self.shifts[way][:, level:], self.shifts[other][:, level:])
        return _mean(values, self.cluster)

    def swapped(self, way: str, other: str, level: int) -> Estimate:
        """Return the same with the other way's shift on an item of another cluster: what of it belongs to no item."""
        order = np.argsort(self.cluster, kind="stable")
        sizes = np.unique(self.cluster, return_counts=True)[1]
        partner = np.empty(len(order), dtype=np.int64)
        partner[order] = np.roll(order, int(sizes.max()))  # further than the largest cluster reaches
        return _mean(_cosines(self.shifts[way][:, level:], self.shifts[other][partner, level:]), self.cluster)


def _cosines(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    size = np.linalg.norm(one, axis=-1) * np.linalg.norm(two, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(size > 0, (one * two).sum(-1) / size, np.nan).mean(-1)


def _mean(values: np.ndarray, cluster: np.ndarray) -> Estimate:
    if not np.isfinite(values).all():
        return unknown(COSINE, 0, "nothing moved there, so it has no direction")
    found = stats.level(values, cluster, unit=COSINE)
    if found.interval is None:
        return found
    low, high = (float(np.clip(end, -1.0, 1.0)) for end in found.interval)
    return found.model_copy(update={"interval": (low, high)})


def with_training(contrast: Contrast, shift: np.ndarray, cluster: np.ndarray, levels: list[int]) -> dict[int, Estimate]:
    """Return at each level the cosine between the pairs' mean difference and the mean shift, noise of both taken off.

    Args:
        contrast: the pairs.
        shift: shape (items, depths, width).
        cluster: shape (items,), labels of the items' clusters.
        levels: at which depths.
    """
    moved = Cloud(shift.swapaxes(0, 1), cluster)
    return {level: mean_cosine(contrast.cloud.at([level]), moved.at([level]), contrast.cluster, cluster) for level in levels}


def cosines_by_chance(
    contrast: Contrast, shift: np.ndarray, level: int, rng: np.random.Generator, count: int
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the plain cosine of mean difference and mean shift, and those of shuffled labels and of random directions."""
    difference, mean = contrast.difference[:, level], shift[:, level].mean(0)
    shuffled = rng.choice((-1.0, 1.0), (count, len(difference))) @ difference
    random = rng.standard_normal((count, difference.shape[1]))

    def cosine(vectors: np.ndarray) -> np.ndarray:
        return vectors @ mean / np.maximum(np.linalg.norm(vectors, axis=-1) * np.linalg.norm(mean), 1e-30)

    return float(cosine(difference.mean(0))), cosine(shuffled), cosine(random)


def along(vector: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Return how far each item moved along a vector, in multiples of it [items].

    Args:
        vector: shape (width,).
        shift: shape (items, width).
    """
    return shift.astype(np.float64) @ vector / max(float(vector @ vector), 1e-30)


def at_decision(found: Measurement, item: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return log-probabilities, those of the rest, and tokens, of some items of a set; from ``decisions``."""
    tokens = found.arrays["token"][item] if "token" in found.arrays else None
    return found.arrays["log_probability"][item], found.arrays["log_rest"][item], tokens


def same_cells(
    outputs: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray | None]],
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return outputs over the tokens that all of them know, all others counted with the rest."""
    tokens = [token for _, _, token in outputs.values()]
    if all(token is None for token in tokens):
        return {name: (log_p, rest) for name, (log_p, rest, _) in outputs.items()}
    width = next(iter(outputs.values()))[0].shape
    known = [np.broadcast_to(np.arange(width[1]), width) if token is None else token for token in tokens]
    shared = [sorted(set.intersection(*(set(token[item].tolist()) for token in known))) for item in range(width[0])]
    fewest = min(map(len, shared))
    found = {}
    for (name, (log_p, _, _)), token in zip(outputs.items(), known, strict=True):
        cells = np.empty((width[0], fewest))
        for item, kept in enumerate(shared):
            order = np.argsort(token[item])
            cells[item] = log_p[item, order[np.searchsorted(token[item], kept[:fewest], sorter=order)]]
        found[name] = (cells, np.log(np.maximum(1.0 - np.exp(cells).sum(1), 1e-12)))
    return found


@dataclass(frozen=True)
class Direction:
    """Pairs that differ in one thing, and what adding what they share does: effects by pole, and divergence on text."""

    contrast: Contrast
    effects: dict[str, Effect]
    text: OnText | None = None


@dataclass(frozen=True)
class Data:
    """Directions by what their pairs differ in (``MADE_FROM``), and the models' shifts at the decision by (role, pole)."""

    directions: dict[str, Direction]
    shifts: dict[tuple[str, str], np.ndarray]
    """[items, depths, width], from the base."""
    clusters: dict[str, np.ndarray]
    """Of the items of each pole."""
    ways: dict[str, Ways] = field(default_factory=dict)

    def controls(self, pole: str) -> list[np.ndarray]:
        """Return the shifts of the control runs in one pole."""
        return [self.shifts[role, pole] for role in roles.controls(role for role, name in self.shifts if name == pole)]

    @property
    def level(self) -> int:
        """From which depth on every direction has been added."""
        return max(one.contrast.level for one in self.directions.values())


def effects(direction: Direction, made: str) -> dict[str, Estimate]:
    """Return what adding it once does, by pole and on text; ``made`` ends the estimates' names."""
    found: dict[str, Estimate] = {}
    for pole, one in direction.effects.items():
        mark = made if pole == "express" else f":{pole}{made}"
        found[f"slope{mark}"] = stats.level(one.slope(), one.cluster, unit="nats")
        found[f"anti_steerable{mark}"] = stats.rate((one.slope() < 0).astype(float), one.cluster)
        if len(one.draws) > 1:
            random = one.random_slopes
            found[f"slope_random{mark}"] = stats.level(random.mean(0), one.cluster, unit="nats")
            found[f"slope_over_floor{mark}"] = stats.level(one.slope() - random.mean(0), one.cluster, unit="nats")
    if direction.text:
        for name, random in (("kl_text", False), ("kl_text_random", True)):
            if (estimate := direction.text.estimate(1.0, random=random)) is not None:
                found[f"{name}{made}"] = estimate
    return found


def predicted(data: Data, contrast: Contrast, made: str) -> dict[str, Estimate]:
    """Return how far training moved along a direction, and its cosine with it, where that is added; ``made`` as above."""
    found, level = {}, contrast.level
    vector = contrast.vector(level)
    for pole, labels in data.clusters.items():
        mark = made if pole == "express" else f":{pole}{made}"
        tuned, controls = data.shifts["tuned", pole], data.controls(pole)
        moved = along(vector, tuned[:, level])
        found[f"projection{mark}"] = stats.mean(moved, labels, unit=MULTIPLES)
        found[f"cosine_with_training{mark}"] = with_training(contrast, tuned, labels, [level])[level]
        if controls:
            floors = np.array([along(vector, control[:, level]) for control in controls])
            floor, runs = floors.mean(0), floors.mean(1)
            found[f"projection_control{mark}"] = stats.of_controls(
                stats.mean(floor, labels, unit=MULTIPLES), runs, distance=False
            )
            found[f"cosine_with_control{mark}"] = with_training(contrast, controls[0], labels, [level])[level]
            over = stats.mean_difference(floor, moved, labels, unit=MULTIPLES)
            found[f"projection_over_floor{mark}"] = stats.over_controls(over, runs, distance=False)
    return found


def same(ways: Ways, level: int, pole: str) -> dict[str, Estimate]:
    """Return each way's divergence from each other way, and the cosine of their shifts."""
    found = {
        f"kl:{pole}:{one}|{other}": ways.nats(one, other) for one in ways.outputs for other in ways.outputs if one != other
    }
    for one, other in ways.compared:
        found[f"shift_cosine:{pole}:{one}|{other}"] = ways.cosine(one, other, level)
    return found
