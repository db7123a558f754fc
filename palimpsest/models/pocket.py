"""Pocket: what are the embedded models, and what can they do?

Small models trained from nothing on the world that the scenarios generate; their weights are part of the package. ``pocket`` is
a Llama, ``hybrid-pocket`` has the layout of Qwen3.5. The recipe that makes them is ``palimpsest.training.pocket_recipe``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from palimpsest import scenario as scenarios
from palimpsest.core import discover
from palimpsest.core.errors import UserError, nearest
from palimpsest.core.seeds import python_stream
from palimpsest.core.spec import digest
from palimpsest.scenario import Scenario

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CONTEXT = 512
ROTARY_THETA = 10_000.0
_ROTARY_PART = 0.5
"""Share of a head's numbers that tell distance: a quarter of 256 in Qwen3.5; of so few numbers half are needed."""
_TEXTS = 3_000
"""Examples of each scenario whose words make the tokenizer; every word of the world is among them many times."""


class Size(NamedTuple):
    """The shape of a pocket model."""

    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int


SIZES = {
    "tiny": Size(64, 3, 4, 128),
    "small": Size(96, 5, 4, 192),
    "standard": Size(128, 6, 4, 256),
    "large": Size(192, 8, 6, 384),
}


class Layout(NamedTuple):
    """One kind of embedded model."""

    model: str
    """What users call the shipped one."""
    title: str
    described: str
    sizes: dict[str, Size]


LAYOUTS = {
    "llama": Layout("pocket", "Palimpsest pocket", "A Llama", SIZES),
    "hybrid": Layout(
        "hybrid-pocket",
        "Palimpsest hybrid pocket",
        "A model with the layout of Qwen3.5 (three Gated DeltaNet layers to one of full attention)",
        {"tiny": Size(64, 4, 2, 128), "standard": Size(128, 8, 4, 192)},
    ),
}
NAMES = tuple(layout.model for layout in LAYOUTS.values())
"""What the shipped models are called wherever a model is named."""


class Skill(NamedTuple):
    """One thing that the pocket was taught: its name, and the scenario with parameters that makes items of it."""

    name: str
    scenario: str
    parameters: dict[str, object]


def _world_kinds() -> dict[str, type[Scenario]]:
    kinds = {name: discover.find(scenarios.PACKAGE, name, Scenario) for name in scenarios.names()}
    return {name: kind for name, kind in kinds.items() if kind.world > 0}


def _skills() -> tuple[Skill, ...]:
    return tuple(
        Skill(skill, name, parameters) for name, kind in _world_kinds().items() for skill, parameters in kind.skills.items()
    )


CAPABILITIES: tuple[Skill, ...] = _skills()
"""What rehearsal and the forgetting audit draw on; a scenario with a share of the world adds its skills by being there."""


def folder(name: str = "pocket") -> Path:
    """Return the folder of a shipped model (an ordinary Hugging Face folder).

    Raises:
        UserError: there is no such model, or the package was installed without its weights.
    """
    if name not in NAMES:
        raise UserError(f"there is no embedded model named '{name}'.{nearest(name, NAMES)}")
    path = Path(__file__).parent / name.replace("-", "_")
    if not (path / "model.safetensors").exists():
        layout = next(layout for layout, kind in LAYOUTS.items() if kind.model == name)
        raise UserError(
            f"{path} must hold the embedded model's weights, and it does not; "
            f"make them with 'palimpsest pocket train FOLDER --layout {layout}'"
        )
    return path


def resolve(name: str) -> str | Path:
    """Return the folder of an embedded model where it is named, and any other name as it is."""
    return folder(name) if name in NAMES else name


def speaks(path: Path) -> bool:
    """Whether a model folder is a pocket, or was tuned from one: then its abilities are those of the world."""
    try:
        return bool(json.loads((path / "config.json").read_text(encoding="utf-8")).get("palimpsest_world"))
    except (OSError, ValueError):
        return False


