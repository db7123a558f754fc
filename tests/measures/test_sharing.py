"""Sharing: rows that begin alike give the same numbers in one line as each on its own, on every architecture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from palimpsest.core.seeds import numpy_stream, python_stream
from palimpsest.measures import _forward, _sharing
from palimpsest.measures._forward import Row, run_rows
from palimpsest.measures._kept import Kept
from palimpsest.measures._measure import Budget
from palimpsest.measures._steering import Added, Answers, Streams
from palimpsest.models import subject

RECURRENT = ("qwen3_5_text",)


@pytest.fixture(scope="module", params=tiny.KINDS)
def one(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> subject.Subject:
    path = tiny.folder(tmp_path_factory.mktemp("model") / request.param, request.param)
    return subject.load(subject.inspect(path))


def draw(length: int, *name: str | int) -> tuple[int, ...]:
    return tuple(python_stream(0, "sharing", *name).choices(range(3, 250), k=length))


def options(context: int, name: str) -> list[Row]:
    """Return rows as options after one context make them: of one token, alike in their beginnings, and the same twice."""
    begin, tail = draw(context, name), draw(9, name, "tail")
    tails = [tail[:1], tail[:4], tail, (*tail[:4], *draw(3, name, "other")), draw(5, name, "last"), tail]
    return [Row((*begin, *one), context) for one in tails]


def rows() -> list[Row]:
    shots = draw(20, "shots")
    asked = [Row((*shots, *draw(5, "question", number)), 23) for number in range(5)]
    return [*options(12, "a"), *asked, *options(24, "b"), Row(draw(30, "alone"), 1), Row(draw(3, "short"), 3)]


class Counted:
    """How many tokens a model was given."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.tokens, self.model = 0, model

    def __enter__(self) -> Counted:
        def seen(_module: object, _inputs: object, named: dict[str, torch.Tensor]) -> None:
            self.tokens += named["input_ids"].numel()

        self.handle = self.model.register_forward_pre_hook(seen, with_kwargs=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.handle.remove()


def test_rows_that_share_a_line_are_read_as_each_on_its_own(one: subject.Subject) -> None:
    kept, given = Kept(), rows()
    run_rows(one, given, [kept], Budget(64), lambda *_: None)
    assert set(kept.found) == set(range(len(given))) - {len(given) - 1}, "a row that predicts nothing is left out"
    for index, found in kept.found.items():
        row = given[index]
        with torch.no_grad():
            wanted = one.model(torch.tensor([row.tokens[:-1]])).logits[0, row.first - 1 :].log_softmax(-1)
        # a recurrent layer reads in chunks, which padding shifts, so that its state is rounded otherwise
        near = 1e-3 if one.model.config.model_type in RECURRENT else 1e-5
        assert torch.allclose(found, wanted, atol=near, rtol=1e-5), (index, (found - wanted).abs().max())


def test_what_rows_have_in_common_is_run_once_where_attention_alone_mixes_tokens(one: subject.Subject) -> None:
    given = options(16 if one.info.architecture.startswith("Gemma") else 40, "c")
    _sharing.widest_line(one)  # the trial
    with Counted(one.model) as counted:
        run_rows(one, given, [Kept()], Budget(64), lambda *_: None)
    whole = sum(len(row.tokens) - 1 for row in given[1:5]) + 1
    kind = one.model.config.model_type
    if kind in RECURRENT or "gemma3" in kind:  # its window of 16 is shorter than these lines
        assert counted.tokens >= whole
    else:
        assert counted.tokens == 40 + 0 + 3 + 5 + 3 + 4 - 1
        assert counted.tokens < whole / 3


def test_the_head_sees_the_positions_that_predict_and_no_others(one: subject.Subject) -> None:
    """Whether it can be told or not, and whether the model can be asked for some columns or not, the numbers are the same."""
    given, seen = [*options(12, "a"), *options(20, "d")], []
    head = one.model.get_output_embeddings()
    hook = head.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[:-1].numel()))
    found = Kept()
    run_rows(one, given, [found], Budget(64), lambda *_: None)
    hook.remove()
    assert sum(seen) <= sum(map(len, found.found.values()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one.model, "get_output_embeddings", lambda: None)
        untold = Kept()
        run_rows(one, given, [untold], Budget(64), lambda *_: None)
        accepted = _sharing.reading.accepted
        patch.setattr(
            _sharing.reading, "accepted",
            lambda model, offered: accepted(model, {name: one for name, one in offered.items() if name != "logits_to_keep"}),
        )  # fmt: skip
        whole = Kept()
        run_rows(one, given, [whole], Budget(64), lambda *_: None)
    for index, logits in found.found.items():
        assert torch.allclose(logits, untold.found[index], atol=1e-5)
        assert torch.allclose(logits, whole.found[index], atol=1e-5)


def test_a_vector_is_added_and_the_stream_is_read_at_the_same_places(
    one: subject.Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [*options(12, "a"), *options(20, "d")]
    vector = numpy_stream(0, "sharing").standard_normal(32)

    def read() -> tuple[np.ndarray, np.ndarray]:
        answers = Answers(given)
        streams = Streams([(row.first - 1, max(row.first, len(row.tokens) - 1)) for row in given], [1, 2])
        run_rows(one, given, [Added(given, 1, vector), answers, streams], Budget(64), lambda *_: None)
        return answers.log_probability, streams.values

    shared = read()
    monkeypatch.setattr(_forward, "widest_line", lambda _: 0)
    for found, wanted in zip(shared, read(), strict=True):
        assert np.allclose(found, wanted, atol=2e-5)


def test_a_line_holds_every_row_and_a_token_sees_its_own_row_only() -> None:
    rng = python_stream(0, "lines")
    for trial in range(60):
        stems = [rng.choices(range(3), k=rng.randint(0, 8)) for _ in range(3)]
        inputs = [[*rng.choice(stems), *rng.choices(range(3), k=rng.randint(1, 6))] for _ in range(12)]
        firsts = [rng.randrange(len(row)) for row in inputs]
        lines = _sharing.lines_of(inputs, firsts, 30, whole_context=bool(trial % 2))
        assert sorted(index for line in lines for index in line.columns) == list(range(12))
        for line in lines:
            sees, needed = line.sees(), set()
            for index, columns in line.columns.items():
                assert [line.tokens[column] for column in columns] == inputs[index]
                assert line.positions[columns].tolist() == list(range(len(columns)))
                for place, column in enumerate(columns):
                    assert np.flatnonzero(sees[column]).tolist() == columns[: place + 1].tolist()
                needed.update(columns[firsts[index] :].tolist())
            assert line.predicting() == needed
            if trial % 2 and len(line.columns) > 1:
                decided = {(firsts[index], *inputs[index][: firsts[index] + 1]) for index in line.columns}
                assert len(decided) == 1 or line.is_plain


def test_the_trial_finds_a_model_that_ignores_the_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = subject.load(subject.inspect(tiny.folder(tmp_path / "m", "llama")))
    assert _sharing.widest_line(one) > 1000
    other = subject.load(subject.inspect(tiny.folder(tmp_path / "n", "llama")))
    monkeypatch.setattr(_sharing, "_tree_mask", lambda lines, width, dtype: torch.ones(len(lines), width, dtype=torch.long))
    assert _sharing.widest_line(other) == 0
