"""Measures against what a plain loop over the model gives."""

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
from palimpsest.measures._forward import take_together
from palimpsest.measures._measure import Budget
from palimpsest.measures._writing import Dice, write
from palimpsest.models import subject

KINDS = ("llama", "gpt2", "gemma3_text", "qwen3_5_text")


@pytest.fixture(scope="module", params=KINDS)
def one(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> subject.Subject:
    path = tiny.folder(tmp_path_factory.mktemp("model") / request.param, request.param)
    return subject.load(subject.inspect(path))


def items() -> ItemSet:
    options = {"yes": "Okay", "no": "But no", "other": "Maybe"}
    made = [
        conversation(("user", f"Say {word} now."), ("assistant", answer), template=word, source="test", options=options)
        for word, answer in (("a", "Okay, a."), ("bcd", "But no."), ("longer words", "Okay then, I do it."), ("x", "M"))
    ]
    return ItemSet(name="items", items=tuple(made))


def texts() -> ItemSet:
    return ItemSet(name="texts", items=tuple(text_example(text, "t") for text in ("Once upon a time.", "It rained " * 9, "Oh")))


def logits_of(one: subject.Subject, tokens: tuple[int, ...]) -> torch.Tensor:
    with torch.no_grad():
        return one.model(torch.tensor([tokens])).logits[0].log_softmax(-1)


def test_losses_are_those_of_a_plain_loop(one: subject.Subject) -> None:
    for group in (items(), texts()):
        found = _measure.load("losses", {}).take(one, group, Budget(64, tokens=60), None, Silent().at)
        start = found.arrays["start"]
        for index, item in enumerate(group.items):
            encoded = one.renderer.encode(item)
            tokens = encoded.tokens[:64]
            log_p = logits_of(one, tokens)
            wanted = [-log_p[place - 1, tokens[place]].item() for place in range(encoded.decision, len(tokens))]
            assert np.allclose(found.arrays["nats"][start[index] : start[index + 1]], wanted, atol=2e-5)


def test_batches_do_not_matter(one: subject.Subject) -> None:
    small, large = (
        _measure.load("losses", {}).take(one, items(), Budget(64, tokens=size), None, Silent().at) for size in (1, 4096)
    )
    assert np.allclose(small.arrays["nats"], large.arrays["nats"], atol=2e-5)


def test_options_are_sums_of_token_probabilities(one: subject.Subject) -> None:
    group = items()
    found = _measure.load("options", {}).take(one, group, Budget(64), None, Silent().at)
    place = 0
    for item in group.items:
        for name, text in item.options.items():
            encoded = one.renderer.encode_option(item, text)
            log_p = logits_of(one, encoded.tokens)
            wanted = sum(log_p[i - 1, encoded.tokens[i]].item() for i in range(encoded.decision, len(encoded.tokens)))
            assert found.texts["names"][place] == name
            assert found.arrays["log_probability"][place] == pytest.approx(wanted, abs=1e-4)
            assert found.arrays["tokens"][place] == len(encoded.tokens) - encoded.decision
            assert found.arrays["within"][place] == -1
            place += 1


def test_an_option_that_begins_with_another_is_told(one: subject.Subject) -> None:
    """Token by token: of several it begins with, the longest; of two that are the same, the first counts."""
    options = {"longest": "Okay, I do it.", "short": "Okay", "other": "But no", "longer": "Okay, I do", "again": "Okay"}
    item = conversation(("user", "Say a."), ("assistant", "Okay."), template="a", source="test", options=options)
    tokens = [one.renderer.encode_option(item, text).tokens for text in options.values()]
    if tokens[0][: len(tokens[3])] != tokens[3] or tokens[3][: len(tokens[1])] != tokens[1]:
        pytest.skip("this tokenizer joins the end of an option with what follows")
    group = ItemSet(name="items", items=(*items().items, item))
    found = _measure.load("options", {}).take(one, group, Budget(64), None, Silent().at)
    assert (found.arrays["within"][12:] - 12).tolist() == [3, 4, -13, 1, -13]


def test_distributions_are_exact_where_the_vocabulary_fits_and_bounded_elsewhere(one: subject.Subject) -> None:
    full = _measure.load("distributions", {}).take(one, texts(), Budget(64), None, Silent().at)
    assert "token" not in full.arrays
    assert np.allclose(np.exp(full.arrays["log_probability"].astype(float)).sum(-1), 1.0, atol=1e-4)
    few = _measure.load("distributions", {"cells": 8}).take(one, texts(), Budget(64), None, Silent().at)
    mass = np.exp(few.arrays["log_probability"].astype(float)).sum(-1) + np.exp(few.arrays["log_rest"].astype(float))
    assert np.allclose(mass, 1.0, atol=1e-4)
    assert few.arrays["token"].shape == (len(full.arrays["target"]), 8)
    again = _measure.load("distributions", {"cells": 8}).take(one, texts(), Budget(64), few, Silent().at)
    assert np.array_equal(again.arrays["token"], few.arrays["token"])


@pytest.mark.parametrize("positions", [2, 5, 9, 17, 40, 10**6])
def test_of_each_text_an_equal_share_of_the_positions_is_kept(one: subject.Subject, positions: int) -> None:
    whole = _measure.load("distributions", {}).take(one, texts(), Budget(64), None, Silent().at)
    part = _measure.load("distributions", {"positions": positions}).take(one, texts(), Budget(64), None, Silent().at)
    there, kept = whole.arrays["length"], np.diff(part.arrays["start"])
    assert np.array_equal(there, np.diff(whole.arrays["start"])) and np.array_equal(there, part.arrays["length"])
    assert kept.sum() == min(positions, there.sum())
    assert kept[kept < there].max(initial=0) - kept[kept < there].min(initial=positions) <= 1
    assert (kept[kept == there] <= kept[kept < there].max(initial=positions)).all()
    for low, first, count in zip(whole.arrays["start"], part.arrays["start"], kept, strict=False):
        for name in ("target", "log_probability", "log_rest"):
            assert np.allclose(part.arrays[name][first : first + count], whole.arrays[name][low : low + count], atol=1e-4)


def test_one_pass_serves_all_measures(one: subject.Subject) -> None:
    _measure.load("losses", {}).take(one, texts(), Budget(64), None, Silent().at)  # the first pass tries what the model can do
    calls = []
    handle = one.model.register_forward_hook(lambda *_: calls.append(1))
    measures = [(_measure.load(name, {}), None) for name in ("losses", "distributions")]
    together = take_together(one, texts(), measures, Budget(64), Silent().at)  # type: ignore[arg-type]
    count, calls[:] = len(calls), []
    alone = _measure.load("losses", {}).take(one, texts(), Budget(64), None, Silent().at)
    handle.remove()
    assert count == len(calls)
    assert np.array_equal(together[0].arrays["nats"], alone.arrays["nats"])


def test_generations_are_samples_of_the_model(tmp_path: Path) -> None:
    """The first sampled byte of many items follows the model's own distribution (chi-square)."""
    from scipy import stats

    one = subject.load(subject.inspect(tiny.folder(tmp_path / "m", "llama")))
    made = [conversation(("user", "Go"), ("assistant", "a"), template=str(i), source=str(i)) for i in range(1)]
    probability = logits_of(one, one.renderer.encode(made[0]).prompt)[-1].exp().numpy().astype(float)
    drawn = np.zeros_like(probability)
    for seed in range(600):
        prompt = one.renderer.encode(made[0]).prompt
        drawn[write(one, [prompt], [made[0].id], 1, Dice(1.0, seed), 64, lambda _: None)[0][0]] += 1
    common = probability > 5 / 600
    observed = np.append(drawn[common], drawn[~common].sum())
    expected = 600 * np.append(probability[common], probability[~common].sum())
    assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-3


def test_both_models_draw_with_the_same_dice_whatever_the_batch(one: subject.Subject) -> None:
    measure = _measure.load("generations", {"max_new_tokens": 12})
    alone = measure.take(one, items(), Budget(64, tokens=1), None, Silent().at)
    together = measure.take(one, items(), Budget(64), None, Silent().at)
    assert alone.texts["answer"] == together.texts["answer"]
    assert len(set(alone.texts["answer"])) > 1


@pytest.mark.parametrize("positions", [11, 16, 64])
def test_nothing_is_written_beyond_the_context(positions: int, tmp_path: Path) -> None:
    with subject.load(subject.inspect(tiny.folder(tmp_path, "gpt2", n_positions=positions))) as one:
        how = {"max_new_tokens": 48, "opening": 16}
        found = _measure.load("generations", how).take(one, texts(), Budget(positions), None, Silent().at)
    widths, written = np.diff(found.arrays["start"]), found.arrays["tokens"] + found.arrays["stopped"]
    assert (widths <= positions).all() and (written >= 1).all() and written.max() == (48 if positions == 64 else positions // 2)
