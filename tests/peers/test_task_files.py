"""Task files: does a file of a user stay data, however it hides what it asks for?"""

from __future__ import annotations

import json
import pickle
import socket
from pathlib import Path
from typing import Any

import pytest
import task_kit
import yaml

from palimpsest.core.errors import Problems
from palimpsest.peers.lm_eval_files import UnfitFile, read
from palimpsest.peers.lm_eval_tasks import open_tasks

RUNS = "'!function helper.f' would run Python code"
HEAD = """\
task: mine
dataset_path: json
dataset_kwargs: {data_files: {test: data.jsonl}}
test_split: test
output_type: loglikelihood
doc_to_text: "{{q}}"
metric_list: [{metric: acc}]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of an attacker: code that leaves a file when it runs, and a file that would run it."""
    rows = [{"q": "one plus one is", "a": " two"}, {"q": "two plus two is", "a": " four"}]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "helper.py").write_text(f"open({str(tmp_path / 'CODE_RAN')!r}, 'w').close()\ndef f(doc): return ' two'\n")
    (tmp_path / "inner.yaml").write_text("doc_to_target: !function helper.f\n")
    (tmp_path / "between.yaml").write_text("<<: {include: [inner.yaml]}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(folder: Path, text: str, name: str = "evil.yaml") -> str:
    (folder / name).write_text(text)
    problems = Problems("tasks")
    assert not open_tasks([str(folder / name)], problems).tasks
    assert not (folder / "CODE_RAN").exists()
    assert problems.found
    return "\n".join(problems.found)


@pytest.mark.parametrize(
    "text",
    [
        "include: inner.yaml\n" + HEAD,
        "include: [data_free.yaml, inner.yaml]\n" + HEAD,
        "<<: {include: inner.yaml}\n" + HEAD,
        "x: &a {include: inner.yaml}\n<<: *a\n" + HEAD,
        "<<: [{doc_to_target: a}, {<<: {include: inner.yaml}}]\n" + HEAD,
        "metadata: &k include\n*k : inner.yaml\n" + HEAD,
        "metadata: &v inner.yaml\ninclude: *v\n" + HEAD,
        '"inclu\\u0064e": inner.yaml\n' + HEAD,
        "? include\n: - between.yaml\n" + HEAD,
        "include: between.yaml\n" + HEAD,
        "include: ./sub/../inner.yaml\n" + HEAD,
        HEAD + "<<: {doc_to_target: !function helper.f}\n",
        HEAD + "doc_to_target: !function helper.f\n",
        HEAD + "? !function helper.f\n: a\n",
        HEAD + "filter_list: [{name: n, filter: [{function: !function helper.f}]}]\n",
        "group: g\ntask:\n  - task: mine\n    doc_to_target: !function helper.f\n",
        "group: g\n<<: {task: [{<<: {doc_to_target: !function helper.f}, task: x}]}\n",
    ],
)
def test_code_is_found_wherever_it_hides(text: str, folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "data_free.yaml").write_text("description: a\n")
    told = refused(folder, text)
    assert RUNS in told and ".yaml, line " in told


def test_the_file_and_the_key_are_named(folder: Path) -> None:
    told = refused(folder, "<<: {include: inner.yaml}\n" + HEAD)
    assert f"{folder / 'inner.yaml'}, line 1, doc_to_target: '!function helper.f' would run Python code" in told


def test_a_link_to_code_is_followed_before_looking(folder: Path) -> None:
    other = folder / "other"
    other.mkdir()
    (other / "real.yaml").write_text("include: ../inner.yaml\n")
    (folder / "link.yaml").symlink_to(other / "real.yaml")
    assert RUNS in refused(folder, "include: link.yaml\n" + HEAD)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (HEAD + "process_docs: helper.f\n", "'process_docs' would run Python code"),
        (HEAD + "process_results: helper.f\n", "'process_results' would run Python code"),
        (HEAD + "custom_dataset: helper.f\n", "'custom_dataset' would run Python code"),
        (HEAD + "class: helper.F\n", "'class' would run Python code"),
        (HEAD + "fewshot_config: {process_docs: helper.f}\n", "'fewshot_config.process_docs' would run Python code"),
        (HEAD + "<<: {unsafe_code: true}\n", "what a model writes is never run here"),
        (HEAD + "metric_list: [{metric: acc}]\n", "the key 'metric_list' is given twice"),
        (HEAD.replace("acc", "accuracy_of_mine"), "would be fetched and run"),
        (HEAD.replace("{metric: acc}", "{metric: acc, hf_evaluate: true}"), "would be fetched and run"),
        (HEAD.replace("[{metric: acc}]", "acc"), "metric_list must list metrics"),
        (HEAD.replace("dataset_path: json", "dataset_path: pandas"), "data are not read by 'pandas' here"),
        (HEAD.replace("dataset_path: json", "dataset_path: webdataset"), "data are not read by 'webdataset' here"),
        (HEAD.replace("dataset_path: json", "dataset_path: imagefolder"), "data are not read by 'imagefolder' here"),
        (HEAD.replace("dataset_path: json", "dataset_path: ."), "dataset_path '.' would read whatever is there"),
        (HEAD.replace("dataset_path: json", "dataset_path: 'hf://datasets/a/b'"), "would read whatever is there"),
        (HEAD.replace("dataset_path: json", "dataset_path: [json]"), "dataset_path must be text"),
        (HEAD.replace("{test: data.jsonl}", "'https://localhost/a.json'"), "would be fetched, which is never done"),
        (HEAD.replace("{test: data.jsonl}", "{test: ['zip://a.json::b.zip']}"), "would be fetched, which is never done"),
        (HEAD.replace("{data_files", "{storage_options: {a: b}, data_files"), "'dataset_kwargs.storage_options' is not read"),
        (HEAD + "repeats: 1000000000\n", "repeats must be 1 to 100"),
        (HEAD + "include: evil.yaml\n", "which includes itself"),
        (HEAD + "include: [3]\n", "'include' must name files, found 3"),
        (HEAD + "include: nowhere.yaml\n", "nowhere.yaml can't be read"),
        ("group: g\ntask:\n  - {task: x, dataset_path: pandas, process_docs: helper.f}\n", "'process_docs' would run"),
        ("group: g\ntask:\n  - {group: h, task: [{task: x, dataset_path: pandas}]}\n", "data are not read by 'pandas' here"),
        ("group: g\ndataset_path: pandas\ntask: [arc_easy]\n", "data are not read by 'pandas' here"),
        ("group: g\ntask:\n  - {include: inner.yaml, task: x}\n", "unknown key 'include'"),
    ],
)
def test_what_is_not_plain_data_is_refused(text: str, reason: str, folder: Path) -> None:
    assert reason in refused(folder, text)


