"""Directions: which direction do pairs of vectors share, and do pairs that it was not made from agree?

A direction is a weighted sum of the differences of pairs, so everything here works on their products: a direction without some
pairs, or with other signs, is another row of weights and no new pass over vectors. A pair belongs to a cluster (its template).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from palimpsest.core.estimate import Estimate
from palimpsest.core.stats.clusters import FEWEST_CLUSTERS
from palimpsest.core.stats.vectors import Jackknifed

Method = Literal["mean", "pca", "logistic"]
METHODS: tuple[Method, ...] = ("mean", "pca", "logistic")
PENALTY = 1.0
"""Of the logistic regression, for differences whose mean squared length is 1."""
_STEPS = 12
_TINY = 1e-30


@dataclass(frozen=True)
class Pairs:
    """Products of the vectors of pairs.

    ``gram`` [pairs, pairs] of the differences, ``shown`` and ``withheld`` [pairs, pairs] of one side's vectors (rows) with the
    differences (columns), ``codes`` [pairs], the cluster of each pair, counted from 0.
    """

    gram: np.ndarray
    shown: np.ndarray
    withheld: np.ndarray
    codes: np.ndarray

    @property
    def count(self) -> int:
        return len(self.codes)

    @property
    def clusters(self) -> int:
        return int(self.codes.max()) + 1

    @cached_property
    def sizes(self) -> np.ndarray:
        """Length of each difference [pairs]."""
        return np.sqrt(np.maximum(np.diagonal(self.gram), _TINY))

    @cached_property
    def without_each(self) -> np.ndarray:
        """A row of weights for each cluster, 0 for its pairs and 1 for all others [clusters, pairs]."""
        return (self.codes[None, :] != np.arange(self.clusters)[:, None]).astype(float)


def products(shown: np.ndarray, withheld: np.ndarray, clusters: ArrayLike) -> Pairs:
    """Return the products of pairs of vectors.

    Args:
        shown: shape (pairs, width), where the behaviour is shown.
        withheld: shape (pairs, width), where it is not.
        clusters: shape (pairs,), the label of each pair's cluster.
    """
    one, other = shown.astype(np.float64), withheld.astype(np.float64)
    difference = one - other
    codes = np.unique(np.asarray(clusters), return_inverse=True)[1]
    return Pairs(difference @ difference.T, one @ difference.T, other @ difference.T, codes)


def weights(gram: np.ndarray, signs: np.ndarray, method: Method) -> np.ndarray:
    """Return what each difference weighs in the direction: direction = weights @ differences.

    ``mean`` is the mean difference; ``pca`` the first direction of the *uncentred* differences (centring would take away the
    very mean that is looked for), its sign that of their mean projection; ``logistic`` the normal of a logistic regression
    without intercept on pairs centred on their midpoint. The last two have unit length.

    Args:
        gram: products of the differences, shape (pairs, pairs).
        signs: shape (..., pairs): 1, -1 for a pair whose labels are exchanged, 0 for a pair that is left out.
        method: how the direction is made.
    """
    if method == "mean":
        return signs / np.maximum(np.abs(signs).sum(-1, keepdims=True), 1.0)
    found = _first_component(gram, signs) if method == "pca" else _separating(gram, signs)
    return found / _length(found, gram)[..., None]


def _first_component(gram: np.ndarray, signs: np.ndarray) -> np.ndarray:
    kept = np.abs(signs)
    top = np.linalg.eigh(kept[..., :, None] * gram * kept[..., None, :])[1][..., -1] * kept
    towards = (top @ gram * signs).sum(-1)
    return top * np.where(towards < 0, -1.0, 1.0)[..., None]


def _separating(gram: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """Newton's method in the dual: the normal is a sum of differences, each weighed by how wrong it still is."""
    size = max(float(np.trace(gram)) / len(gram), _TINY)
    kernel, kept = signs[..., :, None] * (gram / size) * signs[..., None, :], np.abs(signs)
    alpha, unit = np.zeros(signs.shape), np.eye(len(gram))
    for _ in range(_STEPS):
        wrong = kept / (1.0 + np.exp(np.clip((kernel @ alpha[..., None])[..., 0], -500, 500)))
        slope = PENALTY * unit + (wrong * (1.0 - wrong))[..., :, None] * kernel
        alpha = alpha - np.linalg.solve(slope, (PENALTY * alpha - wrong)[..., None])[..., 0]
    return alpha * signs


@dataclass(frozen=True)
class Agreement:
    """How far pairs agree with a direction, once for each row of signs [rows]."""

    in_sample: np.ndarray
    """Mean cosine of a pair's difference with the direction that it is itself a part of."""
    left_out: np.ndarray
    """The same with the direction made without the pair's whole cluster."""
    split_half: np.ndarray
    """Cosine between the directions of random halves of the clusters, mean over halves."""
    pairwise: np.ndarray
    """Mean cosine between differences of different clusters."""
    d_prime: np.ndarray
    """Distance of the two sides along the left-out direction, in standard deviations."""
    wrong_way: np.ndarray
    """Share of pairs that lie the wrong way along the left-out direction."""
    wrong: np.ndarray
    """Which ones [rows, pairs]."""

    def at(self, rows: slice) -> Agreement:
        """Return some of the rows."""
        return replace(self, **{name: values[rows] for name, values in vars(self).items()})


