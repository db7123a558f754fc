"""Forgetting: is each ability and each text said to have fallen, got better, stayed, or not to be decided?"""

from __future__ import annotations

import numpy as np
import pytest

from palimpsest.audits.forgetting import STATES, Data, Forgetting, Paired
from palimpsest.core.seeds import numpy_stream

FEW = STATES["few"]


@pytest.mark.parametrize(
    ("count", "change", "spread", "state", "said"),
    [
        (60, 0.2, 0.02, "fell", "Fell: story."),
        (60, 0.0, 0.02, "unchanged", "Nothing fell beyond its margin; unchanged: story."),
        (32, 0.0, 0.02, FEW, f"Nothing fell beyond its margin; {FEW}: story."),
        (60, -0.2, 0.02, "better", "Nothing fell beyond its margin; better: story."),
        (60, -0.05, 0.2, "not decided", "Nothing fell beyond its margin; not decided: story."),
    ],
)
def test_each_side_of_the_margin_has_its_word(count: int, change: float, spread: float, state: str, said: str) -> None:
    rng = np.random.default_rng(0)
    before = rng.gamma(4.0, 0.5, count)
    one = Paired(before, before + change + rng.normal(0, spread, count), None, None, np.arange(count))
    result = Forgetting().analyse(Data({}, {"story": one}), numpy_stream(0, "test"))
    assert result.tables[0].rows[0][-1] == state
    assert result.summary == said
    assert state.split(",")[0] in result.findings[0].statement
