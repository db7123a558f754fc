"""Optimizers: how do gradients become steps?

``OPTIMIZERS`` names what the setting ``optim`` can say. A caller may also give its own factory.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from palimpsest.core.errors import UserError
from palimpsest.training.apollo import Apollo, is_too_small, parameter_groups
from palimpsest.training.settings import AdamwArguments, ApolloArguments, MiniArguments, TrainingSettings

OptimizerFactory = Callable[[nn.Module, TrainingSettings], torch.optim.Optimizer]


def adamw(model: nn.Module, settings: TrainingSettings) -> Apollo:
    """AdamW with weight decay on matrices only (vectors are norms and biases)."""
    arguments = AdamwArguments.read(settings.optim_args, "optim_args of optim 'adamw'")
    groups = parameter_groups(model, settings.weight_decay)
    return _made([{**group, "apollo": False} for group in groups], settings, arguments)


def apollo(model: nn.Module, settings: TrainingSettings) -> Apollo:
    """APOLLO on matrices but embeddings and the head, AdamW on the rest.

    Raises:
        UserError: the rank is larger than the shorter side of a matrix.
    """
    arguments = ApolloArguments.read(settings.optim_args, "optim_args of optim 'apollo'")
    groups = parameter_groups(model, settings.weight_decay, rank=arguments.rank)
    return _made(groups, settings, arguments, **_apart(arguments))


def apollo_mini(model: nn.Module, settings: TrainingSettings) -> Apollo:
    """APOLLO-Mini: rank 1 and one factor for each matrix."""
    arguments = MiniArguments.read(settings.optim_args, "optim_args of optim 'apollo_mini'")
    groups = parameter_groups(model, settings.weight_decay, rank=1)
    return _made(groups, settings, arguments, scale_type="tensor", **_apart(arguments))


OPTIMIZERS: dict[str, OptimizerFactory] = {"apollo": apollo, "apollo_mini": apollo_mini, "adamw": adamw}


Shapes = Iterable[tuple[str, tuple[int, ...]]]
"""Names and shapes of a model's tensors, which is all that is known of one before it is loaded."""


def rank_problems(settings: TrainingSettings, shapes: Shapes) -> Iterator[str]:
    """Say whether the rank that was asked for is larger than a layer's matrix."""
    rank = settings.optim_args.get("rank")
    if settings.optim != "apollo" or not isinstance(rank, int) or settings.lora:
        return
    small = [(name, shape) for name, shape in _matrices(shapes) if min(shape[-2:]) < rank]
    if small:
        name, shape = min(small, key=lambda one: min(one[1][-2:]))
        yield (
            f"optim_args.rank is {rank}, larger than the shorter side of {len(small)} matrices, the smallest of them {name} "
            f"({' x '.join(map(str, shape))}); lower it, or leave it out for a quarter of each"
        )


def bytes_trained(settings: TrainingSettings, parameters: int, shapes: Shapes) -> int:
    """Return how many bytes float32 weights, gradients and the optimizer's state take; activations come on top."""
    matrices = [shape for _, shape in _matrices(shapes)]
    if settings.lora:
        adapter = sum(settings.lora.r * sum(shape[-2:]) for shape in matrices)
        return 4 * (parameters + 4 * adapter)
    if settings.optim == "adamw":
        return 4 * 4 * parameters
    rank = 1 if settings.optim == "apollo_mini" else settings.optim_args.get("rank")
    matrices = [shape for shape in matrices if rank is not None or not is_too_small(shape)]
    inside = sum(math.prod(shape) for shape in matrices)
    low = sum(2 * math.prod(shape) // min(shape[-2:]) * (rank or max(1, min(shape[-2:]) // 4)) for shape in matrices)
    return 4 * (2 * parameters + low + 2 * max(0, parameters - inside))


def _matrices(shapes: Shapes) -> list[tuple[str, tuple[int, ...]]]:
    """Return the layers' matrices, told by their numbered names: no embeddings, no head, no convolutions."""
    numbered = [(name, shape) for name, shape in shapes if re.search(r"\.\d+\.", name) and len(shape) in (2, 3)]
    return [(name, shape) for name, shape in numbered if "conv" not in name]


def _apart(arguments: MiniArguments) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in ("scale", "update_proj_gap", "norm_limit")}


def _made(groups: list[dict[str, Any]], settings: TrainingSettings, arguments: AdamwArguments, **given: Any) -> Apollo:
    try:
        return Apollo(
            groups,
            lr=settings.learning_rate,
            betas=(arguments.adam_beta1, arguments.adam_beta2),
            eps=arguments.adam_epsilon,
            seed=settings.seed,
            **given,
        )
    except ValueError as error:
        raise UserError(f"optim '{settings.optim}': {error}") from error
