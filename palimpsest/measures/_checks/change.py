"""Change: does the tuned model, or the adapter, differ from its base at all?

An adapter whose B matrices are still zero loads without a word and changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from palimpsest import ranks
from palimpsest.core.checkup import Answer
from palimpsest.measures._checks._check import Check
from palimpsest.measures._checks._patient import Before, Patient, apart
from palimpsest.models.parameters import parameters


class Change(Check):
    """Tensors and log-probabilities against those of the base, both as they are in memory. Nothing is asked without a base."""

    def look(self, patient: Patient) -> Iterator[Answer]:
        before = patient.before
        if before is None:
            return
        now = hashes(patient.model)
        shared = now.keys() & before.tensors.keys()
        names = {name for name in shared if now[name] != before.tensors[name]}
        changed = len(names)
        others = len(now.keys() ^ before.tensors.keys())
        about = f"change from {before.name}"
        found = f"{changed} of {len(shared)} tensors{_farthest(patient, before, names)}"
        found += f", and {others} that only one of them has" if others else ""
        if not changed and not others:
            yield self.answer("failed", about, f"none: all {len(shared)} tensors are the same", self._why(patient))
        elif any(one.shape != other.shape for one, other in zip(self._read(patient), before.log_probabilities, strict=True)):
            yield self.answer("told", about, f"{found}; other logits", "they can't be compared token by token")
        else:
            off = max(apart(*pair) for pair in zip(self._read(patient), before.log_probabilities, strict=True))
            state = "ok" if off > patient.rounding else "failed" if off == 0.0 else "told"
            follows = {
                "ok": "",
                "told": "no more than rounding may make: too little was trained, or the type is too narrow",
                "failed": "weights changed where they are not used",
            }
            moved = f"{found}, log-probabilities by up to {off:.2g} nats"
            yield self.answer(state, about, moved, follows[state], value=off, unit="nats")
        yield from self._named(patient, before)

    def _read(self, patient: Patient) -> tuple[torch.Tensor, ...]:
        return readings(patient)

    def _why(self, patient: Patient) -> str:
        if patient.subject.info.base is not None:
            return "the adapter does nothing (its B matrices are zero, or its scale is): it was saved before it was trained"
        return "both are the same model"

    def _named(self, patient: Patient, before: Before) -> Iterator[Answer]:
        info = patient.subject.info
        if info.base is None:
            return
        about, made_on = "the adapter's base", info.made_on
        follows = (
            "the adapter was read on the model given all the same"
            if str(info.base) == before.path
            else "the adapter was read on the base that it names, and compared with the model given"
        )
        if made_on is None:
            yield self.answer("told", about, "it names none, so whether it is the model given can't be told", follows)
        elif made_on.weights == before.weights:
            yield self.answer("ok", about, f"{made_on.name}, with the weights of the model given")
        elif made_on.weights is not None:
            yield self.answer("told", about, f"{made_on.name}, with other weights than those of {before.path}", follows)
        else:
            same = "by name the model given" if made_on.name in (before.name, before.path) else f"by name not {before.name}"
            found = f"{made_on.name}, {same}; it is not here, or can't be read, so its weights could not be compared"
            yield self.answer("told", about, found, follows)


def remember(patient: Patient) -> Before:
    """Return what has to be known of a base after it was closed."""
    info = patient.subject.info
    return Before(info.name, str(info.path), info.weights, readings(patient), hashes(patient.model), info)


def _farthest(patient: Patient, before: Before, names: set[str]) -> str:
    """Return in words which of some tensors moved farthest, in percent of its norm; reads the base again, one by one."""
    now, found = dict(patient.model.named_parameters()), {}
    with TemporaryDirectory() as work, closing(parameters(before.info, Path(work) / "base")) as stored:
        for name, value in stored if names else ():
            if name in names and now[name].shape == value.shape:
                after = ranks.whole(now[name].detach()).cpu()
                old = value.to(after.dtype).double()
                found[name] = float((after.double() - old).norm() / old.norm().clamp(min=1e-300))
    if not found:
        return ""
    most = max(found, key=lambda name: found[name])
    return f" (most of all {most}, by {100 * found[most]:.3g}% of its norm)"


def readings(patient: Patient) -> tuple[torch.Tensor, ...]:
    """Return the log-probabilities of a few rows, each read alone."""
    rows = [patient.row(index) for index in range(4)]
    return tuple(one.cpu() for one in patient.read(rows, range(4), together=False).values())


def hashes(model: torch.nn.Module) -> dict[str, str]:
    """Return a content hash of each weight by its name."""
    found = {}
    for name, value in model.named_parameters():
        raw = ranks.whole(value.detach()).contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data
        found[name] = hashlib.blake2b(raw, digest_size=16).hexdigest()
    return found
