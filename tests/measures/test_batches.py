"""Batches: of all ways to cut lines into batches the cheapest is taken, and what a row predicts is what it predicts alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from palimpsest.measures._forward import Predicted, Reader, Row, plan, run_rows
from palimpsest.measures._measure import Budget
from palimpsest.models import subject


def cost(batches: Sequence[Sequence[int]], each: int) -> int:
    return sum(max(widths) * len(widths) + each for widths in batches)


def cuts(widths: Sequence[int], room: int) -> Any:
    """Yield every way to cut widths into batches that have room."""
    if not widths:
        yield []
    for size in range(1, len(widths) + 1):
        if size > 1 and size * widths[size - 1] > room:
            return
        for rest in cuts(widths[size:], room):
            yield [widths[:size], *rest]


@pytest.mark.parametrize("seed", range(8))
def test_the_cheapest_cut_is_found(seed: int) -> None:
    rng = random.Random(seed)
    rows = [Row(tuple(rng.randrange(1000) for _ in range(rng.randint(3, 40) + 1)), 2) for _ in range(9)]
    room, each = rng.choice([60, 100, 400]), rng.choice([0, 5, 50])
    found = [[line.width for line in batch] for batch in plan(rows, Budget(100, tokens=room), 7, pass_cost=each)]
    widths = sorted(len(row.tokens) - 1 for row in rows)
    assert [width for batch in found for width in batch] == widths
    assert cost(found, each) == min(cost(one, each) for one in cuts(widths, room))


def test_a_batch_holds_no_more_logits_than_it_may() -> None:
    rows = [Row(tuple(range(width)), 1) for width in range(5, 30)]
    batches = plan(rows, Budget(100, tokens=10_000, logits=4_000), 100)
    assert all(len(lines) == 1 or len(lines) * max(line.trailing for line in lines) * 100 <= 4_000 for lines in batches)
    assert len(batches) > 5


class _Kept(Reader):
    def __init__(self) -> None:
        self.found: dict[int, Any] = {}

    def read(self, index: int, seen: Predicted) -> None:
        log_p = seen.logits - seen.log_normaliser[:, None]
        self.found[index] = log_p, seen.targets, seen.log_probability, seen.correct

    def finish(self) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize("kind", ["llama", "qwen3_5_text"])
def test_what_a_row_predicts_is_what_it_predicts_alone(kind: str, tmp_path: Path) -> None:
    with subject.load(subject.inspect(tiny.folder(tmp_path / "model", kind))) as one:
        found, rows = read(one)
        for index, row in enumerate(rows):
            with torch.no_grad():
                wanted = one.model(input_ids=torch.tensor([row.tokens[:-1]])).logits[0, row.first - 1 :].log_softmax(-1)
            log_p, targets, log_probability, correct = found[index]
            assert targets.tolist() == list(row.tokens[row.first :])
            assert torch.allclose(log_p, wanted, atol=1e-4)
            assert np.allclose(log_probability, wanted.gather(-1, targets[:, None])[:, 0].numpy(), atol=1e-4)
            assert correct.tolist() == (wanted.argmax(-1) == targets).tolist()


def read(one: subject.Subject) -> tuple[dict[int, Any], list[Row]]:
    rng = random.Random(1)
    begun = [rng.randrange(200) for _ in range(12)]
    rows = [Row((*begun, *(rng.randrange(200) for _ in range(rng.randint(1, 6)))), rng.choice([1, 6, 12])) for _ in range(7)]
    kept = _Kept()
    run_rows(one, rows, [kept], Budget(100), lambda *_: None)
    return kept.found, rows


def test_a_gpu_is_given_what_its_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Budget.on("cpu", 512) == Budget(512)
    for gibibytes in (8, 80):
        told = SimpleNamespace(total_memory=gibibytes * 2**30)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device, told=told: told)
        found = Budget.on("cuda:0", 512)
        assert found.tokens > Budget(512).tokens
        assert Budget(512).logits <= found.logits <= max(Budget(512).logits, told.total_memory / 50)
