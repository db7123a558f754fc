"""Tasks in a run: do both models get their own numbers, and is what can't be done told before any work starts?"""

from __future__ import annotations

import json
import logging
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import task_kit
import tiny
from test_task_scores import assert_same, own_data_cache, take  # noqa: F401 - a fixture

from palimpsest import api
from palimpsest.audit import Case
from palimpsest.audits.forgetting import Data, Forgetting, Paired
from palimpsest.core.errors import Problems, UserError
from palimpsest.core.measurement import Need
from palimpsest.models import subject
from palimpsest.peers.lm_eval_tasks import open_tasks
from palimpsest.request import Request
from palimpsest.store.run_folder import RunFolder

LENGTH = 128


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    place = tmp_path_factory.mktemp("pair")
    return tuple(tiny.folder(place / str(seed), seed=seed, max_position_embeddings=LENGTH) for seed in (0, 1))  # type: ignore[return-value]


def asked(pair: tuple[Path, Path], *tasks: Path | str, **settings: Any) -> Request:
    given = {"kind": "diff", "base": str(pair[0]), "tuned": str(pair[1]), "audits": ("forgetting",), "device": "cpu"}
    return Request.read({**given, "tasks": tuple(map(str, tasks)), **settings}, "the request")


def test_a_tuned_model_is_never_given_the_numbers_of_its_base(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """Where lm-eval's own cache of responses would do just that: it is not keyed by the model (its issue 4063)."""
    path = task_kit.write(tmp_path, "capital")
    needs = [Need(measure="task_scores", role=role, items="task:capital") for role in ("base", "tuned")]
    plan = api.plan(asked(pair, path))
    api.carry_out(plan, tmp_path / "run")
    with RunFolder(tmp_path / "run", plan.identity) as run:
        from palimpsest.measures._measure import Budget
        from palimpsest.measures._session import Session
        from palimpsest.store.cache import Cache

        session = Session(Cache(), plan.case.everything, Budget(plan.context), plan.device, "float32", run)
        digests = {role: subject.digest_with_template(info, plan.template, plan.day, "") for role, info in plan.models.items()}
        base, tuned = (session.get(need, digests) for need in needs)
    assert base and tuned
    assert (base.arrays["log_likelihood"] != tuned.arrays["log_likelihood"]).all()
    for model, found in zip(pair, (base, tuned), strict=True):
        with subject.load(subject.inspect(model)) as one:
            assert_same(plan.case.tasks["capital"], found, task_kit.theirs(one.model, one.tokenizer, path))


def test_all_four_kinds_are_told_as_capabilities(pair: tuple[Path, Path], tmp_path: Path) -> None:
    paths = [task_kit.write(tmp_path, kind) for kind in task_kit.KINDS]
    found = api.diff(*pair, tasks=paths, audits=("forgetting",), device="cpu", folder=tmp_path / "run")
    told = found.estimates("forgetting")
    assert {f"loss_change:{kind}" for kind in task_kit.KINDS} <= set(told)
    assert told["accuracy_change:capital"].n == len(task_kit.rows())
    assert told["score_change:story/byte_perplexity"].unit == "nats/byte" and told["score_change:story/byte_perplexity"].known
    notes = " ".join(found.record.notes)
    assert "without the chat template" in notes and f"capital: all {len(task_kit.rows())} documents, 0-shot" in notes
    assert "No general text was given" not in notes, "nothing reads it here"
    page = found.report.read_text(encoding="utf-8")
    assert "Tasks by their own metrics" in page and "perplexity" in page


def test_a_model_against_itself_loses_nothing(pair: tuple[Path, Path], tmp_path: Path) -> None:
    path = task_kit.write(tmp_path, "capital")
    found = api.diff(pair[0], pair[0], tasks=[path], audits=("forgetting",), device="cpu", folder=tmp_path / "run")
    change = found.estimates("forgetting")["loss_change:capital"]
    assert change.value == 0.0 and change.equivalent


def test_what_was_never_right_cant_be_called_unchanged() -> None:
    none = np.zeros(24)
    data = Data({"task": Paired(None, None, none, none, np.arange(24))})
    result = Forgetting().analyse(data, np.random.default_rng(0))
    assert "not decided: task" in result.summary and not result.findings and "nothing was right before" in result.cannot_say[0]


def test_a_share_of_what_was_right_is_no_rate() -> None:
    before = np.linspace(0.3, 0.8, 24)
    after = before - np.where(np.arange(24) % 2, 0.2, 0.1)
    result = Forgetting().analyse(Data({"task": Paired(None, None, before, after, np.arange(24))}), np.random.default_rng(0))
    assert result.estimates["accuracy_change:task"].value == pytest.approx(-0.15)
    assert "Fell: task" in result.summary


def test_questions_on_one_passage_are_one_cluster(tmp_path: Path) -> None:
    passages = [
        f"Passage {index}: " + "a long text that several questions are asked about, word for word. " * 2 for index in range(9)
    ]
    data = [{**row, "passage": passages[index % 9]} for index, row in enumerate(task_kit.rows(3))]
    problems = Problems("tasks")
    shared = task_kit.write(tmp_path, "capital", data)
    named = task_kit.write(tmp_path, "ending", data, metadata={"cluster": "city"})
    one, two = open_tasks([str(shared), str(named)], problems).tasks
    assert not problems.found
    assert len({item.cluster for item in one.items}) == 9 and len({item.cluster for item in two.items}) == 6


def test_lm_eval_leaves_no_trace(tmp_path: Path) -> None:
    from lm_eval import utils
    from lm_eval.caching import cache

    path, templates = task_kit.write(tmp_path, "capital"), utils.env
    random.seed(7)
    np.random.seed(7)
    before = (random.getstate(), np.random.get_state()[1].tolist(), logging.root.manager.disable)  # type: ignore[index]
    problems = Problems("tasks")
    open_tasks([str(path)], problems)
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), logging.root.manager.disable)  # type: ignore[index]
    assert utils.env is templates and not Path(cache.PATH).exists()


