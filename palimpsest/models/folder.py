"""Folder: is this a model that can be loaded safely, and if not, what is wrong with it?

Everything that can be seen without loading weights and without torch. Each problem is one line; all are told at once.
Only safetensors are read: pickles and remote code run whatever their author wrote.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from palimpsest.core.errors import UserError, first_line
from palimpsest.core.files import read_file
from palimpsest.models.weights import BrokenWeightsError, Tensor, read_header

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_TEXTS = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".vocab")
_NOT_READ = re.compile(
    r".*\.index\.json|trainer_state\.json|.*_results\.json|.*\.md|requirements.*\.txt|license.*", re.IGNORECASE
)
"""Files of a model folder that change neither weights nor tokens; every other text file counts in the digest."""
_WHERE = "transformers_weights"
"""The key of config.json that names the file of weights, where that is not the usual one."""
_PLACES = {"config.json": _WHERE, "adapter_config.json": "base_model_name_or_path"}
"""In which files the digest leaves out which key: what it names is hashed itself."""
_INDEX = ".safetensors.index.json"
_PART = re.compile(r"shard-[0-9]{5}-model-[0-9]{5}-of-[0-9]{5}\.safetensors")
"""A part of a distributed checkpoint: transformers takes such files before all others, whatever else lies beside them."""
_LONGEST_JSON = 2**27
"""Bytes of a configuration or an index; tokenizers, which may be larger, are read by their library."""
_DEEPEST = 50
_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


@dataclass(frozen=True)
class Folder:
    """One folder as it was found; ``problems`` is empty when it can be loaded."""

    path: Path
    config: dict[str, Any] = field(default_factory=dict)
    tensors: tuple[Tensor, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def is_adapter(self) -> bool:
        return (self.path / "adapter_config.json").is_file()

    @property
    def has_tokenizer(self) -> bool:
        names = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
        return any((self.path / name).is_file() for name in names)

    def texts(self) -> list[Path]:
        """Return the files besides the weights that a loaded model depends on."""
        found = [*self.path.glob("*"), *self.path.glob("additional_chat_templates/*")]
        texts = [file for file in found if file.is_file() and file.suffix in _TEXTS]
        return sorted(file for file in texts if not _NOT_READ.fullmatch(file.name))

    def text_digest(self) -> str:
        """Hash configuration, tokenizer and templates; where weights lie does not count, nor where an adapter's base does."""
        digest = hashlib.sha256()
        for file in self.texts():
            content = file.read_bytes()
            if file.name in _PLACES:
                content = _without(content, _PLACES[file.name])
            digest.update(json.dumps([str(file.relative_to(self.path)), len(content)]).encode())
            digest.update(content)
        return digest.hexdigest()


def _without(content: bytes, key: str) -> bytes:
    """Return what a file of JSON says besides one key; what can't be read as such counts as it is."""
    with suppress(ValueError, RecursionError):
        if isinstance(found := json.loads(content), dict):
            return json.dumps({name: value for name, value in found.items() if name != key}, sort_keys=True).encode()
    return content


def locate(name: str | os.PathLike[str]) -> Path:
    """Return the folder that a path or a hub id (``org/name``) stands for.

    Raises:
        UserError: there is no such folder, and the hub can't give it either.
    """
    path = Path(name)
    try:
        path = path.expanduser()
        if path.is_dir():
            return path.resolve()
        if path.exists():
            raise UserError(f"{path} must be a model folder, but it is a file")
    except (OSError, RuntimeError) as error:  # a name that is too long; ~NAME without such a user
        raise UserError(f"there is no model folder {path}: {getattr(error, 'strerror', None) or error}") from None
    if not _HUB_ID.fullmatch(str(name)):
        raise UserError(f"there is no model folder {path} (looked for {path.absolute()})")
    return _from_hub(str(name))


def _from_hub(name: str) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    patterns = ["*.json", "*.jinja", "*.txt", "*.model", "*.safetensors"]
    offline = bool(constants.HF_HUB_OFFLINE)
    try:
        return Path(snapshot_download(name, local_files_only=offline, allow_patterns=patterns)).resolve()
    except (OSError, ValueError, RuntimeError, HfHubHTTPError) as error:
        why = "HF_HUB_OFFLINE is set, and it is not in the local hub cache" if offline else first_line(error)
        raise UserError(
            f"there is no folder {name} here, and the Hugging Face hub can't give a model of that name: {why}"
        ) from None