def agreement(pairs: Pairs, signs: np.ndarray, halves: np.ndarray, method: Method = "mean") -> Agreement:
    """Return how far pairs agree, for each row of signs.

    Args:
        pairs: their products.
        signs: shape (rows, pairs), as for ``weights``.
        halves: shape (halves, pairs), true for one half's pairs.
        method: how the direction is made.
    """
    kept, count = np.abs(signs), np.maximum(np.abs(signs).sum(1), 1.0)
    inside, (shown, withheld) = inside_cosines(pairs, signs, method), _along_others(pairs, signs, method)
    outside = signs * (shown - withheld) / pairs.sizes
    wrong = kept * (outside < 0)
    return Agreement(
        (kept * inside).sum(1) / count,
        outside.sum(1) / count,
        _between_halves(pairs.gram, signs, halves, method),
        _between_pairs(pairs, signs),
        _apart(np.where(signs < 0, withheld, shown), np.where(signs < 0, shown, withheld), kept),
        wrong.sum(1) / count,
        wrong,
    )


def inside_cosines(pairs: Pairs, signs: np.ndarray, method: Method) -> np.ndarray:
    """Return each pair's cosine with the direction that it is itself a part of [rows, pairs]."""
    own = weights(pairs.gram, signs, method)
    return signs * (own @ pairs.gram) / (pairs.sizes * _length(own, pairs.gram)[:, None])


def outside_cosines(pairs: Pairs, signs: np.ndarray, method: Method) -> np.ndarray:
    """Return each pair's cosine with the direction that was made without its whole cluster [rows, pairs]."""
    shown, withheld = _along_others(pairs, signs, method)
    return signs * (shown - withheld) / pairs.sizes


def _along_others(pairs: Pairs, signs: np.ndarray, method: Method) -> tuple[np.ndarray, np.ndarray]:
    """Return how far both sides of each pair lie along the direction of all other clusters [rows, pairs]."""
    rows = np.arange(len(signs))[:, None]
    others = weights(pairs.gram, signs[:, None, :] * pairs.without_each, method)
    length = _length(others, pairs.gram)[rows, pairs.codes]
    of_pair = others[rows, pairs.codes]
    shown, withheld = ((of_pair * side).sum(-1) / length for side in (pairs.shown, pairs.withheld))
    return shown, withheld


def _length(own: np.ndarray, gram: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum((own @ gram * own).sum(-1), _TINY))


def _between_halves(gram: np.ndarray, signs: np.ndarray, halves: np.ndarray, method: Method) -> np.ndarray:
    one, two = (weights(gram, signs[None] * half[:, None, :], method) for half in (halves, ~halves))
    cross = (one @ gram * two).sum(-1)
    return (cross / (_length(one, gram) * _length(two, gram))).mean(0)


def _between_pairs(pairs: Pairs, signs: np.ndarray) -> np.ndarray:
    apart = (pairs.codes[:, None] != pairs.codes[None, :]).astype(float)
    cosines = apart * pairs.gram / np.outer(pairs.sizes, pairs.sizes)
    kept = np.abs(signs)
    return (signs @ cosines * signs).sum(1) / np.maximum((kept @ apart * kept).sum(1), 1.0)


def _apart(shown: np.ndarray, withheld: np.ndarray, kept: np.ndarray) -> np.ndarray:
    count = np.maximum(kept.sum(1, keepdims=True), 1.0)
    means = [(kept * side).sum(1, keepdims=True) / count for side in (shown, withheld)]
    spreads = [(kept * np.square(side - mean)).sum(1) for side, mean in zip((shown, withheld), means, strict=True)]
    spread = np.sqrt((spreads[0] + spreads[1]) / np.maximum(2 * (count[:, 0] - 1), 1.0))
    return (means[0] - means[1])[:, 0] / np.maximum(spread, _TINY)


def half_of_clusters(pairs: Pairs, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return ``count`` random halves of the clusters, true for the pairs of one half [count, pairs]."""
    places = rng.permuted(np.tile(np.arange(pairs.clusters), (count, 1)), axis=1)
    return places[:, pairs.codes] < pairs.clusters // 2


def naive(pairwise: Estimate, pairs: int) -> Estimate:
    """Return the in-sample cosine that so many pairs of this mean pairwise cosine give: sqrt((1 + (k - 1) rho) / k).

    Even pairs that have nothing in common give 1 / sqrt(k): with five pairs, 0.45.
    """

    def expected(rho: float) -> float:
        return float(np.sqrt(max(1.0 + (pairs - 1) * rho, 0.0) / pairs))

    if pairwise.value is None:
        return pairwise
    ends = None if pairwise.interval is None else (expected(pairwise.interval[0]), expected(pairwise.interval[1]))
    method = f"from the pairwise cosine, for {pairs} pairs" if ends else pairwise.method
    return Estimate(value=expected(pairwise.value), unit=pairwise.unit, n=pairwise.n, interval=ends, method=method)


def jackknifed(values: np.ndarray, unit: str, bounds: tuple[float, float] = (-np.inf, np.inf)) -> Estimate:
    """Return an estimate from a number (first) and what it is without each cluster (the others) [1 + clusters]."""
    count, value = len(values) - 1, float(values[0])
    if count < FEWEST_CLUSTERS:
        why = f"could not say: {count} clusters, {FEWEST_CLUSTERS} are needed"
        return Estimate(value=value, unit=unit, n=count, interval=None, method=why)
    found = Jackknifed(value, values[1:], float(count - 1))
    if found.error == 0.0:
        why = "could not say: every cluster has the same value, so that its spread is not known"
        return Estimate(value=value, unit=unit, n=count, interval=None, method=why)
    low, high = (float(np.clip(end, *bounds)) for end in found.spread.around())
    return Estimate(value=value, unit=unit, n=count, interval=(low, high), method=f"jackknife over {count} clusters")
