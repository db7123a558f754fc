"""What crosses from a context to its decision: kept whole, exchanged exactly, and nothing else."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, DynamicCache

from palimpsest.core.measurement import Measurement
from palimpsest.core.progress import Silent
from palimpsest.data.chat import Example, ItemSet, Span, conversation
from palimpsest.measures import _measure
from palimpsest.measures._contexts import STATELESS
from palimpsest.measures._measure import Budget
from palimpsest.measures.context_swap import EXCHANGES
from palimpsest.models import subject

LAYERS = {"num_hidden_layers": 4, "layer_types": ["linear_attention", "full_attention"] * 2}
OPTIONS = {"yes": "Yes", "no": "No", "wait": "Wait a bit"}


def load(path: Path, kind: str = "qwen3_5_text", seed: int = 0, **settings: Any) -> subject.Subject:
    return subject.load(subject.inspect(tiny.folder(path / f"{kind}{seed}", kind, seed, **settings)))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[subject.Subject, subject.Subject]:
    path = tmp_path_factory.mktemp("pair")
    return load(path, seed=0, **LAYERS), load(path, seed=1, **LAYERS)


def example(prompt: str) -> Example:
    """A question whose direction is its last word."""
    last = prompt.rindex(" ") + 1
    return conversation(
        ("user", prompt),
        ("assistant", "Yes"),
        template=prompt[:1],
        source="test",
        options=OPTIONS,
        spans={"direction": Span(message=0, start=last, end=len(prompt))},
    )


ITEMS = ItemSet(
    name="items",
    items=tuple(
        example(f"{word} is it wet? Go {end}")
        for word in ("Box", "Cup", "A rather longer pot")
        for end in ("up", "in it", "on")
    ),
)


def take(name: str, one: subject.Subject, after: Measurement | None = None, **settings: Any) -> Measurement:
    return _measure.load(name, settings).take(one, ITEMS, Budget(64), after, Silent().at)


def swap(deciding: subject.Subject, reading: subject.Subject) -> Measurement:
    found = take("context_swap", deciding, take("context_cache", reading))
    assert "why" not in found.texts, found.texts
    return found


def exchange(found: Measurement, name: str) -> np.ndarray:
    return found.arrays["log_probability"][:, list(EXCHANGES).index(name)]


def test_between_a_model_and_itself_nothing_changes(pair: tuple[subject.Subject, subject.Subject]) -> None:
    found = swap(pair[0], pair[0])
    for name in EXCHANGES:
        assert np.array_equal(exchange(found, name), exchange(found, "none")), name
    assert np.nanmax(found.arrays["difference"]) < 1e-4
    assert np.isfinite(found.arrays["difference"]).sum() == 8
    assert list(found.arrays["option_start"]) == list(range(0, 28, 3))
    assert found.texts["names"][:3] == list(OPTIONS)


def test_with_both_it_decides_over_exactly_the_others_context(pair: tuple[subject.Subject, subject.Subject]) -> None:
    """Run in one go with both models in memory, which a measure never has: the other fills a cache, this one goes on."""
    deciding, reading = pair
    both, place = exchange(swap(deciding, reading), "both"), 0
    for item in ITEMS.items:
        for text in OPTIONS.values():
            encoded = deciding.renderer.encode_option(item, text)
            cache = DynamicCache(config=reading.model.config)
            with torch.no_grad():
                reading.model(torch.tensor([encoded.prompt[:-1]]), past_key_values=cache, use_cache=True)
                rest = torch.tensor([encoded.tokens[encoded.decision - 1 : -1]])
                logits = deciding.model(rest, past_key_values=cache, use_cache=True).logits[0].log_softmax(-1)
            wanted = logits.gather(-1, torch.tensor(encoded.tokens[encoded.decision :])[:, None]).sum().item()
            assert both[place] == pytest.approx(wanted, abs=1e-4)
            place += 1
    assert np.abs(both - exchange(swap(deciding, reading), "none")).max() > 0.01


def test_parts_are_different_parts(pair: tuple[subject.Subject, subject.Subject]) -> None:
    found = swap(*pair)
    for one, other in (("recurrent", "none"), ("attention", "none"), ("recurrent", "attention"), ("both", "attention")):
        assert np.abs(exchange(found, one) - exchange(found, other)).max() > 1e-3


def test_a_model_whose_states_alone_differ_is_all_recurrent(tmp_path: Path) -> None:
    """A word that only contexts hold has another embedding, and attention adds nothing: only states can carry it across."""
    path = tiny.folder(
        tmp_path / "base", "qwen3_5_text", num_hidden_layers=2, layer_types=["full_attention", "linear_attention"]
    )
    weights = load_file(path / "model.safetensors")
    weights["model.layers.0.self_attn.o_proj.weight"].zero_()
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    base = subject.load(subject.inspect(path))
    other = subject.Subject(**{**vars(base), "model": copy.deepcopy(base.model)})
    rare = base.renderer.tokenizer("G", add_special_tokens=False).input_ids[0]
    with torch.no_grad():
        other.model.get_input_embeddings().weight[rare] += 3.0
    left = {name: take("context_cache", one) for name, one in (("base", base), ("other", other))}
    theirs, ours = take("context_swap", base, left["other"]), take("context_swap", other, left["base"])
    rows = [exchange(one, "none") for one in (theirs, ours)]
    assert np.abs(rows[0] - rows[1]).max() > 1e-3
    assert np.allclose(exchange(theirs, "recurrent"), rows[1], atol=2e-5)
    assert np.allclose(exchange(ours, "recurrent"), rows[0], atol=2e-5)
    assert np.array_equal(exchange(theirs, "attention"), rows[0])
    assert np.array_equal(exchange(ours, "attention"), rows[1])


def test_gates_are_those_of_the_layers_own_projections(pair: tuple[subject.Subject, subject.Subject]) -> None:
    one = pair[0]
    found = take("gates", one)
    assert found.arrays["layer"].tolist() == [0, 2]
    layer = one.model.model.layers[0].linear_attn
    for place, item in enumerate(ITEMS.items):
        encoded = one.renderer.encode(item)
        with torch.no_grad():
            embedded = one.model.get_input_embeddings()(torch.tensor([encoded.prompt]))
            seen = one.model.model.layers[0].input_layernorm(embedded)[0]
            decay = (-layer.A_log.exp() * torch.nn.functional.softplus(layer.in_proj_a(seen) + layer.dt_bias)).exp()
            write = layer.in_proj_b(seen).sigmoid()
        low, high = encoded.spans["direction"]
        inside = np.zeros(len(encoded.prompt), dtype=bool)
        inside[low:high] = True
        for gate, values in (("decay", decay.numpy()), ("write", write.numpy())):
            assert np.allclose(found.arrays[f"{gate}:direction"][place, 0], values[inside].mean(0), atol=1e-5)
            assert np.allclose(found.arrays[f"{gate}:rest"][place, 0], values[~inside].mean(0), atol=1e-5)


def test_batches_do_not_matter(pair: tuple[subject.Subject, subject.Subject]) -> None:
    alone = _measure.load("gates", {}).take(pair[0], ITEMS, Budget(64, tokens=1), None, Silent().at)
    together = take("gates", pair[0])
    assert np.allclose(alone.arrays["write:direction"], together.arrays["write:direction"], atol=1e-6)


def test_without_a_state_there_is_nothing_to_exchange(tmp_path: Path) -> None:
    one = load(tmp_path, "llama")
    left = take("context_cache", one)
    assert left.texts["why"] == [STATELESS] and not left.arrays["start"].any() and len(left.arrays) == 1
    assert take("context_swap", one, left).texts["why"] == [STATELESS]
    assert take("gates", one).texts["why"] == [STATELESS]


def test_items_without_options_are_told(pair: tuple[subject.Subject, subject.Subject]) -> None:
    bare = ItemSet(name="bare", items=tuple(item.model_copy(update={"options": {}}) for item in ITEMS.items))
    found = _measure.load("context_cache", {}).take(pair[0], bare, Budget(64), None, Silent().at)
    assert "no options" in found.texts["why"][0]


def test_room_bounds_what_is_kept(pair: tuple[subject.Subject, subject.Subject]) -> None:
    size = sum(array.nbytes for name, array in take("context_cache", pair[0]).arrays.items() if name[0] in "ra")
    few = take("context_cache", pair[0], room=size - 1)
    assert 0 < few.arrays["start"][-1] < len(ITEMS.items) or "MiB" in few.texts["why"][0]
    assert "MiB" in take("context_cache", pair[0], room=10).texts["why"][0]


def test_other_shapes_are_told(pair: tuple[subject.Subject, subject.Subject], tmp_path: Path) -> None:
    other = load(tmp_path, **LAYERS, linear_value_head_dim=4)
    found = take("context_swap", pair[0], take("context_cache", other))
    assert "same shape" in found.texts["why"][0]


def test_a_model_that_takes_no_positions_is_told(tmp_path: Path) -> None:
    """Mamba's own cache: what can't be read says so and ends nothing."""
    config = CONFIG_MAPPING["mamba"](
        vocab_size=259, hidden_size=32, num_hidden_layers=2, state_size=4, pad_token_id=0, bos_token_id=1, eos_token_id=2
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "mamba")
    tiny.tokenizer().save_pretrained(tmp_path / "mamba")
    one = subject.load(subject.inspect(tmp_path / "mamba"))
    assert take("context_cache", one).texts["why"] and take("gates", one).texts["why"]
