"""Shapes: how may the clusters of a simulated world scatter, other than an audit's method takes for granted?

An audit's ``simulate`` draws its clusters as it likes and hands them to a shape, which leaves them or puts in their place
others of the same mean that are heavy-tailed, skewed, carried by a few, or of very unequal size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Draw = Callable[[np.random.Generator, int], np.ndarray]
"""Return so many values, of mean 0 and variance 1 (effects) or of mean 1 and none below 0 (factors)."""
FEW = 0.2
"""Share of the clusters that carries all, in the shape ``few``."""


def _even(count: int, size: int) -> np.ndarray:
    return np.full(count, size)


def _zipf(count: int, size: int) -> np.ndarray:
    """Return sizes that fall like 1/rank, about ``size`` on average."""
    shares = 1 / np.arange(1, count + 1)
    return np.maximum(1, np.round(shares / shares.sum() * count * size)).astype(int)


@dataclass(frozen=True)
class Shape:
    """What is drawn in place of an audit's own clusters; ``None`` leaves these as they are."""

    own_effects: Draw | None = None
    own_factors: Draw | None = None
    sizes: Callable[[int, int], np.ndarray] = _even

    def effects(self, usual: np.ndarray, spread: float, rng: np.random.Generator) -> np.ndarray:
        """Return what each cluster adds, shape (clusters,): ``usual``, or others of mean 0 and this standard deviation."""
        return usual if self.own_effects is None else spread * self.own_effects(rng, len(usual))

    def factors(self, usual: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return by what each cluster multiplies, shape (clusters,): ``usual``, or others of mean 1."""
        return usual if self.own_factors is None else self.own_factors(rng, len(usual))

    def labels(self, count: int, size: int) -> np.ndarray:
        """Return the cluster of each item, shape (items,), where each has ``size`` on average."""
        return np.repeat(np.arange(count), self.sizes(count, size))


PLAIN = Shape()
HOSTILE: dict[str, Shape] = {
    "t3": Shape(own_effects=lambda rng, count: rng.standard_t(3, count) / np.sqrt(3)),
    "lognormal": Shape(
        own_effects=lambda rng, count: (np.exp(rng.normal(size=count)) - np.exp(0.5)) / np.sqrt(np.exp(2) - np.exp(1)),
        own_factors=lambda rng, count: np.exp(rng.normal(size=count) - 0.5),
    ),
    "few": Shape(
        own_effects=lambda rng, count: ((rng.random(count) < FEW) - FEW) / np.sqrt(FEW * (1 - FEW)),
        own_factors=lambda rng, count: (rng.random(count) < FEW) / FEW,
    ),
    "Zipf sizes": Shape(sizes=_zipf),
}
"""Shapes by name; each audit says which two are nearest to what it may meet."""
