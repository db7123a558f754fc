"""Apart: can a classifier that has seen other prompts tell which of two texts came after the change?

A classifier two-sample test for pairs: a ridge classifier learns from the differences of pairs in some clusters and is asked
about pairs in others, so that near-identical prompts never stand on both sides. The share of pairs in which it scores the text
after higher is the AUROC within pairs (two-alternative forced choice); 1/2 is guessing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from palimpsest.core.estimate import Estimate
from palimpsest.core.stats.clusters import FEWEST_CLUSTERS, clustered
from palimpsest.core.stats.controlled import over_controls
from palimpsest.core.stats.spread import POWER, around, minimum_detectable, quantile, within

FOLDS = 5
SWAPS = 299
"""Relabellings that make the null; with 24 clusters there are 16 million."""
PENALTY = 1.0
"""Of the ridge, as a share of the mean squared length of a difference."""


@dataclass(frozen=True)
class Apart:
    """How well pairs are told apart."""

    auroc: Estimate
    """Share of pairs in which the text after scores higher, ties half. Its p-value is one-sided, against swapped labels."""
    margins: np.ndarray
    """By how much the text after scores higher, from a classifier that saw no pair of its cluster; 0 for equals [items]."""
    guessing: tuple[float, float] | None = None
    """Between which values the AUROC lies in 95% of relabellings."""
    spread: float = 0.0
    """Standard deviation of the AUROC over relabellings."""
    groups: dict[str, Estimate] = field(default_factory=dict)
    """The AUROC within each group of items; ``None`` where it has too few clusters."""

    @property
    def picked(self) -> np.ndarray:
        """Whether each pair was told apart: 1, 0, or 1/2 where it could not be [items]."""
        return _picked(self.margins)


def told_apart(differences: ArrayLike, clusters: ArrayLike, rng: np.random.Generator, groups: ArrayLike | None = None) -> Apart:
    """Return how well a classifier tells after from before, within pairs, held against swapped labels.

    The null exchanges before and after in whole clusters, which is exact where nothing changed. The interval is that of the
    AUROC that a classifier trained on so many pairs has, a lower bound of what the best one would have. Its width is
    the spread between clusters or that of relabellings, whichever is wider: cross-validated pairs share their training pairs,
    and the spread between clusters alone is too narrow for them (Bengio and Grandvalet 2004).

    Args:
        differences: features of the text after - those of the text before, shape (items, features); a row of 0 is a pair that
            can't be told apart.
        clusters: shape (items,), the label of each item's cluster.
        rng: deals clusters to folds and swaps labels.
        groups: shape (items,), a label each, for the AUROC within groups; the classifier is the same for all.

    Reference: Lopez-Paz and Oquab 2017, arXiv 1610.06545.
    """
    rows = np.asarray(differences, dtype=np.float64)
    data = clustered(np.zeros(len(rows)), clusters)
    differ = np.flatnonzero(rows.any(axis=1))
    margins = np.zeros(len(rows))
    if not differ.size and data.enough:
        method = "identical on every item"
        return Apart(Estimate(value=0.5, unit="share", n=data.count, interval=(0.5, 0.5), method=method, p_value=1.0), margins)
    known, codes = np.unique(data.codes[differ], return_inverse=True)
    if known.size < FEWEST_CLUSTERS:
        why = (
            f"could not say: texts differ in {known.size} of {data.count} clusters, {FEWEST_CLUSTERS} are needed to learn from"
        )
        return Apart(Estimate(value=None, unit="share", n=data.count, interval=None, method=why), margins)
    fold = np.empty(known.size, dtype=np.int64)
    fold[rng.permutation(known.size)] = np.arange(known.size) % FOLDS
    swaps = rng.choice((-1.0, 1.0), (known.size, SWAPS + 1))
    swaps[:, 0] = 1.0
    signs = swaps[codes]
    told = signs * (_weights(rows[differ], fold[codes]) @ signs)
    margins[differ] = told[:, 0]
    picked = np.full((len(rows), SWAPS + 1), 0.5)
    picked[differ] = _picked(told)
    auroc, null = _auroc(picked, data.codes)
    labels = np.zeros(len(rows)) if groups is None else np.asarray(groups)
    within_groups = {}
    for label in () if groups is None else np.unique(labels).tolist():
        within_groups[str(label)] = _auroc(picked[labels == label], data.codes[labels == label])[0]
    low, high = np.quantile(null, (0.025, 0.975))
    return Apart(auroc, margins, (float(low), float(high)), float(null.std()), within_groups)


def auroc_difference(first: Sequence[Apart], second: Apart, clusters: ArrayLike) -> Estimate:
    """Return by how much better the second is told apart than control runs, on the same items, with an interval as wide.

    Args:
        first: how well each control run is told apart.
        second: what is asked about.
        clusters: shape (items,), the label of each item's cluster.
    """
    data = clustered(second.picked - np.mean([one.picked for one in first], axis=0), clusters)
    error = max(data.standard_error, math.hypot(max(one.spread for one in first), second.spread))
    known = [one.auroc.value for one in (*first, second) if one.auroc.value is not None]
    if len(known) <= len(first) or not data.enough:
        return Estimate(value=None, unit="points", n=data.count, interval=None, method="could not say: one of them has none")
    if error == 0.0:
        method = "identical on every item"
        found = Estimate(value=0.0, unit="points", n=data.count, interval=(0.0, 0.0), method=method, p_value=1.0)
    else:
        found = Estimate(
            value=data.mean,
            unit="points",
            n=data.count,
            interval=within(around(data.mean, error, data.degrees), "points"),
            method=f"the wider of paired CR2 and swapped labels, {data.count} clusters",
            minimum_detectable=minimum_detectable(error, data.degrees),
        )
    return over_controls(found, known[:-1], distance=False)


def clearest(moved: ArrayLike, clusters: ArrayLike, least: float = 2.0) -> list[int]:
    """Return which of many 0/1 outcomes changed clearly, the clearest first; of equals the one that moved in more clusters.

    A change is as clear as its sum over clusters is large beside the root of the sum of squares: what it would be in standard
    deviations if each cluster's change could as well have gone the other way.

    Args:
        moved: after - before, shape (items, outcomes).
        clusters: shape (items,), the label of each item's cluster.
        least: clearness under which a change is left out.
    """
    changes = np.asarray(moved, dtype=np.float64)
    _, codes = np.unique(clusters, return_inverse=True)
    order = np.argsort(codes, kind="stable")
    sums = np.add.reduceat(changes[order], np.flatnonzero(np.diff(codes[order], prepend=-1)), axis=0)
    size = np.sqrt(np.square(sums).sum(0))
    clear = np.round(np.abs(sums.sum(0)) / np.maximum(size, 1e-12), 6)
    ranked = np.lexsort((np.arange(clear.size), -size, -clear))
    return [place for place in ranked.tolist() if clear[place] >= least]


def _weights(rows: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Return what each pair's margin takes from every other pair's label, shape (items, items): 0 within a fold.

    Ridge regression of a label of 1 on differences, without intercept, in its dual form. Swapping the two texts of a pair
    turns the sign of its row and column, so that these weights serve every relabelling.
    """
    gram = rows @ rows.T
    gram /= np.trace(gram) / len(rows)
    weights = np.zeros_like(gram)
    for one in range(FOLDS):
        asked, learnt = np.flatnonzero(fold == one), np.flatnonzero(fold != one)
        ridge = gram[np.ix_(learnt, learnt)] + PENALTY * np.eye(learnt.size)
        weights[np.ix_(asked, learnt)] = np.linalg.solve(ridge, gram[np.ix_(learnt, asked)]).T
    return weights


def _picked(margins: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.sign(margins)


def _auroc(picked: np.ndarray, clusters: np.ndarray) -> tuple[Estimate, np.ndarray]:
    """Return the AUROC of pairs, and its values over relabellings, which are all columns but the first [items, 1 + swaps]."""
    data, values = clustered(picked[:, 0], clusters), picked.mean(0)
    observed, null = float(values[0]), values[1:]
    if not data.enough:
        return Estimate(value=observed, unit="share", n=data.count, interval=None, method=data.too_few), null
    error = max(data.standard_error, float(null.std()))
    needed = float(np.quantile(null, 0.95)) - 0.5 + quantile(POWER, data.degrees) * float(null.std())
    estimate = Estimate(
        value=observed,
        unit="share",
        n=data.count,
        interval=within(around(observed, error, data.degrees), "share"),
        method=f"{FOLDS}-fold over {data.count} clusters, the wider of CR2 and {len(null)} relabellings",
        p_value=float((1 + (null >= observed - 1e-12).sum()) / (1 + len(null))),
        minimum_detectable=needed,
    )
    return estimate, null
