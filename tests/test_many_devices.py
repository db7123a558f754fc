"""Many devices: do several processes do what one does, and is there one voice, one writer and one end?"""

# ruff: noqa: F401, F811  # fixtures are imported by name
from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import fleet
import pytest
import tiny
import torch
from fleet import ACCELERATE, ALONE, TORCHRUN
from safetensors.torch import load_file
from spine import Commands, behaviour, commands, leftovers, model, nursery

from palimpsest import ranks
from palimpsest.cli import _check_launch
from palimpsest.core import launch
from palimpsest.core.errors import UserError
from palimpsest.models.sharded import numbers_gathered


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in {"TORCHELASTIC_RUN_ID": "test", "WORLD_SIZE": "4", "RANK": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    return monkeypatch


def test_a_launcher_says_how_many_and_a_stray_variable_does_not(launched: pytest.MonkeyPatch) -> None:
    assert (launch.count(), launch.own(), launch.on_this_machine()) == (4, 2, (0, 2))
    launched.delenv("TORCHELASTIC_RUN_ID")  # as a batch system or Ray leaves it
    assert (launch.count(), launch.own(), launch.on_this_machine()) == (1, 0, (0, 1))


def test_ranks_share_tasks_and_none_rests(launched: pytest.MonkeyPatch) -> None:
    tasks = list("abcdefghij")
    done: list[str] = []
    lengths = set()
    for rank in range(4):
        launched.setenv("RANK", str(rank))
        turns = list(ranks.turns(tasks))
        lengths.add(len(turns))
        done += [own for own, _, counts in turns if counts]
        assert [task for _, everybody, _ in turns for task in everybody] == tasks
    assert sorted(done) == tasks, "each task is done once"
    assert lengths == {3}, "every rank takes as many turns"


def test_only_run_and_diff_are_done_together(launched: pytest.MonkeyPatch) -> None:
    _check_launch(["diff", "a", "b"])
    with pytest.raises(UserError, match="4 processes can do run and diff together, not 'study'"):
        _check_launch(["study", "dose_response"])


def test_a_device_of_ones_own_is_refused(launched: pytest.MonkeyPatch) -> None:
    assert "--device must be cuda or left out, found 'cuda:1'" in next(ranks.device_problems("cuda:1"))
    launched.setattr(torch.cuda, "is_available", lambda: True)
    launched.setattr(torch.cuda, "device_count", lambda: 1)
    assert "2 processes on this machine need as many GPUs, found 1" in next(ranks.device_problems("auto"))
    assert "this machine has 1" in next(ranks.device_problems("cpu"))


def test_what_a_pass_gathers_is_counted_from_the_shapes() -> None:
    shapes = [("embed.weight", (10, 4)), ("norm.weight", (4,))]
    shapes += [(f"layers.{layer}.{name}.weight", (4, 4)) for layer in range(3) for name in ("one", "two")]
    assert numbers_gathered(shapes) == (44 + 2 * 32, 44)


# ---------------------------------------------------------------- with two processes


@pytest.mark.slow
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_diff_in_two_processes_has_the_numbers_of_one(tmp_path: Path, kind: str) -> None:
    base, tuned = tiny.folder(tmp_path / "base", kind), tiny.folder(tmp_path / "tuned", kind, seed=1)
    for launcher, name in ((ALONE, "one"), (ACCELERATE, "two")):
        code, _, told = fleet.done(launcher, "diff", base, tuned, "--folder", tmp_path / name, cache=tmp_path / f"{name} cache")
        assert code == 0, told
    found = dict(fleet.apart(tmp_path / "one", tmp_path / "two"))
    assert max(found.values()) < 1e-4, found
    one, two = (json.loads((tmp_path / name / "record.json").read_text()) for name in ("one", "two"))
    assert one["verdict"] == two["verdict"]
    assert [part["state"] for part in one["seeds"][0]["outcomes"]] == [part["state"] for part in two["seeds"][0]["outcomes"]]
    assert (one["provenance"]["processes"], two["provenance"]["processes"]) == (1, 2)


@pytest.mark.slow
def test_a_run_in_two_processes_has_the_weights_and_the_verdict_of_one(commands: Commands, tmp_path: Path) -> None:
    """Started by torchrun; told once, in one voice."""
    alone, _, _ = fleet.done(ALONE, *commands["run"], "--folder", tmp_path / "one", cache=tmp_path / "one cache")
    assert alone in (0, 2)
    code, printed, told = fleet.done(TORCHRUN, *commands["run"], "--folder", tmp_path / "two", cache=tmp_path / "two cache")
    assert code == 0, told
    assert printed.count("report:") == 1
    assert told.count("checking") == 1
    for role in ("tuned-0", "rehearsal_only-0"):
        one, two = (load_file(tmp_path / name / "training" / role / "model" / "model.safetensors") for name in ("one", "two"))
        assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-4
    one, two = fleet.estimates(tmp_path / "one"), fleet.estimates(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, estimate in one.items():
        if estimate["value"] is None:
            assert two[name]["value"] is None, name
        else:
            assert two[name]["value"] == pytest.approx(estimate["value"], rel=0.02, abs=0.02), name
    assert not leftovers(tmp_path / "two")


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_when_one_is_killed_the_other_ends_and_the_same_command_goes_on(commands: Commands, tmp_path: Path, lost: int) -> None:
    folder, cache = tmp_path / "run", tmp_path / "cache"
    child = fleet.start(TORCHRUN, *commands["run"], "--folder", folder, cache=cache)
    while not list(folder.glob("measurements/*.json")):
        assert child.poll() is None, child.communicate()[1]
        time.sleep(0.02)
    pair = fleet.workers(child)
    os.kill(pair[lost], signal.SIGKILL)
    seconds = fleet.ended_within(child, 120)
    assert child.returncode == 1
    assert not [pid for pid in pair if Path(f"/proc/{pid}").exists()], f"both have to be gone after {seconds:.0f} s"
    kept = {path.name for path in folder.glob("measurements/*.json")}
    code, _, told = fleet.done(TORCHRUN, *commands["run"], "--folder", folder, cache=cache)
    assert code == 0, told
    assert kept <= {path.name for path in folder.glob("measurements/*.json")}
    assert not leftovers(folder)


@pytest.mark.slow
def test_after_full_memory_in_one_process_all_go_on_with_smaller_batches(commands: Commands, tmp_path: Path) -> None:
    """The launcher starts the same command once more by itself."""
    launcher = (*TORCHRUN[:-2], "--max_restarts", "1", str(Path(__file__).with_name("full_memory.py")), tmp_path / "flag")
    code, _, told = fleet.done(launcher, *commands["diff"], "--folder", tmp_path / "run", cache=tmp_path / "cache")
    assert code == 0, told
    assert "memory ran out in process 1 of 2 while measuring; give the same command again" in told
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert "Memory ran out while measuring: all models were read in batches of 4096 tokens instead." in record["notes"]


@pytest.mark.slow
def test_an_adapter_is_trained_and_audited_by_two_as_by_one(behaviour: Path, model: Path, tmp_path: Path) -> None:
    behaviour.write_text(behaviour.read_text().replace("training: {", "training: {optim: adamw, lora: {r: 4}, "))
    for launcher, name in ((ALONE, "one"), (TORCHRUN, "two")):
        words = ("run", behaviour, "--model", model, "--device", "cpu", "--audits", "outcome,weight_change")
        code, _, told = fleet.done(launcher, *words, "--folder", tmp_path / name, cache=tmp_path / f"{name} cache")
        assert code in (0, 2), told
    for part in ("adapter/adapter_model.safetensors", "model/model.safetensors"):
        one, two = (load_file(tmp_path / name / "training" / "tuned-0" / part) for name in ("one", "two"))
        assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-5
    adapter = tmp_path / "one" / "training" / "tuned-0" / "adapter"
    for launcher, name in ((ALONE, "three"), (TORCHRUN, "four")):
        words = ("diff", model, adapter, "--behaviour", behaviour, "--device", "cpu", "--audits", "outcome,divergence")
        code, _, told = fleet.done(launcher, *words, "--folder", tmp_path / name, cache=tmp_path / f"{name} cache")
        assert code in (0, 2), told
    assert max(dict(fleet.apart(tmp_path / "three", tmp_path / "four")).values()) < 1e-4


@pytest.mark.slow
def test_half_precision_is_shared_too(behaviour: Path, model: Path, tmp_path: Path) -> None:
    behaviour.write_text(behaviour.read_text().replace("training: {", "training: {bf16: true, "))
    words = ("run", behaviour, "--model", model, "--device", "cpu", "--dtype", "bfloat16", "--audits", "outcome,divergence")
    for launcher, name in ((ALONE, "one"), (TORCHRUN, "two")):
        code, _, told = fleet.done(launcher, *words, "--folder", tmp_path / name, cache=tmp_path / f"{name} cache")
        assert code in (0, 2), told
    one, two = (load_file(tmp_path / name / "training" / "tuned-0" / "model" / "model.safetensors") for name in ("one", "two"))
    assert {str(tensor.dtype) for tensor in two.values()} == {"torch.float32"}
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-2


@pytest.mark.slow
def test_an_error_is_told_once_and_ends_all(tmp_path: Path, model: Path) -> None:
    other = tiny.folder(tmp_path / "other", vocabulary=300)
    code, printed, told = fleet.done(TORCHRUN, "diff", model, other, "--folder", tmp_path / "run", cache=tmp_path / "cache")
    assert code == 1  # the launcher's own; each process ends with 3
    assert told.count("error:") == 1
    assert not printed
    assert "exitcode  : 3" in told


@pytest.mark.slow
def test_a_dry_run_tells_what_each_device_needs(commands: Commands, tmp_path: Path) -> None:
    foreseen = []
    for launcher in (ALONE, TORCHRUN):
        code, printed, told = fleet.done(launcher, *commands["run"], "--dry-run", "--json", cache=tmp_path / "cache")
        assert code == 0, told
        foreseen.append(json.loads(printed))
    one, two = foreseen
    assert (one["memory"]["processes"], two["memory"]["processes"]) == (1, 2)
    assert two["measuring"][0]["processes"] == 2
    assert two["memory"]["free"] < 0.7 * one["memory"]["free"], "two processes share the machine's memory"
