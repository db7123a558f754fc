"""APOLLO: how are all weights trained with hardly any optimizer state?

Algorithm 1 of Zhu et al. 2024 (arXiv 2412.05270), written from its equations. Adam's moments are kept of a random projection of
the gradient only; what they say is how much longer or shorter than the gradient Adam's step would be, a factor for each
channel, or one for the whole matrix (APOLLO-Mini). The raw gradient is then scaled by it:

    R = P G                     P ~ N(0, 1/r), redrawn every so many steps
    N = Adam's direction of R   (bias-corrected)
    s = |N| / |R|               for each channel, or over all of R
    U = alpha s G               then the norm-growth limiter: |U_t| <= gamma |U_t-1|
    W = W - lr (U + wd W)

The projected side is always the shorter one. A factor comes out too small by sqrt(r / shorter side) in expectation; alpha makes
up for it by default, so that a learning rate means what it means for AdamW.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from torch.distributed.tensor import DTensor, Replicate

from palimpsest.ranks import sharded_like, whole
from palimpsest.training.low_rank import HALF, Bundle, Named, adam_step, bundled, projection, rank_of, short_side

ScaleType = Literal["channel", "tensor"]
FEWEST_ROWS = 3
"""A channel's factor divides by the length of its projection. Of one row or two that length is now and then near 0, so that the
factor's spread is infinite and single steps are as long as a hundred: matrices whose quarter is smaller get AdamW."""


class Movement(NamedTuple):
    """How one parameter moved in one step; scalars on its device."""

    update: torch.Tensor
    """Norm of the change, weight decay and learning rate included."""
    weight: torch.Tensor
    """Norm of the weights before it."""
    limited: torch.Tensor | None
    """By what the norm-growth limiter multiplied the update (1: it did nothing), the smallest where there are several
    experts; ``None`` where there is no limiter."""


