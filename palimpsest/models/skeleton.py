"""Skeleton: do configuration, weights and tokenizer fit each other?

transformers builds the model without memory for its weights (on the meta device), through the same code that will load it. So
renamed, fused and tied weights are judged exactly as they will be read.
"""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palimpsest.core.errors import first_line, is_panic
from palimpsest.models.folder import Folder
from palimpsest.models.quiet import at_home
from palimpsest.models.weights import Tensor

_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_LENGTH_NAMES = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length", "max_sequence_length")
_LENGTH_WITHOUT_LIMIT = 2_048
_NO_LIMIT = -1
_SHORTEST = 8
_MOST_LABELS = 100_000
_COUNTED = re.compile(r"^(num|n|moe_num|moe_n)_(\w+_)?(layers?|experts?|blocks?)$|^depth$")
"""Keys of a configuration that say how many modules are made."""
_TABLE = re.compile(rb'"precompiled_charsmap"\s*:\s*"([^"]*)"')
_FEW = 512
"""So many experts may share one tensor."""


@dataclass(frozen=True)
class Skeleton:
    """What a model is, without its weights."""

    architecture: str
    parameters: int
    dtype: str
    context_length: int
    vocabulary_size: int
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    notes: tuple[str, ...]


def build(folder: Folder, tokenizer: Any, problems: list[str]) -> tuple[Skeleton | None, Any]:
    """Return what the folder's model is, with the empty model; add to ``problems`` what keeps it from loading."""
    before = len(problems)
    problems += _unfit_configuration(folder.config)
    problems += _claims_too_much(folder.config, len(folder.tensors))
    problems += _names_too_much(folder.config)
    if len(problems) > before:
        return None, None
    model, report = empty_model(folder.path, folder.tensors, problems)
    if model is None:
        return None, None
    problems += _unfit_weights(report)
    text = model.config.get_text_config()
    length, note = _context_length(text, tokenizer)
    if length < _SHORTEST:
        problems.append(f"config.json names a longest context of {length} tokens; it must be at least {_SHORTEST}")
    unread = sorted(report["unexpected_keys"])
    unused = f"not used by {type(model).__name__}: {_some(unread)}" if unread else ""
    skeleton = Skeleton(
        architecture=type(model).__name__,
        parameters=model.num_parameters(),
        dtype=_stored_dtype(folder.tensors),
        context_length=length,
        vocabulary_size=text.vocab_size,
        shapes=tuple(sorted((name, tuple(value.shape)) for name, value in model.named_parameters())),
        notes=tuple(filter(None, (note, unused))),
    )
    return skeleton, model


def _unfit_configuration(config: dict[str, Any]) -> Iterator[str]:
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    kind, classes = config.get("model_type"), config.get("architectures") or []
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        yield f"config.json has model_type {kind!r}, which this version of transformers does not know"
    elif kind not in CAUSAL:
        yield f"must be a causal language model, but config.json has model_type '{kind}', which has no causal class"
    elif not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        yield f"config.json must name its 'architectures' in a list of texts, found {str(classes)[:60]}"
    elif classes and not any(name in CAUSAL.values() or name.endswith("ForConditionalGeneration") for name in classes):
        yield f"must be a causal language model, but config.json names {', '.join(map(str, classes))}"
    if quantised := config.get("quantization_config"):
        method = quantised.get("quant_method", "unknown") if isinstance(quantised, dict) else "unknown"
        yield f"its weights are quantised ({method}); give the folder of the unquantised model"


def _claims_too_much(config: dict[str, Any], tensors: int) -> Iterator[str]:
    """Say where a configuration asks for more layers or experts than its weights can hold, before any of them is made."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _claims_too_much(value, tensors)
        elif isinstance(value, (int, float)) and _COUNTED.search(key) and value > max(tensors, _FEW):
            yield f"config.json has {key} {value:,}, but the weight files hold only {tensors} tensors; is it another model's?"
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            yield f"config.json has {key} with a number beyond 64 bits"


def _names_too_much(config: dict[str, Any]) -> Iterator[str]:
    """Say where a configuration makes the library give more labels a name than memory holds."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _names_too_much(value)
        elif key == "num_labels" and isinstance(value, (int, float)) and value > _MOST_LABELS:
            yield f"config.json has num_labels {value:,}, each of which would be given a name; leave it out"


