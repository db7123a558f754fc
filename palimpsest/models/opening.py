"""Opening: how do the bytes that were hashed get into a model, and no others?

transformers is handed the tensors and never a folder to search for weights. Each is read when it asks for it, and held against
its hash as it is read; it lies in memory of its own, so that a file that is written later can't reach into a loaded model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from palimpsest.models.contents import Contents, reread
from palimpsest.models.weights import Tensor

_TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


def read(tensor: Tensor, value: str) -> torch.Tensor:
    """Return a tensor that was hashed before.

    Args:
        tensor: which one.
        value: the hash of its bytes.

    Raises:
        UserError: the file holds other bytes by now, or is gone.
    """
    raw = torch.empty(tensor.length, dtype=torch.uint8)
    reread(tensor, value, raw.numpy().data)
    return raw.view(_TYPES[tensor.dtype]).reshape(tensor.shape)


class _Stored:
    """A tensor that is read when it is asked for, as safetensors' slices are.

    Args:
        tensor: which one.
        value: the hash of its bytes.
        failed: gets what went wrong: transformers turns errors into weights that are missing.
    """

    def __init__(self, tensor: Tensor, value: str, failed: list[Exception]) -> None:
        self.tensor, self.value, self.failed = tensor, value, failed

    def get_shape(self) -> list[int]:
        return list(self.tensor.shape)

    def get_dtype(self) -> str:
        return self.tensor.dtype

    def __getitem__(self, place: Any) -> torch.Tensor:
        try:
            return read(self.tensor, self.value)[place]
        except Exception as error:
            self.failed.append(error)
            raise


def load(contents: Contents, dtype: torch.dtype) -> Any:
    """Return the model that a folder's files are, as they were hashed.

    Raises:
        UserError: they hold other bytes by now.
    """
    failed: list[Exception] = []
    stored = {tensor.name: _Stored(tensor, value, failed) for tensor, value in contents.tensors}
    try:
        return assemble(contents.folder, stored, dtype=dtype)
    finally:
        if failed:
            raise failed[0]


def load_parts(contents: Contents, dtype: torch.dtype, parts: Any) -> Any:
    """Return this process's part of a model; all have to ask. What was read is not checked here: each reads some rows only.

    Args:
        contents: as ``load``.
        dtype: as ``load``.
        parts: how it is cut up (transformers' ``DistributedConfig``).
    """
    from safetensors import safe_open

    files = {file: safe_open(file, framework="pt") for file in {tensor.file for tensor, _ in contents.tensors}}
    rows = {tensor.name: files[tensor.file].get_slice(tensor.name) for tensor, _ in contents.tensors}
    return assemble(contents.folder, rows, dtype=dtype, distributed_config=parts)


def empty(folder: Path, tensors: Iterable[Tensor]) -> tuple[Any, dict[str, Any]]:
    """Return a folder's model on the meta device, and the library's report on which tensors it has a place for."""
    shapes = {one.name: torch.empty(one.shape, dtype=_TYPES[one.dtype], device="meta") for one in tensors}
    return assemble(folder, shapes, device_map="meta", output_loading_info=True, ignore_mismatched_sizes=True)


def assemble(folder: Path, tensors: Mapping[str, Any], **how: Any) -> Any:
    """Return what ``from_pretrained`` makes of a folder's texts and of the tensors given."""
    from transformers import AutoConfig, GenerationConfig

    config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    kind: Any = _class_of(config)
    if kind.config_class is config.sub_configs.get("text_config"):
        config = config.get_text_config()  # as AutoModel does: only the part that reads text is loaded
    found = kind.from_pretrained(None, config=config, state_dict=dict(tensors), local_files_only=True, **how)
    model = found[0] if isinstance(found, tuple) else found
    model.name_or_path = model.config.name_or_path = str(folder)
    if model.can_generate():
        try:
            model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
        except OSError:  # there is none: what config.json says of it
            model.generation_config = GenerationConfig.from_pretrained(
                folder, config_file_name="config.json", _from_model_config=True, local_files_only=True
            )
    return found


def _class_of(config: Any) -> Any:
    """Return the causal class of a configuration; of several the one that it names."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    classes: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    if not isinstance(classes, (list, tuple)):
        return classes
    named = {one.__name__: one for one in classes}
    return next((named[name] for name in config.architectures or () if name in named), classes[0])
