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
from palimpsest.verdict import Thresholds, judge

DOCUMENTS, LENGTH = 12, 9


def gathered(name: str, kept: int, shift: float = 0.5, beyond: int = 0) -> Data:
    """Return what the audit makes of documents of which the first positions were read."""
    items = ItemSet(name=name, items=tuple(text_example(f"Text {index}.", "t") for index in range(DOCUMENTS)))
    case, audit = Case(roles=("base", "tuned"), items={name: items}, beyond={name: beyond}), Divergence()
    needs = audit.needs(case)
    return audit.gather(case, {need.name: measured(kept, shift) for need, shift in zip(needs, (0.0, shift), strict=True)})


def measured(kept: int, shift: float) -> Measurement:
    logits = np.random.default_rng(0).normal(size=(DOCUMENTS * kept, 4)) + shift * np.arange(4)
    arrays: dict[str, Any] = {
        "log_probability": (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32),
        "log_rest": np.full(len(logits), -np.inf, dtype=np.float32),
        "target": np.zeros(len(logits), dtype=np.int32),
        "start": kept * np.arange(DOCUMENTS + 1),
        "length": np.full(DOCUMENTS, LENGTH),
        "vocabulary": np.arange(4),
        "rounding": np.array(1e-3),
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


def test_what_lies_beyond_the_context_is_counted_as_not_read() -> None:
    data = gathered("text:stories", LENGTH, beyond=1000)
    assert Divergence().analyse(data, numpy_stream(0, "test")).tables[0].note == (
        "Read: 108 of 1,108 positions, of 12 documents the first 9 at most."
    )


def test_means_over_documents_and_over_tokens_are_both_given() -> None:
    """One long document in twelve moved: it is a twelfth of the documents and most of the tokens."""
    sizes = np.array([100] + [4] * 11)
    document = np.repeat(np.arange(12), sizes)
    rng = np.random.default_rng(0)
    kl = np.where(document == 0, 2.0, 1.0) * rng.gamma(50, 1 / 50, document.size)
    floor = np.full(document.size, 0.5)
    data = Data(kl, document, np.zeros(document.size), np.array(["a"] * 12), floor[None], largest=1.0)
    found = Divergence().analyse(data, numpy_stream(0, "test"))
    by_document = np.array([kl[document == one].mean() for one in range(12)])
    assert found.estimates["kl"].value == pytest.approx(by_document.mean())
    assert found.estimates["kl_tokens"].value == pytest.approx(kl.mean())
    assert found.estimates["kl_tokens_over_floor"].value == pytest.approx(kl.mean() - 0.5)
    assert found.estimates["kl_tokens"].n == 12, "documents are the clusters, however many tokens they have"
    assert found.tables[0].columns == ("", "mean over documents", "mean over tokens")
    assert f"{by_document.mean():.3f} nats a token ({kl.mean():.3f} over all tokens alike)" in found.summary


def test_the_interval_of_the_mean_over_tokens_covers_it() -> None:
    """Documents of 2 to 60 tokens, long ones diverging more, tokens of one document alike."""
    held = []
    for world in range(200):
        rng = numpy_stream(world, "tokens")
        size = rng.integers(2, 60, 64)
        level = (0.5 + size / 40) * rng.gamma(8.0, 1 / 8.0, 64)
        document = np.repeat(np.arange(64), size)
        kl = level[document] * rng.gamma(2.0, 1 / 2.0, document.size)
        sizes = np.arange(2, 60)
        truth = float((sizes * (0.5 + sizes / 40)).mean() / sizes.mean())
        data = Data(kl, document, np.zeros(document.size), np.array(["a"] * 64), largest=1.0)
        low, high = Divergence().analyse(data, rng).estimates["kl_tokens"].interval or (np.inf, np.inf)
        held.append(low <= truth <= high)
    assert np.mean(held) >= 0.91


def repeated(lines: list[list[int]]) -> Data:
    """Return what is made of documents of these tokens, in which the token after 7 moved most, then that after 8, and so on."""
    items = ItemSet(name="text:stories", items=tuple(text_example(f"Text {index}.", "t") for index in range(len(lines))))
    case, audit = Case(roles=("base", "tuned"), items={items.name: items}), Divergence()
    target = np.array([token for line in lines for token in line])
    after = np.concatenate([[0], target[:-1]])
    base = np.full((len(target), 20), 1 / 20)
    tuned = base.copy()
    rise = np.where(after >= 7, 0.5 - 0.02 * after, 0.0)
    tuned[:, 3] += rise
    tuned[:, 4:] -= rise[:, None] / 16 / 20
    arrays: dict[str, Any] = {
        "log_rest": np.full(len(target), -np.inf, dtype=np.float32),
        "target": target.astype(np.int32),
        "start": np.cumsum([0, *map(len, lines)]),
        "length": np.array([len(line) for line in lines]),
        "vocabulary": np.arange(20),
        "rounding": np.array(1e-9),
    }
    texts = {"vocabulary": [f"<{token}>" for token in range(20)]}
    roles = (Measurement({**arrays, "log_probability": np.log(one).astype(np.float32)}, texts) for one in (base, tuned))
    return audit.gather(case, dict(zip((need.name for need in audit.needs(case)), roles, strict=True)))


def test_the_places_where_predictions_moved_most_are_different_ones() -> None:
    """A line that stands a hundred times in one document, and once in eleven others, is one place."""
    line = [5, 6, 5, 7]
    lines = [line * 100, *([8 + index, *line, 7 + index] for index in range(1, 12))]
    shown = repeated(lines).contexts
    assert len(shown) == 10
    assert len({(one.tail, one.token) for one in shown}) == 10
    assert sum(one.tail == (5, 6, 5, 7) for one in shown) == 1
    assert shown[0].said.endswith("<5><6><5><7>"), "what moved most comes first"
    assert len({one.document for one in shown}) == 10


def test_a_text_that_repeats_one_line_has_few_places() -> None:
    """Nothing but one line in every document: fewer than ten places, rather than one of them ten times."""
    shown = repeated([[5, 6, 8, 7] * 25 for _ in range(12)]).contexts
    assert len({(one.tail, one.token) for one in shown}) == len(shown) < 10


@pytest.mark.parametrize(("shift", "rounded"), [(1e-5, True), (0.5, False)])
def test_what_rounding_explains_is_no_change(shift: float, rounded: bool) -> None:
    result = Divergence().analyse(gathered("text:stories", LENGTH, shift=shift), numpy_stream(0, "test"))
    assert any(one.tag == "rounding" for one in result.findings) is rounded
    assert ("beyond rounding" in result.summary) is rounded
    verdict = judge(result.findings, Thresholds(), intended=False)
    assert ("the same predictions, to rounding" in verdict.headline) is rounded


@pytest.mark.parametrize(("name", "where"), [("text:stories", "general text"), ("sampled:general", "text that the base wrote")])
def test_what_text_the_number_is_of_stands_beside_it(name: str, where: str) -> None:
    result = Divergence().analyse(gathered(name, LENGTH), numpy_stream(0, "test"))
    finding = result.findings[-1]
    assert finding.topic == f"predictions on {where}"
    assert f"moved predictions on {where} by" in finding.statement and where in result.summary
