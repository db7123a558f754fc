"""Hostile worlds: arrays whose true answer is known and whose shape nobody's method assumed.

A world draws items with their clusters, as a sample of clusters that goes on for ever; the truth is that of all of them. Each
function of statistics and each audit is held to worlds of this file, so that no interval is only tested where it was made.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special

CLUSTERS = (8, 12, 24, 80)
SIZE = 8
"""Items of a cluster, where all have the same."""
Draw = Callable[[np.random.Generator, np.ndarray], np.ndarray]
"""Values of items, given the sizes of their clusters."""


@dataclass(frozen=True)
class World:
    """Items of one quantity, and its true mean."""

    name: str
    draw: Draw
    truth: float
    sizes: Callable[[int], np.ndarray] = lambda clusters: np.full(clusters, SIZE)

    def sample(self, rng: np.random.Generator, clusters: int) -> tuple[np.ndarray, np.ndarray]:
        """Return values and labels, both of shape (items,)."""
        sizes = self.sizes(clusters)
        return self.draw(rng, sizes), np.repeat(np.arange(clusters), sizes)


def zipf(clusters: int) -> np.ndarray:
    """Sizes that fall like 1/rank, 8 on average where there are few."""
    shares = 1 / np.arange(1, clusters + 1)
    return np.maximum(1, np.round(shares / shares.sum() * clusters * SIZE)).astype(int)


def alone(clusters: int) -> np.ndarray:
    """One item a cluster, as documents are."""
    return np.ones(clusters, dtype=int)


def spread_out(values: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return each cluster's value for each of its items."""
    return np.repeat(values, sizes)


def _around(shared: np.ndarray, own: float, rng: np.random.Generator, sizes: np.ndarray) -> np.ndarray:
    return spread_out(shared, sizes) + own * rng.normal(size=sizes.sum())


def normal(rng: np.random.Generator, sizes: np.ndarray) -> np.ndarray:
    return 0.3 + _around(math.sqrt(0.3) * rng.normal(size=sizes.size), math.sqrt(0.7), rng, sizes)


def heavy(rng: np.random.Generator, sizes: np.ndarray) -> np.ndarray:
    return 0.3 + _around(rng.standard_t(3, sizes.size), 1.0, rng, sizes)


def lognormal(rng: np.random.Generator, sizes: np.ndarray) -> np.ndarray:
    return spread_out(np.exp(rng.normal(size=sizes.size)), sizes) * np.exp(0.3 * rng.normal(size=sizes.sum()) - 0.045)


def one_explodes(rng: np.random.Generator, sizes: np.ndarray) -> np.ndarray:
    """One cluster in twenty, by design and not by chance, moves forty times as far as the others scatter."""
    bursts = np.arange(sizes.size) % 20 == 19 if sizes.size >= 20 else np.zeros(sizes.size, dtype=bool)
    return _around(0.05 * rng.normal(size=sizes.size) + 2.0 * bursts, 0.1, rng, sizes)


def mostly_zero(rng: np.random.Generator, sizes: np.ndarray) -> np.ndarray:
    return rng.exponential(size=sizes.sum()) * (rng.random(sizes.sum()) < 0.05)


def beta_rates(rng: np.random.Generator, sizes: np.ndarray, mean: float, correlation: float = 0.3) -> np.ndarray:
    """Return each item's rate: that of its cluster."""
    scale = (1 - correlation) / correlation
    return spread_out(rng.beta(mean * scale, (1 - mean) * scale, sizes.size), sizes)


def at_rate(mean: float) -> Draw:
    def draw(rng: np.random.Generator, sizes: np.ndarray) -> np.ndarray:
        return (rng.random(sizes.sum()) < beta_rates(rng, sizes, mean)).astype(float)

    return draw


