"""Measure: what can be read off one model on given items?

A measure is one module in ``palimpsest/measures``; its fields are its parameters. It sees one subject at a time and returns
arrays. What only reads a forward pass derives from ``_forward.ForwardMeasure``, so that all of them share one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palimpsest.core import discover
from palimpsest.core.measurement import Measurement
from palimpsest.core.spec import Spec
from palimpsest.data.chat import ItemSet

PACKAGE = "palimpsest.measures"
_SHARE, _BYTES_A_LOGIT = 5, 14
"""What part of a GPU's memory logits may take, and bytes of one: as the model gives it, as float32, and what that becomes."""
Progress = Callable[[int, int], None]
"""Called with (rows done, rows in all)."""


@dataclass(frozen=True)
class Budget:
    """How much goes through the model at once. It is part of every cache key: both models see the same batches."""

    context: int
    """Longest sequence that every model of the comparison takes."""
    tokens: int = 8_192
    logits: int = 2**26
    """Largest number of logits held at once (positions x vocabulary)."""

    @classmethod
    def on(cls, device: str, context: int) -> Budget:
        """Return what suits a device: a GPU idles while Python starts a pass, and has the room for large ones."""
        if not device.startswith("cuda"):
            return cls(context)
        import torch

        room = torch.cuda.get_device_properties(device).total_memory // _SHARE
        return cls(context, 2 * cls.tokens, max(cls.logits, room // _BYTES_A_LOGIT))

    def halved(self) -> Budget:
        return Budget(self.context, max(self.tokens // 2, 1), max(self.logits // 2, 1))

    @property
    def smallest(self) -> bool:
        return self.tokens <= 64


class Measure(Spec, ABC):
    """One way to read a model."""

    @abstractmethod
    def take(self, subject: Any, items: ItemSet, budget: Budget, after: Measurement | None, progress: Progress) -> Measurement:
        """Measure the items on a subject (``palimpsest.models.subject.Subject``), in their order."""

    def numbers(self, items: int, layers: int, width: int) -> int:
        """Return how many numbers it keeps of a model of this shape besides those of every token, for a forecast."""
        return 0


class WeightMeasure(Measure):
    """One way to read weights, of one model beside those of another. It takes no items and loads no model."""

    @abstractmethod
    def compare(self, info: Any, against: Any, device: str, work: Path, progress: Progress) -> Measurement:
        """Measure the weights of a model against those of another.

        Args:
            info: of the model that is measured (``palimpsest.models.inspection.SubjectInfo``).
            against: of the model that it is compared with.
            device: where to compute.
            work: a folder of its own for what does not fit into memory; it may be there already, and is removed afterwards.
            progress: called with (weights read, weights in all).
        """

    def take(self, subject: Any, items: ItemSet, budget: Budget, after: Measurement | None, progress: Progress) -> Measurement:
        raise TypeError(f"{type(self).__name__} reads weights: ask for it without items")


def load(name: str, parameters: dict[str, Any]) -> Measure:
    """Return the measure of that name with these parameters."""
    return discover.find(PACKAGE, name, Measure).read(parameters, f"the parameters of measure '{name}'")
