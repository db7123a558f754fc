"""Activations and their reading against a plain loop over the model, and against planted directions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from permuted import permuted

from palimpsest.core.measurement import Measurement
from palimpsest.core.progress import Silent
from palimpsest.data.chat import ItemSet, conversation
from palimpsest.data.user_files import text_example
from palimpsest.measures import _measure
from palimpsest.measures._forward import take_together
from palimpsest.measures._lens import Lens
from palimpsest.measures._measure import Budget
from palimpsest.models import subject

KINDS = ("llama", "gpt2", "gemma3_text", "qwen3_5_text")
WORDS = ("cat", "dog", "hen", "owl", "fox", "bee", "pig", "cow", "ant", "elk")


@pytest.fixture(scope="module", params=KINDS)
def one(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> subject.Subject:
    return opened(tmp_path_factory.mktemp("model") / request.param, request.param)


def opened(path: Path, kind: str = "llama", **settings: Any) -> subject.Subject:
    return subject.load(subject.inspect(tiny.folder(path, kind, **settings)))


def talks() -> ItemSet:
    made = [
        conversation(("user", f"Say {word} now."), ("assistant", answer), template=word, source="test")
        for word, answer in (("a", "Okay, a."), ("bcd", "But no."), ("longer words", "Okay then, I do it."), ("x", "M"))
    ]
    return ItemSet(name="items", items=tuple(made))


def texts() -> ItemSet:
    lines = ("Once upon a time.", "It rained " * 9, "Oh", *(f"The {word} came in and sat." for word in WORDS))
    return ItemSet(name="texts", items=tuple(text_example(text, "t", template=text[:9]) for text in lines))


def take(one: subject.Subject, items: ItemSet, after: Measurement | None = None, tokens: int = 8192, **how: Any) -> Measurement:
    return _measure.load("activations", how).take(one, items, Budget(64, tokens=tokens), after, Silent().at)


def wanted(one: subject.Subject, tokens: tuple[int, ...], depth: int) -> np.ndarray:
    """Residual stream of one row [positions, width], from a pass of its own."""
    found: dict[int, torch.Tensor] = {}
    from palimpsest.models.taps import watching

    with watching(one.model, lambda level, stream: found.__setitem__(level, stream.clone())), torch.no_grad():
        one.model(torch.tensor([tokens]))
    return found[depth][0].numpy()


@pytest.mark.parametrize("tokens", [60, 8192])
def test_they_are_those_of_a_plain_loop(one: subject.Subject, tokens: int) -> None:
    found = take(one, talks(), tokens=tokens)
    assert found.texts["slots"] == ["decision", "answer"]
    for index, item in enumerate(talks().items):
        encoded = one.renderer.encode(item)
        for depth in range(3):
            stream, (decision, answer) = wanted(one, encoded.tokens, depth), found.arrays["residual"][index, depth]
            assert np.allclose(decision, stream[encoded.decision - 1], atol=2e-4)
            later = stream[encoded.decision : len(encoded.tokens) - 1]
            assert bool(len(later)) == found.arrays["present"][index, 1]
            if len(later):
                assert np.allclose(answer, later.mean(0), atol=2e-4)
    assert not found.arrays["present"][3, 1]  # an answer of one token has nothing after it


def test_texts_are_read_at_their_first_tokens(one: subject.Subject) -> None:
    found = take(one, texts(), first_tokens=3)
    assert found.texts["slots"] == ["token 1", "token 2", "token 3", "later tokens"]
    tokens = one.renderer.encode(texts().items[0]).tokens
    stream = wanted(one, tokens, 2)
    assert np.allclose(found.arrays["residual"][0, 2, :3], stream[:3], atol=2e-4)
    assert np.allclose(found.arrays["residual"][0, 2, 3], stream[3 : len(tokens) - 1].mean(0), atol=2e-4)
    assert found.arrays["present"][2].tolist() == [
        one_read < len(one.renderer.encode(texts().items[2]).tokens) - 1 for one_read in (0, 1, 2, 3)
    ]


def test_other_measures_of_the_same_pass_are_bit_for_bit_what_they_are_alone(one: subject.Subject) -> None:
    base = take(one, texts())
    names = ("losses", "distributions")
    alone = take_together(one, texts(), [(_measure.load(name, {}), None) for name in names], Budget(64), Silent().at)  # type: ignore[misc]
    both = [(_measure.load("activations", {}), base), *((_measure.load(name, {}), None) for name in names)]
    together = take_together(one, texts(), both, Budget(64), Silent().at)  # type: ignore[arg-type]
    for first, second in zip(alone, together[1:], strict=True):
        assert first.texts == second.texts
        assert all(np.array_equal(first.arrays[name], second.arrays[name]) for name in first.arrays)
    assert np.array_equal(together[0].arrays["difference"], take(one, texts(), base).arrays["difference"])


def test_two_readers_that_look_inside_do_not_disturb_each_other(one: subject.Subject) -> None:
    base = take(one, texts())
    measures = [(_measure.load("activations", {}), base), (_measure.load("activations", {}), None)]
    found = take_together(one, texts(), measures, Budget(64), Silent().at)  # type: ignore[arg-type]
    assert np.array_equal(found[1].arrays["residual"], base.arrays["residual"])
    assert not found[0].arrays["difference"].any()


def test_against_itself_it_is_exactly_nothing_and_says_nothing(one: subject.Subject) -> None:
    for items in (talks(), texts()):
        found = take(one, items, take(one, items))
        assert not found.arrays["difference"].any()
        assert np.isnan(found.arrays["lens_nats"]).all()
        assert found.texts["vocabulary"] == []


def test_permuted_heads_leave_it_where_it_was(tmp_path: Path) -> None:
    one = opened(tmp_path / "m")
    base = take(one, texts())
    one.model = permuted(one.model)
    found = take(one, texts(), base)
    assert np.abs(found.arrays["difference"]).max() < 1e-4 * found.arrays["length"].max()


def planted(one: subject.Subject, vector: torch.Tensor, block: int) -> None:
    """Add a vector to what a block of a GPT-2 writes, through the bias of its last projection."""
    with torch.no_grad():
        one.model.transformer.h[block].mlp.c_proj.bias += vector


def test_a_planted_direction_is_recovered_and_named(tmp_path: Path) -> None:
    one = opened(tmp_path / "m", "gpt2")
    torch.nn.init.ones_(one.model.transformer.ln_f.weight)  # the tiny model's own scrambles every direction
    torch.nn.init.zeros_(one.model.transformer.ln_f.bias)
    base, token = take(one, texts()), 70
    row = one.model.get_output_embeddings().weight[token].clone()
    planted(one, 0.7 * row, 1)
    found = take(one, texts(), base)
    difference = found.arrays["difference"][found.arrays["present"].all(1)]
    assert not difference[:, :2].any()  # nothing before the block it was planted in
    after = difference[:, 2].reshape(-1, 32)
    cosine = after @ row.numpy() / (np.linalg.norm(after, axis=1) * row.norm().item())
    assert cosine.min() > 0.9999
    assert np.allclose(np.linalg.norm(after, axis=1), 0.7 * row.norm().item(), rtol=1e-4)
    assert (found.arrays["lens_token"][2, :, 0, 0] == token).all()
    assert not (found.arrays["lens_token"][2, :, 1] == token).any()
    said, random = found.arrays["lens_nats"][2].max(-1), found.arrays["random_nats"][2].max(-1)
    assert (said > np.quantile(random, 0.9, axis=-1)).all()
    assert np.isnan(found.arrays["lens_nats"][:2]).all()


def test_a_random_direction_says_no_more_than_random_directions(tmp_path: Path) -> None:
    """The p-value of a direction that means nothing is uniform, as it must be."""
    one = opened(tmp_path / "m", "llama")
    rng, p_values = np.random.default_rng(3), []
    for trial in range(120):  # other random directions each time: those of one trial are only a sample
        moved = np.repeat(rng.standard_normal((1, 1, 1, 32)), 12, axis=0).astype(np.float32)
        found, _ = Lens(directions=39, seed=trial).readings(one, moved, np.ones((12, 1), dtype=bool), (*WORDS, "emu", "yak"))
        own, random = found["lens_nats"][0, 0].max(), found["random_nats"][0, 0].max(-1)
        p_values.append((1 + (random >= own).sum()) / 40)
    from scipy import stats

    assert stats.kstest(p_values, "uniform").pvalue > 1e-3


def test_what_is_said_is_the_divergence_from_the_mean_random_reading(tmp_path: Path) -> None:
    one = opened(tmp_path / "m", "gpt2")
    moved = np.random.default_rng(0).standard_normal((8, 1, 1, 32)).astype(np.float32)
    lens = Lens(directions=8, folds=8)
    found, _ = lens.readings(one, moved, np.ones((8, 1), dtype=bool), WORDS[:8])
    from palimpsest.core.seeds import numpy_stream
    from palimpsest.models.taps import read_out

    mean = moved[:, 0, 0].mean(0)
    random = numpy_stream(0, "lens", 32).standard_normal((8, 32))
    random *= np.linalg.norm(mean) / np.linalg.norm(random, axis=1, keepdims=True)

    def read(vectors: np.ndarray) -> np.ndarray:
        return read_out(one.model, torch.tensor(vectors, dtype=torch.float32)).softmax(-1).double().numpy()

    p, q = read(mean[None])[0], np.concatenate([read(random), read(-random)])
    assert found["lens_nats"][0, 0, 0] == pytest.approx((p * np.log(p / q.mean(0))).sum(), rel=1e-4)
    rest = np.delete(q, [3, 11], axis=0).mean(0)
    assert found["random_nats"][0, 0, 3, 1] == pytest.approx((q[11] * np.log(q[11] / rest)).sum(), rel=1e-4)
    without = read(np.delete(moved[:, 0, 0], 0, axis=0).mean(0)[None])[0]
    fold = sorted(WORDS[:8]).index(WORDS[0])
    assert found["fold_nats"][0, 0, fold, 0] == pytest.approx((without * np.log(without / q.mean(0))).sum(), rel=1e-4)


def test_other_shapes_are_told_and_not_compared(tmp_path: Path) -> None:
    base = take(opened(tmp_path / "a"), texts())
    wide = take(opened(tmp_path / "b", hidden_size=64), texts(), base)
    deep = take(opened(tmp_path / "c", num_hidden_layers=3), texts(), base)
    assert "difference" not in wide.arrays
    assert wide.arrays["shape"].tolist() == [[2, 32], [2, 64]]
    assert deep.arrays["shape"].tolist() == [[2, 32], [3, 32]]


def test_a_model_whose_stream_is_not_found_takes_nothing_else_down(
    one: subject.Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(_model: object) -> list[object]:
        raise LookupError("no blocks here")

    monkeypatch.setattr("palimpsest.measures.activations.streaming_blocks", missing)
    measures = [(_measure.load(name, {}), None) for name in ("activations", "losses")]
    found = take_together(one, texts(), measures, Budget(64), Silent().at)  # type: ignore[arg-type]
    assert found[0].texts["why"] == ["no blocks here"]
    assert found[1].arrays["nats"].size


def test_wide_models_are_kept_small() -> None:
    measure: Any = _measure.load("activations", {})
    assert measure.chosen_depths(6) == list(range(7))
    assert measure.chosen_depths(36) == [0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 33, 36]
    assert 16 <= len(measure.chosen_items(1000, 13 * 6 * 2560)) <= 256
    assert measure.numbers(1000, 36, 2560) <= measure.values
    assert measure.chosen_items(192, 7 * 2 * 128) == list(range(192))


def test_the_forecast_is_what_is_kept(one: subject.Subject) -> None:
    measure: Any = _measure.load("activations", {})
    found = take(one, texts())
    assert measure.numbers(len(texts().items), 2, 32) == found.arrays["residual"].size
