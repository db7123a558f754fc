"""Adapter: does a PEFT adapter fit its base, and what is the model that they make together?

peft is imported only here and only when there is an adapter.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palimpsest.core.errors import UserError, first_line
from palimpsest.models.folder import Folder, found_here, look
from palimpsest.models.quiet import at_home
from palimpsest.models.weights import BrokenWeightsError, fingerprint

_PROMPTS = (
    "PROMPT_TUNING",
    "PREFIX_TUNING",
    "P_TUNING",
    "MULTITASK_PROMPT_TUNING",
    "ADAPTION_PROMPT",
    "CPT",
    "CARTRIDGE",
)
"""Kinds that add positions, not weights: there is no merged model."""
_ENDS = re.compile(r"embed|wte|lm_head|embed_out|output")
"""Names of tensors that have a row for each token."""
_TOLD = 3
"""So many tensors of another shape are named."""


@dataclass(frozen=True)
class MadeOn:
    """The base that an adapter names as its own."""

    name: str
    """As the adapter's folder names it."""
    weights: str | None
    """Hash of that base's weights; ``None`` where it is not here, or can't be read."""


def made_on(folder: Folder, below: Folder, weights: str) -> MadeOn | None:
    """Return the base that an adapter names, or ``None`` where it names none.

    Args:
        folder: of the adapter.
        below: of the base that it is put on.
        weights: the hash of that base's weights, so that they are not read twice.
    """
    named, revision = (folder.config.get(key) for key in ("base_model_name_or_path", "revision"))
    if not named:
        return None
    place = found_here(str(named), folder.path, revision if isinstance(revision, str) else None)
    if place is None:
        return MadeOn(str(named), None)
    if place == below.path:
        return MadeOn(str(named), weights)
    found = look(place)
    if found.is_adapter or found.problems:
        return MadeOn(str(named), None)
    try:
        return MadeOn(str(named), fingerprint(found.tensors)[0])
    except (BrokenWeightsError, OSError, ValueError):
        return MadeOn(str(named), None)


def unfit(folder: Folder, empty_base: Any, other: str = "") -> Iterator[str]:
    """Say what keeps an adapter from being merged into a base.

    Args:
        folder: of the adapter.
        empty_base: the base on the meta device, or ``None`` where that can't be built.
        other: the base that the adapter names, where that is not known to be this one.
    """
    kind = folder.config.get("peft_type")
    if importlib.util.find_spec("peft") is None:
        yield "is a PEFT adapter, which needs the peft package: pip install 'palimpsest-lm[lora]'"
    elif kind in _PROMPTS or not isinstance(kind, str):
        yield f"must be an adapter that merges into the weights (LoRA and its kin), but peft_type is {kind!r}"
    elif newer := _of_a_newer_peft(folder.config, kind):
        yield newer
    elif empty_base is not None and folder.tensors:
        found = list(_unfit_tensors(folder, empty_base))
        if found and other:
            yield f"names {other} as its base, and on the one given it can't be merged:"
        yield from found


def _of_a_newer_peft(config: Mapping[str, Any], kind: str) -> str:
    """Say what an adapter's settings hold that the installed PEFT does not know; what is null or off changes nothing."""
    from peft import __version__
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    known = next((one for name, one in PEFT_TYPE_TO_CONFIG_MAPPING.items() if str(getattr(name, "value", name)) == kind), None)
    if known is None:
        return f"has the peft_type {kind!r}, which PEFT {__version__} does not know; install a newer peft"
    fields = {*known.__dataclass_fields__, "peft_version"}
    unknown = sorted(name for name, value in config.items() if name not in fields and value not in (None, False, "", [], {}))
    if not unknown:
        return ""
    by = f", written by PEFT {version}," if isinstance(version := config.get("peft_version"), str) else ""
    return (
        f"has settings{by} that PEFT {__version__} does not know, so what it computes is not known either: "
        f"{', '.join(unknown)}; install the peft that wrote it"
    )


def _built(folder: Folder, base: Any) -> Any:
    """Return a base with an adapter of this kind on it, without the adapter's weights."""
    from peft import PeftConfig, get_peft_model

    with at_home():
        config = PeftConfig.from_pretrained(str(folder.path))
        if hasattr(config, "init_lora_weights"):
            config.init_lora_weights = True  # type: ignore[attr-defined]  # other ways need the base's values
        return get_peft_model(base, config, low_cpu_mem_usage=True)  # no memory for a rank that can't be meant


def _with_values(empty_base: Any) -> Any:
    """Return a base with random weights: some kinds of adapter are worked out from those that they change."""
    import torch

    base = empty_base.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for tensor in (*base.parameters(), *base.buffers()):
        if tensor.is_floating_point():
            tensor.data.copy_(torch.randn(tensor.shape, generator=generator))
        else:
            tensor.data.zero_()
    return base