def found_here(name: str, beside: Path, revision: str | None = None) -> Path | None:
    """Return the folder that an adapter's note of its base stands for, if that is on this machine; nothing is fetched.

    Args:
        name: a path, by itself or from the adapter's folder on, or a hub id.
        beside: the adapter's folder.
        revision: which one of the hub's versions is meant.
    """
    try:
        for place in (beside / name, Path(name).expanduser()):
            if place.is_dir():
                return place.resolve()
    except (OSError, RuntimeError, ValueError):
        return None
    if not _HUB_ID.fullmatch(name):
        return None
    from huggingface_hub import snapshot_download

    with suppress(OSError, ValueError, RuntimeError):  # all that says that it is not in the local cache
        return Path(snapshot_download(name, revision=revision, local_files_only=True)).resolve()
    return None


def newest_checkpoint(path: Path) -> Path | None:
    """Return the latest checkpoint (``checkpoint-200``) in the output folder of a training run that holds no model itself."""
    if any(path.glob("*.safetensors*")) or is_model(path):
        return None
    found = [one for one in path.glob("checkpoint-*") if one.name.removeprefix("checkpoint-").isdecimal() and one.is_dir()]
    return max(found, key=lambda one: int(one.name.removeprefix("checkpoint-")), default=None)


def is_model(path: Path) -> bool:
    """Whether a folder says at sight that it is that of a model or of an adapter."""
    return any((path / name).exists() for name in ("config.json", "adapter_config.json"))


def look(path: Path) -> Folder:
    """Look at a model or adapter folder and say everything that is wrong with its files."""
    problems: list[str] = []
    adapter = (path / "adapter_config.json").is_file()
    config = _read_json(path / ("adapter_config.json" if adapter else "config.json"), problems)
    if adapter and (path / "config.json").is_file() and _names_whole_model(path):
        problems.append("holds both a whole model and an adapter (adapter_config.json); give a folder with one of them")
    problems += _remote_code(path)
    problems += _elsewhere(path)
    tensors, weight_problems = _adapter_weights(path) if adapter else _weights(path, config)
    return Folder(path, config, tuple(tensors), tuple(problems + weight_problems))


def _names_whole_model(path: Path) -> bool:
    return any(path.glob("model*.safetensors")) or bool(read_json(path / "config.json").get(_WHERE))


def _elsewhere(path: Path) -> Iterator[str]:
    """Say where something in a folder makes the libraries read other files than those that are hashed."""
    parts = sorted(file.name for file in path.glob("shard-*") if _PART.fullmatch(file.name))
    if parts:
        yield (
            f"holds a distributed checkpoint ({_some(parts)}), which is read before any other weights; gather it into one "
            "model with save_pretrained, and give that folder"
        )
    for key, value in read_json(path / "config.json").items():
        if any(inner for inner in _values_of(value, _WHERE)):
            yield f"config.json names weight files within {key} ({_WHERE}), where only some classes look; name them at its top"
    named = read_json(path / "tokenizer_config.json").get("fast_tokenizer_files") or []
    outside = [str(name) for name in named if not isinstance(name, str) or Path(name).name != name]
    if outside:
        yield f"tokenizer_config.json names tokenizer files outside its folder (fast_tokenizer_files): {_some(outside)}"


