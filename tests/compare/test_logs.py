"""Logs that inspect and lm-eval really wrote: our numbers are theirs, and a difference is what it is by hand."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from test_cli import command  # noqa: F401

import palimpsest
from palimpsest import api
from palimpsest.evaluations.comparison import Found, carry_out
from palimpsest.evaluations.paired import Options

METRICS = {"sums.eval": {"match", "digits.first_digit", "digits.length"}, "facts.json": {"match"}}


def compare(before: Path, after: Path, **more: Any) -> Found:
    return carry_out(before, after, Options.given(), **more)


def by_hand(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return header and samples of a log, read in another way than ours."""
    if path.suffix == ".json":
        data = json.loads(path.read_text())
        return data, data["samples"]
    with zipfile.ZipFile(path) as archive, path.open("rb") as raw:
        found = {}
        for info in archive.infolist():
            raw.seek(info.header_offset + 26)
            lengths = raw.read(4)
            raw.seek(int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little"), io.SEEK_CUR)
            packed = raw.read(info.compress_size)
            found[info.filename] = json.loads(zstandard.ZstdDecompressor().decompressobj().decompress(packed))
        return found["header.json"], [one for name, one in found.items() if name.startswith("samples/")]


@pytest.mark.parametrize("name", METRICS)
def test_means_are_those_that_inspect_reports(name: str, logs: Path) -> None:
    paths = [logs / "inspect" / f"{model}-{name}" for model in ("before", "after")]
    found = compare(*paths)
    assert {one.metric.name for one in found.compared} == METRICS[name]
    for side, path in zip(("before", "after"), paths, strict=True):
        for one in by_hand(path)[0]["results"]["scores"]:
            ours = one["name"] if one["name"] == one["scorer"] else f"{one['scorer']}.{one['name']}"
            (row,) = (row for row in found.compared if row.metric.name == ours)
            theirs = next(one["metrics"][kind]["value"] for kind in ("accuracy", "mean") if kind in one["metrics"])
            assert getattr(row, side).value == pytest.approx(theirs, abs=1e-9)
    assert not any("itself says" in note for note in found.notes)


def test_a_difference_over_epochs_is_what_it_is_by_hand(logs: Path) -> None:
    paths = [logs / "inspect" / f"{model}-sums.eval" for model in ("before", "after")]
    means = []
    for path in paths:
        scores = defaultdict(list)
        for one in by_hand(path)[1]:
            scores[one["id"]].append(one["scores"]["match"]["value"] == "C")
        assert all(len(epochs) == 3 for epochs in scores.values())
        means.append({name: sum(epochs) / 3 for name, epochs in scores.items()})
    difference = np.array([means[1][name] - means[0][name] for name in means[0]])
    (row,) = (one for one in compare(*paths).compared if one.metric.name == "match")
    assert row.change.value == pytest.approx(difference.mean()) and row.change.n == difference.size == 12
    error = difference.std(ddof=1) / math.sqrt(12)
    assert row.change.interval is not None
    assert np.diff(row.change.interval)[0] == pytest.approx(2 * 2.2009851601 * error)  # Student's t, 11 degrees of freedom
    assert (row.worse, row.improved) == (int((difference < 0).sum()), int((difference > 0).sum()))


def test_means_are_those_that_lm_eval_reports(logs: Path) -> None:
    found = compare(logs / "lm_eval" / "before", logs / "lm_eval" / "after")
    assert len(found.compared) == 7 and not any("itself says" in note for note in found.notes)
    for side in ("before", "after"):
        (path,) = (logs / "lm_eval" / side).rglob("results_*.json")
        theirs = json.loads(path.read_text())["results"]
        for row in found.compared:
            value = getattr(row, side).value
            shown = math.exp(value) if row.metric.name.endswith("perplexity") else value
            assert shown == pytest.approx(theirs[row.task][f"{row.metric.name},none"], abs=1e-8), row.name


def test_documents_that_stand_twice_in_a_real_log(logs: Path) -> None:
    found = compare(logs / "lm_eval" / "before", logs / "lm_eval" / "after", tasks=["pocket_facts"])
    assert {len(one.pairs) for one in found.compared} == {14} and {one.before.n for one in found.compared} == {12}
    assert any("2 items more than once in the data" in note for note in found.notes)


def test_one_file_says_what_its_folder_says(logs: Path) -> None:
    sides = [logs / "lm_eval" / side for side in ("before", "after")]
    whole = {one.name: one for one in compare(*sides).compared}
    for pattern in ("samples_pocket_sums_*.jsonl", "results_*.json"):
        files = [next(side.rglob(pattern)) for side in sides]
        for one in compare(*files).compared:
            assert (one.change, one.worse) == (whole[one.name].change, whole[one.name].worse)


@pytest.mark.parametrize("name", ["inspect/before-sums.eval", "inspect/before-facts.json", "lm_eval/before"])
def test_a_model_against_itself_is_identical(name: str, logs: Path, tmp_path: Path) -> None:
    found = palimpsest.compare(logs / name, logs / name, folder=tmp_path / "out")
    assert found.account.label == "identical" and not found.regression
    assert found.account.notes[0] == "A and B are the same file or folder."


def test_the_other_way_round_every_change_has_the_other_sign(logs: Path) -> None:
    sides = [logs / "lm_eval" / side for side in ("before", "after")]
    for one, other in zip(compare(*sides).compared, compare(*sides[::-1]).compared, strict=True):
        assert one.change.value == pytest.approx(-(other.change.value or 0), abs=1e-12)
        assert (one.worse, one.improved) == (other.improved, other.worse)


def test_the_folder_of_all_logs_of_a_model(logs: Path, tmp_path: Path) -> None:
    for side in ("before", "after"):
        (tmp_path / side).mkdir()
        for name in METRICS:
            (tmp_path / side / name).write_bytes((logs / "inspect" / f"{side}-{name}").read_bytes())
    found = compare(tmp_path / "before", tmp_path / "after")
    assert {one.before.task for one in found.matched} == {"sums", "facts"}
    assert len(found.compared) == 4


def test_clusters_of_a_real_log(logs: Path) -> None:
    path = logs / "inspect" / "before-sums.eval"
    wordings = {one["metadata"]["wording"] for one in by_hand(path)[1]}
    assert compare(path, path, cluster="wording").compared[0].before.n == len(wordings)


# the command


def test_exit_codes_and_what_is_printed(logs: Path, tmp_path: Path, command: Any) -> None:  # noqa: F811
    sides = [logs / "inspect" / f"{model}-sums.eval" for model in ("before", "after")]
    code, out, _ = command("compare", *sides, "--margin", "0.02", "--metrics", "match", "--folder", tmp_path / "a")
    assert code == 2 and "B is worse than A beyond the margin: match on sums" in out and str(tmp_path / "a") in out
    assert "\n\nreport: " in out and "\n\n\n" not in out
    code, out, _ = command("compare", *sides[::-1], "--folder", tmp_path / "b", "--json")
    account = json.loads(out)
    assert code == 0 and account["kind"] == "compare" and account["estimates"]["sums match"]["value"] > 0
    code, _, told = command("compare", sides[0], logs / "inspect" / "after-facts.json", "--folder", tmp_path / "c")
    assert code == 3 and "no task is in both" in told and not (tmp_path / "c").exists()
    for option in (("--margin", "x"), ("--margin", "0"), ("--better", "match"), ("--margin", "a=1", "--margin", "a=2")):
        code, _, told = command("compare", *sides, *option, "--folder", tmp_path / "d")
        assert code == 3 and option[0] in told


def test_the_page_is_whole_and_escaped_and_the_pairs_are_there(logs: Path, tmp_path: Path) -> None:
    for side in ("before", "after"):
        data = json.loads((logs / "inspect" / f"{side}-facts.json").read_text())
        for one in data["samples"]:
            one["messages"][-1]["content"] = f"<script>alert('{side}')</script>"
            one["scores"]["match"]["value"] = "C" if side == "before" else "I"
        (tmp_path / f"{side}.json").write_text(json.dumps(data))
    found = palimpsest.compare(tmp_path / "before.json", tmp_path / "after.json", folder=tmp_path / "out")
    page = found.report.read_bytes()
    assert (
        found.regression
        and b"Regression" in page
        and b"<script" not in page
        and b"alert(&#39;" in page
        and b"http" not in page.replace(b"http-equiv", b"").replace(b"http://www.w3.org", b"")
    )
    assert page.count(b"<svg") == 1 and b"match 1" in page and b"match 0" in page
    pairs = [json.loads(line) for line in (found.folder / "pairs.jsonl").read_text().splitlines()]
    assert len(pairs) == 12 and all(one["scores"] == {"match": [1.0, 0.0]} for one in pairs)
    found.report.unlink()
    assert api.redraw(found.folder).read_bytes() == page
    again = palimpsest.compare(tmp_path / "before.json", tmp_path / "after.json", folder=tmp_path / "out")
    assert again.report.read_bytes() == page