def test_what_a_file_asks_for_that_is_not_done_is_told_all_at_once(pair: tuple[Path, Path], tmp_path: Path) -> None:
    code = task_kit.write(tmp_path, "capital", task="code")
    code.write_text(code.read_text() + "process_docs: !function utils.run\n")
    (tmp_path / "utils.py").write_text(
        f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()\ndef run(docs): return docs\n"
    )
    wrong = task_kit.write(tmp_path, "capital", task="wrong", doc_to_txt="x", unsafe_code=True,
                           metric_list=[{"metric": "acuracy"}], dataset_kwargs={"data_files": "nowhere.jsonl"})  # fmt: skip
    reaching = task_kit.write(tmp_path, "written", task="reaching", doc_to_text="{{ ''.__class__.__mro__ }}")
    settings = {**task_kit.KINDS["written"]["generation_kwargs"], "do_sample": True, "temperature": 0.5}
    sampling = task_kit.write(tmp_path, "written", task="sampling", generation_kwargs=settings)
    long = task_kit.write(tmp_path, "written", task="long", generation_kwargs={"until": ["x"], "max_gen_toks": LENGTH})
    broken = tmp_path / "broken.yaml"
    broken.write_text("task: [oops")
    with pytest.raises(UserError) as error:
        api.plan(asked(pair, code, wrong, reaching, sampling, long, broken, tmp_path / "absent.yaml", "humaneval"))
    told = str(error.value)
    for part in (
        "'!function utils.run' would run Python code",
        "unknown key 'doc_to_txt'. Did you mean 'doc_to_text'?",
        "what a model writes is never run here",
        "the metric 'acuracy' is not one of lm-eval's own",
        "the data file nowhere.jsonl is neither in",
        "is unsafe",
        "is to be answered by sampling (temperature 0.5)",
        f"up to {LENGTH} tokens are to be written",
        "broken.yaml is not YAML",
        "absent.yaml can't be read",
        "humaneval runs code that a model wrote",
    ):
        assert part in told
    assert not (tmp_path / "ran").exists()


