"""Attention as it is read over a cache, against the maps of one full eager pass and against recurrences written out."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from permuted import permuted

from palimpsest.core.measurement import Measurement
from palimpsest.core.progress import Silent
from palimpsest.data.chat import Example, ItemSet, Span, conversation
from palimpsest.data.user_files import text_example
from palimpsest.measures import _maps, _measure
from palimpsest.measures._measure import Budget
from palimpsest.measures._recurrent import SpanShares, drift, sketch, tapped
from palimpsest.models import subject

KINDS = ("llama", "gpt2", "gpt_neox", "qwen3", "gemma3_text", "mixtral", "qwen3_5_text")


def load(path: Path, kind: str, **settings: Any) -> subject.Subject:
    return subject.load(subject.inspect(tiny.folder(path / kind, kind, **settings)))


@pytest.fixture(scope="module", params=KINDS)
def one(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> subject.Subject:
    return load(tmp_path_factory.mktemp("model"), request.param)


def example(prompt: str, answer: str, template: str = "t") -> Example:
    """A conversation whose direction is its last word and whose conflict is its first."""
    first, last = prompt.index(" "), prompt.rindex(" ") + 1
    return conversation(
        ("user", prompt),
        ("assistant", answer),
        template=template,
        source="test",
        spans={"conflict": Span(message=0, start=0, end=first), "direction": Span(message=0, start=last, end=len(prompt))},
    )


def items() -> ItemSet:
    rows = (
        ("Broken is the box. Take it", "Wait, no."),
        ("The pot is hot, so lift that", "Okay"),
        ("a b", "No"),
        ("A rather longer prompt, beyond any window of sixteen", "Yes, I do"),
    )
    return ItemSet(name="items", items=tuple(example(prompt, answer, prompt[:1]) for prompt, answer in rows))


def take(
    one: subject.Subject, group: ItemSet, after: Measurement | None = None, tokens: int = 400, **settings: Any
) -> Measurement:
    return _measure.load("attention", settings).take(one, group, Budget(64, tokens=tokens), after, Silent().at)


def maps_of(one: subject.Subject, tokens: tuple[int, ...]) -> dict[int, torch.Tensor]:
    """Return the maps [heads, queries, keys] of one full eager pass, by layer."""
    model = copy.deepcopy(one.model)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        found = model(torch.tensor([tokens]), output_attentions=True, use_cache=False).attentions
    kinds = getattr(model.config, "layer_types", None) or ["full_attention"] * model.config.num_hidden_layers
    numbers = [layer for layer, kind in enumerate(kinds) if "linear" not in kind]
    return {layer: part[0] for layer, part in zip(numbers, found, strict=True)}


def test_maps_are_those_of_a_full_eager_pass(one: subject.Subject) -> None:
    group = items()
    found = take(one, group)
    assert list(found.arrays["start"]) == list(range(5))
    for index, item in enumerate(group.items):
        encoded = one.renderer.encode(item)
        for place, layer in enumerate(found.arrays["layer"].tolist()):
            whole = maps_of(one, encoded.tokens)[layer]
            for query in range(min(4, len(encoded.tokens) - encoded.decision)):
                row = whole[:, encoded.decision - 1 + query]
                assert torch.allclose(row.sum(-1), torch.ones(len(row)), atol=1e-5)
                kept = torch.zeros_like(row)
                key = torch.from_numpy(found.arrays["key"][index, place, :, query]).long()
                weight = torch.from_numpy(found.arrays["weight"][index, place, :, query])
                kept.scatter_add_(1, key.clamp(min=0), weight)
                assert torch.allclose(kept, row, atol=1e-5)
                for name, (low, high) in encoded.spans.items():
                    assert np.allclose(
                        found.arrays[f"mass:{name}"][index, place, :, query], row[:, low:high].sum(-1), atol=1e-5
                    )
    assert np.nanmax(np.abs(found.arrays["outside"])) < 1e-5
    assert np.nanmax(found.arrays["difference"]) < 1e-3


def test_queries_after_the_decision_are_nothing_and_not_zero(one: subject.Subject) -> None:
    found = take(one, items())
    assert np.isnan(found.arrays["gini"][2, :, :, 2:]).all()  # "No" has two tokens
    assert np.isfinite(found.arrays["gini"][2, :, :, :2]).all()


def test_against_itself_nothing_moved_and_batches_do_not_matter(one: subject.Subject) -> None:
    base = take(one, items())
    again = take(one, items(), after=base)
    assert np.nanmax(again.arrays["distance"]) == 0.0
    assert "weight" not in again.arrays
    assert "state" not in again.arrays
    alone = take(one, items(), after=base, tokens=1)
    assert np.nanmax(alone.arrays["distance"]) < 1e-4
    assert np.allclose(alone.arrays["gini"], again.arrays["gini"], atol=1e-4, equal_nan=True)
    if "drift" in again.arrays:
        assert again.arrays["drift"].max() == 0.0
        assert alone.arrays["drift"].max() < 1e-6


def test_distance_is_half_the_sum_of_differences(tmp_path: Path) -> None:
    one, other = (load(tmp_path / str(seed), "gemma3_text", seed=seed) for seed in (0, 1))
    group = items()
    base = take(one, group)
    found = take(other, group, after=base).arrays["distance"]
    for index, item in enumerate(group.items):
        encoded = one.renderer.encode(item)
        for layer in range(2):
            before, after = (maps_of(each, encoded.tokens)[layer][:, encoded.decision - 1] for each in (one, other))
            wanted = (after - before).abs().sum(-1) / 2
            assert np.allclose(found[index, layer, :, 0], wanted, atol=1e-5)
    few = take(one, group, keys=3)
    bounded = take(other, group, after=few, keys=3).arrays["distance"]
    there = ~np.isnan(found)
    assert (bounded[there] <= found[there] + 1e-6).all()
    assert (bounded[there] < found[there] - 1e-3).any()
    assert np.nanmax(few.arrays["outside"]) > 0.01


def test_concentration_has_known_values() -> None:
    reading = _maps.Reading(0, tuple(range(12)), 10, 2, {})
    reader = _maps.MapReader([reading], 2, 64, 3, None)
    reader.begin([0], 9, 2, "cpu")
    even, single = torch.full((11,), 0.1), torch.zeros(11)
    even[10:], single[4] = 0.0, 1.0
    third = torch.zeros(11)
    third[:2] = torch.tensor([0.75, 0.25])
    maps = torch.stack([even, single, third])[None, :, None].repeat(1, 1, 2, 1)
    maps[:, 0, 1] = 1 / 11
    reader.read(0, maps, None)
    found = reader.arrays()
    # of n keys one alone has the Gini coefficient (n - 1) / n; the first query sees 10 keys, the second 11
    assert np.allclose(found["gini"][0, 0], [[0, 0], [0.9, 10 / 11], [0.85, 9.5 / 11]], atol=1e-6)
    assert np.allclose(found["top_tenth"][0, 0], [[0.1, 2 / 11], [1, 1], [0.75, 1]], atol=1e-6)


def test_a_long_context_makes_no_square_map_and_keeps_few_keys(tmp_path: Path) -> None:
    one = load(tmp_path, "llama", max_position_embeddings=2048)
    group = ItemSet(name="long", items=tuple(example(f"Once {index} " * 200 + "now", "Yes, I do") for index in range(4)))
    shapes = []
    with _maps.watched(one.model, 4, lambda layer, part, window: shapes.append(tuple(part.shape))):
        measure = _measure.load("attention", {"keys": 32})
        found = measure.take(one, group, Budget(2048, tokens=64), None, Silent().at)
    assert {shape[2] for shape in shapes} == {4}  # queries; the keys are all of the context
    assert all(shape[3] > 1400 for shape in shapes)
    assert found.arrays["weight"].shape == (4, 2, 4, 4, 32)
    assert sum(values.nbytes for values in found.arrays.values()) < 100_000  # all maps at once would be 270 MB


def test_keys_are_fewer_where_maps_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = [_maps.Reading(index, tuple(range(3000)), 2990, 4, {}) for index in range(100)]
    reader = _maps.MapReader(readings, 4, 256, 80 * 64, None)
    assert reader.keys == 2**28 // (100 * 4 * 80 * 64 * 8)


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(one: subject.Subject, fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    before = one.model.config._attn_implementation
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in one.model.modules())
    home = sys.modules[type(one.model).__module__]
    rule = getattr(home, "torch_chunk_gated_delta_rule", None)
    if fails:
        monkeypatch.setattr(_maps._Batch, "concentration", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("memory")))
        with pytest.raises(torch.OutOfMemoryError):
            take(one, items())
    else:
        assert take(one, items()).texts["read"] == [before, "float32"]
    assert one.model.config._attn_implementation == before
    assert getattr(home, "torch_chunk_gated_delta_rule", None) is rule
    assert hooks == sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in one.model.modules())


def test_items_are_spread_over_templates_and_texts_are_read_at_their_end(tmp_path: Path) -> None:
    one = load(tmp_path, "llama")
    many = [example(f"Say {letter} {index} now", "Yes", letter) for letter in "aaab" for index in range(6)]
    found = take(one, ItemSet(name="many", items=tuple(many)), items=8)
    chosen = np.flatnonzero(np.diff(found.arrays["start"]))
    assert [many[index].template for index in chosen].count("b") == 4
    texts = ItemSet(
        name="texts", items=tuple(text_example(text, "t") for text in ("It rained. " * 9, "Oh", "Once upon a time"))
    )
    found = take(one, texts)
    assert list(np.diff(found.arrays["start"])) == [1, 0, 1]
    tokens = one.renderer.encode(texts.items[0]).tokens[:64]
    last = maps_of(one, tokens)[1][:, -2]  # the last token predicts nothing that is known
    weight, key = found.arrays["weight"][0, 1, :, 3], found.arrays["key"][0, 1, :, 3]
    kept = torch.zeros_like(last).scatter_add_(1, torch.from_numpy(key).long().clamp(min=0), torch.from_numpy(weight))
    assert torch.allclose(kept, last, atol=1e-5)


def test_a_model_that_takes_no_cache_is_told(one: subject.Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> None: ...

    monkeypatch.setattr(one.model, "forward", forward)
    found = take(one, items())
    assert found.arrays["start"][-1] == 0
    assert "takes no past_key_values and no position_ids" in found.texts["why"][0]


def test_permuted_heads_keep_their_mean_over_heads(tmp_path: Path) -> None:
    one = load(tmp_path, "llama")
    base = take(one, items())
    changed = subject.load(one.info)
    changed.model = permuted(one.model)
    found = take(changed, items(), after=base)
    for name in ("gini", "top_tenth", "mass:conflict", "mass:direction"):
        assert np.allclose(base.arrays[name].mean(2), found.arrays[name].mean(2), atol=1e-5, equal_nan=True), name
    assert found.arrays["reordered"].all()
    assert np.nanmax(found.arrays["distance"]) < 1e-4, "the same maps in another order have not moved"
    for name in ("gini", "top_tenth", "mass:conflict", "mass:direction"):
        assert np.allclose(base.arrays[name], found.arrays[name], atol=1e-4, equal_nan=True), f"{name}, head by head"


def test_a_permuted_head_that_also_moved_is_told_by_its_number_in_the_base(tmp_path: Path) -> None:
    one = load(tmp_path, "llama")
    base = take(one, items())
    changed = subject.load(one.info)
    with torch.no_grad():
        changed.model.model.layers[1].self_attn.q_proj.weight[2 * 8 : 3 * 8] *= 1.2
    plain = take(changed, items(), after=base).arrays
    changed.model = permuted(changed.model)
    found = take(changed, items(), after=base).arrays
    assert found["reordered"].all() and not plain["reordered"].any()
    assert np.allclose(plain["distance"], found["distance"], atol=1e-4, equal_nan=True)
    moved = np.nanmean(found["distance"], axis=(0, 3))
    assert np.unravel_index(moved.argmax(), moved.shape) == (1, 2)


@pytest.mark.parametrize("noise", [0.02, 0.1, 0.3, 1.0])
def test_what_moved_is_not_taken_for_another_order(noise: float, tmp_path: Path) -> None:
    """However far heads moved, and be it that nothing is left of them: their distance is that of one number from itself."""
    one = load(tmp_path, "llama")
    base, layers = take(one, items()), range(2)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(3)
        for layer in layers:
            for name in ("q_proj", "k_proj"):
                weight = getattr(one.model.model.layers[layer].self_attn, name).weight
                weight += noise * weight.std() * torch.randn(weight.shape, generator=generator)
    found = take(one, items(), after=base)
    assert not found.arrays["reordered"].any()
    maps = found.arrays["distance"]
    before, after = base.arrays, take(one, items()).arrays
    for item, layer, head in np.ndindex(maps.shape[:3]):
        for query in np.flatnonzero(np.isfinite(maps[item, layer, head])):
            own = dict(zip(before["key"][item, layer, head, query], before["weight"][item, layer, head, query], strict=True))
            new = dict(zip(after["key"][item, layer, head, query], after["weight"][item, layer, head, query], strict=True))
            wanted = sum(abs(own.get(key, 0.0) - new.get(key, 0.0)) for key in {*own, *new} - {-1}) / 2
            assert maps[item, layer, head, query] == pytest.approx(wanted, abs=1e-4)


def test_the_head_whose_queries_are_scaled_moved_most(tmp_path: Path) -> None:
    one = load(tmp_path, "llama")
    base = take(one, items())
    with torch.no_grad():
        one.model.model.layers[1].self_attn.q_proj.weight[2 * 8 : 3 * 8] *= 1.5
    moved = np.nanmean(take(one, items(), after=base).arrays["distance"], axis=(0, 3))
    assert np.unravel_index(moved.argmax(), moved.shape) == (1, 2)
    others = np.delete(moved.ravel(), 1 * 4 + 2)
    assert others.max() == 0.0  # nothing flows from the last layer's heads into any other


# ---------------------------------------------------------------- recurrent


def gated_delta(
    key: torch.Tensor, value: torch.Tensor, g: torch.Tensor, beta: torch.Tensor, *, initial: torch.Tensor | None = None
) -> torch.Tensor:
    """The recurrence of arXiv 2412.06464, equation 10, written out for one head: [tokens, d] to a state [d_k, d_v]."""
    key = key / (key.square().sum(-1, keepdim=True) + 1e-6).sqrt()
    state = torch.zeros(key.shape[-1], value.shape[-1], dtype=key.dtype) if initial is None else initial
    for k, v, decay, rate in zip(key, value, g.exp(), beta, strict=True):
        state = decay * (torch.eye(len(k), dtype=k.dtype) - rate * torch.outer(k, k)) @ state + rate * torch.outer(k, v)
    return state


def test_shares_are_those_of_the_recurrence_and_add_up(tmp_path: Path) -> None:
    one = load(tmp_path, "qwen3_5_text")
    tokens = torch.arange(3, 23)[None]
    inside = {str(place): torch.zeros(1, 20).index_fill_(1, torch.tensor([place]), 1.0) for place in range(20)}
    seen: list[tuple[torch.Tensor, ...]] = []
    home = sys.modules[type(one.model).__module__]
    rule = home.torch_chunk_gated_delta_rule

    def spy(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **options: Any) -> Any:
        seen.append((key, value, options["g"], options["beta"]))
        return rule(query, key, value, **options)

    shares = SpanShares(inside)
    from transformers import DynamicCache

    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(home, "torch_chunk_gated_delta_rule", spy)
        with tapped(one.model, shares):
            one.model(tokens, past_key_values=DynamicCache(config=one.model.config), use_cache=True)
    key, value, g, beta = seen[0]
    assert set(shares.found) == {0}
    total = torch.stack(list(shares.found[0].values())).sum(0)
    assert torch.allclose(total, torch.ones_like(total), atol=1e-5)
    for head in range(4):
        parts = [key[0, :, head // 2].double(), value[0, :, head].double(), g[0, :, head].double(), beta[0, :, head].double()]
        state = gated_delta(*parts)
        for place in (0, 7, 19):
            alone = gated_delta(
                parts[0], torch.zeros_like(parts[1]).index_copy_(0, torch.tensor([place]), parts[1][place, None]), *parts[2:]
            )
            wanted = ((alone * state).sum() / (state * state).sum()).item()
            assert shares.found[0][str(place)][0, head].item() == pytest.approx(wanted, abs=1e-5)


def test_states_and_shares_do_not_feel_the_padding(tmp_path: Path) -> None:
    one = load(tmp_path, "qwen3_5_text")
    together, alone = take(one, items()), take(one, items(), tokens=1)
    assert np.allclose(together.arrays["state"], alone.arrays["state"], atol=1e-5)
    for name in ("share:conflict", "share:direction"):
        assert np.allclose(together.arrays[name], alone.arrays[name], atol=1e-4)
        assert np.isfinite(together.arrays[name]).all()


def test_a_perturbed_copy_has_drifted_where_it_was_perturbed(tmp_path: Path) -> None:
    one = load(tmp_path, "qwen3_5_text")
    base = take(one, items())
    with torch.no_grad():
        one.model.model.layers[0].linear_attn.in_proj_b.weight[1] += 2.0
    drifted = take(one, items(), after=base).arrays["drift"]
    assert drifted.shape == (4, 1, 4)
    assert (drifted[:, 0, 1] > 1e-3).all()
    assert drifted[:, 0, [0, 2, 3]].max() == 0.0


def test_sketches_keep_cosines_and_short_states_stay_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(1, 200, 4096, generator=generator)
    two = one + 0.5 * torch.randn(1, 200, 4096, generator=generator)
    assert sketch(one, 4096, 0) is one
    exact = drift(one.numpy(), two.numpy())
    short = drift(sketch(one, 256, 3).numpy(), sketch(two, 256, 3).numpy())
    # a sketch of k numbers estimates a squared distance with a relative error of about sqrt(2 / k), here 9%
    assert short.mean() == pytest.approx(exact.mean(), rel=0.03)
    assert np.std(short / exact) < 0.13
    assert (drift(sketch(one, 256, 3).numpy(), sketch(one, 256, 3).numpy()) == 0).all()
    assert np.isnan(drift(np.zeros((1, 4)), np.ones((1, 4)))).all()
