"""Parameters: what are a model's weights, one at a time, without holding the model in memory?

Where the files of a folder name their tensors as the loaded model does, each is read straight from its file. Where loading
renames, fuses or merges (experts, old names, adapters) the model is loaded whole, written to a folder tensor by tensor and
let go, so that two models never lie in memory together.
"""

from __future__ import annotations

import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from palimpsest.models import subject
from palimpsest.models.inspection import SubjectInfo
from palimpsest.models.skeleton import empty_model

if TYPE_CHECKING:
    import torch


def streams(info: SubjectInfo) -> bool:
    """Return whether each weight of the loaded model lies in the folder under its own name, as it is."""
    if info.base is not None:
        return False
    stored = {tensor.name: tensor.shape for tensor, _ in info.whole.tensors}
    return all(name in stored and _holds(stored[name], shape) for name, shape in info.shapes) and not _converts(info)


def _holds(stored: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether a stored weight is what is wanted, or has further rows behind it (of a model that was cut)."""
    return stored == wanted or (len(stored) == len(wanted) > 0 and stored[1:] == wanted[1:] and stored[0] > wanted[0])


def parameters(info: SubjectInfo, work: Path) -> Generator[tuple[str, torch.Tensor], None, None]:
    """Yield (name, weights on the CPU) of each parameter, in the order of names; tied ones once.

    Streamed weights have the type that they are stored in; others float32, which holds bfloat16 and float16 exactly
    (float64 where the model is stored in that).

    Args:
        info: what ``inspect`` returned; an adapter is merged into its base.
        work: a folder for a model that can't be streamed; emptied before and removed after use.

    Raises:
        UserError: the files changed since, or the memory does not suffice.
    """
    from palimpsest.models import opening

    info.check_unchanged()
    if streams(info):
        stored = {tensor.name: (tensor, value) for tensor, value in info.whole.tensors}
        for name, shape in info.shapes:
            weight = opening.read(*stored[name])
            yield name, weight[: shape[0]] if shape else weight
        return
    shutil.rmtree(work, ignore_errors=True)
    try:
        yield from _read(_spool(info, work))
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _read(files: dict[str, Path]) -> Iterator[tuple[str, torch.Tensor]]:
    from safetensors import safe_open

    for name in sorted(files):
        with safe_open(files[name], framework="pt", device="cpu") as opened:  # each time, so that no whole file stays mapped
            value = opened.get_tensor(name)
        yield name, value


def _spool(info: SubjectInfo, work: Path) -> dict[str, Path]:
    """Write each weight of the loaded model to a file of its own and let the model go."""
    from safetensors.torch import save_file

    work.mkdir(parents=True)
    files = {}
    with subject.load(info, "cpu", "auto" if info.dtype == "float64" else "float32") as one:
        for index, (name, value) in enumerate(one.model.named_parameters()):
            files[name] = work / f"{index:06d}.safetensors"
            save_file({name: value.detach().contiguous()}, files[name])
    return files


def _converts(info: SubjectInfo) -> bool:
    """Return whether loading may change values and not only names (some layouts permute a weight in its place)."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter

    model, _ = empty_model(info.path, [tensor for tensor, _ in info.whole.tensors], [])
    return any(isinstance(one, WeightConverter) for one in get_model_conversion_mapping(model, add_legacy=False))
