"""Forgetting: is each ability and each text said to have fallen, got better, stayed, or not to be decided?"""

from __future__ import annotations

import numpy as np
import pytest

from palimpsest.audits.forgetting import Data, Forgetting, Paired
from palimpsest.core.seeds import numpy_stream


@pytest.mark.parametrize(
    ("change", "spread", "state", "said"),
    [
        (0.2, 0.02, "fell", "Fell: story."),
        (0.0, 0.02, "unchanged", "Nothing fell beyond its margin; unchanged: story."),
        (-0.2, 0.02, "better", "Nothing fell beyond its margin; better: story."),
        (-0.05, 0.2, "not decided", "Nothing fell beyond its margin; not decided: story."),
    ],
)
def test_each_side_of_the_margin_has_its_word(change: float, spread: float, state: str, said: str) -> None:
    rng = np.random.default_rng(0)
    before = rng.gamma(4.0, 0.5, 60)
    one = Paired(before, before + change + rng.normal(0, spread, 60), None, None, np.arange(60))
    result = Forgetting().analyse(Data({}, {"story": one}), numpy_stream(0, "test"))
    assert result.tables[0].rows[0][-1] == state
    assert result.summary == said
    assert state in result.findings[0].statement