def empty_model(path: Path, tensors: Iterable[Tensor], problems: list[str]) -> tuple[Any, dict[str, Any]]:
    """Return the folder's model on the meta device, and the library's report; add to ``problems`` why it can't be built."""
    from palimpsest.models import opening

    try:
        with at_home():
            return opening.empty(path, tensors)
    except Exception as error:  # every failure of the library to read this folder is the folder's problem
        problems.append(f"transformers can't build the model: {first_line(error)}")
        return None, {}


def _unfit_weights(report: dict[str, Any]) -> Iterator[str]:
    missing = sorted(report["missing_keys"])
    if missing:
        yield f"is half-written: config.json needs {_some(missing)}, which no weight file holds"
    for name, found, wanted in sorted(report["mismatched_keys"]):
        yield f"{name} must have shape {tuple(wanted)} by config.json, but has {tuple(found)}"
    yield from (f"weights can't be read: {message}" for message in report.get("error_msgs", ()))


def _stored_dtype(tensors: tuple[Tensor, ...]) -> str:
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        sizes[tensor.dtype] += tensor.count
    return _DTYPES.get(max(sizes, key=lambda dtype: (sizes[dtype], dtype)), "float32")


def _context_length(config: Any, tokenizer: Any) -> tuple[int, str]:
    found = next((getattr(config, name, None) for name in _LENGTH_NAMES if getattr(config, name, None)), None)
    if isinstance(found, int) and found != _NO_LIMIT:
        return found, ""
    length = getattr(tokenizer, "model_max_length", None)
    if isinstance(length, int) and length < 2**31:
        return length, f"config.json names no longest context; taken from the tokenizer: {length} tokens"
    return (
        _LENGTH_WITHOUT_LIMIT,
        f"neither config.json nor the tokenizer names a longest context; {_LENGTH_WITHOUT_LIMIT} tokens",
    )


def open_tokenizer(path: Path, problems: list[str]) -> Any:
    """Return the folder's tokenizer with padding on the left, or ``None`` with the reason in ``problems``."""
    from transformers import AutoTokenizer

    loaded = False
    try:
        _refuse_wrong_lengths(path / "tokenizer.json")
        _refuse_many_names(path / "config.json")
        with at_home():
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True, padding_side="left")
            loaded = True
            tokenizer.decode(tokenizer("A word.").input_ids)  # some only fail when they are used
    except BaseException as error:  # as above: whatever the library says, this folder's tokenizer can't be had
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        if loaded and isinstance(error, Exception):
            problems.append(
                f"its tokenizer can't read an ordinary sentence ({first_line(error)}); give it a token for what it does "
                "not know (unk_token in tokenizer.json), or one for every byte"
            )
        else:
            problems.append(f"its tokenizer can't be loaded: {first_line(error)}")
        return None
    if not tokenizer.is_fast:
        problems.append("its tokenizer must be a fast one (tokenizer.json), because spans need character offsets")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.bos_token
    return tokenizer


def _refuse_many_names(file: Path) -> None:
    """Refuse a configuration with too many labels: opening the tokenizer reads it too."""
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for problem in _names_too_much(config) if isinstance(config, dict) else ():
        raise ValueError(problem)


def _refuse_wrong_lengths(file: Path) -> None:
    """Refuse a normaliser's table that is shorter than it says: the library would take what memory it names, and abort."""
    content = file.read_bytes() if file.is_file() else b""
    for found in _TABLE.finditer(content):
        table = base64.b64decode(found[1])
        if len(table) < 4 or int.from_bytes(table[:4], "little") > len(table) - 4:
            raise ValueError("precompiled_charsmap in tokenizer.json is cut off; copy the file again")


def _some(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