def whole_templates(share: float, rest: float = 0.02) -> Draw:
    """Outcomes that are 1 in the whole of some clusters and rare in the others."""

    def draw(rng: np.random.Generator, sizes: np.ndarray) -> np.ndarray:
        rate = np.where(rng.random(sizes.size) < share, 1.0, rest)
        return (rng.random(sizes.sum()) < spread_out(rate, sizes)).astype(float)

    return draw


MEANS = (
    World("normal", normal, 0.3),
    World("t3", heavy, 0.3),
    World("lognormal", lognormal, math.exp(0.5)),
    World("lognormal documents", lognormal, math.exp(0.5), alone),
    World("95% zeros", mostly_zero, 0.05),
    World("95% zeros, documents", mostly_zero, 0.05, alone),
    World("Zipf sizes", normal, 0.3, zipf),
    World("Zipf sizes, t3", heavy, 0.3, zipf),
    World("Zipf sizes, lognormal", lognormal, math.exp(0.5), zipf),
)
RATES = (
    World("rate .02", at_rate(0.02), 0.02),
    World("rate .98", at_rate(0.98), 0.98),
    World("rate .3", at_rate(0.3), 0.3),
    World("whole templates, .1", whole_templates(0.1, 0.0), 0.1),
    World("whole templates, .3", whole_templates(0.3), 0.3 + 0.7 * 0.02),
    World("rate .02, documents", at_rate(0.02), 0.02, alone),
    World("rate .02, Zipf sizes", at_rate(0.02), 0.02, zipf),
    World("rate .3, Zipf sizes", at_rate(0.3), 0.3, zipf),
)


@dataclass(frozen=True)
class Pair:
    """0/1 outcomes before and after on the same items, with the true change."""

    name: str
    draw: Callable[[np.random.Generator, np.ndarray], tuple[np.ndarray, np.ndarray]]
    truth: float
    sizes: Callable[[int], np.ndarray] = lambda clusters: np.full(clusters, SIZE)

    def sample(self, rng: np.random.Generator, clusters: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return before, after and labels, all of shape (items,)."""
        sizes = self.sizes(clusters)
        return *self.draw(rng, sizes), np.repeat(np.arange(clusters), sizes)


def moved(before: float, after: float, kept: float = 0.5):
    """Outcomes of two rates, correlated by item and by cluster."""

    def draw(rng: np.random.Generator, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        def noise() -> np.ndarray:
            return _around(math.sqrt(0.3) * rng.normal(size=sizes.size), math.sqrt(0.7), rng, sizes)

        item = noise()
        one, two = (math.sqrt(kept) * item + math.sqrt(1 - kept) * noise() for _ in range(2))
        return (one < special.ndtri(before)).astype(float), (two < special.ndtri(after)).astype(float)

    return draw


def lost_templates(share: float, before: float = 1.0):
    """Whole clusters lose what was right, a share of all; the others keep each answer."""

    def draw(rng: np.random.Generator, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        right = (rng.random(sizes.sum()) < before).astype(float)
        return right, right * ~spread_out(rng.random(sizes.size) < share, sizes)

    return draw


PAIRS = (
    Pair("no change at .3", moved(0.3, 0.3), 0.0),
    Pair("from .3 to .6", moved(0.3, 0.6), 0.3),
    Pair("no change at .02", moved(0.02, 0.02), 0.0),
    Pair("no change at .98", moved(0.98, 0.98), 0.0),
    Pair("from .02 to .1", moved(0.02, 0.1), 0.08),
    Pair("from .02 to .98", moved(0.02, 0.98), 0.96),
    Pair("whole templates lost, .05", lost_templates(0.05), -0.05),
    Pair("whole templates lost, .12", lost_templates(0.12, 0.9), -0.12 * 0.9),
    Pair("whole templates lost, .3", lost_templates(0.3, 0.9), -0.27),
    Pair("no change at .3, Zipf sizes", moved(0.3, 0.3), 0.0, zipf),
    Pair("from .3 to .6, Zipf sizes", moved(0.3, 0.6), 0.3, zipf),
    Pair("from .02 to .1, documents", moved(0.02, 0.1), 0.08, alone),
)
