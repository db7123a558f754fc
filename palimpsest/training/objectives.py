"""Objectives: what number does training make smaller?

An objective turns one padded batch into a loss for each source; the trainer divides by the weight of the whole optimizer step.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn import functional

from palimpsest.data.mixture import SOURCES
from palimpsest.training.sampler import Row


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right to one length, and the predictions that learn.

    Only positions from ``start`` on predict anything that learns; ``places`` count in the (rows, length - start) grid.
    """

    tokens: torch.Tensor
    """(rows, length) inputs; the last token of the longest row is only a target."""
    start: int
    places: torch.Tensor
    """(predictions,) flat positions of the predictions that learn."""
    targets: torch.Tensor
    """(predictions,) tokens to be predicted."""
    weights: torch.Tensor
    """(sources, predictions) loss weight of each prediction, in the line of its row's source."""
    owner: torch.Tensor
    """(predictions,) the row of each prediction."""

    def to(self, device: torch.device) -> Batch:
        moved = {name: getattr(self, name).to(device) for name in ("tokens", "places", "targets", "weights", "owner")}
        return Batch(start=self.start, **moved)

    def silent(self) -> Batch:
        return replace(self, weights=torch.zeros_like(self.weights))


class Prepared(Protocol):
    """Rows as an objective wants them."""

    @property
    def weights(self) -> torch.Tensor:
        """(sources, predictions) loss weight of each prediction, in the line of its row's source."""
        ...

    def to(self, device: torch.device) -> Any: ...

    def silent(self) -> Any:
        """Return the same with all weights 0."""
        ...


class Objective(Protocol):
    """Anything that turns rows into the summed loss of each source."""

    name: str
    """What it is called; a run is never continued under another one."""

    def prepare(self, model: Any) -> None:
        """Look at the model once, before it is wrapped."""
        ...

    def parts(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Return rows as batches on the CPU, by kind; each is run and differentiated on its own."""
        ...

    def __call__(self, model: Any, part: Any) -> torch.Tensor:
        """Return the weighted sum of nats of each source, shape (sources,), with its graph."""
        ...


class TokenObjective(Objective, Protocol):
    """An objective that is a weighted sum of the losses of single tokens."""

    def token_losses(self, model: Any, part: Any) -> torch.Tensor:
        """Return the loss of each prediction that learns in nats, shape (predictions,), with its graph."""
        ...


def mean_loss(objective: Objective, model: Any, rows: Sequence[Row]) -> torch.Tensor:
    """Return the mean loss of rows with its graph, for a loop of one's own (call ``objective.prepare(model)`` once before)."""
    device = next(model.parameters()).device
    parts = [part.to(device) for part in objective.parts(rows).values()]
    return torch.stack([objective(model, part).sum() for part in parts]).sum() / sum(part.weights.sum() for part in parts)


class MaskedLoss:
    """Ordinary next-token cross-entropy, weighted token by token."""

    name = "masked_loss"

    def prepare(self, model: Any) -> None:
        self.slices = can_slice(model)

    def parts(self, rows: Sequence[Row]) -> dict[str, Batch]:
        return {"whole": collate(rows)}

    def __call__(self, model: Any, part: Batch) -> torch.Tensor:
        # A product and not index_add_, whose sums have no fixed order on a GPU.
        return part.weights @ self.token_losses(model, part)

    def token_losses(self, model: Any, part: Batch) -> torch.Tensor:
        # No attention mask: padding is on the right, where a causal model's real tokens never look, and it has no loss.
        kept = part.tokens.shape[1] - part.start
        if self.slices:
            logits = model(input_ids=part.tokens, logits_to_keep=kept).logits
        else:
            logits = model(input_ids=part.tokens).logits[:, part.start :]
        logits = logits.reshape(-1, logits.shape[-1])
        if len(part.places) < len(logits):
            logits = logits.index_select(0, part.places)
        return functional.cross_entropy(logits.float(), part.targets, reduction="none")


def can_slice(model: Any) -> bool:
    """Whether a model can be asked for the logits of some positions only (``logits_to_keep``)."""
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model  # of an adapter's wrapper
    return "logits_to_keep" in inspect.signature(bare.forward).parameters


def collate(rows: Sequence[Row]) -> Batch:
    """Return rows as one batch on the CPU."""
    length = max(len(row.tokens) for row in rows)
    tokens = np.zeros((len(rows), length), dtype=np.int64)
    weights = np.zeros((len(rows), length), dtype=np.float32)
    for place, row in enumerate(rows):
        tokens[place, : len(row.tokens)] = row.tokens
        weights[place, : len(row.tokens)] = row.weights
    weights = weights[:, 1:]
    start = int(weights.any(axis=0).argmax())
    row_of, column = np.nonzero(weights[:, start:])
    lines = np.zeros((len(SOURCES), len(row_of)), dtype=np.float32)
    source_of = np.array([SOURCES.index(row.source) for row in rows])
    lines[source_of[row_of], np.arange(len(row_of))] = weights[row_of, column + start]
    return Batch(
        tokens=torch.from_numpy(np.ascontiguousarray(tokens[:, :-1])),
        start=start,
        places=torch.from_numpy(row_of * (length - 1 - start) + column),
        targets=torch.from_numpy(tokens[row_of, column + start + 1]),
        weights=torch.from_numpy(lines),
        owner=torch.from_numpy(row_of),
    )
