"""Adapter: does a PEFT adapter fit its base, and what is the model that they make together?

peft is imported only here and only when there is an adapter.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from palimpsest.core.errors import first_line
from palimpsest.models.folder import Folder
from palimpsest.models.quiet import quiet

_PROMPTS = (
    "PROMPT_TUNING",
    "PREFIX_TUNING",
    "P_TUNING",
    "MULTITASK_PROMPT_TUNING",
    "ADAPTION_PROMPT",
    "CPT",
    "TRAINABLE_TOKENS",
)
"""Kinds that add positions, not weights: there is no merged model."""


def unfit(folder: Folder, empty_base: Any) -> Iterator[str]:
    """Say what keeps an adapter from being merged into its base (a model on the meta device, or ``None``)."""
    kind = folder.config.get("peft_type")
    if importlib.util.find_spec("peft") is None:
        yield "is a PEFT adapter, which needs the peft package: pip install 'palimpsest-lm[lora]'"
    elif kind in _PROMPTS or not isinstance(kind, str):
        yield f"must be an adapter that merges into the weights (LoRA and its kin), but peft_type is {kind!r}"
    elif empty_base is not None and folder.tensors:
        yield from _unfit_tensors(folder, empty_base)


def _unfit_tensors(folder: Folder, empty_base: Any) -> Iterator[str]:
    from peft import PeftConfig, get_peft_model, get_peft_model_state_dict

    try:
        with quiet():
            config = PeftConfig.from_pretrained(str(folder.path))
            if hasattr(config, "init_lora_weights"):
                config.init_lora_weights = True  # type: ignore[attr-defined]  # other ways need the base's values
            model = get_peft_model(empty_base, config, low_cpu_mem_usage=True)  # no memory for a rank that can't be meant
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
        yield f"is half-written: adapter_config.json needs {missing[0]} ({len(missing)} missing), which the weights do not hold"
    if unknown:
        yield f"does not fit its base, which has no place for {unknown[0]} ({len(unknown)} such)"
    for name in sorted(found.keys() & (wanted | whole).keys()):
        shape = wanted.get(name) or whole[name]
        if found[name] != shape:
            yield f"does not fit its base: {name} must have shape {shape}, but has {found[name]}"


def merge(model: Any, path: Path) -> Any:
    """Return the base with the adapter's change added to its weights: a plain transformers model."""
    from peft import PeftModel

    with quiet():
        return PeftModel.from_pretrained(model, str(path), is_trainable=False).merge_and_unload(safe_merge=True)
