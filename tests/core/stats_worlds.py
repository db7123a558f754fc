"""Worlds: arrays whose true answer is known, with items that move together in clusters."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import special

from palimpsest.core.estimate import Estimate
from palimpsest.core.seeds import numpy_stream

CLUSTERS, SIZE, CORRELATION = 24, 8, 0.3
LABELS = np.repeat(np.arange(CLUSTERS), SIZE)


def noise(rng: np.random.Generator, labels: np.ndarray = LABELS) -> np.ndarray:
    """Standard normal values whose correlation within a cluster is 0.3."""
    shared, own = rng.normal(size=labels.max() + 1), rng.normal(size=labels.size)
    return np.sqrt(CORRELATION) * shared[labels] + np.sqrt(1 - CORRELATION) * own


def outcomes(rng: np.random.Generator, *rates: float) -> list[np.ndarray]:
    """0/1 outcomes at these marginal rates, correlated by item and by cluster."""
    item = noise(rng)
    return [(np.sqrt(0.5) * item + np.sqrt(0.5) * noise(rng) < special.ndtri(rate)).astype(float) for rate in rates]


def coverage(world: Callable[[np.random.Generator], Estimate], truth: float, worlds: int) -> tuple[float, float]:
    """Return the share of worlds whose interval holds the truth, and the share whose p-value is under 0.05."""
    held = rejected = 0
    for index in range(worlds):
        estimate = world(numpy_stream(7, "coverage", index))
        assert estimate.interval is not None, estimate.method
        held += estimate.interval[0] <= truth <= estimate.interval[1]
        rejected += estimate.p_value is not None and estimate.p_value < 0.05
    return held / worlds, rejected / worlds
