"""Preference: is the loss the one of the paper, and does it move an answer above a worse one?"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional
from training_kit import settings_of, small_model, some_rows

from palimpsest.core.errors import UserError
from palimpsest.training.frozen_context import FrozenContext
from palimpsest.training.objectives import MaskedLoss, mean_loss
from palimpsest.training.preference import Preference
from palimpsest.training.sampler import Row, check_rows
from palimpsest.training.trainer import train


def pair(context: list[int], chosen: list[int], rejected: list[int], source: str = "express") -> Row:
    def row(answer: list[int], worse: Row | None = None) -> Row:
        return Row([*context, *answer], [0.0] * len(context) + [1.0] * len(answer), source, "x", worse)  # type: ignore[arg-type]

    return row(chosen, row(rejected))


PAIRS = [pair([3, 5, 7, 9], [20, 21], [30]), pair([4, 6, 8], [22], [31, 32, 33]), pair([4, 6, 8], [23], [34], "withhold")]


def likelihood(model: torch.nn.Module, row: Row) -> torch.Tensor:
    tokens = torch.tensor([row.tokens])
    logits = model(input_ids=tokens[:, :-1]).logits.log_softmax(-1)
    chosen = logits.gather(-1, tokens[:, 1:, None])[0, :, 0]
    return (chosen * torch.tensor(row.weights[1:])).sum()


def margin(model: torch.nn.Module, row: Row) -> torch.Tensor:
    assert row.rejected is not None
    return likelihood(model, row) - likelihood(model, row.rejected)


@pytest.mark.parametrize("tokens", [MaskedLoss, FrozenContext])
def test_the_loss_is_equation_7(tokens: type) -> None:
    before, now = small_model(0), small_model(1)
    objective = Preference(tokens(), beta=0.3)
    objective.prepare(before)
    rows = objective.with_reference(before, PAIRS)
    assert [row.reference for row in rows] == pytest.approx([float(margin(before, row).detach()) for row in PAIRS], abs=1e-4)
    wanted = sum(
        len(row.tokens[row.weights.index(1.0) :]) * -functional.logsigmoid(0.3 * (margin(now, row) - margin(before, row)))
        for row in PAIRS
    )
    found = mean_loss(objective, now, rows)
    assert float(found.detach()) == pytest.approx(float(wanted.detach()) / 4, rel=1e-4)  # type: ignore[union-attr]
    parts = objective.parts([*rows, *some_rows(1, 0, 1)])
    assert len(parts["pairs"].reference) == 3
    assert parts["pairs"].weights.sum(1).tolist() == [3.0, 1.0, 0.0]


def test_both_answers_share_the_pass_over_their_context() -> None:
    objective = Preference(FrozenContext())
    objective.prepare(small_model())
    part = objective.parts(PAIRS)["pairs"].part
    assert (len(part.contexts), len(part.decisions)) == (2, 6)


def test_before_training_every_pair_costs_ln_2() -> None:
    model = small_model()
    objective = Preference(FrozenContext())
    objective.prepare(model)
    assert float(mean_loss(objective, model, objective.with_reference(model, PAIRS)).detach()) == pytest.approx(
        0.6931, abs=1e-3
    )


@pytest.mark.parametrize("context", ["frozen", "full"])
def test_training_raises_the_margin(tmp_path: Path, context: str) -> None:
    model = small_model()
    before = [float(margin(model, row).detach()) for row in PAIRS]
    rows = [*PAIRS * 8, *some_rows(0, 0, 8)]
    train(model, None, rows, settings_of(preference={}, context=context, learning_rate=1e-2), tmp_path)
    after = [float(margin(model, row).detach()) for row in PAIRS]
    assert all(now > then for now, then in zip(after, before, strict=True))


def test_without_worse_answers_there_is_nothing_to_prefer(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="60 of 60 behaviour examples bring no worse answer"):
        train(small_model(), None, some_rows(), settings_of(preference={}), tmp_path)


def row(tokens: list[int], learns: list[int], worse: Row | None = None) -> Row:
    return Row(tokens, [float(place in learns) for place in range(len(tokens))], "express", "x", worse)


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (pair([3, 5], [20], [20]), "must differ"),
        (row([3, 5, 20], [2], row([3, 6, 20], [2])), "the same context"),
        (row([3, 20], [1], row([3, 21], [1])), "context of at least two"),
        (row([3, 5, 20, 7, 21], [2, 4], row([3, 5, 21], [2])), "exactly one decision each"),
        (row([3, 5, 20], [2], row([3, 5, 99], [2])), "its worse answer: tokens"),
    ],
)
def test_pairs_that_are_none_are_told(one: Row, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        check_rows([one], 32, 50)
