"""Ranks: how do several processes do one thing together?

Each holds its part of every weight and all take the same steps; number 0 decides, writes and speaks. What is decided and what
goes wrong travels apart from the models' own traffic, and may wait for hours, as the others do while one reads weights.
"""

from __future__ import annotations

import atexit
import json
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.fsdp import FSDPModule
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor, distribute_tensor

from palimpsest.core import launch
from palimpsest.core.errors import AlreadyTold, UserError
from palimpsest.core.launch import count, own

T = TypeVar("T")
_PATIENCE = timedelta(days=7)
"""How long others wait for one that works alone. One that ended is noticed at once, whatever this is."""
_HANG = timedelta(minutes=30)
"""How long a model's own traffic may stand still."""
_others: Any = None
"""The group for what is decided; ``None`` stands for all processes as torch connects them."""


def connect(device: str) -> None:
    """Connect the processes of this launch; a second time, or in a single process, nothing is done.

    Args:
        device: where models will be: "cpu", or each process takes the GPU of its own number where there is one.
    """
    global _others
    if count() == 1 or dist.is_initialized():
        return
    place = launch.on_this_machine()[0]
    on_gpu = device != "cpu" and torch.cuda.is_available() and place < torch.cuda.device_count()
    if on_gpu:
        torch.cuda.set_device(place)
    store, rank, size = next(rendezvous("env://", timeout=_HANG))
    # A launcher that starts all again keeps its store, in which the addresses of those that ended still stand.
    store = PrefixStore(f"palimpsest {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", store=store, rank=rank, world_size=size, timeout=_HANG)
    _others = dist.new_group(backend="gloo", timeout=_PATIENCE)
    atexit.register(_disconnect)  # a process that ends with an open group may never end


def connected() -> bool:
    """Whether the processes of this launch know of each other."""
    return count() > 1 and dist.is_initialized()


def _disconnect() -> None:
    global _others
    if connected():
        _others = None
        dist.destroy_process_group()


def device_problems(device: str) -> Iterator[str]:
    """Say why the processes of this launch can't have a device each."""
    if count() == 1:
        return
    here, there = launch.on_this_machine()[1], torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device not in ("auto", "cpu", "cuda"):
        yield (
            f"each of {count()} processes takes the GPU of its own number: --device must be cuda or left out, found '{device}'"
        )
    elif device == "cpu" and there:
        yield (
            f"{count()} processes share a model on GPUs where there are any, and this machine has {there}; "
            "leave --device out, or hide them (CUDA_VISIBLE_DEVICES=)"
        )
    elif there and here > there:
        yield f"{here} processes on this machine need as many GPUs, found {there}; start {there}"


def wait() -> None:
    """Wait until all ranks are here."""
    if connected():
        dist.barrier(group=_others)


def together(work: Callable[[], T]) -> T:
    """Do the same on every rank; what goes wrong for the user on one goes wrong on all, and is told once.

    Raises:
        UserError: of the first rank on which it went wrong; on the others ``AlreadyTold``.
    """
    if count() == 1:
        return work()
    found: list[T] = []
    problem = ""
    try:
        found.append(work())
    except UserError as error:
        problem = str(error) or type(error).__name__
    for rank, told in enumerate([_text_of(rank, problem) for rank in range(count())]):
        if told:
            raise (UserError if own() == rank else AlreadyTold)(told)
    return found[0]


def decided(work: Callable[[], T]) -> T:
    """Let rank 0 do something that it alone may do, and return on every rank what came out: plain data.

    Raises:
        UserError: what went wrong on rank 0; on the others ``AlreadyTold``.
    """
    if count() == 1:
        return work()
    found = together(lambda: work() if own() == 0 else None)
    return json.loads(_text_of(0, json.dumps(found)))


def _text_of(rank: int, text: str) -> str:
    """Return the text that one rank has; every rank has to ask."""
    data = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8) if text else torch.zeros(0, dtype=torch.uint8)
    length = torch.tensor([len(data)])
    dist.broadcast(length, rank, group=_others)
    data = data if own() == rank else torch.zeros(int(length), dtype=torch.uint8)
    if len(data):
        dist.broadcast(data, rank, group=_others)
    return bytes(data.tolist()).decode()


def turns(tasks: Sequence[T]) -> Iterator[tuple[T, list[T], bool]]:
    """Share tasks among ranks: yield what this rank does, what all do at the same time, and whether its own is of use.

    The ranks whose turn there is no task for do the last one too: the layers of a sharded model are gathered together, so
    all have to call it equally often.
    """
    ranks, rank = count(), own()
    for first in range(0, len(tasks), ranks):
        everybody = list(tasks[first : first + ranks])
        yield everybody[min(rank, len(everybody) - 1)], everybody, rank < len(everybody)


def from_rank(rank: int, tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of any shape that one rank has; the others give one of the same type, dimensions and device."""
    if count() == 1:
        return tensor
    shape = torch.tensor(tensor.shape, dtype=torch.long)
    dist.broadcast(shape, rank, group=_others)
    theirs = tensor.contiguous() if own() == rank else tensor.new_empty(tuple(shape.tolist()))
    if theirs.numel():
        dist.broadcast(theirs, rank)
    return theirs


def put_together(parts: np.ndarray) -> np.ndarray:
    """Return an array to which each rank gave its own places, the others 0 or False there."""
    if count() == 1:
        return parts
    found = torch.from_numpy(parts.astype(np.uint8) if parts.dtype == np.bool_ else parts)
    dist.all_reduce(found, group=_others)
    return found.numpy().astype(parts.dtype)


def said_by_any(text: str) -> str:
    """Return what the first rank says that says anything."""
    if count() == 1:
        return text
    return next((told for told in [_text_of(rank, text) for rank in range(count())] if told), "")


def is_sharded(model: torch.nn.Module) -> bool:
    """Return whether each rank holds only its part of a model's weights."""
    return isinstance(model, FSDPModule)


def let_go(model: torch.nn.Module) -> None:
    """Give back the weights that a pass left whole on this rank, so that every rank holds its part and no more."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def summed(numbers: torch.Tensor) -> torch.Tensor:
    """Return the sum over ranks."""
    if count() > 1:
        dist.all_reduce(numbers)
    return numbers


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor that may be sharded as one; every rank has to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def copy_into(target: torch.Tensor, source: torch.Tensor) -> None:
    """Copy a whole tensor, which every rank has, into one that may be sharded."""
    if isinstance(target, DTensor):
        source = distribute_tensor(source.to(target.device), target.device_mesh, target.placements, src_data_rank=None)
    target.copy_(source)


def sharded_like(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return a whole tensor, which every rank has, in the shards of another one of its shape."""
    if isinstance(like, DTensor) and not isinstance(tensor, DTensor):
        return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)
    return tensor
