"""Task items: are the documents that a run keeps those that lm-eval's own samples hold, with the same scores?"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import task_kit
import tiny
from test_task_scores import own_data_cache  # noqa: F401 - a fixture

import palimpsest
from palimpsest.core.errors import UserError
from palimpsest.evaluations.comparison import Found, carry_out
from palimpsest.evaluations.paired import Options
from palimpsest.models import subject

ROUNDED = 2e-5
"""Log-likelihoods agree to 1e-5 of their size; these are a few nats."""


@pytest.fixture(scope="module")
def data_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from datasets import config

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, data_cache: None) -> Path:
    """Two models, four tasks, and runs of both ways between the models; the last document stands there twice."""
    folder = tmp_path_factory.mktemp("place")
    models = [tiny.folder(folder / name, seed=seed, max_position_embeddings=128) for seed, name in enumerate(("one", "two"))]
    data = [*task_kit.rows(), task_kit.rows()[-1]]
    tasks = [task_kit.write(folder, kind, data) for kind in task_kit.KINDS]
    for name, (base, tuned) in {"forth": models, "back": models[::-1]}.items():
        palimpsest.diff(base, tuned, tasks=tasks, audits=("forgetting",), device="cpu", folder=folder / name)
    return folder


def compared(before: Path, after: Path, **settings: Any) -> tuple[Found, dict[str, Any]]:
    found = carry_out(before, after, Options(), **settings)
    return found, {one.name: one for one in found.compared}


def names(kind: str) -> set[str]:
    """Return what a comparison of one of the kit's tasks holds."""
    settings = task_kit.KINDS[kind]
    ways = [f",{one['name']}" for one in settings.get("filter_list", ())] or [""]
    return {f"{kind} {one['metric']}{way}" for one in settings["metric_list"] for way in ways}


def samples(place: Path, model: str, kind: str, **settings: Any) -> Path:
    """Let lm-eval itself evaluate a model and write its samples as it does on its command line."""
    from lm_eval.loggers import EvaluationTracker

    with subject.load(subject.inspect(place / model)) as one:
        theirs = task_kit.theirs(one.model, one.tokenizer, place / f"{kind}.yaml", **settings)
    target = place / "samples" / f"{model}-{len(settings)}"
    shutil.rmtree(target, ignore_errors=True)
    tracker = EvaluationTracker(output_path=str(target))
    tracker.general_config_tracker.model_name_sanitized = model
    tracker.save_results_aggregated(results=theirs["all"], samples={kind: theirs["samples"]})
    tracker.save_results_samples(task_name=kind, samples=theirs["samples"])
    return next(target.rglob(f"samples_{kind}_*.jsonl"))


def test_a_run_against_itself_does_not_differ(place: Path) -> None:
    found, rows = compared(place / "forth", place / "forth")
    assert {one.task for one in found.compared} == set(task_kit.KINDS)
    assert all(one.state == "identical" and one.change.value == 0.0 for one in found.compared)
    assert not any("NOT compared" in note for note in found.notes)
    assert len(rows["capital acc"].pairs) == len(task_kit.rows()) + 1
    assert rows["capital acc"].before.n == len(task_kit.rows()), "a document that stands there twice is one cluster"


def test_the_means_are_those_of_the_record(place: Path) -> None:
    forth = palimpsest.load_report(place / "forth")
    table = next(one for one in forth.record.seeds[0].results["forgetting"].tables if one.title == "Tasks by their own metrics")
    lines = [json.loads(line) for line in (place / "forth" / "items" / "0.jsonl").read_text().splitlines()]
    assert len(lines) == 4 * 13 and len(table.rows) == 11
    for task, metric, *told, _ in table.rows:
        own = [line for line in lines if line["set"] == f"task:{task}"]
        assert own[0]["metrics"][metric]["better"] == ("lower" if "per" in str(metric) or "brier" in str(metric) else "higher")
        for role, number in zip(("base", "tuned"), told, strict=True):
            mean = np.average(
                [line["scores"][role][metric] for line in own], weights=[line["weights"].get(metric, 1.0) for line in own]
            )
            mean = math.exp(mean) if "perplexity" in str(metric) else mean
            assert float(str(number)) == pytest.approx(mean, rel=1e-3, abs=1e-4), (task, metric, role)


