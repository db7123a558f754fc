"""Sampler: are unusable rows told, all at once, and are lengths grouped?"""

import pytest
from training_kit import settings_of, some_rows

from palimpsest.core.errors import UserError
from palimpsest.training.sampler import MixedBatches, Row, check_rows


def test_all_bad_rows_are_told_at_once_with_source_and_length() -> None:
    rows = [
        Row((1, 2, 3), (0.0, 1.0, 1.0), "express", "good.jsonl:1"),
        Row(tuple(range(1, 41)), (1.0,) * 40, "express", "mine.jsonl:7"),
        Row((1, 2, 3), (1.0, 0.0, 0.0), "withhold", "mine.jsonl:9"),
        Row((), (), "rehearsal", "empty.jsonl:1"),
        Row((1, 2, 60), (0.0, 1.0, 1.0), "rehearsal", "other.jsonl:2"),
        Row((1, 2, 3), (0.0, float("nan"), 1.0), "rehearsal", "other.jsonl:3"),
        Row((1, 2, 3), (0.0, 1.0), "rehearsal", "other.jsonl:4"),
    ]
    with pytest.raises(UserError) as refusal:
        check_rows(rows, context=32, vocabulary=50)
    told = str(refusal.value)
    assert "mine.jsonl:7: 40 tokens, but the model's context holds 32" in told
    assert "mine.jsonl:9: none of its 3 tokens learns" in told
    assert "empty.jsonl:1: none of its 0 tokens learns" in told
    assert "other.jsonl:2: tokens 1 to 60, but the model knows 0 to 49" in told
    assert "other.jsonl:3: loss weights must be finite" in told
    assert "other.jsonl:4: 3 tokens but 2 weights" in told
    assert "good.jsonl" not in told


def test_many_bad_rows_are_counted() -> None:
    with pytest.raises(UserError, match="and 30 more"):
        check_rows([Row((1, 2), (0.0, 0.0), "express", f"x:{index}") for index in range(50)], 32, 50)


def test_good_rows_pass() -> None:
    check_rows(some_rows(), context=None, vocabulary=50)


def test_batches_hold_the_rows_of_the_plan() -> None:
    rows = some_rows(12, 12, 8)
    batches = MixedBatches(rows, settings_of(gradient_accumulation_steps=2, per_device_train_batch_size=4))
    assert len(batches) == 4
    assert [len(batches[step]) for step in range(4)] == [8] * 4
    assert all(sum(row.source == "rehearsal" for row in batches[step]) == 2 for step in range(4))
    assert {row.name for step in range(4) for row in batches[step]} == {row.name for row in rows}