def _values_of(value: Any, key: str) -> Iterator[Any]:
    """Yield what stands under a key anywhere inside of plain data."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from [inner] if name == key else _values_of(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from _values_of(inner, key)


def _read_json(file: Path, problems: list[str]) -> dict[str, Any]:
    if not file.exists():
        problems.append(f"has no {file.name}, so it is not a Hugging Face model folder (or it is half-written)")
        return {}
    try:
        content = _json_of(file)
    except (ValueError, UserError) as error:
        problems.append(f"{file.name} can't be read as JSON: {error}")
    else:
        if isinstance(content, dict):
            return content
        problems.append(f"{file.name} must hold a JSON object, found {type(content).__name__}")
    return {}


def read_json(file: Path) -> dict[str, Any]:
    """Return the object in a file of JSON; empty where there is no such file, or something else in it."""
    with suppress(OSError, ValueError, UserError):
        if isinstance(content := _json_of(file), dict):
            return content
    return {}


def _json_of(file: Path) -> Any:
    """Return what a file of JSON holds.

    Raises:
        UserError: it can't be read.
        ValueError: it is no JSON, or nested so deeply that others will fail on it.
    """
    try:
        content = json.loads(read_file(file, _LONGEST_JSON, note=False))  # the model's digest covers it
    except RecursionError:
        content = None
    if content is None or _is_deeper(content, _DEEPEST):
        raise ValueError("it is nested too deeply, or empty")
    return content


def _is_deeper(value: Any, levels: int) -> bool:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(not levels or _is_deeper(part, levels - 1) for part in parts)


def _remote_code(path: Path) -> Iterator[str]:
    for file in sorted(path.glob("*config.json")):
        with suppress(ValueError, UserError):
            maps = [value for value in _values_of(_json_of(file), "auto_map") if value]
            wanted = sorted({str(name) for value in maps for name in (value.values() if isinstance(value, dict) else [value])})
            if wanted:
                yield (
                    f"{file.name} wants remote code (auto_map: {', '.join(wanted)}), which is never run; "
                    "use a model whose class is part of transformers, with 'auto_map' removed from its files"
                )


def _weights(path: Path, config: dict[str, Any]) -> tuple[list[Tensor], list[str]]:
    """Return the tensors that a model is loaded from, and what is wrong with its weight files.

    In the order of transformers: what the configuration names, one file, several. Whoever loads is given these tensors, so
    that nothing else is read.
    """
    if (named := config.get(_WHERE)) is not None:
        if not isinstance(named, str) or not (_is_beside(named) or _is_beside(named, _INDEX)):
            return [], [
                f"config.json must name its weights ({_WHERE}) as a safetensors file or index in the same folder, found "
                f"{json.dumps(named)[:60]}"
            ]
        if not (path / named).is_file():
            return [], [f"has no weights: config.json names {named} ({_WHERE}), which is not there"]
    usual = ("model.safetensors", f"model{_INDEX}")
    for file in [path / name for name in ((named,) if named else usual)]:
        if file.is_file():
            return _read_index(file) if file.name.endswith(_INDEX) else _read_shards({}, [file])
    return [], [_no_weights(path, " or ".join(usual))]


def _adapter_weights(path: Path) -> tuple[list[Tensor], list[str]]:
    """Return an adapter's tensors, and what is wrong with its weight file: peft reads one, and no index."""
    file = path / "adapter_model.safetensors"
    return _read_shards({}, [file]) if file.is_file() else ([], [_no_weights(path, file.name)])


def _read_index(index: Path) -> tuple[list[Tensor], list[str]]:
    problems: list[str] = []
    placed = _read_json(index, problems).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        return [], [*problems, f"{index.name} names no weight files (its weight_map is missing or empty)"]
    names = {name if isinstance(name, str) else json.dumps(name)[:60] for name in placed.values()}
    outside = sorted(name for name in names if not _is_beside(name))
    if outside:
        return [], [f"{index.name} names weight files outside its folder, or none: {_some(outside)}"]
    return _read_shards(placed, [index.with_name(name) for name in sorted(names)])


def _is_beside(name: str, suffix: str = ".safetensors") -> bool:
    """Whether a name is that of a weight file in the same folder."""
    return Path(name).name == name and name.endswith(suffix) and name.isprintable()


def _read_shards(placed: dict[str, str], files: list[Path]) -> tuple[list[Tensor], list[str]]:
    tensors: dict[str, Tensor] = {}
    problems: list[str] = []
    for file in files:
        try:
            tensors |= {tensor.name: tensor for tensor in read_header(file)}
        except FileNotFoundError:
            problems.append(f"is half-written: the index names {file.name}, which is not there")
        except BrokenWeightsError as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"{file.name} can't be read: {error.strerror or error}")
    lost = sorted(name for name in placed if name not in tensors) if not problems else []
    if lost:
        problems.append(f"is half-written: the index names {_some(lost)}, which no weight file holds")
    if not tensors and not problems:
        problems.append(f"{files[0].name} holds no tensors")
    return list(tensors.values()), problems


def _no_weights(path: Path, wanted: str) -> str:
    pickles = sorted(file.name for file in path.iterdir() if file.suffix in _PICKLES and file.name != "training_args.bin")
    if pickles:
        return (
            f"has weights only as pickle ({', '.join(pickles)}), which can run code and is never read; "
            "convert it with save_pretrained in a place that you trust"
        )
    other = sorted(file.name for file in path.glob("*.safetensors"))
    found = f"; found {', '.join(other)}" if other else ""
    return f"has no weights: {wanted} must be there{found}"


def _some(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
