"""Optimizers: is the step the one of the paper, and can several step as one?"""

import pytest
import torch
from torch import nn
from training_kit import settings_of, small_model

from palimpsest.core.errors import UserError
from palimpsest.training import checkpoint as store
from palimpsest.training.optimizers import JointOptimizer, adamw


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


def split(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    inner = [parameter for name, parameter in model.named_parameters() if parameter.ndim == 2 and "embed" not in name]
    return inner, [parameter for parameter in model.parameters() if all(parameter is not other for other in inner)]


def joint(model: nn.Module) -> JointOptimizer:
    inner, rest = split(model)
    return JointOptimizer([torch.optim.Muon(inner, lr=0.02), torch.optim.AdamW(rest, lr=3e-3)])


def test_joined_optimizers_step_as_they_do_apart() -> None:
    together, apart = small_model(), small_model()
    optimizer = joint(together)
    inner, rest = split(apart)
    parts = [torch.optim.Muon(inner, lr=0.02), torch.optim.AdamW(rest, lr=3e-3)]
    for step in range(3):
        gradients(together, step)
        gradients(apart, step)
        optimizer.step()
        for part in parts:
            part.step()
    for one, other in zip(together.parameters(), apart.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_schedule_moves_all_their_learning_rates_in_proportion() -> None:
    optimizer = joint(small_model())
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    optimizer.step()
    schedule.step()
    assert [part.param_groups[0]["lr"] for part in optimizer.parts] == [0.01, 1.5e-3]


@pytest.mark.parametrize("make", [joint, lambda model: adamw(model, settings_of())])
def test_state_survives_the_disk_exactly(make, tmp_path) -> None:
    model, resumed = small_model(), small_model()
    optimizer = make(model)
    for step in range(2):
        gradients(model, step)
        optimizer.step()
    store.save_optimizer(optimizer, tmp_path)
    store.save_model(model, tmp_path / "model.safetensors")
    store.load_model(resumed, tmp_path / "model.safetensors")
    again = make(resumed)
    store.load_optimizer(again, tmp_path)
    for holder, its_optimizer in ((model, optimizer), (resumed, again)):
        gradients(holder, 2)
        its_optimizer.step()
    for one, other in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_unknown_arguments_are_refused() -> None:
    with pytest.raises(UserError, match="unknown key 'rank'"):
        settings_of(optim_args={"rank": 4})
