"""Kernels: do layers run on slow reference code where fast kernels exist?"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from palimpsest.core.checkup import Answer
from palimpsest.measures._checks._check import Check
from palimpsest.measures._checks._patient import Patient
from palimpsest.models.layout import located

_PACKAGES = {"fla": "flash-linear-attention", "causal_conv1d": "causal-conv1d"}


class Kernels(Check):
    """Which attention, and whether recurrent layers have the kernels that they ask for."""

    def look(self, patient: Patient) -> Iterator[Answer]:
        attention = getattr(patient.model.config, "_attn_implementation", None)
        if attention:
            yield self.answer("ok", "attention code", str(attention))
        recurrent = sum(place.part == "recurrent" for place in located(patient.model).values())
        if not recurrent:
            return
        about = "code of the recurrent layers"
        if patient.subject.device == "cpu":
            yield self.answer("ok", about, "the reference, as on every CPU")
            return
        missing = [package for module, package in _PACKAGES.items() if importlib.util.find_spec(module) is None]
        if missing:
            found = f"the reference: {' and '.join(missing)} are not installed"
            yield self.answer("told", about, found, f"slower than they need be: pip install {' '.join(missing)}")
        else:
            yield self.answer("ok", about, f"{' and '.join(_PACKAGES.values())} are installed")
