"""Frozen context: how do decision tokens learn while nothing learns through the tokens before them?

The context runs without gradient into a cache; the decision tokens run with gradient against it. The loss is that of ordinary
label masking; what is left out of the gradient is exactly the part that flows through the context's activations (a test closes
the chain rule). The weights are shared, so that the context is read differently afterwards all the same.

The last token of the context belongs to the part with gradient: it is what predicts the first decision token.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import DynamicCache

from palimpsest import ranks
from palimpsest.core.errors import UserError, first_line
from palimpsest.data.mixture import SOURCES
from palimpsest.models import freed_memory
from palimpsest.models.reading import UNREADABLE
from palimpsest.training.objectives import Batch, MaskedLoss, can_slice, collate
from palimpsest.training.sampler import Row

_CHECKED = 11, 3
"""Tokens of context and of decision on which an architecture is tried before training."""
_AGREEMENT = {torch.float32: 1e-3, torch.float64: 1e-5}
_LOOSE_AGREEMENT = 0.05
"""By how much logits may differ, in standard deviations of the logits; half precision has the loose one."""
_LARGE = 2**26
"""Bytes of gradients from which on freed memory is given back between passes."""


@dataclass(frozen=True)
class Segments:
    """Decisions with their contexts: contexts padded on the left, each once; decisions padded on the right."""

    contexts: torch.Tensor
    """(contexts, width) tokens without each one's last."""
    context_mask: torch.Tensor
    """(contexts, width) 1 where a token is real."""
    which: torch.Tensor | None
    """(decisions,) the context of each decision; ``None`` where each has its own."""
    decisions: torch.Tensor
    """(decisions, length) the context's last token, then all decision tokens but the last."""
    decision_mask: torch.Tensor
    """(decisions, length) 1 where a token is real."""
    places: torch.Tensor
    """(predictions,) flat positions in ``decisions`` that predict something that learns."""
    targets: torch.Tensor
    """(predictions,) tokens to be predicted."""
    weights: torch.Tensor
    """(sources, predictions) loss weight of each prediction, in the line of its row's source."""
    owner: torch.Tensor
    """(predictions,) the decision of each prediction."""

    def to(self, device: torch.device) -> Segments:
        parts = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return replace(self, **{name: part.to(device) for name, part in parts.items() if part is not None})

    def silent(self) -> Segments:
        return replace(self, weights=torch.zeros_like(self.weights))


class FrozenCache(DynamicCache):
    """A read-only view of a filled cache, one line for each decision.

    It hands out the context's keys, values and recurrent states and never writes them. So nothing that backward needs is
    overwritten (stock recurrent layers copy into their state in place), and one context serves any number of decisions.

    Args:
        filled: the cache that a pass over the contexts filled.
        which: (decisions,) the line of the cache for each decision; ``None`` where they are the same.
        once: it serves a single pass and takes the filled cache apart: what a layer has handed out is let go, so that a context
            is not held twice, here and in what backward keeps.
    """

    def __init__(self, filled: DynamicCache, which: torch.Tensor | None = None, *, once: bool = False) -> None:
        self.__dict__.update(filled.__dict__)
        self.once = once
        if which is not None:
            self.layers = [_chosen(layer, which) for layer in filled.layers]

    def update(self, key_states: Any, value_states: Any, layer_idx: int, *given: Any, **more: Any) -> Any:
        # What a copy of the layer appends is seen by this call only.
        grown = copy.copy(self.layers[layer_idx])
        found = grown.update(key_states, value_states, *given, **more)
        if self.once:
            self.layers[layer_idx] = grown
        return found

    def update_conv_state(self, conv_states: torch.Tensor, layer_idx: int, state_idx: int = 0, **more: Any) -> torch.Tensor:
        layer: Any = self.layers[layer_idx]
        return torch.cat([layer.conv_states[state_idx], conv_states], dim=-1)

    def update_recurrent_state(self, recurrent_states: torch.Tensor, layer_idx: int, state_idx: int = 0, **more: Any) -> Any:
        return recurrent_states

    def is_recording_past(self, *given: Any, **more: Any) -> bool:
        return True  # else a segment of one token takes a path that writes the convolution's state in place


