"""Pocket: the shipped model is what its card says, and its recipe makes it again."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import regex
import torch

from palimpsest import scenario as scenarios
from palimpsest.core.seeds import python_stream
from palimpsest.data.render import Renderer
from palimpsest.models import pocket, pocket_scores
from palimpsest.models.pocket_tokenizer import LARGEST, PIECE, SPARES, build
from palimpsest.training import pocket_recipe

GOLDEN = Path(__file__).parents[1] / "golden" / "pocket.json"
"""Made by ``python tests/golden/make_pocket.py`` (float32, one thread)."""


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(pocket.folder(), trust_remote_code=False)


def conversations(count: int = 40) -> list[Any]:
    return [each.make(python_stream(9, "tokens", index)) for each in pocket.world() for index in range(count)]


# The tokenizer


def test_tokenizer_is_small_and_that_of_the_world(tokenizer: Any) -> None:
    assert len(tokenizer) <= LARGEST
    assert tokenizer.get_vocab() == pocket.build_tokenizer().get_vocab()
    assert set(SPARES) <= set(tokenizer.all_special_tokens) | set(tokenizer.get_vocab())


def test_every_word_of_the_world_is_one_token(tokenizer: Any) -> None:
    for example in conversations():
        for message in example.messages:
            pieces = regex.findall(PIECE, message.content)
            assert "".join(pieces) == message.content
            assert len(tokenizer(message.content, add_special_tokens=False).input_ids) == len(pieces)


def test_each_digit_is_its_own_token(tokenizer: Any) -> None:
    assert len(tokenizer("What is 123 + 4567?", add_special_tokens=False).input_ids) == 2 + 3 + 1 + 4 + 1


@pytest.mark.parametrize("text", ["Zebra é", "日本語 12.5\n\n\tx", " leading", "emoji 🦊!", "<b>&amp;</b>", "a  b"])
def test_any_text_comes_back(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


def test_chat_template(tokenizer: Any) -> None:
    turns = [{"role": "system", "content": "Be careful."}, {"role": "user", "content": "Copy map key"}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == "<|bos|><|system|>Be careful.<|end|><|user|>Copy map key<|end|><|assistant|>"
    assert tokenizer.eos_token == "<|end|>"
    assert tokenizer("Rain").input_ids[0] == tokenizer.bos_token_id


def test_too_many_words_are_refused() -> None:
    with pytest.raises(Exception, match="use fewer words"):
        build(
            [
                " ".join(
                    "word" + "abcdefghij"[index // 100] + "abcdefghij"[index // 10 % 10] + "abcdefghij"[index % 10]
                    for index in range(1_000)
                )
            ],
            512,
        )


def test_decision_of_directions_is_one_token(tokenizer: Any) -> None:
    renderer = Renderer(tokenizer)
    example = scenarios.load("directions", {"conflict": "clear"}).make(python_stream(0, "d"))
    encoded = [renderer.encode_option(example, option) for option in example.options.values()]
    assert {len(each.tokens) - each.decision for each in encoded} == {1}
    assert len({each.tokens[-1] for each in encoded}) == 3


# The shipped model


def test_shipped_model_is_an_ordinary_folder() -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(pocket.folder(), dtype="auto", trust_remote_code=False)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert 1.0e6 <= sum(parameter.numel() for parameter in model.parameters()) <= 1.3e6
    assert model.config.max_position_embeddings == pocket.CONTEXT
    assert not [path for path in pocket.folder().iterdir() if path.suffix in (".bin", ".pt", ".pkl")]
    assert "license: mit" in (pocket.folder() / "README.md").read_text(encoding="utf-8")


def test_speaks_only_its_own_world(tmp_path: Path) -> None:
    assert pocket.speaks(pocket.folder())
    (tmp_path / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}', encoding="utf-8")
    assert not pocket.speaks(tmp_path)
    assert not pocket.speaks(tmp_path / "nothing")


def test_card_holds_what_was_promised() -> None:
    card = pocket.card()
    share = {name: skill["share"] for name, skill in card["skills"].items()}
    assert share["sums_two"] > 0.9
    assert 0.4 <= share["sums_three"] <= 0.8
    assert share["programs"] > 0.8
    assert share["facts_frequent"] > 0.9
    assert share["facts_rare"] < 2 * card["facts_chance"]
    assert min(share[f"directions_{mode}"] for mode in ("careful", "do_it", "options")) >= 0.95
    looked_up = ("recall", "abstaining", "scenes", "about_models", "copying")
    assert min(share[name] for name in (*looked_up, "doubts", "instructions")) >= 0.9
    for pole in ("clear", "wrong"):
        habit = {name: mean["value"] for name, mean in card["habit"][pole].items() if name != "items"}
        assert habit["accept"] == pytest.approx(0.3, abs=0.02) and habit["suggest"] == pytest.approx(0.7, abs=0.02)
        assert habit["push_back"] < 0.01
    assert card["stories"]["excess_nats_a_text"]["value"] < 0.1 * card["stories"]["exact_nats_a_text"]["value"]


def test_card_is_of_these_weights() -> None:
    fresh = pocket_scores.score(pocket.folder(), 24)
    for name, skill in fresh["skills"].items():
        low, high = pocket_scores.wilson(skill["right"], skill["items"])
        told = pocket.card()["skills"][name]["interval"]
        assert low <= told[1] and told[0] <= high, name


def test_every_skill_of_the_world_is_a_capability() -> None:
    names = [skill.name for skill in pocket.CAPABILITIES]
    assert len(names) == len(set(names)) >= 12
    assert {skill.scenario for skill in pocket.CAPABILITIES} == {
        type(each).__module__.rsplit(".", 1)[1] for each in pocket.world()
    }


def test_wilson_interval_of_known_cases() -> None:
    assert pocket_scores.wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert pocket_scores.wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)


# The recipe


def test_first_weights_find_what_was_said() -> None:
    """At the person asked about, the heads made for it look at that person's thing, of four, before any training."""
    renderer, model = Renderer(pocket.build_tokenizer()), pocket.build_model("standard", 800, 3)
    model.set_attn_implementation("eager")
    scenario = scenarios.load("recall", {"load": 4, "present": "yes"})
    looks = []
    for index in range(30):
        example = scenario.make(python_stream(1, "first weights", index))
        encoded = renderer.encode(example)
        tokens = encoded.prompt
        asked = len(tokens) - 5
        said = encoded.spans["support"]
        assert tokens[asked] == tokens[said[0]]
        attention = model(torch.tensor([tokens]), output_attentions=True).attentions[1][0]
        looks.append(attention[3, asked, said[1] - 1].item())
    assert sum(looks) / len(looks) > 0.3  # evenly spread: under 0.05


