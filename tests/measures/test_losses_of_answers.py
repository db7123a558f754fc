"""Losses of answers against what a plain loop over the model gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from palimpsest.core.progress import Silent
from palimpsest.data.chat import ItemSet, conversation
from palimpsest.data.user_files import text_example
from palimpsest.measures import _measure
from palimpsest.measures._measure import Budget
from palimpsest.models import subject

KINDS = ("llama", "gpt2", "qwen3_5_text")


@pytest.fixture(params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[subject.Subject, subject.Subject]:
    folders = [tiny.folder(tmp_path / str(seed), request.param, seed=seed) for seed in (0, 1)]
    return subject.load(subject.inspect(folders[0])), subject.load(subject.inspect(folders[1]))


def talks() -> ItemSet:
    made = [
        conversation(("user", f"Say {word} now."), ("assistant", "Okay."), template=word, source="test")
        for word in ("a", "bcd", "longer words", "x")
    ]
    return ItemSet(name="items", items=tuple(made))


def texts() -> ItemSet:
    return ItemSet(name="texts", items=tuple(text_example(text, "t") for text in ("Once upon a time.", "It rained " * 9, "Oh")))


def test_each_token_that_was_written_is_read_after_its_own_prompt(pair: tuple[subject.Subject, subject.Subject]) -> None:
    writer, reader = pair
    for items, how in ((talks(), {"max_new_tokens": 9}), (texts(), {"max_new_tokens": 9, "opening": 6})):
        written = _measure.load("generations", how).take(writer, items, Budget(64), None, Silent().at)
        found = _measure.load("losses_of_answers", {}).take(reader, items, Budget(64, tokens=50), written, Silent().at)
        start, token = written.arrays["start"], written.arrays["token"]
        for index, item in enumerate(items.items):
            sequence = token[start[index] : start[index + 1]].tolist()
            count = int(written.arrays["tokens"][index] + written.arrays["stopped"][index])
            prompt = writer.renderer.encode(item).tokens[: len(sequence) - count]
            assert tuple(sequence[:-count]) == prompt
            assert writer.renderer.decode(sequence[-count:]) == written.texts["answer"][index]
            with torch.no_grad():
                log_p = reader.model(torch.tensor([sequence])).logits[0].log_softmax(-1)
            wanted = [-log_p[place - 1, sequence[place]].item() for place in range(len(prompt), len(sequence))]
            assert found.arrays["nats"][index] == pytest.approx(np.mean(wanted), abs=1e-4)
            assert found.arrays["count"][index] == count == len(wanted)


def test_a_text_is_given_by_half_at_most_and_told(pair: tuple[subject.Subject, subject.Subject]) -> None:
    written = _measure.load("generations", {"max_new_tokens": 4, "opening": 8}).take(
        pair[0], texts(), Budget(64), None, Silent().at
    )
    assert written.texts["given"] == ["Once upo", "It raine", "O"]
    bare = _measure.load("generations", {"max_new_tokens": 4}).take(pair[0], texts(), Budget(64), None, Silent().at)
    assert "given" not in bare.texts


def test_a_model_is_less_surprised_by_itself_than_by_another(pair: tuple[subject.Subject, subject.Subject]) -> None:
    many = ItemSet(name="m", items=tuple(text_example(f"{index} times", "t") for index in range(24)))
    one, two = (
        _measure.load("generations", {"max_new_tokens": 12}).take(by, many, Budget(64), None, Silent().at) for by in pair
    )
    read = _measure.load("losses_of_answers", {})
    own, other = (read.take(pair[0], many, Budget(64), text, Silent().at).arrays["nats"].mean() for text in (one, two))
    assert own < other