class FillingCache(DynamicCache):
    """A cache that a context fills. It stops the pass where it is full: what a model makes of a context beyond the last keys
    and values (a layer's attention and MLP, the final norm, the head) is asked for by nobody.

    Args:
        config: the model's.
        last: the layer whose keys and values are the last entry; ``None``: not known, or the pass has to run to its end.
    """

    def __init__(self, config: Any, last: int | None) -> None:
        super().__init__(config=config)
        self.last, self.entered = last, None

    def update(self, key_states: Any, value_states: Any, layer_idx: int, *given: Any, **more: Any) -> Any:
        found = super().update(key_states, value_states, layer_idx, *given, **more)
        self.entered = layer_idx
        if layer_idx == self.last:
            raise _CacheFull
        return found

    def update_conv_state(self, conv_states: torch.Tensor, layer_idx: int, *given: Any, **more: Any) -> Any:
        self.entered = None
        return super().update_conv_state(conv_states, layer_idx, *given, **more)

    def update_recurrent_state(self, recurrent_states: torch.Tensor, layer_idx: int, *given: Any, **more: Any) -> Any:
        self.entered = None
        return super().update_recurrent_state(recurrent_states, layer_idx, *given, **more)


class _CacheFull(Exception):
    """A context is in the cache; no error."""


def _chosen(layer: Any, which: torch.Tensor) -> Any:
    """Return a copy of a cache's layer with the chosen lines of its batch, leaving the layer as it is."""
    chosen = copy.copy(layer)
    for name, value in vars(layer).items():
        if isinstance(value, dict):
            setattr(chosen, name, dict(value))
    chosen.reorder_cache(which)
    return chosen


