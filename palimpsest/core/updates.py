"""Updates: how large is a change of weights, how many directions has it, and which part of it lies where?

Reads sums over single weights (norms, inner products, singular values), so that any group of them can be told exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from palimpsest.core.estimate import Estimate, exact, unknown

NORM = "% of the norm"
_NOTHING = "no weight of it moved"
Chosen = np.ndarray | slice
"""Some weights: a mask or their places."""
ALL = slice(None)


@dataclass(frozen=True)
class Moved:
    """The update of each weight of one model, weight by weight and matrix by matrix.

    [weights]: ``name``, ``part``, ``kind``, ``layer`` (-1: outside the layers), ``size``, ``changed``, ``largest``,
    ``reordered`` (whether it holds the base's numbers in another order), and squared norms ``base_sq`` and ``update_sq`` and
    the inner product ``inner`` of update and base. [matrices]: ``weight`` (index), ``matrix_sq`` (squared norm of the update),
    ``side``, ``whole``, ``rank``, ``effective_rank`` and ``spectrum`` [matrices, kept].
    """

    name: tuple[str, ...]
    part: np.ndarray
    kind: np.ndarray
    layer: np.ndarray
    size: np.ndarray
    changed: np.ndarray
    largest: np.ndarray
    reordered: np.ndarray
    base_sq: np.ndarray
    update_sq: np.ndarray
    inner: np.ndarray
    weight: np.ndarray
    matrix_sq: np.ndarray
    side: np.ndarray
    whole: np.ndarray
    rank: np.ndarray
    effective_rank: np.ndarray
    spectrum: np.ndarray


def relative(moved: Moved, chosen: Chosen = ALL) -> Estimate:
    """Return the norm of the update of some weights in percent of the norm of these weights."""
    base, update = float(moved.base_sq[chosen].sum()), float(moved.update_sq[chosen].sum())
    count = int(moved.size[chosen].sum())
    if base == 0.0 and update > 0.0:
        return unknown(NORM, count, "all of the base's weights here are 0")
    return exact(100.0 * math.sqrt(update / base) if base else 0.0, NORM, count)


def share(moved: Moved, chosen: Chosen = ALL) -> Estimate:
    """Return some weights' share of the squared norm of the whole update."""
    total, count = float(moved.update_sq.sum()), int(moved.size[chosen].sum())
    if total == 0.0:
        return unknown("share", count, "no weight moved")
    return exact(float(moved.update_sq[chosen].sum()) / total, "share", count)


def changed(moved: Moved, chosen: Chosen = ALL) -> Estimate:
    count = int(moved.size[chosen].sum())
    return exact(float(moved.changed[chosen].sum()) / max(count, 1), "share", count)


def cosine(product: float, one_sq: float, other_sq: float, count: int, why: str) -> Estimate:
    if one_sq <= 0.0 or other_sq <= 0.0:
        return unknown("cosine", count, why)
    return exact(min(max(product / math.sqrt(one_sq * other_sq), -1.0), 1.0), "cosine", count)


def with_base(moved: Moved, chosen: Chosen = ALL) -> Estimate:
    """Return the cosine of the update with the base weights: below 0 it shrinks them, above 0 it enlarges them."""
    inner, update, base = (float(values[chosen].sum()) for values in (moved.inner, moved.update_sq, moved.base_sq))
    return cosine(inner, update, base, int(moved.size[chosen].sum()), _NOTHING)


def kept(moved: Moved, chosen: Chosen = ALL) -> Estimate:
    """Return the cosine of the weights before with those after."""
    inner, update, base = (float(values[chosen].sum()) for values in (moved.inner, moved.update_sq, moved.base_sq))
    return cosine(base + inner, base, base + 2 * inner + update, int(moved.size[chosen].sum()), "all weights are 0")


def stable_rank(moved: Moved, chosen: Chosen = ALL) -> Estimate:
    """Return the stable rank of the update of some weights, over their matrices weighted by their squared norm."""
    return _over_matrices(moved, chosen, "stable rank")


def effective_rank(moved: Moved, chosen: Chosen = ALL) -> Estimate:
    return _over_matrices(moved, chosen, "effective rank")


def _over_matrices(moved: Moved, chosen: Chosen, unit: str) -> Estimate:
    own = _own(moved, chosen)
    squared = moved.matrix_sq[own]
    alive = squared > 0
    if not alive.any():
        return unknown(unit, len(own), _NOTHING if len(own) else "there is no matrix among them")
    own, squared = own[alive], squared[alive]
    whole = bool(moved.whole[own].all())
    if unit == "effective rank":
        if not whole:
            return unknown(unit, len(own), "a side is too long for all singular values")
        ranks = moved.effective_rank[own]
    else:
        ranks = squared / moved.spectrum[own, 0] ** 2
    value = float((squared * ranks).sum() / squared.sum())
    if whole:
        return exact(value, unit, len(own))
    method = "leading singular values by subspace iteration, from below: the true stable rank is at most this"
    return Estimate(value=value, unit=unit, n=len(own), interval=None, method=method)


def _own(moved: Moved, chosen: Chosen) -> np.ndarray:
    """Return the matrices of some weights."""
    mask = np.zeros(len(moved.name), dtype=bool)
    mask[chosen] = True
    return np.flatnonzero(mask[moved.weight])


def compared(base: dict[str, np.ndarray], update: dict[str, np.ndarray]) -> Moved:
    """Return what the measure would find, from whole weights and singular value decompositions."""
    kinds = [name.split(" ", 1)[1] if name[0].isdigit() else name for name in base]
    pairs = list(zip(base.values(), update.values(), strict=True))
    matrices = [place for place, (value, _) in enumerate(pairs) if value.ndim == 2]
    values = [np.linalg.svd(pairs[place][1], compute_uv=False) for place in matrices]
    shares = [one / one.sum() if one.sum() else one for one in values]
    return Moved(
        name=tuple(base),
        part=np.array([kind.split(" ")[0] for kind in kinds]),
        kind=np.array(kinds),
        layer=np.array([int(name[0]) if name[0].isdigit() else -1 for name in base]),
        size=np.array([one.size for one, _ in pairs]),
        changed=np.array([np.count_nonzero(change) for _, change in pairs]),
        largest=np.array([np.abs(change).max() for _, change in pairs]),
        reordered=np.array(
            [change.any() and np.array_equal(np.sort(one, None), np.sort(one + change, None)) for one, change in pairs]
        ),
        base_sq=np.array([np.sum(one**2) for one, _ in pairs]),
        update_sq=np.array([np.sum(change**2) for _, change in pairs]),
        inner=np.array([np.sum(one * change) for one, change in pairs]),
        weight=np.array(matrices),
        matrix_sq=np.array([np.sum(one**2) for one in values]),
        side=np.array([len(one) for one in values]),
        whole=np.ones(len(values), dtype=bool),
        rank=np.array([int((one > 1e-9 * max(one[0], 1e-300)).sum()) for one in values]),
        effective_rank=np.array([np.exp(-np.sum(one[one > 0] * np.log(one[one > 0]))) if one.sum() else 0.0 for one in shares]),
        spectrum=np.array([np.pad(one, (0, 64 - len(one))) for one in values]),
    )