def test_two_runs_differ_by_what_each_says_of_its_own(place: Path) -> None:
    """Back and forth between two models: B - A is then base - tuned of the first."""
    told = palimpsest.load_report(place / "forth").estimates("forgetting")
    found, rows = compared(place / "forth", place / "back")
    assert rows["capital acc"].change.value == pytest.approx(-(told["score_change:capital/acc"].value or 0.0))
    assert rows["story loss"].change.value == pytest.approx(-(told["loss_change:story"].value or 0.0))
    for name in ("word_perplexity", "byte_perplexity", "bits_per_byte"):
        change, own = rows[f"story {name}"].change, told[f"score_change:story/{name}"]
        assert change.value == pytest.approx(-(own.value or 0.0)) and change.unit == own.unit
        assert rows[f"story {name}"].metric.better == "lower"
    assert rows["story loss"].change.margin == 0.05 and rows["capital brier_score"].change.unit == "squared error"
    assert not [note for one in found.matched for note in one.differing]


@pytest.mark.parametrize("kind", task_kit.KINDS)
def test_samples_of_lm_eval_hold_the_same_documents_and_scores(place: Path, kind: str) -> None:
    """Our tuned model against lm-eval's own samples of the same model, either way round, and of the other one."""
    same, other = samples(place, "two", kind), samples(place, "one", kind)
    for pair in ((place / "forth", same), (same, place / "forth")):
        found, rows = compared(*pair)
        (matched,) = found.matched
        assert matched.counts == {"paired": 13, "alone before": 0, "alone after": 0} and not matched.differing
        assert set(rows) == names(kind)
        for one in rows.values():
            assert one.values[0] == pytest.approx(one.values[1], rel=ROUNDED, abs=ROUNDED)
            assert one.before.n == 12
        assert any("two programs" in note for note in found.notes)
        assert not any("itself says" in note for note in found.notes), "lm-eval's own means are those of its items"
        assert rows[next(iter(rows))].metric.unit == compared(place / "forth", place / "forth")[1][next(iter(rows))].metric.unit
    between, ours = compared(other, place / "forth")[1], compared(place / "back", place / "forth")[1]
    for name, one in between.items():
        assert one.change.value == pytest.approx(ours[name].change.value, abs=1e-4)


def test_what_was_asked_differently_is_told(place: Path) -> None:
    some = samples(place, "two", "capital", limit=9)
    found, _ = compared(place / "forth", some)
    assert found.matched[0].counts["alone before"] == 4 and any("4 items only in A, left out" in note for note in found.notes)
    assert found.left_out == ("only in A: ending, story, written",)
    shown = samples(place, "two", "capital", limit=12, num_fewshot=1)
    (told,) = compared(place / "forth", shown)[0].matched[0].differing
    assert "the prompt as the model saw it differs in 12 of 12 items" in told
    with pytest.raises(UserError, match=r"no task is in both: .* holds capital, ending, story, written; .* holds nothing"):
        carry_out(place / "forth", some.rename(some.with_name("samples_nothing.jsonl")), Options())


def test_runs_from_before_documents_were_kept_are_told(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "forth", tmp_path / "old")
    items = tmp_path / "old" / "items" / "0.jsonl"
    line = {"set": "text:t", "item": "a", "template": "a", "prompt": "", "messages": [], "reference": "r", "answers": {},
            "scores": {"tuned": {"loss": 1.0}}}  # fmt: skip
    items.write_text("".join(json.dumps({**line, "item": str(n), "template": str(n)}) + "\n" for n in range(9)))
    found, _ = compared(tmp_path / "old", tmp_path / "old")
    assert any("capital.yaml" in note and "NOT compared: it was made before" in note for note in found.notes)
