"""Inspect export: does inspect read our runs as its own logs, with the very numbers that our audits count?"""

# ruff: noqa: F401, F811  # fixtures are imported by name
from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
from test_cli import command
from test_pipeline import conversations, write_lines

import palimpsest
from palimpsest.core.errors import UserError

inspect_ai = pytest.importorskip("inspect_ai", reason="the peer inspect_ai is not installed")

from inspect_ai.log import list_eval_logs, read_eval_log  # noqa: E402

from palimpsest.peers.inspect_export import export  # noqa: E402


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> palimpsest.Run:
    """A diff of two random models, on two poles and an ability with checks."""
    path = tmp_path_factory.mktemp("diff")
    for pole, question, answer in (("yes", "May the {} {} come?", "Yes."), ("no", "Must the {} {} go?", "No.")):
        write_lines(path / f"{pole}.jsonl", conversations(question, answer, 64))
    sums = [
        {
            "messages": [{"role": "user", "content": f"{a} and {b}"}, {"role": "assistant", "content": str(a + b)}],
            "template": f"plus {a}",
            "check": {"kind": "contains", "texts": [str(a + b)]},
        }
        for a in range(10)
        for b in range(4)
    ]
    write_lines(path / "sums.jsonl", sums)
    (path / "b.yaml").write_text(
        "name: b\n"
        "question: Does it say yes to may and no to must?\n"
        "express: {data: yes.jsonl}\n"
        "withhold: {data: no.jsonl}\n"
        "check: {kind: choice, options: {agree: 'Yes', refuse: 'No'}, expected: agree}\n"
        "rehearsal: [{data: sums.jsonl}]\n"
    )
    models = [tiny.folder(path / name, seed=seed, max_position_embeddings=128) for seed, name in enumerate(("model", "other"))]
    return palimpsest.diff(
        *models,
        behaviour=path / "b.yaml",
        folder=path / "run",
        device="cpu",
        audits=("outcome", "judgement", "forgetting"),
        capability_items=24,
        documents=8,
    )


def test_a_round_trip_through_inspect(run: palimpsest.Run, tmp_path: Path) -> None:
    files = export(run.folder, tmp_path / "logs")
    names = sorted(str(file.relative_to(tmp_path / "logs")) for file in files)
    sets = ["capability_sums", "express", "withhold"]
    assert names == [f"{role}/{name}.eval" for role in ("base", "tuned") for name in sets]
    assert len(list_eval_logs(str(tmp_path / "logs"))) == 6

    logs = {name.removesuffix(".eval"): read_eval_log(str(tmp_path / "logs" / name)) for name in names}
    base, tuned = logs["base/express"], logs["tuned/express"]
    assert tuned.status == "success" and tuned.results is not None and tuned.samples is not None and base.samples
    assert [one.id for one in base.samples] == [one.id for one in tuned.samples]
    assert base.eval.task == tuned.eval.task and base.eval.model != tuned.eval.model
    digests = {one.role: one.digest for one in run.record.subjects}
    assert tuned.eval.metadata is not None and tuned.eval.metadata["digest"] == digests["tuned"]

    shown = {one.name: one for one in tuned.results.scores}
    told = run.estimates("outcome")
    assert shown["shown"].metrics["accuracy"].value == pytest.approx(told["rate_after"].value)
    assert shown["probability_shown"].metrics["mean"].value == pytest.approx(told["probability_after"].value)
    assert "stderr" in shown["probability_shown"].metrics
    withheld = logs["tuned/withhold"].results
    assert withheld is not None
    judged = run.estimates("judgement")["withhold_after"].value
    assert {one.name: one for one in withheld.scores}["probability_withheld"].metrics["mean"].value == pytest.approx(1 - judged)
    right = logs["tuned/capability_sums"].results
    assert right is not None
    fell = run.estimates("forgetting")["accuracy_after:sums"].value
    assert right.scores[0].metrics["accuracy"].value == pytest.approx(fell)

    sample, before = tuned.samples[0], base.samples[0]
    line = next(one for one in _lines(run) if one["set"] == "express" and one["item"] == sample.id)
    assert sample.output.completion == line["answers"]["tuned"] and before.output.completion == line["answers"]["base"]
    assert [(one.role, one.text) for one in sample.messages[:-1]] == [(one["role"], one["content"]) for one in line["messages"]]
    assert sample.scores is not None and before.scores is not None and sample.metadata["template"] == line["template"]
    score = sample.scores["probability_shown"]
    assert score.metadata is not None
    assert score.metadata["base"] == before.scores["probability_shown"].value
    assert score.metadata["delta"] == pytest.approx(score.value - score.metadata["base"])  # type: ignore[operator]
    assert score.metadata["cluster"] == line["template"]


def _lines(run: palimpsest.Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.folder / "items" / "0.jsonl").read_text().splitlines()]