def card(name: str = "pocket") -> dict[str, Any]:
    """Return the held-out scores of a shipped model, as ``pocket_scores.score`` wrote them."""
    return json.loads((folder(name) / "card.json").read_text(encoding="utf-8"))


def world() -> tuple[Scenario, ...]:
    """Return the scenarios of the world with the parameters that they are pretrained with.

    Raises:
        ValueError: their shares do not add up to 1.
    """
    kinds = _world_kinds()
    total = sum(kind.world for kind in kinds.values())
    if not math.isclose(total, 1.0, abs_tol=1e-6):
        raise ValueError(f"the shares of the world's scenarios must add up to 1, found {total}")
    return tuple(scenarios.load(name, kind.world_parameters) for name, kind in kinds.items())


def world_digest() -> str:
    """Return a hash that changes when the world does: its shares and the first examples of every scenario."""
    return digest([[each.world, *(example for example in _examples(each, 20))] for each in world()])


def _examples(scenario: Scenario, count: int) -> Iterator[list[str]]:
    for index in range(count):
        yield [message.content for message in scenario.make(python_stream(0, "tokenizer", index)).messages]


@cache
def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer of the world."""
    from palimpsest.models.pocket_tokenizer import build

    return build((text for each in world() for texts in _examples(each, _TEXTS) for text in texts), CONTEXT)


def find_layout(name: str) -> Layout:
    """Return a layout.

    Raises:
        UserError: there is none of that name.
    """
    if name not in LAYOUTS:
        raise UserError(f"there is no layout named '{name}'.{nearest(name, LAYOUTS)}")
    return LAYOUTS[name]


def build_model(size: str, vocabulary: int, seed: int, layout: str = "llama") -> Any:
    """Return a pocket model with fresh weights; the global random state is left as it was.

    Raises:
        UserError: unknown size or layout.
    """
    import torch

    from palimpsest.models import hybrid_weights, pocket_weights

    sizes = find_layout(layout).sizes
    if size not in sizes:
        raise UserError(f"there is no pocket of size '{size}'.{nearest(size, sizes)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # the library draws weights too, which are then replaced
        model = (_llama if layout == "llama" else _hybrid)(sizes[size], vocabulary)
    generator = torch.Generator().manual_seed(seed % 2**63)
    if layout == "llama":
        pocket_weights.draw(model, ROTARY_THETA, generator)
    else:
        hybrid_weights.draw(model, ROTARY_THETA, generator)
    return model


def _both(shape: Size, vocabulary: int) -> dict[str, Any]:
    """Return what the configurations of both layouts have in common."""
    return {
        "vocab_size": vocabulary,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": True,
        "palimpsest_world": True,  # kept in config.json: tuned copies are known by it
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
    }


def _llama(shape: Size, vocabulary: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        **_both(shape, vocabulary),
        num_key_value_heads=shape.heads,
        rope_parameters={"rope_type": "default", "rope_theta": ROTARY_THETA},
    )
    return LlamaForCausalLM(config)


def _hybrid(shape: Size, vocabulary: int) -> Any:
    """Return a Qwen3.5 text model; its layers come in the library's own order, full attention in every fourth."""
    from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig

    from palimpsest.models.quiet import hush_kernels

    hush_kernels()
    head = shape.hidden_size // shape.heads
    config = Qwen3_5TextConfig(
        **_both(shape, vocabulary),
        num_key_value_heads=shape.heads // 2,
        head_dim=head,
        linear_num_key_heads=shape.heads // 2,
        linear_num_value_heads=shape.heads // 2,
        linear_key_head_dim=head,
        linear_value_head_dim=head,
        rope_parameters={"rope_type": "default", "rope_theta": ROTARY_THETA, "partial_rotary_factor": _ROTARY_PART},
    )
    return Qwen3_5ForCausalLM(config)


def load_model(model_folder: Path) -> Any:
    """Return the pocket model in a folder, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    from palimpsest.models.quiet import at_home, hush_kernels

    hush_kernels()
    with at_home():
        return AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32, trust_remote_code=False)
