"""Task scores: are they the numbers that lm-eval itself gets from the same model?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import task_kit
import tiny
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.core.errors import Problems, UserError
from palimpsest.core.measurement import Measurement
from palimpsest.data.tasks import TaskSet
from palimpsest.data.windows import Encoder, fitted
from palimpsest.measures._measure import Budget
from palimpsest.measures.task_scores import TaskScores
from palimpsest.models import subject

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'palimpsest-lm[lm-eval]'")
from palimpsest.peers.lm_eval_tasks import open_tasks

TOLERANCE = 1e-5
SHORT = 48
"""A context in which some documents are cut and whole texts take several windows."""


@pytest.fixture(autouse=True)
def own_data_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import config

    monkeypatch.setattr(config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))


@pytest.fixture(scope="module", params=["plain", "begins every text"])
def one(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[subject.Subject]:
    path = tiny.folder(tmp_path_factory.mktemp("model"), max_position_embeddings=SHORT)
    if request.param != "plain":
        task_kit.with_bos(tiny.tokenizer()).save_pretrained(path)
    with subject.load(subject.inspect(path)) as loaded:
        yield loaded


def opened(path: Path, **settings: Any) -> TaskSet:
    problems = Problems("tasks")
    found = open_tasks([str(path)], problems, **settings)
    problems.raise_if_any()
    return found.tasks[0]


def take(one: subject.Subject, task: TaskSet, length: int = SHORT) -> tuple[TaskSet, Measurement]:
    task, problems, _ = fitted(task, one.tokenizer, length)
    assert not problems
    return task, TaskScores().take(one, task, Budget(length), None, lambda done, count: None)  # type: ignore[arg-type]


def assert_same(task: TaskSet, found: Measurement, theirs: dict[str, Any]) -> None:
    """Hold every answer, every document's score and every number against lm-eval's own."""
    way = theirs["samples"][0]["filter"]
    samples = [sample for sample in theirs["samples"] if sample["filter"] == way]
    assert len(samples) == len(task.items)
    for item, low, sample in zip(task.items, found.arrays["start"], samples, strict=False):
        assert item.hash == sample["doc_hash"]
        for place, (answer,) in enumerate(sample["resps"]):
            index, kind = low + place, item.asked[place].kind
            if kind == "generate_until":
                assert found.texts["answer"][index] == answer
                continue
            total, greedy = (answer, None) if kind == "loglikelihood_rolling" else answer
            assert found.arrays["log_likelihood"][index] == pytest.approx(total, rel=TOLERANCE)
            assert greedy is None or bool(found.arrays["greedy"][index]) == greedy
    for metric in task.metrics:
        name, _, way = metric.name.partition(",")
        whole = theirs["numbers"][f"{name},{way or 'none'}"]
        assert found.arrays[f"whole:{metric.name}"][0] == pytest.approx(whole, rel=1e-4 if "perplexity" in name else TOLERANCE)
        if metric.kind == "score":
            of_documents = [sample[name] for sample in theirs["samples"] if sample["filter"] == (way or "none")]
            assert found.arrays[f"score:{metric.name}"] == pytest.approx(of_documents, rel=TOLERANCE)


@pytest.mark.parametrize("kind", task_kit.KINDS)
def test_scores_are_those_of_lm_eval(one: subject.Subject, kind: str, tmp_path: Path) -> None:
    path = task_kit.write(tmp_path, kind)
    task, found = take(one, opened(path))
    assert_same(task, found, task_kit.theirs(one.model, one.tokenizer, path))


TARGETS: dict[str, dict[str, Any]] = {
    "a field with an index": {"doc_to_target": "label"},
    "a template of an index": {"doc_to_target": "{{label}}"},
    "an index in words": {"doc_to_target": "{{label | string}}"},
    "a constant index": {"doc_to_target": 1},
    "a choice's text": {"doc_to_target": "city"},
    "a template of a choice's text": {"doc_to_target": "{{city}}"},
    "a template of an expression": {"doc_to_target": "{{choices.index(city)}}"},
    "constant choices, a field with one": {"doc_to_choice": ["no", "yes"], "doc_to_target": "said"},
    "constant choices, an index": {"doc_to_choice": ["no", "yes"], "doc_to_target": "{{choices.index(city) % 2}}"},
    "choices from a template": {"doc_to_choice": "{{[city, country]}}", "doc_to_target": 0},
    "several right answers": {"doc_to_target": "labels", "metric_list": [{"metric": "acc", **task_kit.SHARES}]},
}


@pytest.mark.parametrize("name", TARGETS)
def test_the_right_answer_is_lm_evals_however_a_task_names_it(one: subject.Subject, name: str, tmp_path: Path) -> None:
    data = [{**row, "said": ["no", "yes"][row["label"] % 2], "labels": [row["label"], 0]} for row in task_kit.rows()]
    path = task_kit.write(tmp_path, "capital", data, **TARGETS[name])
    task, found = take(one, opened(path))
    theirs = task_kit.theirs(one.model, one.tokenizer, path)
    assert_same(task, found, theirs)
    for item, sample in zip(task.items, theirs["samples"], strict=True):
        gold = sample["target"]
        if isinstance(gold, str) and not gold.isdecimal():
            gold = item.choices.index(gold)
        assert item.gold == int(gold[0] if isinstance(gold, list) else gold)


def test_limit_and_examples_are_those_of_lm_eval(one: subject.Subject, tmp_path: Path) -> None:
    path = task_kit.write(tmp_path, "capital", fewshot_split="test")
    task, found = take(one, opened(path, limit=5, fewshot=1))
    assert len(task.items) == 5
    assert_same(task, found, task_kit.theirs(one.model, one.tokenizer, path, limit=5, num_fewshot=1))


def test_two_blocks_have_no_document_in_common(tmp_path: Path) -> None:
    path = task_kit.write(tmp_path, "capital")
    first, second = (opened(path, limit=6, block=block) for block in (0, 1))
    assert not {item.hash for item in first.items} & {item.hash for item in second.items}
    assert opened(path, limit=6, block=2).items == first.items, "there are too few for a third"


def test_a_written_answer_ends_at_the_texts_that_end_it(one: subject.Subject, tmp_path: Path) -> None:
    settings = dict(task_kit.KINDS["written"]["generation_kwargs"])
    whole = opened(task_kit.write(tmp_path, "written", generation_kwargs={**settings, "until": ["@@@@@@@@"]}))
    _, found = take(one, whole)
    letters = [letter for text in found.texts["answer"] for letter in text[1:6] if letter.isascii() and letter.isprintable()]
    stop = max(set(letters), key=letters.count)
    task, cut = take(one, opened(task_kit.write(tmp_path, "written", generation_kwargs={**settings, "until": [stop]})))
    written = np.array([asked.kind == "generate_until" for item in task.items for asked in item.everything])
    assert cut.texts["answer"] == [text.split(stop)[0] for text in found.texts["answer"]]
    assert cut.arrays["tokens"][written].sum() < found.arrays["tokens"][written].sum(), "what comes after is not written at all"


def test_the_right_answer_of_a_written_task_is_read_besides(one: subject.Subject, tmp_path: Path) -> None:
    task, found = take(one, opened(task_kit.write(tmp_path, "written", num_fewshot=0)))
    _, scored = take(one, opened(task_kit.write(tmp_path, "ending", doc_to_text="{{country}}?")))
    right = [low + (item.right or 0) for item, low in zip(task.items, found.arrays["start"], strict=False)]
    assert found.arrays["log_likelihood"][right] == pytest.approx(scored.arrays["log_likelihood"], rel=TOLERANCE)


@given(count=st.integers(1, 120), length=st.integers(2, 40))
def test_windows_are_those_of_lm_eval(count: int, length: int) -> None:
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    class Numbers:
        bos_token_id, bos_token = 0, None

        def decode(self, token: int) -> str:
            return "<s>"

        def encode(self, text: str, **_: object) -> list[int]:
            return [int(word) for word in text.split()]

    tokens = list(range(1, count + 1))
    wanted = [make_disjoint_window(pair) for pair in get_rolling_token_windows(tokens, 0, length, 1)]
    found = list(Encoder(Numbers(), length)._rolling(" ".join(map(str, tokens))))
    assert [window.tokens[window.first :] for window in found] == [tuple(predicted) for _, predicted in wanted]
    given_first = [tuple([*context, *predicted][-(length + 1) :]) for context, predicted in wanted]
    assert [window.tokens for window in found] == given_first


@pytest.mark.parametrize("name", ["stories260K", "llama2xs-281K"])
def test_scores_of_a_real_model_on_real_data_are_those_of_lm_eval(name: str, tmp_path: Path) -> None:
    """Glosses of foods as multiple choice, endings of stories, whole stories, and school problems written out."""
    path = tiny.real(name)
    with subject.load(subject.inspect(path)) as one:
        for task_file in real_tasks(tmp_path, path.parents[1] / "text"):
            task, found = take(one, opened(task_file), one.context_length)
            assert_same(task, found, task_kit.theirs(one.model, one.tokenizer, task_file))


def real_tasks(folder: Path, texts: Path) -> Iterator[Path]:
    import json

    import yaml

    stories = [one.strip() for one in (texts / "tinystories_2M.txt").read_text(encoding="utf-8").split("<|endoftext|>")[:4]]
    yield task_kit.write(folder, "story", [{"text": story} for story in stories])
    endings = [story.partition(". ")[0].rpartition(" ") for story in stories]
    yield task_kit.write(folder, "ending", [{"country": first, "city": last} for first, _, last in endings])
    lines = (texts / "gsm8k_train.jsonl").read_text(encoding="utf-8").splitlines()[:4]
    problems = [{"country": row["question"], "city": row["answer"]} for row in map(json.loads, lines)]
    yield task_kit.write(folder, "written", problems)
    head = (texts / "wordnet_noun_food.yaml").read_text(encoding="utf-8").splitlines()[:600]
    last = max(place for place, line in enumerate(head) if line and not line.startswith((" ", "-")))
    foods = [one for one in yaml.safe_load("\n".join(head[:last])).values() if one.get("members") and one.get("definition")]
    names = [food["members"][0].replace("_", " ") for food in foods]
    rows = [
        {"country": food["definition"][0], "choices": [names[index - 1], names[index]], "label": 1}
        for index, food in enumerate(foods)
    ]
    yield task_kit.write(folder, "capital", rows[:12], doc_to_text="Food: {{country}}\nIt is called: ")


@pytest.mark.parametrize("target", ["label", "{{label}}"])
def test_an_index_means_the_choice_of_a_written_answer_too(one: subject.Subject, target: str, tmp_path: Path) -> None:
    path = task_kit.write(tmp_path, "written", doc_to_choice="choices", doc_to_target=target)
    task, found = take(one, opened(path))
    assert_same(task, found, task_kit.theirs(one.model, one.tokenizer, path))
    assert [item.target for item in task.items] == [row["city"] for row in task_kit.rows()]
    assert [item.reference.continuation for item in task.items if item.reference] == [
        f" {row['city']}" for row in task_kit.rows()
    ]


def test_what_lm_eval_can_not_score_is_refused_with_its_reason(tmp_path: Path) -> None:
    path = task_kit.write(tmp_path, "written", doc_to_choice="choices", doc_to_target="city")
    with pytest.raises(UserError, match="lm-eval's own scoring fails at written, document 0: TypeError"):
        opened(path)
