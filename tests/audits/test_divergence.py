"""Divergence: does it say of what text its numbers are, and how much of it was read?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from palimpsest.audit import Case
from palimpsest.audits.divergence import Data, Divergence
from palimpsest.core.measurement import Measurement
from palimpsest.core.seeds import numpy_stream
from palimpsest.data.chat import ItemSet
from palimpsest.data.user_files import text_example

DOCUMENTS, LENGTH = 12, 9


def gathered(name: str, kept: int) -> Data:
    """Return what the audit makes of documents of which the first positions were read."""
    items = ItemSet(name=name, items=tuple(text_example(f"Text {index}.", "t") for index in range(DOCUMENTS)))
    case, audit = Case(roles=("base", "tuned"), items={name: items}), Divergence()
    needs = audit.needs(case)
    return audit.gather(case, {need.name: measured(kept, shift) for need, shift in zip(needs, (0.0, 0.5), strict=True)})


def measured(kept: int, shift: float) -> Measurement:
    logits = np.random.default_rng(0).normal(size=(DOCUMENTS * kept, 4)) + shift * np.arange(4)
    arrays: dict[str, Any] = {
        "log_probability": (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32),
        "log_rest": np.full(len(logits), -np.inf, dtype=np.float32),
        "target": np.zeros(len(logits), dtype=np.int32),
        "start": kept * np.arange(DOCUMENTS + 1),
        "length": np.full(DOCUMENTS, LENGTH),
        "vocabulary": np.arange(4),
    }
    return Measurement(arrays, {"vocabulary": list("abcd")})


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        (LENGTH, "Read: all 108 positions of 12 documents."),
        (5, "Read: 60 of 108 positions, of 12 documents the first 5 at most."),
    ],
)
def test_how_much_of_the_text_was_read_is_told(kept: int, said: str) -> None:
    result = Divergence().analyse(gathered("text:stories", kept), numpy_stream(0, "test"))
    assert result.tables[0].note == said


@pytest.mark.parametrize(("name", "where"), [("text:stories", "general text"), ("sampled:general", "text that the base wrote")])
def test_what_text_the_number_is_of_stands_beside_it(name: str, where: str) -> None:
    result = Divergence().analyse(gathered(name, LENGTH), numpy_stream(0, "test"))
    finding = result.findings[-1]
    assert finding.topic == f"predictions on {where}"
    assert f"moved predictions on {where} by" in finding.statement and where in result.summary
