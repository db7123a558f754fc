"""Bad logs: each gets a message that says what is wrong, and both sides are told at once."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palimpsest.core.errors import UserError
from palimpsest.evaluations import source
from palimpsest.evaluations.account import account
from palimpsest.evaluations.comparison import carry_out, lines
from palimpsest.evaluations.paired import Options
from tests.compare import kit

ROWS = [kit.sample(n, "CI"[n % 2]) for n in range(12)]
DOCUMENTS = [kit.document(n, acc=float(n % 2)) for n in range(12)]
SAMPLES = "samples_t_2026-01-01T00-00-00.000001.jsonl"
RESULTS = "results_2026-01-01T00-00-00.000001.json"


def good(folder: Path) -> Path:
    return kit.write(folder / "good.json", kit.log(ROWS))


def message(before: Path, after: Path, **more: object) -> str:
    with pytest.raises(UserError) as told:
        carry_out(before, after, Options(), **more)  # type: ignore[arg-type]
    return str(told.value)


def cut(folder: Path) -> Path:
    path = kit.pack(folder / "cut.eval", kit.log(ROWS))
    path.write_bytes(path.read_bytes()[:-400])
    return path


def cut_json(folder: Path) -> Path:
    path = kit.write(folder / "cut.json", kit.log(ROWS))
    path.write_bytes(path.read_bytes()[:-40])
    return path


def empty(folder: Path) -> Path:
    (folder / "empty.eval").touch()
    return folder / "empty.eval"


def empty_folder(folder: Path) -> Path:
    (folder / "nothing").mkdir()
    return folder / "nothing"


def note(folder: Path) -> Path:
    (folder / "note.txt").write_text("hello")
    return folder / "note.txt"


def mixed(folder: Path) -> Path:
    kit.pack(folder / "mixed" / "a.eval", kit.log(ROWS))
    kit.write_lines(folder / "mixed" / SAMPLES, DOCUMENTS)
    return folder / "mixed"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: folder / "missing.eval", "there is no such file or folder"),
        (empty, "the file is empty"),
        (empty_folder, "nothing: the folder holds no files"),
        (note, "is none of what can be compared: inspect logs (.eval, .json); samples of lm-eval"),
        (mixed, "holds inspect logs (.eval, .json) and samples of lm-eval"),
        (cut, "it is no whole inspect log"),
        (cut_json, "is it cut off?"),
        (
            lambda folder: kit.pack(folder / "a.eval", kit.log(ROWS[:5]), header=False),
            "its status is 'started', with 5 samples",
        ),
        (
            lambda folder: kit.pack(folder / "a.eval", kit.log(ROWS, status="error", error={"message": "boom"})),
            "its status is 'error' (boom), with 12 samples; the samples that are there are no fair choice of all. Finish it "
            "with `inspect eval-retry`",
        ),
        (lambda folder: kit.write(folder / "a.json", kit.log(ROWS, status="cancelled")), "its status is 'cancelled'"),
        (lambda folder: kit.write(folder / "a.json", kit.log([])), "it holds no samples, only a header"),
        (lambda folder: kit.pack(folder / "a.eval", kit.log([])), "it holds no samples, only a header"),
        (lambda folder: kit.write(folder / "a.json", kit.log(ROWS, task="other")), "no task is in both"),
        (lambda folder: kit.write_lines(folder / SAMPLES, DOCUMENTS), "both must be of one kind"),
        (
            lambda folder: kit.write(folder / "a.json", kit.log([kit.sample(n) for n in range(50, 60)])),
            "no item is in both logs",
        ),
    ],
)
def test_a_log_that_can_not_be_used(make: Callable[[Path], Path], said: str, tmp_path: Path) -> None:
    bad = make(tmp_path)
    for pair in ((bad, good(tmp_path)), (good(tmp_path), bad)):
        assert said in message(*pair)


@pytest.mark.parametrize("name", source.names())
def test_every_source_says_what_it_reads_and_claims_nothing_else(name: str, tmp_path: Path) -> None:
    one = source.find(name)
    assert one.what
    assert not one.claims(empty_folder(tmp_path)) and not one.claims(note(tmp_path))


def test_both_sides_are_told_at_once(tmp_path: Path) -> None:
    said = message(cut(tmp_path), kit.write(tmp_path / "a.json", kit.log(ROWS, status="error")))
    assert "cut off" in said and "its status is 'error'" in said


def test_what_is_wrong_with_both_sides_is_told_once(tmp_path: Path) -> None:
    nothing, damaged = empty_folder(tmp_path), cut(tmp_path)
    assert message(nothing, nothing).count("holds no files") == 1
    assert message(damaged, damaged).count("cut off") == 1 and "zip" not in message(damaged, damaged)


def test_results_of_lm_eval_without_samples(tmp_path: Path) -> None:
    results = {"results": {"t": {"acc,none": 0.5}}, "configs": {"t": {}}, "higher_is_better": {"t": {"acc": True}}}
    path = kit.write(tmp_path / "a" / RESULTS, results)
    for place in (path, path.parent):
        assert "evaluate with --log_samples" in message(place, place)
    kit.write_lines(path.with_name(SAMPLES), DOCUMENTS)
    assert carry_out(path, path.parent, Options()).compared[0].state == "identical"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([*DOCUMENTS, DOCUMENTS[0]], "document 0 stands in the file twice"),
        ([*DOCUMENTS[:5], {"doc_id": 5}], "line 6: is no sample of lm-eval"),
        ([{**one, "metrics": ["acc"], "acc": None} for one in DOCUMENTS], "no metric is in both logs: A has acc, B has none"),
    ],
)
def test_samples_of_lm_eval_that_can_not_be_used(rows: list[dict[str, object]], said: str, tmp_path: Path) -> None:
    fine = kit.write_lines(tmp_path / "a" / SAMPLES, DOCUMENTS)
    assert said in message(fine, kit.write_lines(tmp_path / "b" / SAMPLES, rows))


def test_samples_of_lm_eval_that_are_cut_off(tmp_path: Path) -> None:
    fine = kit.write_lines(tmp_path / "a" / SAMPLES, DOCUMENTS)
    cut_off = kit.write_lines(tmp_path / "b" / SAMPLES, DOCUMENTS)
    cut_off.write_bytes(cut_off.read_bytes()[:-30])
    assert "line 12: not JSON" in message(fine, cut_off) and "is the file cut off?" in message(fine, cut_off)


def test_a_file_of_a_folder_that_can_not_be_read_is_left_out_and_told(tmp_path: Path) -> None:
    fine = good(tmp_path)
    kit.write(tmp_path / "a" / "fine.json", kit.log(ROWS))
    damaged = cut(tmp_path / "a")
    found = carry_out(fine, tmp_path / "a", Options(), tasks=["t"])
    assert found.compared[0].state == "identical"
    (told,) = found.left_out
    assert told.startswith(f"{damaged} can't be used: ") and f"left out: {told}" in account(found, {}).reasons
    assert "it is cut off" in message(fine, damaged)
    (tmp_path / "a" / "fine.json").unlink()
    assert "it is cut off" in message(fine, tmp_path / "a")


def test_samples_of_a_folder_that_can_not_be_read_are_left_out_and_told(tmp_path: Path) -> None:
    fine = kit.write_lines(tmp_path / "a" / SAMPLES, DOCUMENTS)
    kit.write_lines(tmp_path / "b" / SAMPLES, DOCUMENTS)
    newer = kit.write_lines(tmp_path / "b" / SAMPLES.replace("01-01", "01-02"), DOCUMENTS)
    newer.write_bytes(newer.read_bytes()[:-30])
    found = carry_out(fine, tmp_path / "b", Options())
    assert found.compared[0].state == "identical"
    (told,) = found.left_out
    assert told.startswith(f"{newer} can't be used: line 12: not JSON") and "\n" not in told
    assert f"2 files of t are there; {SAMPLES} was read." in found.notes
    assert "is the file cut off?" in message(fine, newer)


def test_an_output_folder_of_two_models(tmp_path: Path) -> None:
    for model in ("m", "n"):
        kit.write_lines(tmp_path / "out" / model / SAMPLES, DOCUMENTS)
    assert "holds the samples of 2 models; give one of" in message(tmp_path / "out", tmp_path / "out" / "m")


def test_a_task_that_is_not_there(tmp_path: Path) -> None:
    assert "--tasks: there is no task 'x' in both; there are t" in message(good(tmp_path), good(tmp_path), tasks=["x"])


def test_the_real_log_cut_anywhere(logs: Path, tmp_path: Path) -> None:
    whole = logs / "inspect" / "before-sums.eval"
    content = whole.read_bytes()
    for share in (0.0005, 0.3, 0.7, 0.999):
        path = tmp_path / "cut.eval"
        path.write_bytes(content[: max(1, int(share * len(content)))])
        assert "cut off, or still being written" in message(whole, path)


def test_a_sample_damaged_inside_a_real_log(logs: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged.eval"
    shutil.copy(logs / "inspect" / "before-sums.eval", path)
    content = bytearray(path.read_bytes())
    content[3000:3060] = bytes(60)
    path.write_bytes(bytes(content))
    assert "can't be unpacked" in message(logs / "inspect" / "before-sums.eval", path)


ODD = st.sampled_from([None, "x", "", 7, -1.5, float("nan"), float("inf"), True, [], [1], {}, {"a": 1}, "\ud800", "C" * 50_000])


def places(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(one for key, part in inside for one in places(part, (*path, key)))]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_stands_in_a_log_it_is_compared_or_told(data: st.DataObject) -> None:
    """Any one part of a real log or of real samples is put in the place of something odd."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fine, bad = folder / "a", folder / "b"
        for target in (fine, bad):
            if data.draw(st.booleans(), label="inspect") if target is fine else (fine / "x.json").exists():
                kit.write(
                    target / "x.json", kit.log(ROWS, results={"scores": [{"name": "match", "metrics": {}}]}, plan={"steps": []})
                )
            else:
                kit.write(target / RESULTS, {"results": {"t": {"acc,none": 0.5}}, "configs": {"t": {}}, "n-shot": {"t": 0}})
                kit.write_lines(target / SAMPLES, DOCUMENTS)
        file = data.draw(st.sampled_from(sorted(bad.iterdir())))
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        row = data.draw(st.integers(0, len(rows) - 1))
        path = data.draw(st.sampled_from(places(rows[row])[1:]))
        part = rows[row]
        for key in path[:-1]:
            part = part[key]
        part[path[-1]] = data.draw(ODD)
        kit.write_lines(file, rows)
        with contextlib.suppress(UserError):
            found = carry_out(fine, bad, Options())
            account(found, {})
            lines(found)
