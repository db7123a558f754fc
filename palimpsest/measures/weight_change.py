"""Weight change: how far did each weight move from those of another model, and in how many directions?

Both models are read from their files one tensor at a time and compared in float64, in slices, whatever type they are stored
in. A matrix's singular values come from the Gram matrix of its update (its shorter side), which is exact to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field

from palimpsest.core.measurement import Measurement
from palimpsest.measures._measure import Progress, WeightMeasure
from palimpsest.models.comparison import different_shapes
from palimpsest.models.layout import layout
from palimpsest.models.parameters import parameters

_SLICE = 2**20
"""Entries that are compared at once."""
_SWEEPS = 12
_ALIKE = 1e-9
"""By so much of it may rounding change a squared norm that is summed in float64."""
_SPARE = 16


class WeightChange(WeightMeasure):
    """Norms of each weight's update, and the singular values of each matrix's.

    Texts: ``name``, ``part``, ``kind`` [weights] (where each lies, see ``models.layout``); or only ``why`` [1], the reason why
    the two models' weights can't be compared.

    Arrays [weights]: ``layer`` (-1: outside the layers), ``size`` (entries), ``changed`` (entries that differ at all),
    ``largest`` (absolute change of an entry), ``reordered`` (whether it holds the numbers of the base in another order, as
    heads and units do that were only permuted), and in float64 the squared Frobenius norms ``base_sq`` and ``update_sq`` and
    the inner product ``inner`` of update and base. Arrays [matrices], where experts count each for itself: ``weight`` (index),
    ``matrix_sq`` (squared norm of its update), ``side`` (the number of singular values), ``spectrum`` [matrices, kept] (the
    leading ones, 0 beyond the last), ``whole`` (whether all of them were computed), ``rank`` (how many are larger than what
    rounding of the new weights can make) and ``effective_rank`` (exponential of the entropy of the singular values' shares, Roy
    and Vetterli 2007); the last two are -1 where not all were computed.
    """

    spectrum: int = Field(default=64, ge=0)
    """Singular values kept of each matrix; with 0 none are computed."""
    exact_side: int = Field(default=4_096, gt=0)
    """Up to this shorter side all singular values are computed; beyond, only the leading ones (subspace iteration)."""

    def compare(self, info: Any, against: Any, device: str, work: Path, progress: Progress) -> Measurement:
        why = different_shapes(against, info)
        if why:
            return Measurement({}, {"why": why})
        places, found = layout(info), _Found()
        total, done = info.parameters, 0
        with closing(parameters(info, work / "one")) as ones, closing(parameters(against, work / "other")) as others:
            for (name, after), (other, before) in zip(ones, others, strict=True):
                if name != other or after.shape != before.shape:
                    return Measurement({}, {"why": [f"The weights are not comparable: {name} against {other} after loading."]})
                place = places[name]
                found.add(_Update(before, after, _on(device)), self.spectrum, self.exact_side)
                found.texts["name"].append(name)
                found.texts["part"].append(place.part)
                found.texts["kind"].append(place.kind)
                found.layer.append(-1 if place.layer is None else place.layer)
                done += after.numel()
                progress(done, total)
        return found.measurement(self.spectrum)


class _Update:
    """The change of one weight, made slice by slice; neither it nor its float64 copies are ever held whole."""

    def __init__(self, before: torch.Tensor, after: torch.Tensor, device: str) -> None:
        self.before, self.after, self.device = before, after, device

    def slices(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield (update, weights before) of some rows, in float64 on the device."""
        before, after = torch.atleast_1d(self.before), torch.atleast_1d(self.after)
        rows = max(_SLICE * len(before) // max(before.numel(), 1), 1)
        for low in range(0, len(before), rows):
            old = before[low : low + rows].to(self.device, torch.float64)
            yield after[low : low + rows].to(self.device, torch.float64) - old, old

    def matrices(self) -> Iterator[_Update]:
        """Yield the matrices that it consists of, each with its shorter side last."""
        if self.before.ndim < 2:
            return
        before, after = (one.flatten(1) if 1 in one.shape[1:] else one for one in (self.before, self.after))
        # a side of 1 marks a depthwise convolution, which is one matrix; other weights of three dimensions are experts
        before, after = (one.reshape(-1, *one.shape[-2:]) for one in (before, after))
        for old, new in zip(before, after, strict=True):
            turned = old.shape[0] < old.shape[1]
            yield _Update(old.T, new.T, self.device) if turned else _Update(old, new, self.device)

    def gram(self) -> torch.Tensor:
        """Return update^T update [shorter side, shorter side]."""
        side = self.before.shape[1]
        total = torch.zeros(side, side, dtype=torch.float64, device=self.device)
        for change, _ in self.slices():
            total += change.T @ change
        return total

    def times(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return update^T update vectors, without the Gram matrix."""
        total = torch.zeros_like(vectors)
        for change, _ in self.slices():
            total += change.T @ (change @ vectors)
        return total

    def reordered(self) -> bool:
        """Whether both hold exactly the same numbers."""
        before, after = (one.detach().flatten().sort().values for one in (self.before, self.after))
        return torch.equal(before, after)

    def squares(self) -> tuple[float, float]:
        """Return the squared norm of the update, and a bound on each singular value of what rounding can add to it.

        By Weyl's inequality that is at most the spectral norm of the errors of rounding to the type of the new weights, so at
        most their Frobenius norm; each is below half the type's spacing, and as much is left for what made the weights.
        """
        update = after = 0.0
        for change, old in self.slices():
            update += float(torch.sum(change**2))
            after += float(torch.sum((change + old) ** 2))
        return update, torch.finfo(self.after.dtype).eps * math.sqrt(after)


@dataclass
class _Found:
    """What was read so far, weight by weight and matrix by matrix."""

    layer: list[int] = field(default_factory=list)
    weights: list[tuple[float, ...]] = field(default_factory=list)
    reordered: list[bool] = field(default_factory=list)
    matrices: list[tuple[float, ...]] = field(default_factory=list)
    spectra: list[np.ndarray] = field(default_factory=list)
    texts: dict[str, list[str]] = field(default_factory=lambda: {"name": [], "part": [], "kind": []})

    def add(self, update: _Update, kept: int, exact_side: int) -> None:
        size = changed = largest = base_sq = update_sq = inner = 0.0
        for change, old in update.slices():
            size += change.numel()
            changed += int(torch.count_nonzero(change))
            largest = max(largest, float(change.abs().max())) if change.numel() else largest
            base_sq += float(torch.sum(old * old))
            update_sq += float(torch.sum(change * change))
            inner += float(torch.sum(change * old))
        # of what was permuted the norm is the same but for rounding, so that nothing else has to be sorted
        alike = update_sq > 0 and abs(2 * inner + update_sq) <= _ALIKE * base_sq
        self.reordered.append(alike and update.reordered())
        for matrix in update.matrices() if kept else ():
            side, (squared, noise) = matrix.before.shape[1], matrix.squares()
            values = _singular_values(matrix, kept, exact_side) if squared else np.zeros(side)
            whole = len(values) == side
            ranks = (int((values > noise).sum()), _effective_rank(values)) if whole else (-1, -1.0)
            self.matrices.append((len(self.weights), squared, side, whole, *ranks))
            self.spectra.append(np.pad(values[:kept], (0, max(kept - len(values), 0))))
        self.weights.append((size, changed, largest, base_sq, update_sq, inner))

    def measurement(self, kept: int) -> Measurement:
        size, changed, largest, base_sq, update_sq, inner = np.array(self.weights).reshape(-1, 6).T
        arrays = {
            "layer": np.array(self.layer, dtype=np.int64),
            "size": size.astype(np.int64),
            "changed": changed.astype(np.int64),
            "largest": largest,
            "reordered": np.array(self.reordered, dtype=np.bool_),
            "base_sq": base_sq,
            "update_sq": update_sq,
            "inner": inner,
        }
        if kept:
            weight, squared, side, whole, rank, effective = np.array(self.matrices).reshape(-1, 6).T
            arrays |= {
                "weight": weight.astype(np.int64),
                "matrix_sq": squared,
                "side": side.astype(np.int64),
                "whole": whole.astype(np.bool_),
                "rank": rank.astype(np.int64),
                "effective_rank": effective,
                "spectrum": np.array(self.spectra).reshape(-1, kept),
            }
        return Measurement(arrays, self.texts)


def _singular_values(matrix: _Update, kept: int, exact_side: int) -> np.ndarray:
    """Return the singular values of an update in falling order: all, or where its side is too long the leading ones."""
    side = matrix.before.shape[1]
    whole = side <= max(exact_side, kept + _SPARE)
    squares = torch.linalg.eigvalsh(matrix.gram()) if whole else _leading(matrix, kept)
    return np.sqrt(np.maximum(squares.flip(0).cpu().numpy(), 0.0))


def _leading(matrix: _Update, kept: int) -> torch.Tensor:
    """Return the largest eigenvalues of the Gram matrix by block subspace iteration (Halko, Martinsson and Tropp 2011).

    They approach the true ones from below. The start is a fixed draw, so that the same weights give the same numbers.
    """
    side = matrix.before.shape[1]
    generator = torch.Generator().manual_seed(side)
    basis = torch.randn(side, kept + _SPARE, dtype=torch.float64, generator=generator).to(matrix.device)
    for _ in range(_SWEEPS):
        basis = torch.linalg.qr(matrix.times(torch.linalg.qr(basis).Q)).Q
    return torch.linalg.eigvalsh(basis.T @ matrix.times(basis))[-kept:]


def _effective_rank(values: np.ndarray) -> float:
    total = values.sum()
    shares = values[values > 0] / total if total else np.array([])
    return float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 0.0


def _on(device: str) -> str:
    """Return where float64 is at home: on the CPU, or on a CUDA device."""
    return device if device.startswith("cuda") else "cpu"
