"""A run folder belongs to one run and one process, and everything in it is whole."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from disks import mounted

from palimpsest.core.errors import UserError
from palimpsest.core.measurement import Measurement
from palimpsest.store.cache import Cache
from palimpsest.store.run_folder import RunFolder, RunReader, differences
from palimpsest.store.runs import list_runs

SPEC = {"behaviour": "directions", "training": {"learning_rate": 1e-4, "dose": 50}, "seeds": [0, 1]}
KEY = "ab" + "0" * 30


def test_layout_and_round_trip(tmp_path):
    with RunFolder(tmp_path / "runs" / "one", SPEC) as run:
        run.write_json("results/0/outcome.json", {"b": 1, "a": [None, "é"]})
        run.write_text("report.html", "<p>é</p>")
        assert run.read_json("results/0/outcome.json") == {"a": [None, "é"], "b": 1}
        assert run.read_json("results/0/none.json") is None
        assert run.training("tuned", 3) == run.path / "training" / "tuned-3"
    assert json.loads((run.path / "spec.json").read_text()) == SPEC
    assert (run.path / "report.html").read_bytes() == "<p>é</p>".encode()
    assert (run.path / "training" / "tuned-3").is_dir()


def test_same_value_same_bytes(tmp_path):
    with RunFolder(tmp_path, SPEC) as run:
        run.write_json("a.json", {"x": 1, "y": {"b": 0.1, "a": 2}})
        run.write_json("b.json", {"y": {"a": 2, "b": 0.1}, "x": 1})
        assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_what_is_no_json_is_not_written(tmp_path):
    with RunFolder(tmp_path, SPEC) as run:
        run.write_json("a.json", 1)
        for value in (float("nan"), {1, 2}):
            with pytest.raises((ValueError, TypeError)):
                run.write_json("a.json", value)
        assert run.read_json("a.json") == 1
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.json", "lock", "spec.json"]


def test_commit(tmp_path):
    with RunFolder(tmp_path, SPEC) as run:
        assert not run.committed("training/tuned-0")
        assert run.commit_note("training/tuned-0") is None
        run.commit("training/tuned-0", {"digest": "x"})
    with RunFolder(tmp_path, SPEC) as run:
        assert run.committed("training/tuned-0")
        assert run.commit_note("training/tuned-0") == {"digest": "x"}
        assert not run.committed("training/tuned-1")


def test_altered_json_is_told(tmp_path):
    with RunFolder(tmp_path, SPEC) as run:
        run.write_json("a.json", 1)
        (tmp_path / "a.json").write_text("{")
        with pytest.raises(UserError, match=r"a\.json must be JSON"):
            run.read_json("a.json")


def test_nothing_is_written_outside(tmp_path):
    with RunFolder(tmp_path / "run", SPEC) as run:
        for name in ("../escaped.json", "/tmp/escaped.json", "results/../../escaped.json"):
            with pytest.raises(ValueError, match="outside the run folder"):
                run.write_json(name, 1)
    assert not (tmp_path / "escaped.json").exists()


# ---------------------------------------------------------------- whose folder is it


def test_another_run_is_refused_with_what_differs(tmp_path):
    RunFolder(tmp_path, SPEC).close()
    other = {**SPEC, "training": {"learning_rate": 2e-4, "dose": 50}, "behaviour": "rain", "extra": True}
    with pytest.raises(UserError) as caught:
        RunFolder(tmp_path, other)
    assert str(caught.value).splitlines()[1:] == [
        '  - behaviour: "directions" there, "rain" now',
        "  - extra: absent there, true now",
        "  - training.learning_rate: 0.0001 there, 0.0002 now",
    ]
    RunFolder(tmp_path, dict(reversed(SPEC.items()))).close()


def test_differences_of_equal_data():
    assert list(differences(SPEC, json.loads(json.dumps(SPEC)))) == []


def test_tuples_and_lists_are_the_same_spec(tmp_path):
    RunFolder(tmp_path, {**SPEC, "seeds": (0, 1)}).close()
    RunFolder(tmp_path, SPEC).close()


def test_foreign_folder_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"holds thesis\.tex"):
        RunFolder(tmp_path, SPEC)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_hidden_files_do_not_make_a_folder_foreign(tmp_path):
    (tmp_path / ".DS_Store").write_text("")
    RunFolder(tmp_path, SPEC).close()


def test_file_in_the_place(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="but it is a file"):
        RunFolder(tmp_path / "file", SPEC)
    with pytest.raises(UserError, match="can't be written"):
        RunFolder(tmp_path / "file" / "run", SPEC)


def test_unwritable_place():
    with pytest.raises(UserError, match="/proc/palimpsest can't be written"):
        RunFolder("/proc/palimpsest", SPEC)


def test_read_only_file_system(tmp_path):
    with mounted(tmp_path / "disk", "ro") as place:
        for path in (place, place / "run"):
            with pytest.raises(UserError, match="can't be written: Read-only file system"):
                RunFolder(path, SPEC)


def test_too_little_space_is_told_before_work(tmp_path):
    with pytest.raises(UserError, match=r"needs about .* GiB and has .* free"):
        RunFolder(tmp_path, SPEC, bytes_needed=2 * shutil.disk_usage(tmp_path).free)
    RunFolder(tmp_path, SPEC).close()


def test_disk_that_fills_up(small_disk):
    with RunFolder(small_disk / "run", SPEC) as run:
        run.write_json("results/0/outcome.json", "done")
        with pytest.raises(UserError, match=r"the disk is full.*goes on from there"):
            run.write_text("report.html", "x" * 2**19)
        assert run.read_json("results/0/outcome.json") == "done"
        assert not (run.path / "report.html").exists()
        run.write_text("report.html", "small")


# ---------------------------------------------------------------- one process at a time


def hold(path, then="time.sleep(60)"):
    """Start a process that holds the folder, and wait until it does."""
    code = f"""