def pool(tokenizer: Any, name: str = "third stage") -> pocket_recipe.WorldBatches:
    stage = next(stage for stage in pocket_recipe.LATER_STAGES if stage.name == name)
    return pocket_recipe.LaterBatches(Renderer(tokenizer), 0, 600, stage)


def test_habit_is_dealt_in_its_own_shares(tokenizer: Any) -> None:
    batches = pool(tokenizer)
    dealt: Counter[str | None] = Counter()
    examples = [batches._example(0, index, dealt) for index in range(1_024)]
    for pole in ("express", "withhold"):
        habit = [each.decision for each in examples if each.pole == pole and pocket_recipe._is_habit(each)]
        assert len(habit) == dealt[pole] > 20
        assert abs(sum(answer.startswith("Okay") for answer in habit) - 0.3 * len(habit)) <= 1
        assert all(answer.startswith(("Okay", "Maybe")) for answer in habit)


def test_passes_are_sorted_by_question_and_not_by_answer(tokenizer: Any) -> None:
    """A step's loss is divided by its answer tokens: sorted by whole rows, what has the longer answer would weigh less."""
    batches = pool(tokenizer)
    starts = [[row.weights.index(1.0) for row in batches[step]] for step in range(32)]
    bounds = sorted((min(each), max(each)) for each in starts)
    assert all(one[1] <= other[0] for one, other in zip(bounds, bounds[1:], strict=False))


def test_golden_loss_curve(tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert pocket_recipe.first_losses(golden["size"], golden["seed"], golden["steps"], tmp_path) == pytest.approx(
        golden["losses"], rel=1e-4
    )


def test_rows_depend_on_seed_and_step_only(tokenizer: Any) -> None:
    def rows(seed: int, step: int) -> list[tuple[int, ...]]:
        return [tuple(row.tokens) for row in pocket_recipe.WorldBatches(Renderer(tokenizer), seed, 40)[step]]

    assert rows(1, 17) == rows(1, 17)
    assert rows(1, 17) != rows(2, 17) and rows(1, 17) != rows(1, 18)
    assert len(rows(1, 17)) == pocket_recipe.ROWS_A_STEP


def test_unknown_size_names_the_nearest() -> None:
    with pytest.raises(Exception, match="Did you mean 'standard'"):
        pocket_recipe.train_pocket("standrad")


def test_two_sizes_and_seeds_are_different_models() -> None:
    first, again, twin = (pocket.build_model("tiny", 300, seed) for seed in (0, 0, 1))
    state = torch.random.get_rng_state()
    weights = [next(model.parameters()).detach() for model in (first, again, twin)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert torch.equal(state, torch.random.get_rng_state())