class Apollo(torch.optim.Optimizer):
    """APOLLO on matrices, AdamW on everything else, as one optimizer with a state of tensors only.

    A parameter of two dimensions is a matrix; one of three is a stack of them (experts), each treated on its own; others get
    AdamW, and so do all parameters of a group with ``apollo=False``. ``parameter_groups`` makes the groups for a model.

    The state of an m x n matrix (m <= n) is 2nr + 1 numbers, of APOLLO-Mini (rank 1) 2n + 1, and one more with the norm-growth
    limiter. The projection is not part of it:
    it is drawn from (seed, parameter name, step // update_proj_gap), on the CPU, so that it is the same on any device and any
    number of ranks.

    Args:
        params: named parameters (``model.named_parameters()``), or groups of them; groups may set what follows themselves.
        lr: learning rate; with the default ``scale`` it means what it means for AdamW.
        apollo: whether the matrices get APOLLO.
        rank: rows of the projection; ``None`` is a quarter of each matrix's shorter side.
        scale: multiplies the update by its square root, as elsewhere (GaLore's and the Trainer's ``scale``); ``None`` is
            (shorter side) / rank, which makes up for what the projection loses.
        scale_type: a factor for each channel, or one for the tensor (APOLLO-Mini).
        update_proj_gap: steps between two projections; the moments are kept.
        norm_limit: by how much the update's norm may grow from step to step (gamma, 1.01 in the paper); ``None``: no limit.
            Mind it in short runs: the first step's gradient then decides the length of all that follow.
        betas: Adam's decay rates.
        eps: Adam's epsilon.
        weight_decay: decoupled.
        master_weights: keep float32 weights in the state for parameters of half precision, where a small step is lost.
        seed: of the projections.

    Raises:
        ValueError: a parameter without a name, a rank larger than the shorter side of a matrix, or a number out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-5,
        *,
        apollo: bool = True,
        rank: int | None = None,
        scale: float | None = None,
        scale_type: ScaleType = "channel",
        update_proj_gap: int = 200,
        norm_limit: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        master_weights: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "apollo": apollo,
                "rank": rank,
                "scale": scale,
                "scale_type": scale_type,
                "update_proj_gap": update_proj_gap,
                "norm_limit": norm_limit,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "master_weights": master_weights,
                "seed": seed,
            },
        )
        self.watched = False
        """Whether ``step`` notes how every parameter moved, in ``moved``; it costs a pass over the weights."""
        self.moved: dict[str, Movement] = {}
        """By parameter name, of the last step that was watched."""
        self.limits: list[torch.Tensor] = []
        """What the limiter multiplied each matrix's update by in the last step."""
        self._projections: dict[str, tuple[int, torch.Tensor]] = {}
        self._plans: dict[int, tuple[tuple[int, ...], list[Bundle], Named]] = {}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        problems = list(_problems(group))
        if problems:
            self.param_groups.pop()
            raise ValueError("; ".join(problems))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step; ``closure`` computes the loss again, as in any torch optimizer."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.limits, self.moved = [], {}
        for place, group in enumerate(self.param_groups):
            bundles, rest = self._plan(place, group)
            for bundle in bundles:
                self._step_bundle(bundle, group)
            self._step_rest(rest, group)
        return loss

    def _plan(self, place: int, group: dict[str, Any]) -> tuple[list[Bundle], Named]:
        """Return which parameters step together; the last plan holds as long as the same ones have a gradient."""
        named = [one for one in zip(group["param_names"], group["params"], strict=True) if one[1].grad is not None]
        key = tuple(id(parameter) for _, parameter in named)
        kept = self._plans.get(place)
        if kept is None or kept[0] != key or not all(bundle.holds() for bundle in kept[1]):
            bundles = bundled([one for one in named if _is_matrix(one[1], group)], self.state)
            kept = self._plans[place] = (key, bundles, [one for one in named if not _is_matrix(one[1], group)])
        return kept[1:]

    # Matrices

    def _step_bundle(self, bundle: Bundle, group: dict[str, Any]) -> None:
        weights = [self._weight(parameter, group) for _, parameter in bundle.named]
        gradients = [_gradient(one).to(weight.dtype) for (_, one), weight in zip(bundle.named, weights, strict=True)]
        number = bundle.step // group["update_proj_gap"]
        drawn = [self._projection(name, one, number, group) for (name, _), one in zip(bundle.named, gradients, strict=True)]
        factors = bundle.factors(gradients, drawn, group)
        for named, weight, gradient, factor in zip(bundle.named, weights, gradients, factors, strict=True):
            self._move(*named, weight, gradient, factor, group)

    def _move(
        self,
        name: str,
        parameter: nn.Parameter,
        weight: torch.Tensor,
        gradient: torch.Tensor,
        factor: torch.Tensor,
        group: dict[str, Any],
    ) -> None:
        """W = W - lr (U + wd W); U itself is made only where its norm has to be known."""
        lr, decay, limit = group["lr"], group["weight_decay"], None
        if group["norm_limit"] is not None:
            gradient = gradient * factor
            factor = limit = self._limit(gradient, self.state[parameter], group["norm_limit"])
            self.limits.append(whole(limit).amin())
        if self.watched:
            step = (gradient * factor).add_(weight, alpha=decay)
            self.moved[name] = Movement(
                whole(step.norm()) * lr, whole(weight.norm()), self.limits[-1] if limit is not None else None
            )
        if decay:
            weight.mul_(1 - lr * decay)
        weight.addcmul_(gradient, factor, value=-lr)
        if weight is not parameter:
            parameter.copy_(weight)

    def _projection(self, name: str, like: torch.Tensor, number: int, group: dict[str, Any]) -> torch.Tensor:
        """Return P, shape (rank, shorter side) or (experts, rank, shorter side); the last one is kept, outside of the state."""
        kept = self._projections.get(name)
        if kept is None or kept[0] != number:
            shape = (*like.shape[:-2], rank_of(like, group), short_side(like))
            drawn = projection(shape, group["seed"], name, number).to(device=like.device, dtype=like.dtype)
            kept = self._projections[name] = (number, _as_copies(drawn, like))
        return kept[1]

    def _limit(self, update: torch.Tensor, state: dict[str, Any], gamma: float) -> torch.Tensor:
        """Return by what the norm-growth limiter multiplies the update; its last norm is part of the state."""
        norm = whole(torch.linalg.vector_norm(update, dim=(-2, -1), keepdim=True))
        before, factor = state.get("update_norm"), torch.ones_like(norm)
        if before is not None:
            # A gradient of exactly 0 says nothing on how long the next one may be.
            factor = torch.where((before > 0) & (norm > gamma * before), gamma * before / norm, factor)
        state["update_norm"] = norm * factor
        return _as_copies(factor, update)

    # Everything else

    def _step_rest(self, rest: Named, group: dict[str, Any]) -> None:
        """AdamW on what is no matrix."""
        if not rest:
            return
        weights = [self._weight(parameter, group) for _, parameter in rest]
        states = [self.state[parameter] for _, parameter in rest]
        for weight, state in zip(weights, states, strict=True):
            state.setdefault("step", torch.zeros((), dtype=torch.float32, device=weight.device))
            for key in ("exp_avg", "exp_avg_sq"):
                state[key] = sharded_like(state[key], weight) if key in state else torch.zeros_like(weight)
        before = [weight.clone() for weight in weights] if self.watched else []
        gradients = [_gradient(parameter).to(weight.dtype) for (_, parameter), weight in zip(rest, weights, strict=True)]
        moments, squares, steps = ([state[key] for state in states] for key in ("exp_avg", "exp_avg_sq", "step"))
        adam_step(weights, gradients, moments, squares, steps, group, group["lr"], group["weight_decay"])
        for (name, _), old, new in zip(rest, before, weights, strict=bool(before)):
            self.moved[name] = Movement(whole((new - old).norm()), whole(old.norm()), None)
        for (_, parameter), weight in zip(rest, weights, strict=True):
            if weight is not parameter:
                parameter.copy_(weight)

    def _weight(self, parameter: nn.Parameter, group: dict[str, Any]) -> torch.Tensor:
        """Return the weights that a step is added to: the parameter, or its float32 master."""
        if parameter.dtype not in HALF or not group["master_weights"]:
            return parameter
        state = self.state[parameter]
        state["master"] = sharded_like(state["master"], parameter) if "master" in state else parameter.detach().float()
        return state["master"]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in any torch optimizer, but the state keeps its own types: torch would round it to those of the parameters."""
        super().load_state_dict(state_dict)
        saved = iter(state_dict["state"].get(index, {}) for group in state_dict["param_groups"] for index in group["params"])
        for group in self.param_groups:
            for parameter in group["params"]:
                for key, value in next(saved).items():
                    if isinstance(value, torch.Tensor):
                        device = "cpu" if key == "step" and _is_matrix(parameter, group) else parameter.device
                        self.state[parameter][key] = value.to(device).clone()
        self._projections, self._plans = {}, {}


def parameter_groups(model: nn.Module, weight_decay: float = 0.0, **apollo: Any) -> list[dict[str, Any]]:
    """Return the groups that ``Apollo`` is meant to get for a model.

    APOLLO's: every trained matrix but embeddings, the head, convolutions, and what is too small for it (``is_too_small``).
    AdamW's: those, and vectors (norms, biases, the decays of recurrent layers), which have no weight decay.

    Args:
        model: a Hugging Face causal language model, or any module.
        weight_decay: of matrices, whoever trains them.
        apollo: what ``Apollo`` takes a group to say (``rank``, ``scale`` ...).
    """
    other = {id(parameter) for parameter in _not_matrices(model)}
    matrices: list[tuple[str, nn.Parameter]] = []
    decayed: list[tuple[str, nn.Parameter]] = []
    plain: list[tuple[str, nn.Parameter]] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            apart = id(parameter) in other
            apart |= apollo.get("rank") is None and is_too_small(tuple(parameter.shape))
            chosen = matrices if parameter.ndim in (2, 3) and not apart else decayed if parameter.ndim >= 2 else plain
            chosen.append((name, parameter))
    groups = [
        {"params": matrices, "apollo": True, "weight_decay": weight_decay, **apollo},
        {"params": decayed, "apollo": False, "weight_decay": weight_decay},
        {"params": plain, "apollo": False, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def is_too_small(shape: tuple[int, ...]) -> bool:
    """Whether a quarter of a matrix's shorter side is too few rows for a factor a channel (the gates of few heads, say)."""
    return len(shape) in (2, 3) and min(shape[-2:]) // 4 < FEWEST_ROWS


