"""Vector file: how are steering vectors kept, so that other tools can read them?

Safetensors: ``layer.N`` [hidden size] is added to what leaves block N, counted from 0 (as in ``model.layers.N``); the metadata
``palimpsest`` say how it was made, as JSON. GGUF: llama.cpp's control vector, whose ``direction.N`` it adds to what leaves
block N, also counted from 0, at every token. It refuses ``direction.0``: after block 0 it can't add
(``common_control_vector_load_one`` writes ``direction.N`` to place N - 1, ``llama_adapter_cvec::apply`` reads that of block
``il`` at ``il - 1``, and ``build_cvec`` adds it at ``l_out``).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from palimpsest.core.errors import UserError
from palimpsest.store.atomic import write_bytes

FORMAT = "palimpsest steering vectors 1"
ARCHITECTURE = "controlvector"
_PREFIX, _KEY = "layer.", "palimpsest"


@dataclass(frozen=True)
class SteeringVectors:
    """Vectors by block, counted from 0, each float32 [hidden size], and how they were made (plain data)."""

    layers: Mapping[int, np.ndarray]
    facts: Mapping[str, Any] = field(default_factory=dict)


def write(path: Path, vectors: SteeringVectors) -> None:
    """Write vectors as safetensors, as a whole or not at all.

    Raises:
        UserError: the place can't be written.
    """
    from safetensors.numpy import save

    facts = json.dumps({"format": FORMAT, **vectors.facts}, ensure_ascii=False, allow_nan=False)
    tensors = {f"{_PREFIX}{layer}": _plain(vector) for layer, vector in sorted(vectors.layers.items())}
    write_bytes(path, save(tensors, {_KEY: facts}))  # one key: the order of several differs from time to time


def read(path: Path) -> SteeringVectors:
    """Read what ``write`` wrote.

    Raises:
        UserError: no such file, or another format.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            told = json.loads((file.metadata() or {}).get(_KEY, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{path} can't be read as safetensors: {error}") from error
    names = [name.removeprefix(_PREFIX) for name in tensors if name.startswith(_PREFIX)]
    if told.pop("format", None) != FORMAT or len(names) != len(tensors) or not all(map(str.isdecimal, names)):
        raise UserError(f"{path} must hold steering vectors ('{_PREFIX}N'), as `palimpsest steer` writes them")
    return SteeringVectors({int(name): tensors[f"{_PREFIX}{name}"] for name in names}, told)


def gguf_problems(path: Path | None, layers: list[int] | None) -> list[str]:
    """Return why a GGUF file can't be written, before any work; nothing where none is asked for."""
    if path is None:
        return []
    problems = []
    if find_spec("gguf") is None:
        problems.append("--gguf needs the package 'gguf', which is not there; `pip install palimpsest-lm[gguf]` brings it")
    if layers == [0]:
        problems.append("--gguf: llama.cpp can't add a vector after block 0; choose another --layer, or leave it out")
    return problems


def write_gguf(path: Path, vectors: SteeringVectors, model_type: str) -> list[int]:
    """Write vectors as a control vector of llama.cpp, and return the blocks that it can't have (block 0).

    Args:
        path: of the file.
        vectors: in float32 whatever they were.
        model_type: the model's architecture, as a hint; llama.cpp only checks the hidden size.

    Raises:
        UserError: the place can't be written.
    """
    import gguf

    kept = {layer: vector for layer, vector in sorted(vectors.layers.items()) if layer > 0}
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder) / "vectors.gguf"
        writer = gguf.GGUFWriter(temporary, ARCHITECTURE)
        writer.add_string(f"{ARCHITECTURE}.model_hint", model_type)
        writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(kept))
        for layer, vector in kept.items():
            writer.add_tensor(f"direction.{layer}", _plain(vector))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        write_bytes(path, temporary.read_bytes())
    return sorted(set(vectors.layers) - set(kept))


def _plain(vector: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(vector, dtype=np.float32)