class FrozenContext:
    """Cross-entropy on decision tokens, with their context read without gradient.

    Rows of bare text have no context and run as a whole, and so do rows of the sources in ``whole``. Dropout is off in the
    context pass.

    Args:
        whole: sources whose rows keep the gradient through their context (``{"rehearsal"}``, say).

    Raises:
        UserError: from ``prepare``, a model with gradient checkpointing (which drops the cache), or one whose answers differ
            when its context comes from a cache.
    """

    name = "frozen_context"

    def __init__(self, whole: frozenset[str] = frozenset()) -> None:
        self.whole = whole
        self.masked = MaskedLoss()
        self.config: Any = None
        self.gives_back = False
        self.last_entry: int | None = None

    def prepare(self, model: Any) -> None:
        self.masked.prepare(model)
        self.know(model)
        if is_checkpointing(model):
            raise UserError(
                "gradient checkpointing must be off when the context is frozen, because its layers drop the context's cache "
                "and the decision would be learnt without any context; turn it off (few decision tokens need little memory), "
                "or say context: full"
            )
        _check_architecture(self, model)

    def know(self, model: Any) -> None:
        """Note how this model's contexts are read."""
        self.config = model.config
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.gives_back = sum(4 * weight.numel() for weight in weights if weight.device.type == "cpu") >= _LARGE
        self.short_head = {"logits_to_keep": 1} if can_slice(model) else {}

    def reads_to_the_last_entry(self, model: Any, part: Segments) -> None:
        """Notice with which layer's keys and values a context is in the cache, so that later passes stop there."""
        self.last_entry = None
        if ranks.count() == 1:  # a sharded model's layers are gathered and freed together, so that no rank may leave early
            self.last_entry = self._read(model, part).entered

    def parts(self, rows: Sequence[Row]) -> dict[str, Any]:
        frozen: list[Decision] = []
        whole: list[Row] = []
        for row in rows:
            found = [] if row.source in self.whole else decisions_of(row)
            if found and all(len(decision.context) > 1 for decision in found):
                frozen += found
            else:
                whole.append(row)
        made: dict[str, Any] = {"frozen": segments(frozen)} if frozen else {}
        return made | ({"whole": collate(whole)} if whole else {})

    def __call__(self, model: Any, part: Segments | Batch) -> torch.Tensor:
        return part.weights @ self.token_losses(model, part)

    def token_losses(self, model: Any, part: Segments | Batch) -> torch.Tensor:
        if isinstance(part, Batch):
            return self.masked.token_losses(model, part)
        self._give_back_memory()  # what the last step's gradients held
        logits = self.logits(model, part)
        logits = logits.reshape(-1, logits.shape[-1]).index_select(0, part.places)
        losses = functional.cross_entropy(logits.float(), part.targets, reduction="none")
        self._give_back_memory()  # what the context's pass held
        return losses

    def logits(self, model: Any, part: Segments) -> torch.Tensor:
        """Return the logits at every position of the decisions, shape (decisions, length, vocabulary), with their graph.

        Args:
            model: called as a whole, so that the hooks of FSDP2 and DDP are met; it may be wrapped.
            part: the decisions and their contexts.
        """
        cache = FrozenCache(self._read(model, part), part.which, once=True)
        context_mask = part.context_mask if part.which is None else part.context_mask[part.which]
        mask = torch.cat([context_mask, part.decision_mask], dim=1)
        return model(
            input_ids=part.decisions,
            attention_mask=mask,
            position_ids=_positions(mask)[:, part.contexts.shape[1] :],
            past_key_values=cache,
            use_cache=True,
        ).logits

    def _give_back_memory(self) -> None:
        """Give freed memory back to the system, where it is much: a gradient seldom fits into a hole that something else left.

        With 30 million weights 20 MiB less are held, and a step takes 3 to 14% longer.
        """
        if self.gives_back:
            freed_memory.give_back()

    def _read(self, model: Any, part: Segments) -> FillingCache:
        """Return the cache that a pass over the contexts fills, without gradient and without dropout."""
        cache, training = FillingCache(self.config, self.last_entry), model.training
        model.eval()
        try:
            # not inference_mode: its tensors can't be saved for backward
            with torch.no_grad(), contextlib.suppress(_CacheFull):
                model(
                    input_ids=part.contexts,
                    attention_mask=part.context_mask,
                    position_ids=_positions(part.context_mask),
                    past_key_values=cache,
                    use_cache=True,
                    **self.short_head,
                )
        finally:
            model.train(training)
        cache.last = None  # from here on it is as any other
        return cache


@dataclass(frozen=True)
class Decision:
    """A stretch of tokens that learn, with everything before it."""

    context: tuple[int, ...]
    tokens: tuple[int, ...]
    weights: tuple[float, ...]
    source: str


def decisions_of(row: Row) -> list[Decision]:
    """Return the stretches of a row that learn; a later one has the earlier ones in its context."""
    learns = np.flatnonzero(np.asarray(row.weights) > 0)
    if not len(learns):
        return []
    edges = np.flatnonzero(np.diff(learns) > 1)
    starts = [int(learns[0]), *(int(learns[edge + 1]) for edge in edges)]
    ends = [*(int(learns[edge]) + 1 for edge in edges), int(learns[-1]) + 1]
    tokens, weights = tuple(row.tokens), tuple(row.weights)
    return [
        Decision(tokens[:start], tokens[start:end], weights[start:end], row.source)
        for start, end in zip(starts, ends, strict=True)
    ]


