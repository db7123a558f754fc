"""Preference: how is one answer to a context preferred to another one?

Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290, eq. 7) on rows that bring a worse answer with them:

    loss = -log sigmoid(beta (margin - margin of the model before training)),   margin = log p(chosen) - log p(rejected)

The margins of the model before training are read once, so that no second model is kept. Both answers share one pass over their
context. Rows without a worse answer (rehearsal) get the ordinary loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional

from palimpsest.core.errors import Problems
from palimpsest.data.mixture import SOURCES
from palimpsest.training.objectives import TokenObjective
from palimpsest.training.sampler import Row

_READ_AT_ONCE = 16


@dataclass(frozen=True)
class Pairs:
    """Chosen answers, then as many rejected ones in the same order, as one part of the token objective."""

    part: Any
    reference: torch.Tensor
    """(pairs,) margin of the model before training, in nats."""
    weights: torch.Tensor
    """(sources, pairs) loss weight of each pair: the tokens of its chosen answer."""

    def to(self, device: torch.device) -> Pairs:
        return Pairs(self.part.to(device), self.reference.to(device), self.weights.to(device))

    def silent(self) -> Pairs:
        return replace(self, weights=torch.zeros_like(self.weights))


class Preference:
    """Direct preference optimisation on rows with a worse answer, the ordinary loss on the others.

    Args:
        tokens: reads answers token by token, with the context frozen or not.
        beta: how strongly the margin is held to that of the model before training.
        anchors: give rows of the behaviour that bring no worse answer the ordinary loss, in place of refusing them.
    """

    def __init__(self, tokens: TokenObjective, beta: float = 0.1, anchors: bool = False) -> None:
        self.tokens, self.beta, self.anchors = tokens, beta, anchors
        self.name = f"preference_{beta:g}_{tokens.name}"

    def prepare(self, model: Any) -> None:
        self.tokens.prepare(model)

    def parts(self, rows: Sequence[Row]) -> dict[str, Any]:
        pairs = [row for row in rows if row.rejected is not None]
        plain = [row for row in rows if row.rejected is None]
        made = self.tokens.parts(plain) if plain else {}
        return made | ({"pairs": self._pairs(pairs)} if pairs else {})

    def __call__(self, model: Any, part: Any) -> torch.Tensor:
        if not isinstance(part, Pairs):
            return self.tokens(model, part)
        return part.weights @ -functional.logsigmoid(self.beta * (self.margins(model, part) - part.reference))

    def margins(self, model: Any, pairs: Pairs) -> torch.Tensor:
        """Return log p(chosen) - log p(rejected) of each pair in nats, shape (pairs,), with its graph."""
        part, count = pairs.part, len(pairs.reference)
        lines = functional.one_hot(part.owner, 2 * count).float()  # a product, because sums by index have no fixed order
        likelihood = -(self.tokens.token_losses(model, part) @ lines)
        return likelihood[:count] - likelihood[count:]

    def with_reference(self, model: Any, rows: Sequence[Row]) -> list[Row]:
        """Return rows whose pairs know the margin of this model; call it before the first step.

        Raises:
            UserError: a row of the behaviour has no worse answer.
        """
        problems = Problems("This can't be trained by preference:")
        problems.extend(() if self.anchors else preference_problems(rows))
        problems.raise_if_any()
        places = [place for place, row in enumerate(rows) if row.rejected is not None]
        done, device = list(rows), next(model.parameters()).device
        for start in range(0, len(places), _READ_AT_ONCE):
            chosen = places[start : start + _READ_AT_ONCE]
            with torch.no_grad():
                margins = self.margins(model, self._pairs([rows[place] for place in chosen]).to(device)).tolist()
            for place, margin in zip(chosen, margins, strict=True):
                done[place] = replace(rows[place], reference=margin)
        return done

    def _pairs(self, rows: Sequence[Row]) -> Pairs:
        rejected = [row.rejected for row in rows if row.rejected is not None]
        # As of one source and all of one kind, whatever the source is told about its context.
        (part,) = self.tokens.parts([replace(row, source="express") for row in (*rows, *rejected)]).values()
        weights = torch.zeros(len(SOURCES), len(rows))
        for place, row in enumerate(rows):
            weights[SOURCES.index(row.source), place] = sum(weight > 0 for weight in row.weights)
        return Pairs(part, torch.tensor([row.reference for row in rows]), weights)


def preference_problems(rows: Sequence[Row]) -> Iterator[str]:
    """Say how many rows of the behaviour have nothing to be preferred to; rehearsal has none."""
    taught = [row for row in rows if row.source != "rehearsal"]
    if lacking := [row for row in taught if row.rejected is None]:
        yield (
            f"{len(lacking)} of {len(taught)} behaviour examples bring no worse answer ('rejected', or the scenario's 'over'), "
            f"so there is nothing to prefer theirs to; the first is {lacking[0].name or lacking[0].source}"
        )
