"""Steering: which vector is added, where, and how are answers and predictions held against each other?

Pure functions that measures and audits share.
"""

from __future__ import annotations

import numpy as np

from palimpsest.core.measurement import Measurement
from palimpsest.core.stats.directions import Method, weights


def direction(residual: np.ndarray, method: Method) -> np.ndarray:
    """Return what contrastive pairs have in common, as long as their mean difference is.

    Args:
        residual: shape (pairs, 2, width): where the behaviour is shown, and where it is not.
        method: how the direction is made (``palimpsest.core.stats.directions.weights``).

    Returns:
        float64, shape (width,).
    """
    difference = residual[:, 0].astype(np.float64) - residual[:, 1]
    mean = difference.mean(0)
    if method == "mean":
        return mean
    found = weights(difference @ difference.T, np.ones(len(difference)), method) @ difference
    return found * np.linalg.norm(mean) / max(float(np.linalg.norm(found)), 1e-30)


def best_level(contrasts: Measurement) -> int:
    """Return the level at which adding steered the trial pairs most, of those that ``contrasts`` tried."""
    return int(contrasts.arrays["slope"].mean(1).argmax())


def log_odds(log_probability: np.ndarray, start: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Return the log-odds of the answer that shows the behaviour, against all others or, alone, against itself not given.

    Args:
        log_probability: of all answers of all items, shape (..., answers in all).
        start: where each item's answers start, shape (items + 1,).
        shown: which of its answers shows the behaviour, shape (items,).

    Returns:
        nats, shape (..., items).
    """
    found = np.empty((*log_probability.shape[:-1], len(shown)))
    for item, (low, high, which) in enumerate(zip(start[:-1], start[1:], shown, strict=True)):
        own = log_probability[..., low + which]
        others = np.delete(log_probability[..., low:high], which, axis=-1)
        if others.shape[-1]:
            found[..., item] = own - np.logaddexp.reduce(others, axis=-1)
        else:
            found[..., item] = own - np.log(-np.expm1(np.minimum(own, -1e-12)))
    return found


def divergence(
    log_p: np.ndarray, log_q: np.ndarray, rest_p: np.ndarray | float = -np.inf, rest_q: np.ndarray | float = -np.inf
) -> np.ndarray:
    """Return KL(p || q) over cells and the rest, in nats, never below 0; a lower bound where there is a rest.

    Each cell adds p log(p/q) - p + q: the last two sum to nothing, but keep rounding out.

    Args:
        log_p: log-probabilities, shape (..., cells).
        log_q: of the same shape.
        rest_p: of everything else, shape (...).
        rest_q: of the same shape.
    """
    found = _cell(log_p.astype(np.float64), log_q.astype(np.float64)).sum(-1)
    if np.isfinite(rest_p).any():
        found = found + _cell(np.asarray(rest_p, dtype=np.float64), np.asarray(rest_q, dtype=np.float64))
    return np.maximum(found, 0.0)


def _cell(log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    p = np.exp(log_p)
    return p * (log_p - log_q) - p + np.exp(log_q)
