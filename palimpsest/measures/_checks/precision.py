"""Precision: is the model run in the type that it is stored in, and what does a narrower one lose?"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from palimpsest.core.checkup import Answer
from palimpsest.measures._checks._check import Check
from palimpsest.measures._checks._patient import Patient

_RISK = {
    "float16": "numbers beyond 65,504 become infinite and those below 6e-8 vanish",
    "bfloat16": "a number keeps 8 bits, so a change of a weight under 0.4% may be rounded away",
}


class Precision(Check):
    """Type in the files, type in memory."""

    def look(self, patient: Patient) -> Iterator[Answer]:
        stored, loaded = patient.subject.info.dtype, str(patient.model.dtype).removeprefix("torch.")
        about = "type of the weights"
        moved = f"rounding may move a log-probability by up to {patient.rounding:.2g} nats"
        if loaded in _RISK and stored != loaded:
            narrower = torch.finfo(getattr(torch, loaded)).eps > torch.finfo(getattr(torch, stored)).eps
            lost = "weights were rounded when they were loaded" if narrower else "weights were converted when they were loaded"
            found = f"stored as {stored}, run in {loaded}: {lost}, and {moved}"
            yield self.answer("told", about, found, f"{_RISK[loaded]}; {_REMEDY}")
        elif loaded in _RISK:
            found = f"stored and run in {loaded}: {moved}"
            yield self.answer("told", about, found, f"{_RISK[loaded]}; {_REMEDY}")
        else:
            found = f"stored and run in {stored}" if stored == loaded else f"stored as {stored}, run in {loaded} without loss"
            yield self.answer("ok", about, found)


_REMEDY = "--dtype float32 reads without that"
