"""Ages of logs: is a file of any year the same comparison?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from palimpsest.core.errors import UserError
from palimpsest.evaluations.comparison import Found, carry_out
from palimpsest.evaluations.paired import Options
from tests.compare import kit

RIGHT = {"before": [1, 1, 0, 1, 0, 1, 1, 0, 1, 1, 0, 1], "after": [0, 1, 0, 0, 0, 1, 1, 0, 0, 1, 0, 1]}
ITEMS = len(RIGHT["before"])


def chosen(number: int, right: int) -> dict[str, Any]:
    """A multiple-choice sample as lm-eval 0.4.0 to 0.4.4 wrote it: no metrics named, requests as bare lists."""
    likely = [[-1.0, True], [-2.0, False]] if right else [[-2.0, False], [-1.0, True]]
    return {
        "doc_id": number,
        "doc": {"question": f"Question {number}?"},
        "target": 0,
        "arguments": [[f"Question {number}?", " yes"], [f"Question {number}?", " no"]],
        "resps": [[one] for one in likely],
        "filtered_resps": likely,
        "acc": float(right),
        "acc_norm": 1.0,
    }


def written(number: int, right: int, told: str) -> dict[str, Any]:
    """A written answer, as one filter made it; of before filters were named."""
    return {
        "doc_id": number,
        "doc": {"question": f"Question {number}?"},
        "target": "4",
        "arguments": [[f"Question {number}?", {"until": ["\n"]}]],
        "resps": [["The answer is 4." if right else "5"]],
        "filtered_resps": [told],
        "exact_match": float(right),
    }


def save(folder: Path, rows: list[dict[str, Any]], how: str, name: str = "model_task") -> Path:
    folder.mkdir(parents=True)
    path = folder / f"{name}.{'json' if how == 'a .json' else 'jsonl'}"
    text = (
        "".join(json.dumps(row) + "\n" for row in rows)
        if how == "lines"
        else json.dumps(rows, indent=None if how == "a row" else 2)
    )
    path.write_text(text)
    return path


def compare(tmp_path: Path, rows: Any, how: str) -> Found:
    paths = [save(tmp_path / when, rows(RIGHT[when]), how) for when in ("before", "after")]
    return carry_out(paths[0], paths[1], Options())


@pytest.mark.parametrize("how", ["lines", "a list", "a row", "a .json"])
def test_samples_that_name_no_metrics_are_read(how: str, tmp_path: Path) -> None:
    found = compare(tmp_path, lambda right: [chosen(number, one) for number, one in enumerate(right)], how)
    rows = {row.metric.name: (row.before.value, row.after.value) for row in found.compared}
    assert rows == {"acc": (pytest.approx(8 / 12), pytest.approx(5 / 12)), "acc_norm": (1.0, 1.0)}


@pytest.mark.parametrize("how", ["lines", "a list"])
def test_two_filters_that_are_not_named_are_two_metrics(how: str, tmp_path: Path) -> None:
    def rows(right: list[int]) -> list[dict[str, Any]]:
        strict = [{**written(number, one, "4"), "exact_match": 0.0} for number, one in enumerate(right)]
        return [*strict, *(written(number, one, "4") for number, one in enumerate(right))]

    found = compare(tmp_path, rows, how)
    values = {row.metric.name: (row.before.value, row.after.value) for row in found.compared}
    assert set(values) == {"exact_match", "exact_match,filter 2"} and values["exact_match"] == (0.0, 0.0)
    assert values["exact_match,filter 2"] == (pytest.approx(8 / 12), pytest.approx(5 / 12))


def test_two_evaluations_in_one_file_are_no_filters(tmp_path: Path) -> None:
    once = [written(number, one, "4") for number, one in enumerate(RIGHT["before"])]
    again = [{**row, "resps": [["something else"]]} for row in once]
    path = save(tmp_path / "a", [*once, *again], "a list")
    with pytest.raises(UserError, match="stands in the file twice, with two answers: two evaluations"):
        carry_out(path, path, Options())


def test_a_list_that_is_cut_is_told(tmp_path: Path) -> None:
    path = save(tmp_path / "a", [chosen(number, 1) for number in range(ITEMS)], "a list")
    path.write_text(path.read_text()[:-40])
    with pytest.raises(UserError, match=r"not JSON.*is it cut off\?"):
        carry_out(path, path, Options())


def one_scorer(right: list[int], when: str) -> dict[str, Any]:
    """A log of inspect as of spring 2024: one scorer, one score a sample."""
    samples = []
    for number, one in enumerate(right):
        row = kit.sample(number, "CI"[1 - one])
        row["score"] = {"value": "CI"[1 - one], "answer": "x", "explanation": "because"}
        samples.append({key: value for key, value in row.items() if key not in ("scores", "metadata")})
    share = sum(right) / len(right)
    results = {
        "scorer": {"name": "match", "params": {}},
        "metrics": {"accuracy": {"name": "accuracy", "value": share, "options": {}}},
    }
    return {**kit.log(samples, eval={"created": "2024-04-20T10:00:00", "model": when}), "version": 1, "results": results}


@pytest.mark.parametrize("packed", [False, True])
def test_a_log_of_inspect_with_one_scorer_is_that_of_today(packed: bool, tmp_path: Path) -> None:
    old, new = [], []
    for when, right in RIGHT.items():
        write = (lambda path, data: kit.pack(path.with_suffix(".eval"), data)) if packed else kit.write
        old.append(write(tmp_path / "old" / f"{when}.json", one_scorer(right, when)))
        rows = [kit.sample(number, "CI"[1 - one]) for number, one in enumerate(right)]
        new.append(kit.write(tmp_path / "new" / f"{when}.json", kit.log(rows, eval={"model": when})))
    ours, today = (carry_out(*paths, Options()) for paths in (old, new))
    assert [(row.metric.name, row.before.value, row.after.value) for row in ours.compared] == [
        (row.metric.name, row.before.value, row.after.value) for row in today.compared
    ]
    assert [row.metric.name for row in ours.compared] == ["match"] and ours.compared[0].before.value == pytest.approx(8 / 12)
    assert not any("itself says" in note for note in ours.notes)
    if not packed:
        wrong = json.loads(old[0].read_text())
        wrong["results"]["metrics"]["accuracy"]["value"] = 0.99
        old[0].write_text(json.dumps(wrong))
        assert any("itself says" in note for note in carry_out(*old, Options()).notes), "its own mean was not read"