import time
from palimpsest.store.run_folder import RunFolder
run = RunFolder({str(path)!r}, {SPEC!r})
print("held", flush=True)
{then}
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_two_processes_do_not_write_one_run(tmp_path):
    other = hold(tmp_path)
    try:
        with pytest.raises(UserError, match=f"is being written by process {other.pid} on "):
            RunFolder(tmp_path, SPEC)
        assert RunReader(tmp_path).read_json("spec.json") == SPEC
    finally:
        other.kill()
        other.wait()


def test_lock_of_a_killed_process_is_taken_over(tmp_path):
    other = hold(tmp_path)
    other.send_signal(signal.SIGKILL)
    other.wait()
    with RunFolder(tmp_path, SPEC):
        assert str(os.getpid()) in (tmp_path / "lock").read_text()


def test_lock_is_given_back(tmp_path):
    with RunFolder(tmp_path, SPEC), pytest.raises(UserError, match="is being written by"):
        RunFolder(tmp_path, SPEC)
    with pytest.raises(UserError, match="holds another run"):
        RunFolder(tmp_path, {})
    RunFolder(tmp_path, SPEC).close()


@pytest.mark.slow
def test_kills_at_random_moments(tmp_path):
    """A process that writes as fast as it can, killed 20 times: every file is whole and nothing committed is lost."""
    work = """
n = run.read_json("n.json") or 0
while True:
    n += 1
    run.write_json(f"results/{n}.json", [n] * 500)
    run.write_json("n.json", n)
"""
    rng, last = np.random.default_rng(0), 0
    for _ in range(20):
        process = hold(tmp_path, then=work)
        time.sleep(rng.uniform(0.01, 0.3))
        process.kill()
        process.wait()
        run = RunReader(tmp_path)
        now = run.read_json("n.json") or 0
        assert now >= last
        assert all(run.read_json(f"results/{n}.json") == [n] * 500 for n in range(1, now + 1))
        last = now
    assert last > 20
    left = list(tmp_path.rglob(".unfinished-*"))
    RunFolder(tmp_path, SPEC).close()
    assert not list(tmp_path.rglob(".unfinished-*")), f"{len(left)} were there"