def _unfit_tensors(folder: Folder, empty_base: Any) -> Iterator[str]:
    from peft import get_peft_model_state_dict

    made_of_values = False
    try:
        try:
            model = _built(folder, empty_base)
        except NotImplementedError as error:
            if "meta" not in str(error):
                raise
            model, made_of_values = _built(folder, _with_values(empty_base)), True
        state = get_peft_model_state_dict(model, save_embedding_layers=False)
    except Exception as error:  # every failure of the library to build this adapter is the adapter's problem
        yield f"does not fit its base: {first_line(error)}"
        return
    wanted = {name: tuple(value.shape) for name, value in state.items()}
    whole = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {tensor.name: tensor.shape for tensor in folder.tensors}
    missing = sorted(wanted.keys() - found.keys())
    unknown = sorted(name for name in found if name not in wanted and name not in whole)
    if missing:
        yield (
            f"is half-written, or was made for another base: adapter_config.json needs {missing[0]} ({len(missing)} missing), "
            "which the weights do not hold"
        )
    if unknown:
        yield f"does not fit its base, which has no place for {unknown[0]} ({len(unknown)} such)"
    shapes = whole | wanted
    # what is worked out from the base's values has shapes that depend on them: those are seen when it is loaded
    misshapen = sorted(name for name in found.keys() & shapes.keys() if found[name] != shapes[name] and not made_of_values)
    for name in misshapen[:_TOLD]:
        yield f"does not fit its base: {name} must have shape {shapes[name]}, but has {found[name]}"
    if len(misshapen) > _TOLD:
        yield f"does not fit its base in {len(misshapen) - _TOLD} more tensors"
    if rows := _other_vocabulary(misshapen, shapes, found):
        yield (
            f"was trained on a vocabulary of {rows} rows: resize the base first (model.resize_token_embeddings({rows}), then "
            "save_pretrained, with the adapter's tokenizer), and give that folder as the base"
        )
    if not misshapen and not missing and not unknown and not made_of_values:
        yield from _unmergeable(model)


def _other_vocabulary(
    misshapen: Sequence[str], shapes: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> int | None:
    """Return how many rows an adapter's embeddings or its head have, where that is all in which it does not fit."""
    rows = {found[name][0] for name in misshapen if found[name][1:] == shapes[name][1:] and _ENDS.search(name)}
    return rows.pop() if len(rows) == 1 else None


def _unmergeable(model: Any) -> Iterator[str]:
    """Say why an adapter can't be merged at all, which a model without values can tell as well."""
    try:
        model.merge_and_unload()
    except Exception as error:
        if not _WITHOUT_VALUES.search(str(error)):  # that is seen when there are values
            yield _NO_MERGE.format(first_line(error))


_WITHOUT_VALUES = re.compile("meta|not allocated|storage")
"""What torch says of a tensor without values."""
_NO_MERGE = (
    "can't be merged into its base ({}), and is read in no other way; merge what it does into the weights yourself, where that "
    "can be done, and give that folder"
)


def unties(folder: Folder, model: Any) -> bool:
    """Return whether an adapter changes one of two tied weights, embedding and head, so that they are two weights afterwards.

    Args:
        folder: of the adapter.
        model: the base, on any device.
    """
    ends = [name for name, one in model.named_modules() if one in (model.get_input_embeddings(), model.get_output_embeddings())]
    changed = any(f".{end}.lora_" in f".{tensor.name}" for tensor in folder.tensors for end in ends)
    return changed and is_tied(model) and not folder.config.get("ensure_weight_tying")


def is_tied(model: Any) -> bool:
    """Return whether a model reads tokens and predicts them with one and the same weight."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    return embedding is not None and head is not None and head.weight is embedding.weight


def merge(model: Any, path: Path) -> Any:
    """Return the base with the adapter's change added to its weights: a plain transformers model.

    Raises:
        UserError: the merged model does not answer as base and adapter do together.
    """
    from peft import PeftModel

    from palimpsest.models.full_memory import is_full_memory
    from palimpsest.models.reading import agree, trial_logits

    if unties(look(path), model):
        _untie(model)
    with at_home():
        try:
            both = PeftModel.from_pretrained(model, str(path), is_trainable=False).eval()
        except RuntimeError as error:  # tensors of other shapes than those that follow from the base's values
            if is_full_memory(error):
                raise
            raise UserError(f"{path} does not fit its base: {first_line(error)}") from error
        wanted = trial_logits(both.get_base_model())
        try:
            merged = both.merge_and_unload(safe_merge=True)
        except (ValueError, RuntimeError, AttributeError) as error:
            if is_full_memory(error):
                raise
            raise UserError(f"{path} can't be merged into its base: {first_line(error)}") from error
    if not agree(trial_logits(merged), wanted, merged.dtype):
        raise UserError(
            f"{path} must answer the same merged into its base as beside it, and does not; merge it yourself "
            "(peft: merge_and_unload, then save_pretrained), check what it answers, and give that folder"
        )
    return merged


def _untie(model: Any) -> None:
    """Give the head a weight of its own; else what is merged into the embedding would be in the head too, or the other way."""
    import torch

    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    for config in {id(one): one for one in (model.config, model.config.get_text_config())}.values():
        config.tie_word_embeddings = False
