"""Layout: where in the network does each weight lie, and what kind of part does it belong to?

Read from the classes of the modules that hold it and from their names, of the empty model (on the meta device), so that it
holds for any architecture of the library; what it can't tell is "other".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from palimpsest.models.inspection import SubjectInfo
from palimpsest.models.skeleton import empty_model

PARTS = ("embeddings", "attention", "recurrent", "mlp", "norm", "head", "other")

_PATTERNS = (
    ("norm", re.compile(r"norm(gated)?$|norm\d?d?$|layernorm|^ln_", re.IGNORECASE)),
    (
        "recurrent",
        re.compile(r"delta|mamba|ssm|rwkv|retent|recurrent|lstm|gru|linearattention|shortconv|mixer2?$", re.IGNORECASE),
    ),
    ("attention", re.compile(r"attention|attn", re.IGNORECASE)),
    ("mlp", re.compile(r"mlp|feed_?forward|ffn|expert|moe|router|^fc_?(\d|in|out)", re.IGNORECASE)),
    ("embeddings", re.compile(r"embed", re.IGNORECASE)),
)
"""What the class of a module or else its name says, the first that fits; asked of the innermost module first."""

_PROJECTIONS = (
    ("qkv", re.compile(r"qkv|c_attn|query_key_value|w_?pack|kv_", re.IGNORECASE)),
    ("q", re.compile(r"^(q|query|wq)($|_)|_q$", re.IGNORECASE)),
    ("k", re.compile(r"^(k|key|wk)($|_)|_k$", re.IGNORECASE)),
    ("v", re.compile(r"^(v|value|wv)($|_)|_v$", re.IGNORECASE)),
    ("o", re.compile(r"^(o|out|wo)($|_)|c_proj|dense|output", re.IGNORECASE)),
)
"""Which projection of an attention module a name stands for."""


@dataclass(frozen=True)
class Location:
    """Where one weight lies."""

    layer: int | None
    """Counted from 0; ``None`` outside the layers."""
    part: str
    """One of ``PARTS``."""
    kind: str
    """The part, or more closely which projection of attention: "attention q"."""


def layout(info: SubjectInfo) -> dict[str, Location]:
    """Return where each weight of a model lies, by its name."""
    problems: list[str] = []
    model, _ = empty_model(info.whole.folder, [tensor for tensor, _ in info.whole.tensors], problems)
    assert model is not None, f"{info.name} was inspected before: {problems}"
    return located(model)


def located(model: Any) -> dict[str, Location]:
    """Return where each parameter of a model (``PreTrainedModel``) lies, by its name; tied ones once."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    family = type(model).__name__.partition("For")[0]  # RecurrentGemmaMlp is an MLP of RecurrentGemma, and not recurrent
    return {name: _location(model, name, family, embedding, head) for name, _ in model.named_parameters()}


def _location(model: Any, name: str, family: str, embedding: Any, head: Any) -> Location:
    *path, last = name.split(".")
    chain = [model]
    for step in path:
        chain.append(getattr(chain[-1], step))
    layer = _layer(chain, path)
    if chain[-1] is embedding:
        return Location(layer, "embeddings", "embeddings")
    if chain[-1] is head:
        return Location(layer, "head", "head")
    classes = [type(module).__name__.removeprefix(family) for module in reversed(chain[1:])]
    part = _part(classes) or _part(reversed(path)) or "other"
    return Location(layer, part, _kind(part, [*path, last]))


def _layer(chain: list[Any], path: list[str]) -> int | None:
    """Return the place in the first list of modules that holds the weight; experts lie in a list inside a layer."""
    return next((int(step) for parent, step in zip(chain, path, strict=False) if _is_list(parent) and step.isdigit()), None)


def _is_list(module: Any) -> bool:
    return type(module).__name__ == "ModuleList"


def _part(names: Iterable[str]) -> str | None:
    return next((part for name in names for part, pattern in _PATTERNS if pattern.search(name)), None)


def _kind(part: str, path: list[str]) -> str:
    if part != "attention":
        return part
    steps = [step for step in path if step not in ("weight", "bias")]
    found = next((kind for step in reversed(steps) for kind, pattern in _PROJECTIONS if pattern.search(step)), "")
    return f"attention {found}".strip()
