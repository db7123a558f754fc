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


def test_means_over_documents_and_over_tokens_are_both_given() -> None:
    tokens = np.arange(60) % 5 * 100 + 2
    rng = np.random.default_rng(1)
    before = rng.gamma(4.0, 0.5, 60)
    after = before + tokens / 1000
    text = Paired(before, after, None, None, np.arange(60), tokens=tokens)
    found = Forgetting().analyse(Data({}, {"story": text}), numpy_stream(0, "test")).estimates
    assert found["loss_change:story"].value == pytest.approx((tokens / 1000).mean())
    assert found["token_loss_change:story"].value == pytest.approx(float((tokens**2).sum() / tokens.sum() / 1000))
    assert found["token_loss_change:story"].n == 60 and found["token_loss_change:story"].interval is not None


def test_the_template_that_carries_a_change_is_named() -> None:
    templates = np.repeat([f"template {place}" for place in range(24)], 8)
    before = np.ones(192)
    after = np.where(templates == "template 7", 0.0, 1.0)
    lost = Paired(None, None, before, after, templates)
    result = Forgetting().analyse(Data({"sums": lost}), numpy_stream(0, "test"))
    table = next(one for one in result.tables if one.title == "Which template carries the change")
    assert table.rows == (("sums", "template 7", "100%", "4%", 24),)
    assert result.estimates["accuracy_drop:sums"].equivalent is False
