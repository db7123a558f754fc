"""Optimizers: how do gradients become steps?

``OPTIMIZERS`` names what the setting ``optim`` can say. A caller may also give its own factory, and join several optimizers
(matrices with one, the rest with another) into the one that the Trainer wants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from palimpsest.training.settings import AdamwArguments, TrainingSettings

OptimizerFactory = Callable[[nn.Module, TrainingSettings], torch.optim.Optimizer]


def adamw(model: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """AdamW with weight decay on matrices only (vectors are norms and biases)."""
    arguments = AdamwArguments.read(settings.optim_args, "optim_args of optim 'adamw'")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        betas=(arguments.adam_beta1, arguments.adam_beta2),
        eps=arguments.adam_epsilon,
        fused=trained[0].device.type in ("cpu", "cuda"),
    )


OPTIMIZERS: dict[str, OptimizerFactory] = {"adamw": adamw}


class JointOptimizer(torch.optim.Optimizer):
    """Several optimizers over different parameters that step as one.

    Their parameter groups are shared, not copied, so a schedule moves all learning rates in proportion, and their state is
    one dictionary, so a checkpoint holds it like any other optimizer's.
    """

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = list(parts)
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        groups = iter(self.param_groups)
        for part in self.parts:
            part.state = self.state
            part.param_groups = [next(groups) for _ in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for part in self.parts:
            part.step()

    def load_state_dict(self, state_dict: Any) -> None:
        super().load_state_dict(state_dict)
        self._share()
