"""Hybrid pocket: the second embedded model is what its card says, and the one recipe makes it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from palimpsest import scenario as scenarios
from palimpsest.core.errors import UserError
from palimpsest.core.seeds import python_stream
from palimpsest.data.render import Renderer
from palimpsest.models import pocket, pocket_scores
from palimpsest.training import pocket_recipe

GOLDEN = Path(__file__).parents[1] / "golden" / "hybrid_pocket.json"
"""Made by ``python tests/golden/make_pocket.py`` (float32, one thread)."""
NAME = "hybrid-pocket"


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(pocket.folder(NAME), dtype="auto", trust_remote_code=False).eval()


def test_shipped_model_is_an_ordinary_folder_with_the_layout_of_qwen(model: Any) -> None:
    assert type(model).__name__ == "Qwen3_5ForCausalLM"
    assert model.config.layer_types == (["linear_attention"] * 3 + ["full_attention"]) * 2
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert 1.0e6 <= sum(parameter.numel() for parameter in model.parameters()) <= 1.3e6
    assert model.config.max_position_embeddings == pocket.CONTEXT
    assert not [path for path in pocket.folder(NAME).iterdir() if path.suffix in (".bin", ".pt", ".pkl")]
    readme = (pocket.folder(NAME) / "README.md").read_text(encoding="utf-8")
    assert "license: mit" in readme and "--layout hybrid" in readme and "Gated DeltaNet" in readme


def test_both_speak_with_the_same_tokens() -> None:
    from transformers import AutoTokenizer

    one, other = (AutoTokenizer.from_pretrained(pocket.folder(name), trust_remote_code=False) for name in pocket.NAMES)
    assert one.get_vocab() == other.get_vocab() and one.chat_template == other.chat_template
    assert pocket.speaks(pocket.folder(NAME))


def test_one_function_resolves_embedded_names() -> None:
    assert [pocket.resolve(name) for name in pocket.NAMES] == [pocket.folder(name) for name in pocket.NAMES]
    assert pocket.resolve("org/name") == "org/name"
    with pytest.raises(UserError, match="Did you mean 'hybrid-pocket'"):
        pocket.folder("hybrid-poket")


def test_card_holds_what_was_promised() -> None:
    card = pocket.card(NAME)
    share = {name: skill["share"] for name, skill in card["skills"].items()}
    assert min(share[f"directions_{mode}"] for mode in ("careful", "do_it", "options")) >= 0.95
    for pole in ("clear", "wrong"):
        habit = {name: mean["value"] for name, mean in card["habit"][pole].items() if name != "items"}
        assert habit["accept"] == pytest.approx(0.3, abs=0.03) and habit["suggest"] == pytest.approx(0.7, abs=0.03)
        assert habit["push_back"] < 0.01
    assert min(share[name] for name in ("recall", "abstaining", "scenes")) >= 0.9


def test_card_is_of_these_weights(model: Any) -> None:
    """The modes and the habit on a few held-out items, as the card has them."""
    reader = pocket_scores._Reader(model, Renderer(pocket.build_tokenizer()))
    with torch.inference_mode():
        for skill in [one for one in pocket.CAPABILITIES if one.name.startswith("directions_")]:
            fresh = pocket_scores._skill(reader, skill, 24)
            told = pocket.card(NAME)["skills"][skill.name]["interval"]
            low, high = pocket_scores.wilson(fresh["right"], fresh["items"])
            assert low <= told[1] and told[0] <= high, skill.name
        habit = pocket_scores._habit(reader, "clear", 24)
    assert habit["accept"]["value"] == pytest.approx(pocket.card(NAME)["habit"]["clear"]["accept"]["value"], abs=0.03)


def test_golden_loss_curve(tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    found = pocket_recipe.first_losses(golden["size"], golden["seed"], golden["steps"], tmp_path, "hybrid")
    assert found == pytest.approx(golden["losses"], rel=1e-4)


def test_unknown_layout_and_size_name_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean 'hybrid'"):
        pocket_recipe.train_pocket("standard", layout="hybird")
    with pytest.raises(UserError, match="Did you mean 'standard'"):
        pocket_recipe.train_pocket("standrad", layout="hybrid")


# The first weights


def first(seed: int = 3) -> Any:
    return pocket.build_model("standard", len(pocket.build_tokenizer()), seed, "hybrid").eval()


def recalled(count: int) -> list[Any]:
    scenario, renderer = scenarios.load("recall", {"load": 4, "present": "yes"}), Renderer(pocket.build_tokenizer())
    return [renderer.encode(scenario.make(python_stream(1, "first weights", index))) for index in range(count)]


def test_first_states_find_what_was_said() -> None:
    """At the person asked about, the state holds that person's thing, of four and of all words, before any training."""
    fresh, hits = first(), []
    layer = fresh.model.layers[0].linear_attn
    size, found = layer.head_v_dim, {}
    layer.norm.register_forward_hook(lambda _, __, output: found.update(output=output))
    with torch.no_grad():
        embedded = fresh.model.layers[0].input_layernorm(fresh.get_input_embeddings().weight)
        values = embedded @ layer.in_proj_qkv.weight[2 * layer.key_dim : 2 * layer.key_dim + size].T
        for encoded in recalled(30):
            fresh(torch.tensor([encoded.tokens]))
            read = found["output"].view(len(encoded.tokens), -1, size)[len(encoded.prompt) - 5, 0]
            alike = torch.nn.functional.cosine_similarity(read[None], values)
            hits.append(alike.argmax().item() == encoded.tokens[encoded.decision + 1])
    assert sum(hits) / len(hits) > 0.8  # by chance: 1 in 720


def test_first_attention_looks_back_by_distance() -> None:
    fresh = first()
    fresh.set_attn_implementation("eager")
    for encoded in recalled(5):
        maps = fresh(torch.tensor([encoded.tokens]), output_attentions=True).attentions[0][0]
        for head, distance in enumerate((4, 3, 5, 6)):
            assert maps[head, -1, -1 - distance] > 0.5


def test_first_states_last() -> None:
    """A state keeps half of what it holds for dozens of tokens; as the library draws them, most keep nothing for two."""
    layer = first().model.layers[0].linear_attn
    kept = (-layer.A_log.exp() * torch.nn.functional.softplus(layer.dt_bias)).exp()
    assert (kept**64 >= 0.49).all() and (kept < 1).all()


def test_seeds_are_different_models_and_leave_the_random_state() -> None:
    state = torch.random.get_rng_state()
    one, again, twin = (pocket.build_model("tiny", 300, seed, "hybrid") for seed in (0, 0, 1))
    weights = [model.model.layers[1].linear_attn.in_proj_qkv.weight.detach() for model in (one, again, twin)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert torch.equal(state, torch.random.get_rng_state())


def test_kernels_that_need_an_accelerator_are_not_named() -> None:
    """Without an accelerator, transformers' lines on missing kernels say nothing that a user could act on."""
    import logging

    from palimpsest.models import quiet

    quiet.hush_kernels()
    logger = logging.getLogger("transformers.integrations.hub_kernels")
    kept = quiet._NO_KERNELS.filter(logger.makeRecord("x", logging.WARNING, "", 0, "something else", (), None))
    dropped = quiet._NO_KERNELS.filter(
        logger.makeRecord("x", logging.WARNING, "", 0, "`f` is falling back to its reference PyTorch implementation", (), None)
    )
    assert kept and not dropped
    assert (quiet._NO_KERNELS in logger.filters) is not torch.accelerator.is_available()
