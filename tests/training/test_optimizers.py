"""Optimizers: does each name of ``optim`` give the optimizer that it says?"""

import pytest
import torch
from torch import nn
from training_kit import settings_of, small_model

from palimpsest.core.errors import UserError
from palimpsest.training import checkpoint as store
from palimpsest.training.optimizers import OPTIMIZERS, adamw, bytes_trained


def gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_adamw_is_adamw() -> None:
    """Loshchilov and Hutter 2019, algorithm 2, written out for two steps."""
    model = small_model()
    settings = settings_of(weight_decay=0.1, optim_args={"adam_beta1": 0.8, "adam_beta2": 0.95, "adam_epsilon": 1e-6})
    optimizer = adamw(model, settings)
    wanted = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    first = {name: torch.zeros_like(tensor) for name, tensor in wanted.items()}
    second = {name: torch.zeros_like(tensor) for name, tensor in wanted.items()}
    for step in (1, 2):
        gradients(model, step)
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            first[name] = 0.8 * first[name] + 0.2 * parameter.grad
            second[name] = 0.95 * second[name] + 0.05 * parameter.grad**2
            decay = 0.1 if parameter.ndim >= 2 else 0.0
            direction = (first[name] / (1 - 0.8**step)) / ((second[name] / (1 - 0.95**step)).sqrt() + 1e-6)
            wanted[name] = wanted[name] - settings.learning_rate * (direction + decay * wanted[name])
        optimizer.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), wanted[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.SGD])
def test_state_survives_the_disk_exactly(make, tmp_path) -> None:
    model, resumed = small_model(), small_model()
    optimizer = make(model.parameters())
    for step in range(2):
        gradients(model, step)
        optimizer.step()
    store.save_optimizer(optimizer, tmp_path)
    store.save_model(model, tmp_path / "model.safetensors")
    store.load_model(resumed, tmp_path / "model.safetensors")
    again = make(resumed.parameters())
    store.load_optimizer(again, tmp_path)
    for holder, its_optimizer in ((model, optimizer), (resumed, again)):
        gradients(holder, 2)
        its_optimizer.step()
    for one, other in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_names_give_what_they_say() -> None:
    model = small_model()
    groups = OPTIMIZERS["apollo"](model, settings_of(optim="apollo", optim_args={"rank": 3}, weight_decay=0.1)).param_groups
    assert [(group["apollo"], group["weight_decay"]) for group in groups] == [(True, 0.1), (False, 0.1), (False, 0.0)]
    assert (groups[0]["rank"], groups[0]["scale_type"], groups[0]["norm_limit"]) == (3, "channel", None)
    groups = OPTIMIZERS["apollo_mini"](model, settings_of(optim="apollo_mini", optim_args={"norm_limit": 1.01})).param_groups
    assert (groups[0]["rank"], groups[0]["scale_type"], groups[0]["norm_limit"]) == (1, "tensor", 1.01)
    assert not any(group["apollo"] for group in adamw(model, settings_of()).param_groups)


def test_a_rank_larger_than_a_matrix_is_refused_naming_it() -> None:
    with pytest.raises(
        UserError, match=r"optim 'apollo': rank is 17, larger than the shorter side of a matrix: model.layers.0"
    ):
        OPTIMIZERS["apollo"](small_model(), settings_of(optim="apollo", optim_args={"rank": 17}))


def test_unknown_arguments_are_refused() -> None:
    with pytest.raises(UserError, match="unknown key 'rank'"):
        settings_of(optim_args={"rank": 4})


@pytest.mark.parametrize("optim", ["adamw", "apollo", "apollo_mini"])
def test_memory_is_foreseen_from_shapes(optim: str) -> None:
    model, settings = small_model(), settings_of(optim=optim)
    shapes = [(name, tuple(parameter.shape)) for name, parameter in model.named_parameters()]
    count = sum(parameter.numel() for parameter in model.parameters())
    optimizer = OPTIMIZERS[optim](model, settings)
    gradients(model, 0)
    optimizer.step()
    state = sum(value.numel() for one in optimizer.state.values() for value in one.values())
    assert bytes_trained(settings, count, shapes) == pytest.approx(4 * (2 * count + state), rel=0.02)