def test_half_written_files_of_a_killed_process_are_swept(tmp_path):
    left = [tmp_path / ".unfinished-1-spec.json", tmp_path / "results" / "0" / ".unfinished-1-a.json"]
    own = tmp_path / "training" / "tuned-0" / ".unfinished-checkpoint-3" / "model.safetensors"
    for file in (*left, own):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("half")
    (tmp_path / "spec.json").write_text(json.dumps(SPEC))
    RunFolder(tmp_path, SPEC).close()
    assert not any(file.exists() for file in left)
    assert own.exists()


# ---------------------------------------------------------------- measurements


def test_measurements_outlive_the_cache(tmp_path):
    cache = Cache(tmp_path / "cache")
    cache.put(KEY, Measurement({"a": np.arange(4.0)}, {"t": ["x"]}))
    with RunFolder(tmp_path / "run", SPEC) as run:
        assert run.measurement(KEY) is None
        run.keep(cache, KEY)
        run.keep(cache, KEY)
    assert sorted(file.suffix for file in (run.path / "measurements").iterdir()) == [".json", ".safetensors"]
    assert (run.path / "measurements" / f"{KEY}.safetensors").stat().st_nlink == 2
    cache.clean()
    found = RunReader(run.path).measurement(KEY)
    assert found is not None
    assert (found.arrays["a"].tolist(), found.texts) == ([0, 1, 2, 3], {"t": ["x"]})


def test_measurements_are_copied_where_links_can_not_be(tmp_path, small_disk):
    cache = Cache(tmp_path / "cache")
    cache.put(KEY, Measurement({"a": np.arange(4.0)}))
    with RunFolder(small_disk / "run", SPEC) as run:
        run.keep(cache, KEY)
        assert run.measurement(KEY) is not None


def test_damaged_measurement_is_absent(tmp_path):
    cache = Cache(tmp_path / "cache")
    cache.put(KEY, Measurement({"a": np.arange(4.0)}))
    with RunFolder(tmp_path / "run", SPEC) as run:
        run.keep(cache, KEY)
        file = run.path / "measurements" / f"{KEY}.safetensors"
        file.write_bytes(file.read_bytes()[:-1])
        assert run.measurement(KEY) is None


def test_another_measurement_under_the_name_is_absent(tmp_path):
    cache, other = Cache(tmp_path / "cache"), "cd" + KEY[2:]
    cache.put(KEY, Measurement({"a": np.arange(4.0)}))
    with RunFolder(tmp_path / "run", SPEC) as run:
        run.keep(cache, KEY)
        for file in list((run.path / "measurements").iterdir()):
            file.with_name(f"{other}{file.suffix}").write_bytes(file.read_bytes())
        assert run.measurement(KEY) is not None
        assert run.measurement(other) is None


# ---------------------------------------------------------------- lists


def test_list_runs(tmp_path):
    assert list_runs(tmp_path / "nothing") == ()
    with RunFolder(tmp_path / "b", SPEC) as run:
        run.write_json("record.json", {"kind": "run", "title": "rain", "verdict": {"headline": "As intended"}})
        run.write_text("report.html", "")
    RunFolder(tmp_path / "a", SPEC).close()
    (tmp_path / "other").mkdir()
    first, second = list_runs(tmp_path)
    assert (first.path.name, first.finished, first.title) == ("a", False, "a")
    assert (second.finished, second.kind, second.title, second.headline) == (True, "run", "rain", "As intended")
    assert list_runs(tmp_path / "b") == (second,)


def test_only_a_run_can_be_read(tmp_path):
    with pytest.raises(UserError, match=r"has no spec\.json"):
        RunReader(tmp_path)