def _not_matrices(model: nn.Module) -> Iterator[nn.Parameter]:
    """Give what looks like a matrix and is none of APOLLO's: embeddings, the head, convolutions."""
    for module in model.modules():
        if isinstance(module, (nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            yield from module.parameters(recurse=False)
    for find in ("get_input_embeddings", "get_output_embeddings"):
        module = getattr(model, find, lambda: None)()
        if isinstance(module, nn.Module):
            yield from module.parameters(recurse=False)


def _problems(group: dict[str, Any]) -> Iterator[str]:
    """Say what is wrong with a group."""
    if "param_names" not in group:
        yield "parameters must come with their names, which seed the projections: give model.named_parameters()"
        return
    (beta1, beta2), limit, scale, rank = group["betas"], group["norm_limit"], group["scale"], group["rank"]
    if not (0 <= beta1 < 1 and 0 <= beta2 < 1):
        yield f"betas must be at least 0 and below 1, found {beta1} and {beta2}"
    if limit is not None and limit < 1:
        yield f"norm_limit must be at least 1 (or None for no limit), found {limit}"
    if scale is not None and scale <= 0:
        yield f"scale must be over 0 (or None), found {scale}"
    if group["update_proj_gap"] < 1:
        yield f"update_proj_gap must be at least 1, found {group['update_proj_gap']}"
    if group["scale_type"] not in ("channel", "tensor"):
        yield f"scale_type must be 'channel' or 'tensor', found '{group['scale_type']}'"
    if rank is not None and rank < 1:
        yield f"rank must be at least 1 (or None for a quarter of the shorter side), found {rank}"
    elif rank is not None and group["apollo"]:
        small = [
            f"{name} is {' x '.join(map(str, parameter.shape))}"
            for name, parameter in zip(group["param_names"], group["params"], strict=True)
            if _is_matrix(parameter, group) and short_side(parameter) < rank
        ]
        if small:
            told = ", ".join(small[:5]) + (f" and {len(small) - 5} more" if len(small) > 5 else "")
            yield f"rank is {rank}, larger than the shorter side of a matrix: {told}; lower it, or leave it out for a quarter"


def _is_matrix(parameter: torch.Tensor, group: dict[str, Any]) -> bool:
    return group["apollo"] and parameter.ndim in (2, 3)


def _gradient(parameter: nn.Parameter) -> torch.Tensor:
    assert parameter.grad is not None
    return parameter.grad


def _as_copies(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return what every rank has in the form that is multiplied with ``like``."""
    if not isinstance(like, DTensor):
        return value
    return DTensor.from_local(value, like.device_mesh, [Replicate()] * like.device_mesh.ndim, run_check=False)
