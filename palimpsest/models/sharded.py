"""Sharded: how does a model get loaded that no single device holds?

Each process reads its own rows of every weight straight from the files, so that none ever holds more than its part and what
one block takes. In a forward pass each block is gathered as it is reached and let go again (fully sharded data parallelism:
Zhao et al. 2023, arXiv 2304.11277; here FSDP2). So it is called as the outer module only: inside of it weights are whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from palimpsest import ranks
from palimpsest.core.errors import UserError
from palimpsest.models.inspection import SubjectInfo
from palimpsest.models.quiet import hush_kernels, quiet
from palimpsest.models.skeleton import empty_model
from palimpsest.models.taps import blocks


def load(info: SubjectInfo, dtype: str) -> Any:
    """Return this rank's part of a model, on its own device; all ranks have to ask.

    Raises:
        UserError: an adapter; a version of transformers that can't read a part of a model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if info.base is not None:
        raise UserError(
            f"{info.name} is an adapter, which {ranks.count()} processes can't merge into a model that they share. Merge it "
            f'once, in one process: python -c "from palimpsest.models import subject; m = subject.load(subject.inspect('
            f"'{info.path}'), dtype='auto'); m.model.save_pretrained('merged'); m.tokenizer.save_pretrained('merged')\", "
            "and give the folder 'merged'"
        )
    hush_kernels()
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(
            info.path,
            dtype=getattr(torch, dtype),
            distributed_config=_parts(info.path),
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
        )
    model.config.distributed_config = None  # it describes this launch, not the model
    model.register_forward_hook(_let_go)
    return model


def _parts(path: Path) -> Any:
    """Return how a folder's model is cut up: block by block, and what lies outside of the blocks as one more."""
    try:
        from transformers.distributed import DistributedConfig

        empty = empty_model(path, [])[0]
        names = {module: name for name, module in empty.named_modules()}
        place = names[blocks(empty)[0]].rpartition(".")[0]
        return DistributedConfig(fsdp_size=ranks.count(), fsdp_plan={f"{place}.*": "free_full_weight"})
    except (ImportError, TypeError) as error:
        from transformers import __version__

        raise UserError(f"several processes need transformers 5.23 or newer, found {__version__}") from error
    except LookupError as error:
        raise UserError(f"{path} can't be shared by several processes: {error}") from error


def _let_go(model: Any, _inputs: Any, _output: Any) -> None:
    """Give back the parts that a pass would keep whole until the next one."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
