"""Context length: do the positions that the configuration promises exist?"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from palimpsest.core.checkup import Answer
from palimpsest.core.errors import first_line
from palimpsest.measures._checks._check import Check
from palimpsest.measures._checks._patient import Patient

_WITHOUT_LIMIT = 2**31
"""Tokenizers write a huge number where they know of no limit."""


class ContextLength(Check):
    """A few tokens at the last positions, and what the tokenizer calls its limit."""

    tokens: int = 4

    def look(self, patient: Patient) -> Iterator[Answer]:
        length = patient.subject.context_length
        about, promised = "longest context", f"{length:,} tokens"
        problem = self._problem(patient, length)
        if problem:
            follows = "texts of this length can't be read: correct the length in config.json"
            yield self.answer("failed", about, f"{promised}, but the last positions fail: {problem}", follows)
            return
        limit = getattr(patient.tokenizer, "model_max_length", None)
        if isinstance(limit, int) and limit < _WITHOUT_LIMIT and limit != length:
            found = f"{promised} in config.json, {limit:,} in the tokenizer"
            yield self.answer(
                "told", about, found, "texts are read up to the configuration's length; other tools may cut earlier"
            )
            return
        window = getattr(patient.config, "sliding_window", None)
        seen = f"; some layers see only the last {window:,}" if window and window < length else ""
        yield self.answer("ok", about, f"{promised}, whose last positions are read{seen}")

    @torch.no_grad()
    def _problem(self, patient: Patient, length: int) -> str:
        """Return why tokens at the last positions can't be read; empty where they can, or where positions can't be given."""
        positions = torch.arange(length - self.tokens, length, device=patient.subject.device)[None]
        tokens = torch.tensor([patient.row(0, self.tokens).tokens[: self.tokens]], device=patient.subject.device)
        if not patient.takes("position_ids"):
            return ""
        try:
            logits = patient.model(input_ids=tokens, position_ids=positions, use_cache=False).logits
        except (IndexError, RuntimeError) as error:
            return first_line(error)
        return "" if bool(torch.isfinite(logits).all()) else "logits that are not finite"
