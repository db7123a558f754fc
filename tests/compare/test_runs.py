"""Our own runs: what a run keeps of its items is what its audits counted, and two runs are compared item by item."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
from test_pipeline import behaviour, model  # noqa: F401

import palimpsest
from palimpsest.audit import Case
from palimpsest.core.errors import UserError
from palimpsest.core.measurement import Measurement
from palimpsest.data.chat import Example, ItemSet, Message, Span
from palimpsest.data.checks import Contains
from palimpsest.evaluations.comparison import carry_out
from palimpsest.evaluations.paired import Options
from palimpsest.item_scores import as_lines

AUDITS = ("outcome", "judgement", "forgetting")


def lines(run: palimpsest.Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.folder / "items" / "0.jsonl").read_text().splitlines()]


def mean(rows: list[dict[str, Any]], name: str, role: str, score: str) -> float:
    values = [one["scores"][role][score] for one in rows if one["set"] == name]
    return sum(values) / len(values)


@pytest.fixture
def runs(behaviour: Path, model: Path, tmp_path: Path) -> list[palimpsest.Run]:  # noqa: F811
    text = [behaviour.parent / "text.txt"]
    return [
        palimpsest.diff(
            model, tiny.folder(tmp_path / name, seed=seed, max_position_embeddings=128), behaviour=behaviour, text=text,
            folder=tmp_path / f"run-{name}", audits=AUDITS, device="cpu",
        )
        for name, seed in (("one", 1), ("two", 2))
    ]  # fmt: skip


def test_two_runs(runs: list[palimpsest.Run], tmp_path: Path) -> None:
    for run in runs:
        rows = lines(run)
        outcome, forgetting = run.estimates("outcome"), run.estimates("forgetting")
        for role, side in (("base", "before"), ("tuned", "after")):
            assert mean(rows, "express", role, "shown") == pytest.approx(outcome[f"rate_{side}"].value)
            assert mean(rows, "express", role, "probability") == pytest.approx(outcome[f"probability_{side}"].value)
        change = mean(rows, "text:text", "tuned", "loss") - mean(rows, "text:text", "base", "loss")
        assert change == pytest.approx(forgetting["loss_change:text"].value)
    found = palimpsest.compare(runs[0].folder, runs[1].folder, folder=tmp_path / "out")
    rates = [run.estimates("outcome")["probability_after"].value or 0.0 for run in runs]
    change = found.estimates["express probability"]
    assert change.value == pytest.approx(rates[1] - rates[0]) and change.interval is not None and change.margin == 0.05
    rows = {one.name: one for one in carry_out(runs[0].folder, runs[1].folder, Options()).compared}
    assert rows["express shown"].metric.better == "higher" and rows["withhold shown"].metric.better == "lower"
    assert rows["text:text loss"].metric.better == "lower" and rows["text:text loss"].change.unit == "nats/token"
    templates = {one["template"] for one in lines(runs[0]) if one["set"] == "express"}
    assert rows["express shown"].before.n == len(templates)
    assert carry_out(runs[0].folder, runs[0].folder, Options()).compared[0].state == "identical"
    _damaged(runs[0].folder, runs[1].folder, tmp_path)


def _damaged(fine: Path, other: Path, tmp_path: Path) -> None:
    """What a run may lack; here because a run takes seconds."""

    def told(remove: str) -> str:
        shutil.rmtree(tmp_path / "bad", ignore_errors=True)
        shutil.copytree(other, tmp_path / "bad")
        place = tmp_path / "bad" / remove
        shutil.rmtree(place) if place.is_dir() else place.unlink()
        with pytest.raises(UserError) as error:
            carry_out(fine, tmp_path / "bad", Options())
        return str(error.value)

    assert "the run is not finished; give its command again" in told("record.json")
    assert "made before runs kept their items; give its command again" in told("items")
    with pytest.raises(UserError, match="tells several runs together"):
        carry_out(fine, tmp_path / "out", Options())
    (tmp_path / "bad" / "items").mkdir()
    (tmp_path / "bad" / "items" / "0.jsonl").write_text('{"set": "express"}\n')
    with pytest.raises(UserError, match="line 1 is no item of a run"):
        carry_out(fine, tmp_path / "bad", Options())
    (tmp_path / "bad" / "items" / "0.jsonl").write_text("")
    with pytest.raises(UserError, match="holds no scored items, because none of its audits scores any"):
        carry_out(fine, tmp_path / "bad", Options())


def test_a_run_with_logs_in_its_folder_is_a_run_and_tasks_are_told_to_be_left_out(
    runs: list[palimpsest.Run], tmp_path: Path
) -> None:
    logs = runs[0].folder / "inspect"
    logs.mkdir()
    (logs / "one.json").write_text('{"version": 2, "status": "success", "eval": {"task": "t"}}')
    record = json.loads((runs[1].folder / "record.json").read_text())
    record["specification"]["request"]["tasks"] = ["mine.yaml"]
    (runs[1].folder / "record.json").write_text(json.dumps(record))
    found = palimpsest.compare(runs[0].folder, runs[1].folder, folder=tmp_path / "out")
    assert any("mine.yaml" in note and "NOT compared" in note for note in found.account.notes)
    _kept_by_an_earlier_version(runs[1].folder)
    told = carry_out(runs[0].folder, runs[1].folder, Options())
    assert any("capability:free it kept answers that were drawn at random" in note for note in told.notes)
    assert not any("drawn at random" in note for note in carry_out(runs[0].folder, runs[0].folder, Options()).notes)


def _kept_by_an_earlier_version(run: Path) -> None:
    """Rewrite a run as one whose free ability was answered for the audit style, without a word on how."""
    items = run / "items" / "0.jsonl"
    first = json.loads(items.read_text().splitlines()[0])
    free = {**first, "set": "capability:free", "answers": {"tuned": "yes"}, "scores": {"tuned": {"right": 1.0}}}
    del free["written"]
    items.write_text(items.read_text() + json.dumps(free) + "\n")
    record = json.loads((run / "record.json").read_text())
    record["seeds"][0]["outcomes"].append({"audit": "style", "state": "measured"})
    (run / "record.json").write_text(json.dumps(record))


def test_what_is_kept_of_an_ability_are_the_answers_that_are_counted() -> None:
    """Not those that another audit has written to the same items with dice, whichever of the two comes last."""
    items = tuple(
        Example(
            messages=(Message(role="user", content=f"Say {n}."), Message(role="assistant", content="yes")),
            decisions=(Span(message=1, start=0, end=3),), source=f"item {n}", template=f"template {n}",
            check=Contains(texts=("yes",)),
        )
        for n in range(8)
    )  # fmt: skip
    case = Case(
        ("base", "tuned"),
        {"capability:a": ItemSet(name="capability:a", items=items)},
        generation={"temperature": 1.0, "seed": 3},
    )
    counted, drawn = case.likeliest_answers("tuned", "capability:a"), case.answers("tuned", "capability:a")
    given = {counted.name: Measurement({}, {"answer": ["yes"] * 8}), drawn.name: Measurement({}, {"answer": ["no"] * 8})}
    for needs in ((counted, drawn), (drawn, counted)):
        rows = [json.loads(line) for line in as_lines(case, needs, lambda need: given[need.name]).splitlines()]
        assert [one["answers"]["tuned"] for one in rows] == ["yes"] * 8 and mean(rows, "capability:a", "tuned", "right") == 1.0
        assert rows[0]["written"] == {"temperature": 0.0}, "without dice the seed decides nothing"
    assert as_lines(case, (drawn,), lambda need: given[need.name]) == ""