def test_everything_wrong_is_told_at_once_with_its_file(folder: Path) -> None:
    (folder / "base.yaml").write_text("process_docs: helper.f\nnumfewshot: 1\n")
    told = refused(folder, HEAD.replace("json", "pandas") + "include: base.yaml\nclass: A\n")
    for part in ("base.yaml, 'process_docs'", "base.yaml, unknown key 'numfewshot'", "evil.yaml, 'class'"):
        assert part in told


def test_a_pickle_is_never_opened(folder: Path) -> None:
    class Runs:
        def __reduce__(self) -> Any:
            return (open, (str(folder / "CODE_RAN"), "w"))

    (folder / "data.pkl").write_bytes(pickle.dumps(Runs()))
    for loader in ("pandas", "json", "text", "csv", "parquet", "arrow"):
        told = refused(folder, HEAD.replace("json\n", f"{loader}\n", 1).replace("data.jsonl", "data.pkl"))
        assert "data are not read by" in told if loader == "pandas" else told


def test_includes_merges_and_references_mean_what_lm_eval_takes_them_for(folder: Path) -> None:
    from lm_eval.tasks._yaml_loader import load_yaml

    (folder / "sub").mkdir()
    (folder / "sub" / "far.yaml").write_text("description: far\nnum_fewshot: 0\ngen_prefix: a\n")
    (folder / "base.yaml").write_text(
        "include: sub/far.yaml\ndescription: base\ndoc_to_target: '{{a}}'\nshould_decontaminate: no\n"
    )
    (folder / "other.yaml").write_text("gen_prefix: b\n")
    path = folder / "good.yaml"
    head = "metadata: &m {version: 1.0}\n<<: {include: [base.yaml, other.yaml]}\n" + HEAD
    path.write_text(head + "fewshot_config: {<<: *m}\n")
    with pytest.raises(UnfitFile, match=r"'fewshot_config.version' is not read here"):
        read(path)
    path.write_text(head)
    found = read(path)
    expected = load_yaml(path)
    found["dataset_kwargs"]["data_files"] = expected["dataset_kwargs"]["data_files"]  # looked up: the same name from here
    assert found == expected
    assert (found["description"], found["gen_prefix"], found["should_decontaminate"]) == ("base", "b", False)


def test_a_task_of_lm_evals_own_may_be_included_with_its_code(tmp_path: Path) -> None:
    import lm_eval.tasks

    own = Path(lm_eval.tasks.__file__).parent / "hellaswag" / "hellaswag.yaml"
    path = task_kit.write(tmp_path, "capital", task="mine")
    settings = {"include": str(own), "task": "mine", "dataset_path": "json", "validation_split": "test"}
    path.write_text(yaml.safe_dump({**settings, "dataset_kwargs": {"data_files": {"test": "mine.jsonl"}}}))
    assert callable(read(path)["process_docs"])


@pytest.mark.parametrize("task", ["arc_easy", "mine"])
def test_nothing_is_asked_of_a_network(task: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(socket.socket, "connect", lambda *given: asked.append(given))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **_: asked.append(given) or [])
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    (folder / "mine.yaml").write_text(
        HEAD.replace("dataset_path: json", "dataset_path: someone/questions") + "doc_to_target: a\n"
    )
    problems = Problems("tasks")
    open_tasks(["mine.yaml" if task == "mine" else task], problems)
    assert len(problems.found) == 1 and "its data are not on this machine" in problems.found[0]
    assert not asked


def test_a_folder_named_like_a_data_set_is_not_taken_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "allenai" / "ai2_arc").mkdir(parents=True)
    problems = Problems("tasks")
    open_tasks(["arc_easy"], problems)
    assert "dataset_path 'allenai/ai2_arc' would read whatever is there" in problems.found[0]
