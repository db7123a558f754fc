"""Lens: what does a direction in the residual stream say, and does it say more than any direction would?

The mean difference between two models, and its negative, are read through the model's own tail (the logit lens), beside random
directions of the same length. What random directions predict on average is what no direction in particular says; how far a
reading is from it (Kullback-Leibler, in nats) is how much the direction says. A mean over fewer templates tells how well that
is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field

from palimpsest.core.seeds import numpy_stream
from palimpsest.core.spec import Spec
from palimpsest.models.taps import read_out

_LOWEST = 1e-30


class Lens(Spec):
    """How mean differences are read."""

    directions: int = Field(default=64, ge=8)
    """Random directions; each is read with its negative, as the mean difference is."""
    tokens: int = Field(default=10, ge=1)
    """How many of the most likely tokens are kept of a reading."""
    folds: int = Field(default=10, ge=2)
    """The mean is read so many times more, each time without one part of the templates."""
    seed: int = 0

    def readings(
        self, subject: Any, difference: np.ndarray, present: np.ndarray, templates: Sequence[str]
    ) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
        """Read the mean over items at each depth and slot.

        Args:
            subject: whose tail reads.
            difference: shape [items, depths, slots, width].
            present: shape [items, slots].
            templates: of each item.

        Returns:
            Arrays ``lens_nats`` [depths, slots, 2] (how much the mean and its negative say), ``random_nats`` [depths, slots,
            directions, 2], ``fold_nats`` [depths, slots, folds, 2], NaN where there is nothing to read; ``lens_token`` and
            ``lens_probability`` [depths, slots, 2, tokens], ``random_token`` [depths, slots, directions, tokens] (-1: none) and
            ``vocabulary`` (the tokens named, with texts ``vocabulary``).
        """
        _, depths, slots, width = difference.shape
        random = numpy_stream(self.seed, "lens", width).standard_normal((self.directions, width)).astype(np.float32)
        random /= np.linalg.norm(random, axis=-1, keepdims=True)
        fold = _folds(templates, self.folds)
        size = min(self.tokens, subject.info.vocabulary_size)
        found = {
            "lens_nats": np.full((depths, slots, 2), np.nan),
            "random_nats": np.full((depths, slots, self.directions, 2), np.nan),
            "fold_nats": np.full((depths, slots, int(fold.max()) + 1, 2), np.nan),
            "lens_token": np.full((depths, slots, 2, size), -1),
            "lens_probability": np.zeros((depths, slots, 2, size)),
            "random_token": np.full((depths, slots, self.directions, size), -1),
        }
        for depth in range(depths):
            for slot in range(slots):
                kept = present[:, slot]
                if difference[kept, depth, slot].any():
                    one = self._one(subject, difference[kept, depth, slot], fold[kept], int(fold.max()) + 1, random, size)
                    for name, values in one.items():
                        found[name][depth, slot] = values
        known = np.unique(np.concatenate([found["lens_token"].ravel(), found["random_token"].ravel()]))
        known = known[known >= 0]
        found["vocabulary"] = known
        return found, {"vocabulary": subject.renderer.token_texts(known.tolist()) if known.size else []}

    def _one(
        self, subject: Any, moved: np.ndarray, fold: np.ndarray, folds: int, random: np.ndarray, size: int
    ) -> dict[str, np.ndarray]:
        mean = moved.mean(0, dtype=np.float64)
        parts = np.stack([_mean_without(moved, fold == one, mean) for one in range(folds)])
        vectors = np.concatenate([mean[None], parts, np.linalg.norm(mean) * random])
        both = torch.from_numpy(np.stack([vectors, -vectors], 1).reshape(-1, vectors.shape[-1]).astype(np.float32))
        logits = read_out(subject.model, both.to(subject.device), min(64, subject.context_length))
        log_p = logits.log_softmax(-1)
        nats = _said(log_p, 2 * (1 + folds)).reshape(-1, 2).cpu().numpy()
        top = log_p.topk(size, dim=-1)
        token, probability = top.indices.cpu().numpy().reshape(-1, 2, size), top.values.exp().cpu().numpy()
        return {
            "lens_nats": nats[0],
            "fold_nats": nats[1 : 1 + folds],
            "random_nats": nats[1 + folds :],
            "lens_token": token[0],
            "lens_probability": probability.reshape(-1, 2, size)[0],
            "random_token": token[1 + folds :, 0],
        }


def _folds(templates: Sequence[str], most: int) -> np.ndarray:
    """Return the fold of each item; items of one template fall into one."""
    _, codes = np.unique(np.array(templates), return_inverse=True)
    return codes % min(most, int(codes.max()) + 1)


def _mean_without(moved: np.ndarray, left_out: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return the mean over the other items; the mean of all where there are no others."""
    return mean if left_out.all() else moved[~left_out].mean(0, dtype=np.float64)


def _said(log_p: torch.Tensor, own: int) -> torch.Tensor:
    """Return KL(reading || mean of the random readings) of each row; the rows after the first ``own`` are the random ones.

    A random reading is held against the mean of the others, so that it has no part in what it is held against.
    """
    log_p = log_p.double()
    p = log_p.exp()
    random = p[own:]
    total, pairs = random.sum(0), random.unflatten(0, (-1, 2)).sum(1)
    others = ((total - pairs) / (len(random) - 2)).clamp(min=_LOWEST).log().repeat_interleave(2, 0)
    everyone = (total / len(random)).clamp(min=_LOWEST).log()
    against = (p[:own] @ everyone, (random * others).sum(-1))
    return ((p * log_p).sum(-1) - torch.cat(against)).clamp(min=0.0)
