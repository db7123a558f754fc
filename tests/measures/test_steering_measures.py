"""Contrasts and steered passes against plain loops over the model, on several architectures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
import torch

from palimpsest.core.measurement import Measurement
from palimpsest.core.progress import Silent
from palimpsest.core.seeds import numpy_stream
from palimpsest.data.chat import ItemSet, conversation
from palimpsest.data.steering import best_level, direction
from palimpsest.data.user_files import text_example
from palimpsest.measures import _measure
from palimpsest.measures._measure import Budget
from palimpsest.models import subject
from palimpsest.models.taps import adding, blocks, watching

WORDS = ("cat", "dog", "hen", "owl", "fox", "bee", "pig", "cow", "ant", "elk")


@pytest.fixture(scope="module", params=("llama", "gpt2", "qwen3_5_text"))
def one(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> subject.Subject:
    return subject.load(subject.inspect(tiny.folder(tmp_path_factory.mktemp("model") / "m", request.param)))


def talks(name: str = "pairs") -> ItemSet:
    options = {"yes": "Yes", "no": "No, no"}
    made = [
        conversation(("user", f"A {word}{'!' * place}"), ("assistant", "Yes."), template=word, source="t", options=options)
        for place, word in enumerate(WORDS)
    ]
    return ItemSet(name=name, items=tuple(made))


def texts() -> ItemSet:
    return ItemSet(name="texts", items=tuple(text_example(f"The {word} came in.", "t", template=word) for word in WORDS))


def take(
    one: subject.Subject, name: str, items: ItemSet, after: Measurement | None = None, tokens: int = 8192, **how: Any
) -> Measurement:
    return _measure.load(name, how).take(one, items, Budget(64, tokens=tokens), after, Silent().at)


def plain(one: subject.Subject, tokens: tuple[int, ...], depth: int, vector: np.ndarray | None = None, first: int = 0) -> Any:
    """Residual streams and log-probabilities of one row, a vector added after a block from a position on."""
    streams: dict[int, torch.Tensor] = {}

    def where() -> torch.Tensor:
        return (torch.arange(len(tokens)) >= first).float()[None]

    added = torch.zeros(one.model.config.get_text_config().hidden_size) if vector is None else torch.from_numpy(vector).float()
    with (
        adding(one.model, depth, added, where),
        watching(one.model, lambda level, stream: streams.__setitem__(level, stream.clone())),
        torch.no_grad(),
    ):
        logits = one.model(torch.tensor([tokens])).logits
    return {level: stream[0].numpy() for level, stream in streams.items()}, logits[0].log_softmax(-1).numpy()


@pytest.mark.parametrize("tokens", [40, 8192])
def test_contrasts_are_those_of_a_plain_loop(one: subject.Subject, tokens: int) -> None:
    found = take(one, "contrasts", talks(), tokens=tokens)
    assert found.arrays["depth"].tolist() == [1, 2]
    for index, item in enumerate(talks().items):
        for side, text in enumerate(item.options.values()):
            encoded = one.renderer.encode_option(item, text)
            streams, _ = plain(one, encoded.tokens, 1)
            for level, depth in enumerate((1, 2)):
                wanted = streams[depth][encoded.decision :].mean(0)
                assert np.allclose(found.arrays["residual"][index, side, level], wanted, atol=3e-4)


def test_steered_answers_are_those_of_a_plain_loop(one: subject.Subject) -> None:
    contrasts = take(one, "contrasts", talks())
    found = take(one, "steered", talks("express"), contrasts, tokens=60, draws=1)
    level = best_level(contrasts)
    depth, vector = int(contrasts.arrays["depth"][level]), direction(contrasts.arrays["residual"][:, :, level], "mean")
    random = numpy_stream(0, "steered", "random", len(vector)).standard_normal((1, len(vector)))[0]
    random *= np.linalg.norm(vector) / np.linalg.norm(random)
    assert found.arrays["depth"].tolist() == [depth]
    wanted = {(0.0, -1): 0 * vector, (2.0, -1): 2 * vector, (1.0, 0): random, (-1.0, 0): -random}
    conditions = list(zip(found.arrays["multiplier"].tolist(), found.arrays["draw"].tolist(), strict=True))
    for index, item in enumerate(talks().items[:3]):
        for place, text in enumerate(item.options.values()):
            encoded = one.renderer.encode_option(item, text)
            for condition, added in wanted.items():
                _, log_p = plain(one, encoded.tokens, depth, added, encoded.decision - 1)
                told = sum(log_p[at - 1, encoded.tokens[at]] for at in range(encoded.decision, len(encoded.tokens)))
                row = found.arrays["log_probability"][conditions.index(condition)]
                assert row[found.arrays["start"][index] + place] == pytest.approx(told, abs=2e-3)


def test_the_decision_and_its_shift_are_those_of_the_vector(one: subject.Subject) -> None:
    contrasts = take(one, "contrasts", talks())
    found = take(one, "steered", talks("express"), contrasts, draws=0).arrays
    level = best_level(contrasts)
    vector = direction(contrasts.arrays["residual"][:, :, level], "mean")
    shift = found["shift"]
    assert np.allclose(shift[:, level], vector, atol=1e-4)  # where it is added, that is what there is
    assert not shift[:, :level].any()  # and nothing before
    assert "random_shift" not in found
    random = take(one, "steered", talks("express"), contrasts, draws=2).arrays["random_shift"]
    assert np.allclose(np.linalg.norm(random[:, level], axis=-1), np.linalg.norm(vector), rtol=1e-4)
    assert np.ptp(random[:, level], axis=0).max() < 1e-3  # the same direction for every item
    assert "decision_token" not in found  # the vocabulary fits
    assert np.allclose(np.exp(found["decision"].astype(float)).sum(-1), 1.0, atol=1e-4)
    encoded = one.renderer.encode_option(talks().items[2], "Yes")
    _, log_p = plain(one, encoded.tokens, 1)
    assert np.allclose(found["decision"][0, 2], log_p[encoded.decision - 1], atol=1e-3)


def test_a_large_vocabulary_is_read_at_the_bases_most_likely_tokens(one: subject.Subject) -> None:
    contrasts = take(one, "contrasts", talks())
    whole = take(one, "steered", talks("express"), contrasts, draws=0).arrays
    some = take(one, "steered", talks("express"), contrasts, draws=0, cells=20).arrays
    assert some["decision_token"].shape == (10, 20)
    for row in range(2):
        kept = np.take_along_axis(whole["decision"][row], some["decision_token"], axis=1)
        assert np.allclose(some["decision"][row], kept, atol=1e-5)
        rest = 1 - np.exp(kept.astype(float)).sum(1)
        assert np.allclose(np.exp(some["decision_rest"][row]), rest, atol=1e-5)


@pytest.mark.parametrize("cells", [20, 1024])
def test_decisions_are_the_next_token_of_the_context(one: subject.Subject, cells: int) -> None:
    before = take(one, "decisions", talks(), cells=cells)
    after = take(one, "decisions", talks(), before, cells=cells)
    assert all(np.array_equal(before.arrays[name], after.arrays[name]) for name in before.arrays)
    assert ("token" in before.arrays) == (cells == 20)
    for index, item in enumerate(talks().items[:3]):
        encoded = one.renderer.encode(item)
        _, log_p = plain(one, encoded.tokens, 1)
        wanted = log_p[encoded.decision - 1]
        chosen = before.arrays["token"][index] if "token" in before.arrays else np.arange(len(wanted))
        assert np.allclose(before.arrays["log_probability"][index], wanted[chosen], atol=1e-3)


def test_text_diverges_from_itself_only_when_something_is_added(one: subject.Subject) -> None:
    contrasts = take(one, "contrasts", talks())
    found = take(one, "steered", texts(), contrasts, draws=2)
    assert found.arrays["kl"].shape == (1 + 6 + 4, len(found.arrays["item"]))
    assert not found.arrays["kl"][0].any()
    assert (found.arrays["kl"][1:] > 0).all()
    few = take(one, "steered", texts(), contrasts, draws=2, cells=16)
    assert (few.arrays["kl"] <= found.arrays["kl"] + 1e-5).all()  # a lower bound


def test_the_model_is_left_as_it_was(one: subject.Subject) -> None:
    def hooks() -> int:
        return sum(len(block._forward_hooks) + len(block._forward_pre_hooks) for block in blocks(one.model))

    before = hooks(), plain(one, (5, 6, 7), 1)[1]
    contrasts = take(one, "contrasts", talks())
    take(one, "steered", talks("express"), contrasts)
    with pytest.raises(ZeroDivisionError), adding(one.model, 1, torch.ones(32)):
        raise ZeroDivisionError
    assert hooks() == before[0] == 0
    assert np.array_equal(plain(one, (5, 6, 7), 1)[1], before[1])


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_adding_after_the_last_block_is_the_tail_computed_by_hand(kind: str) -> None:
    model = tiny.model(kind)
    norm, last = (model.model.norm, 2) if kind == "llama" else (model.transformer.ln_f, 2)
    vector, tokens = torch.linspace(-1, 1, 32), torch.tensor([[5, 9, 11]])
    streams: list[torch.Tensor] = []
    with torch.no_grad():
        with watching(model, lambda _, stream: streams.append(stream.clone()), [last]):
            model(tokens)
        with adding(model, last, vector):
            steered = model(tokens).logits
        wanted = model.get_output_embeddings()(norm(streams[0] + vector))
    assert torch.allclose(steered, wanted, atol=1e-5)


def test_a_tail_without_norm_shifts_logits_by_what_the_head_reads() -> None:
    """With a linear tail, adding v adds W v to every logit, and twice v twice as much."""
    model = tiny.model("gpt2")
    model.transformer.ln_f = torch.nn.Identity()
    vector, tokens = torch.linspace(-1, 1, 32), torch.tensor([[5, 9, 11]])
    with torch.no_grad():
        before = model(tokens).logits
        shift = model.get_output_embeddings().weight @ vector
        for multiple in (1.0, -2.0):
            with adding(model, 2, multiple * vector):
                assert torch.allclose(model(tokens).logits - before, (multiple * shift).expand_as(before), atol=1e-4)


def test_a_model_without_blocks_says_why() -> None:
    made = tiny.model("llama")
    made.model.layers = torch.nn.ModuleList(list(made.model.layers)[:1])

    class Odd:
        model = made

    found = _measure.load("contrasts", {}).take(Odd(), talks(), Budget(64), None, Silent().at)
    assert "no list of 2 blocks" in found.texts["why"][0]
    after = _measure.load("steered", {}).take(Odd(), talks(), Budget(64), found, Silent().at)
    assert after.texts["why"] == found.texts["why"]


def test_multipliers_must_hold_both_units() -> None:
    from palimpsest.core.errors import UserError

    with pytest.raises(UserError, match="1 and -1 must be among them"):
        _measure.load("steered", {"multipliers": (1.0, 2.0)})