def test_a_task_whose_data_are_missing_is_told_at_once(pair: tuple[Path, Path]) -> None:
    with pytest.raises(
        UserError, match=r"task arc_easy: its data are not on this machine: it wants allenai/ai2_arc \(ARC-Easy\)"
    ):
        api.plan(asked(pair, "arc_easy"))


@pytest.mark.parametrize(
    ("data_files", "there"), [({"dev": "capital.jsonl", "train": "capital.jsonl"}, "dev, train"), ("capital.jsonl", "train")]
)
def test_a_split_that_is_not_there_is_told_with_those_that_are(tmp_path: Path, data_files: Any, there: str) -> None:
    path = task_kit.write(tmp_path, "capital", test_split="validation", dataset_kwargs={"data_files": data_files})
    problems = Problems("the request")
    open_tasks([str(path)], problems)
    said = f"its data have no split named 'validation' (test_split); they have {there}"
    assert problems.found == [f"task {path}: {said}"]


@pytest.mark.parametrize(("loader", "text"), [("json", ""), ("json", "\n\n"), ("csv", ""), ("csv", "country,city\n")])
def test_data_that_hold_nothing_are_told_so(tmp_path: Path, loader: str, text: str) -> None:
    path = task_kit.write(tmp_path, "capital", dataset_path=loader)
    path.with_suffix(".jsonl").write_text(text, encoding="utf-8")
    problems = Problems("the request")
    open_tasks([str(path)], problems)
    assert problems.found == [f"task {path}: its data hold nothing"]


def test_a_misspelt_task_is_told_with_the_nearest(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._index import TaskIndex

    from palimpsest.peers.lm_eval_tasks import _Shelf

    manager = TaskManager(include_defaults=False)
    manager._index = {name: TaskIndex.entry_from_config({"task": name}) for name in ("arc_easy", "hellaswag")}  # type: ignore[assignment]
    manager._all_tasks = sorted(manager._index)
    monkeypatch.setattr(_Shelf, "_all", manager)  # reading all 14,000 files takes long
    with pytest.raises(UserError, match=r"no task, group or tag of that name.* Did you mean hellaswag\?"):
        api.plan(asked(pair, "helaswag"))


def test_tasks_that_no_audit_reads_are_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="read by the audit forgetting"):
        api.plan(asked(pair, task_kit.write(tmp_path, "capital"), audits=("weight_change",)))


def test_without_lm_eval_the_command_to_install_it_is_told(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'palimpsest-lm\[lm-eval\]'"):
        api.plan(asked(pair, "arc_easy"))


def test_a_command_names_its_tasks(pair: tuple[Path, Path]) -> None:
    request = asked(pair, "arc_easy", "mine.yaml", limit=20, fewshot=2)
    assert " --tasks arc_easy,mine.yaml" in " ".join(request.command)
    assert " --limit 20 --fewshot 2" in " ".join(request.command)


def test_a_case_without_anything_to_forget_names_tasks_too() -> None:
    from palimpsest.audit import NotApplicable

    with pytest.raises(NotApplicable, match="--tasks NAME"):
        Forgetting().needs(Case(("base", "tuned"), {}))


def test_tasks_on_the_command_line(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    from palimpsest import cli

    monkeypatch.chdir(tmp_path)
    task_kit.write(tmp_path, "capital")

    def run(*more: str) -> tuple[int, Any]:
        arguments = ["diff", *map(str, pair), "--tasks", "capital.yaml", "--audits", "forgetting", "--limit", "8", "--json"]
        monkeypatch.setattr(sys, "argv", ["palimpsest", *arguments, *more])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return left.value.code or 0, json.loads(capsys.readouterr().out)  # type: ignore[return-value]

    code, foreseen = run("--dry-run")
    work = [one for one in foreseen["measuring"] if one["items_name"] == "task:capital"]
    assert code == 0 and len(work) == 2 and work[0]["items"] == 8 and work[0]["tokens"] > 0
    code, record = run()
    assert code in (0, 2)
    assert "the first 8 of 12 documents" in " ".join(record["notes"]) and "--tasks" in record["provenance"]["command"]
