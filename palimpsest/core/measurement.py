"""Measurement: what was asked of a model, and what came back?

Both are plain data: a need can be hashed, a measurement can be stored. Neither holds a model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from palimpsest.core.spec import Spec, digest


class Need(Spec):
    """One measurement that is asked for: which measure, on which role, over which items, how.

    ``after`` lets one need start from another's result (the tuned model read at the base's most likely tokens). ``against``
    names the role whose weights are read beside. A need without items reads weights only, and the model is not loaded for it.
    """

    measure: str
    role: str
    items: str = ""
    parameters: dict[str, Any] = {}
    after: Need | None = None
    against: str = ""

    @property
    def name(self) -> str:
        """Hash of the request; with the subject's and the items' digests it is the cache key."""
        return digest(self)


@dataclass(frozen=True)
class Measurement:
    """What a measure gives back: named arrays, and named lists of texts."""

    arrays: dict[str, np.ndarray]
    texts: dict[str, list[str]] = field(default_factory=dict)