def segments(decisions: Sequence[Decision]) -> Segments:
    """Return decisions as one padded batch on the CPU; equal contexts are read once."""
    places = {context: place for place, context in enumerate(dict.fromkeys(decision.context for decision in decisions))}
    width = max(len(context) - 1 for context in places)
    length = max(len(decision.tokens) for decision in decisions)
    contexts, context_mask = np.zeros((2, len(places), width), dtype=np.int64)
    for context, place in places.items():
        contexts[place, width - len(context) + 1 :] = context[:-1]
        context_mask[place, width - len(context) + 1 :] = 1
    tokens, mask = np.zeros((2, len(decisions), length), dtype=np.int64)
    learnt: list[tuple[int, int, float, int]] = []
    for line, decision in enumerate(decisions):
        inputs = (decision.context[-1], *decision.tokens[:-1])
        tokens[line, : len(inputs)], mask[line, : len(inputs)] = inputs, 1
        source = SOURCES.index(decision.source)  # type: ignore[arg-type]
        learnt += [
            (line * length + place, token, weight, source)
            for place, (token, weight) in enumerate(zip(decision.tokens, decision.weights, strict=True))
        ]
    weights = np.zeros((len(SOURCES), len(learnt)), dtype=np.float32)
    for place, (_, _, weight, source) in enumerate(learnt):
        weights[source, place] = weight
    return Segments(
        contexts=torch.from_numpy(contexts),
        context_mask=torch.from_numpy(context_mask),
        which=None if len(places) == len(decisions) else torch.tensor([places[decision.context] for decision in decisions]),
        decisions=torch.from_numpy(tokens),
        decision_mask=torch.from_numpy(mask),
        places=torch.tensor([place for place, *_ in learnt]),
        targets=torch.tensor([token for _, token, *_ in learnt]),
        weights=torch.from_numpy(weights),
        owner=torch.tensor([place // length for place, *_ in learnt]),
    )


def is_checkpointing(model: Any) -> bool:
    """Whether a model recomputes activations; the flag changed its name in transformers 5."""
    found = getattr(model, "is_activation_checkpointing", None)
    return bool(getattr(model, "is_gradient_checkpointing", False) if found is None else found)


def _positions(mask: torch.Tensor) -> torch.Tensor:
    return (mask.cumsum(-1) - 1).clamp(min=0)


def _check_architecture(objective: FrozenContext, model: Any) -> None:
    """Try the model on a few tokens: with its context in a cache it must answer as it does in one pass.

    What fails here would train decisions on no context or a wrong one, and no error would tell.
    """
    off, allowed = disagreement(objective, model)
    if not off <= allowed:
        raise _unfit(model, f"logits differ by {off:.2g} of their standard deviation")


def disagreement(objective: FrozenContext, model: Any) -> tuple[float, float]:
    """Return by how much answers differ between a context in a cache and one pass, and how much may be rounding.

    Both in standard deviations of the logits.

    Raises:
        UserError: the model can't answer from a cache at all.
    """
    before, after = _CHECKED
    device = next(model.parameters()).device
    known = model.get_input_embeddings().weight.shape[0]
    tokens = [(7 * place * place + 3 * place + 1) % known for place in range(before + after)]
    contexts, decision = [tuple(tokens[skipped:before]) for skipped in (0, 3, 0)], tuple(tokens[before:])
    part = segments([Decision(context, decision, (1.0,) * after, SOURCES[0]) for context in contexts]).to(device)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            inputs = torch.tensor([tokens[:-1]], device=device)
            wanted = model(input_ids=inputs, use_cache=False).logits[0, before - 1 :].float()
            shorter = model(input_ids=inputs[:, 3:], use_cache=False).logits[0, before - 4 :].float()
            objective.reads_to_the_last_entry(model, part)
            found = objective.logits(model, part).float()
    except UNREADABLE as error:
        raise _unfit(model, f"{type(error).__name__}: {first_line(error)}") from error
    finally:
        model.train(training)
    off = max(float((one - other).abs().max()) for one, other in zip(found, (wanted, shorter, wanted), strict=True))
    return off / float(wanted.std()), _AGREEMENT.get(next(model.parameters()).dtype, _LOOSE_AGREEMENT)


def _unfit(model: nn.Module, why: str) -> UserError:
    return UserError(
        f"{type(model).__name__} must answer the same with its context in a cache as in one pass, and does not ({why}); "
        "train it with context: full"
    )
