"""Finite: is every weight and every logit a number, in the type that the model is run in?

The weights in the files were read when the model was looked at; here are those in memory, which a narrower type may have made
infinite.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from palimpsest.core.checkup import Answer
from palimpsest.measures._checks._check import Check
from palimpsest.measures._checks._patient import Patient

NOT_A_NUMBER = "logits that are not numbers (NaN)"
"""What ``found`` begins with where nothing can be measured."""


class Finite(Check):
    """All weights in memory, and all logits of one batch of four rows."""

    def look(self, patient: Patient) -> Iterator[Answer]:
        dtype = str(patient.model.dtype).removeprefix("torch.")
        wrong = [name for name, value in patient.model.named_parameters() if not bool(torch.isfinite(value).all())]
        if wrong:
            yield self.answer(
                "failed",
                f"weights in {dtype}",
                f"{len(wrong)} tensors hold infinity or NaN, the first {wrong[0]}",
                "the stored numbers do not fit into this type: use --dtype float32 or bfloat16",
            )
        rows = [patient.row(index) for index in range(4)]
        with torch.no_grad():
            tokens = torch.tensor([row.tokens[:-1] for row in rows], device=patient.subject.device)
            logits = patient.model(input_ids=tokens, use_cache=False).logits
        if bool(logits.isnan().any()):
            found = f"{NOT_A_NUMBER} at {float(logits.isnan().any(-1).float().mean()):.0%} of positions"
            yield self.answer("failed", f"logits in {dtype}", found, "nothing can be measured: use --dtype float32")
        elif not bool(torch.isfinite(logits).all()):
            found = f"infinite at {float((~torch.isfinite(logits)).any(-1).float().mean()):.0%} of positions"
            yield self.answer("failed", f"logits in {dtype}", found, "log-probabilities are lost: use --dtype float32")
        elif not wrong:
            yield self.answer("ok", f"weights and logits in {dtype}", f"all finite, logits up to {_top(logits):.3g}")


def _top(logits: torch.Tensor) -> float:
    return float(logits.abs().max())
