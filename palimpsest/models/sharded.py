"""Sharded: how does a model get loaded that no single device holds?

Each process reads its own rows of every weight straight from the files, so that none ever holds more than its part and what
one block takes. In a forward pass each block is gathered as it is reached and let go again (fully sharded data parallelism:
Zhao et al. 2023, arXiv 2304.11277; here FSDP2). So it is called as the outer module only: inside of it weights are whole.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from palimpsest import ranks
from palimpsest.core.errors import UserError
from palimpsest.models.inspection import SubjectInfo
from palimpsest.models.quiet import at_home, hush_kernels
from palimpsest.models.skeleton import empty_model
from palimpsest.models.taps import blocks


def load(info: SubjectInfo, dtype: str) -> Any:
    """Return this rank's part of a model, on its own device; all ranks have to ask.

    Raises:
        UserError: an adapter that can't be merged part by part; a version of transformers that can't read a part of a model.
    """
    import torch

    from palimpsest.models import opening

    hush_kernels()
    with at_home():
        model = opening.load_parts(info.whole, getattr(torch, dtype), _parts(info))
    model.config.distributed_config = None  # it describes this launch, not the model
    model.register_forward_hook(lambda called, *_: ranks.let_go(called))
    if info.base is not None:
        model = _with_adapter(model, info)
    for contents in info.contents:  # no rank has read any weight whole; by now all of them lie in the machine's memory
        contents.check_weights((ranks.own(), ranks.count()))
    return model


def _with_adapter(model: Any, info: SubjectInfo) -> Any:
    from peft import PeftModel

    with at_home():
        wrapped = PeftModel.from_pretrained(model, str(info.path), is_trainable=False)
    if problem := unmergeable(wrapped):
        raise UserError(
            f"{info.name} can't be merged into a model that {ranks.count()} processes share: {problem}. Merge it once, in one "
            f"process: python -c \"from palimpsest.models import subject; m = subject.load(subject.inspect('{info.path}'), "
            "dtype='auto'); m.model.save_pretrained('merged'); m.tokenizer.save_pretrained('merged')\", and give the folder "
            "'merged'"
        )
    return merged(wrapped)


def unmergeable(wrapped: Any) -> str:
    """Return what keeps an adapter from being merged into weights of which each rank holds a part, or nothing."""
    from peft.tuners.lora import LoraLayer

    config = wrapped.peft_config["default"]
    if str(getattr(config.peft_type, "value", config.peft_type)) != "LORA":
        return f"it is no LoRA but {config.peft_type}"
    if config.use_dora or config.modules_to_save or getattr(config, "target_parameters", None):
        return "it uses DoRA, or changes whole modules or bare parameters"
    lacking = [one for one in _layers(wrapped) if not isinstance(one, LoraLayer) or one.lora_bias.get("default")]
    return "some of its layers are not plain LoRA" if lacking or config.bias != "none" else ""


def merged(wrapped: Any) -> Any:
    """Return the model under a plain LoRA adapter with the adapter's change added, to each rank's rows of every weight."""
    ranks.let_go(wrapped)
    for layer in _layers(wrapped):
        weight = layer.get_base_layer().weight
        weight.data.add_(ranks.sharded_like(layer.get_delta_weight("default").detach().to(weight.dtype), weight))
    return wrapped.unload()


def _layers(wrapped: Any) -> list[Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in wrapped.modules() if isinstance(module, BaseTunerLayer)]


def numbers_gathered(shapes: Iterable[tuple[str, tuple[int, ...]]]) -> tuple[int, int]:
    """Return how many weights a device holds whole at most in a pass, and how many of them the largest group has.

    Those are what lies outside of the blocks, the block that runs and the one that is fetched meanwhile.

    Args:
        shapes: names and shapes of a model's weights.
    """
    parts: Counter[str] = Counter()
    for name, shape in shapes:
        found = re.search(r"\.\d+\.", name)
        parts[name[: found.end()] if found else ""] += math.prod(shape)
    outside = parts.pop("", 0)
    largest = max(parts.values(), default=0)
    return outside + 2 * largest, max(outside, largest)


def _parts(info: SubjectInfo) -> Any:
    """Return how a model is cut up: block by block, and what lies outside of the blocks as one more."""
    try:
        from transformers.distributed.configuration_utils import DistributedConfig

        empty = empty_model(info.whole.folder, [tensor for tensor, _ in info.whole.tensors], [])[0]
        names = {module: name for name, module in empty.named_modules()}
        place = names[blocks(empty)[0]].rpartition(".")[0]
        return DistributedConfig(fsdp_size=ranks.count(), fsdp_plan={f"{place}.*": "free_full_weight"})
    except (ImportError, TypeError) as error:
        from transformers import __version__

        raise UserError(f"several processes need transformers 5.23 or newer, found {__version__}") from error
    except LookupError as error:
        raise UserError(f"{info.whole.folder} can't be shared by several processes: {error}") from error