def test_the_same_run_gives_the_same_bytes_and_compare_pairs_them(run: palimpsest.Run, tmp_path: Path, command: Any) -> None:
    code, told, _ = command("export", run.folder, "--to", "inspect", "--json")
    files = [Path(one) for one in json.loads(told)]
    assert code == 0 and len(files) == 6
    again = export(run.folder, tmp_path / "again")
    assert [one.read_bytes() for one in files] == [one.read_bytes() for one in again]
    moved = tmp_path / "elsewhere" / "run"
    shutil.copytree(run.folder, moved)
    assert [one.read_bytes() for one in export(moved, tmp_path / "third")] == [one.read_bytes() for one in again]
    where = run.folder / "inspect"
    code, told, _ = command("compare", where / "base", where / "tuned", "--json")
    assert code in (0, 2)
    account = json.loads(told)
    found = account["estimates"]["model_against_other_express probability_shown"]
    ours = run.estimates("outcome")["probability_change"]
    assert found["value"] == pytest.approx(ours.value) and found["n"] == ours.n
    assert found["interval"] == pytest.approx(ours.interval), "what compare makes of the logs is what the audit found"
    known = account["specification"]["comparisons"]
    assert {one["better"] for name, one in known.items() if not name.endswith("loss")} == {"higher"}
    losses = [(one["better"], one["margin"]) for name, one in known.items() if name.endswith("loss")]
    assert losses and set(losses) == {("lower", 0.05)}
    _told_as_of_the_run(where / "base" / "express.eval")


def _told_as_of_the_run(log: Path) -> None:
    """A log's metadata are anybody's: what they say of scores is taken only where it makes sense."""
    from palimpsest.evaluations.sources import inspect_log

    read = inspect_log._open(log)
    for odd in (7, {"shown": 7}, {"probability_shown": {"better": "up", "unit": 3, "margin": "x"}}, {"loss": {"margin": -1}}):
        read.header["eval"]["metadata"] |= {"scores": odd, "cluster": odd}
        found = inspect_log._task_log("t", read, ())
        assert found.metrics["probability_shown"].better is None and found.metrics["shown"].better == "higher"
        assert not any(one.cluster for one in found.answers)


def test_data_frames(run: palimpsest.Run, tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    from inspect_ai.analysis import evals_df, samples_df

    export(run.folder, tmp_path / "logs")
    evals = evals_df(str(tmp_path / "logs"), quiet=True)
    assert len(evals) == 6
    samples = samples_df(str(tmp_path / "logs" / "tuned"), quiet=True)
    express = samples[samples.metadata_set == "express"]
    told = run.estimates("outcome")
    assert express.score_probability_shown.astype(float).mean() == pytest.approx(told["probability_after"].value)


def test_how_it_goes_and_what_is_left_out_is_told(run: palimpsest.Run, tmp_path: Path, command: Any) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(run.folder, folder)
    items = folder / "items" / "0.jsonl"
    document = json.dumps({**_lines(run)[0], "set": "task:capital", "messages": [], "answers": {}}) + "\n"
    items.write_text(document + items.read_text())
    code, out, told = command("export", folder, "--to", "inspect", "--out", tmp_path / "logs")
    assert code == 0 and "wrote 3 logs of base" in out
    assert "reading items" in told and "writing logs" in told
    assert "not exported: the documents of lm-eval's tasks (capital)" in told
    items.write_text(document)
    code, out, told = command("export", folder, "--to", "inspect", "--out", tmp_path / "none")
    assert code == 3 and not (tmp_path / "none").exists()
    for part in ("items of the behaviour's poles and of abilities", "Not exported: the documents of lm-eval's tasks (capital)"):
        assert part in told
    items.write_text("")
    assert "Its audits read none of them" in command("export", folder, "--to", "inspect")[2]
    code, out, told = command("export", run.folder, "--to", "inspect", "--out", tmp_path / "quiet", "--json")
    assert code == 0 and "writing logs" not in told


def test_what_cannot_be_exported_is_told(run: palimpsest.Run, tmp_path: Path, command: Any) -> None:
    with pytest.raises(UserError, match="holds no finished run"):
        export(tmp_path, tmp_path / "logs")
    folder = tmp_path / "copy"
    shutil.copytree(run.folder, folder)
    lines = folder / "items" / "0.jsonl"
    kept = lines.read_text()
    lines.write_text(kept[:-30])
    with pytest.raises(UserError, match="is no item of a run"):
        export(folder, tmp_path / "logs")
    lines.write_text('{"set": "express"}\n')
    with pytest.raises(UserError, match=r"must be an item of a run, with answers, item"):
        export(folder, tmp_path / "logs")
    lines.unlink()
    code, _, told = command("export", folder, "--to", "inspect")
    assert code == 3 and "before runs kept their items" in told
    code, _, told = command("export", folder, "--to", "inspct")
    assert code == 3 and "Did you mean 'inspect'" in told


def test_without_inspect_the_way_to_get_it_is_told(tmp_path: Path, command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palimpsest.peers.inspect_export.find_spec", lambda name: None)
    code, _, told = command("export", tmp_path, "--to", "inspect")
    assert code == 3 and "pip install 'palimpsest-lm[inspect]'" in told
