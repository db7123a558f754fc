"""Studies carried out: checked first, resumable, failures apart, and the same account wherever the runs ran."""

# ruff: noqa: F401, F811  # fixtures are imported by name
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from nursery import Child, Nursery
from spine import behaviour, leftovers, model, nursery
from test_cli import command

import palimpsest
from palimpsest import api, study_runner
from palimpsest.behaviour import load as load_behaviour
from palimpsest.casework import open_materials, training_examples
from palimpsest.core.errors import Problems, UserError
from palimpsest.core.progress import Silent
from palimpsest.data.mixture import Counts
from palimpsest.request import Request
from palimpsest.store.account import read
from palimpsest.studies._study import Point, Reading, Results, Study, Told
from palimpsest.study_runner import executors

SMALL: dict[str, Any] = {
    "doses": (4, 8),
    "compared": (),
    "seeds": 2,
    "held_out": 16,
    "capability_items": 8,
    "documents": 8,
    "device": "cpu",
}


class Heard(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def begin(self, stage: str, total: int | None = None) -> None:
        self.said.append(stage)

    def tell(self, message: str) -> None:
        self.said.append(message)


def arguments(behaviour: Path, model: Path, folder: Path, *more: str) -> list[str]:
    parameters = {name: value for name, value in SMALL.items() if name not in ("seeds", "device", "compared")}
    sets = [f"--set={name}={str(value).strip('()')}" for name, value in parameters.items()]
    base = ["study", "dose_response", "--behaviour", str(behaviour), "--model", str(model), "--folder", str(folder)]
    return [*base, "--seeds", "2", "--device", "cpu", *sets, *more]


def results(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("account.json", "report.html")}


@pytest.fixture
def small(behaviour: Path, model: Path) -> dict[str, Any]:
    return {"model": model, "behaviour": behaviour, **SMALL}


def test_a_study_runs_resumes_and_tells(small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, heard = tmp_path / "study", Heard()
    account = palimpsest.study("dose_response", **small, jobs=2, folder=folder, progress=heard)
    points = study_runner.load("dose_response", small["behaviour"], {**SMALL, "model": str(small["model"])}).points("default")
    assert [member.name for member in account.members] == [point.name for point in points]
    assert {member.state for member in account.members} == {"finished"}
    assert any("the first run took" in one for one in heard.said)
    assert any("running" in one and "left" in one for one in heard.said)
    assert read(folder) == account
    assert str(tmp_path) not in (folder / "account.json").read_text().replace(str(small["model"]), "").replace(
        str(small["behaviour"].parent), ""
    )
    controls = [path.parent.parent.name for path in folder.glob("points/*/training/rehearsal_only-*")]
    assert len(controls) == len(SMALL["doses"]), "a setting has one control, and not one a seed"
    before = results(folder)
    monkeypatch.setattr(executors.Local, "submit", lambda *_: pytest.fail("a finished run was done again"))
    again = palimpsest.study("dose_response", **small, jobs=2, folder=folder)
    assert again == account
    assert results(folder) == before
    with pytest.raises(UserError, match="holds another run"):
        palimpsest.study("dose_response", **{**small, "seeds": 3}, folder=folder)


def test_a_small_dose_is_the_beginning_of_a_larger_one(small: dict[str, Any]) -> None:
    for one in (load_behaviour(small["behaviour"]), load_behaviour("directions")):
        materials = open_materials(
            Request(kind="run", base="pocket", behaviour=one), [("copying", "copying", {})], Problems("")
        )
        few, many = (training_examples(one, materials, Counts(count, count, 4), 3) for count in (5, 10))
        assert [example.id for example in few.express] == [example.id for example in many.express[:5]]
        assert [example.id for example in few.withhold] == [example.id for example in many.withhold[:5]]


def test_what_weighs_nothing_is_measured_and_not_trained() -> None:
    one = load_behaviour("directions")
    without = one.model_copy(update={"rehearsal_weights": {"sums_two": 0, "sums_three": 0}, "held_out": 16, "controls": ()})
    study = study_runner.load("rehearsal", without, {"capability_items": 8, "documents": 8, "held_out": 16})
    plan = api.plan(study.request(study.points("default")[0]))
    assert {"capability:sums_two", "capability:sums_three"} <= set(plan.case.items)
    rehearsed = training_examples(without, plan.materials, Counts(2, 2, 60), 0).rehearsal
    assert len(rehearsed) == 60
    assert {"sums"} & {example.source for example in training_examples(one, plan.materials, Counts(2, 2, 60), 0).rehearsal}
    assert not {"sums"} & {example.source for example in rehearsed}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"doses": (4, 1000)}, "1000"),
        ({"doses": (8, 4)}, "rise"),
        ({"doses": (4, 8), "compared": (4, 4)}, "none twice"),
        ({"seeds": 0}, "seeds"),
        ({"dosis": (4, 8)}, "Did you mean 'doses'"),
        ({"held_out": 2}, "held_out"),
    ],
)
def test_an_impossible_grid_is_refused_before_any_work(
    small: dict[str, Any], changed: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        palimpsest.study("dose_response", **{**small, **changed}, folder=tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_all_problems_of_a_grid_are_told_at_once(small: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError) as told:
        palimpsest.study("learning_rate", small["model"], small["behaviour"], optimizers=("adam", "sgd"), doses=(8,),
                             factors=(1.0, 2.0), device="cpu", folder=tmp_path / "study")  # fmt: skip
    assert "adam, 8" in str(told.value)
    assert "sgd, 8" in str(told.value)
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("how", "said"),
    [({"executor": "slurm"}, "local or ray"), ({"jobs": 0}, "jobs"), ({"ray_address": "auto"}, "--executor ray")],
)
def test_an_executor_that_is_not_there_is_refused(small: dict[str, Any], how: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        palimpsest.study("dose_response", **small, **how)


@pytest.mark.slow
def test_a_failed_run_takes_nothing_else_down_and_is_tried_again(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {**{key: value for key, value in small.items() if key != "compared"}, "doses": (8,), "passes": (2,)}
    folder, name = tmp_path / "study", "2-passes-8-s1"
    real = executors._Worker.perform

    def ends(self: executors._Worker, task: executors.Task) -> str:
        if task.point == name:
            self.process.kill()
        return real(self, task)

    monkeypatch.setattr(executors._Worker, "perform", ends)
    account = palimpsest.study("passes", **few, jobs=1, folder=folder)
    states = {member.name: member for member in account.members}
    assert states[name].state == "failed"
    assert "signal 9" in states[name].told
    assert [one for one, member in states.items() if member.state != "finished"] == [name]
    assert any("1 of" in reason and "failed" in reason for reason in account.reasons)
    monkeypatch.setattr(executors._Worker, "perform", real)
    whole = palimpsest.study("passes", **few, jobs=1, folder=folder)
    assert {member.state for member in whole.members} == {"finished"}


def test_what_needs_a_failed_run_fails_with_it(small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors._Worker, "perform", lambda *_: "no luck")
    with pytest.raises(UserError) as told:
        palimpsest.study("dose_response", **small, jobs=1, folder=tmp_path / "study")
    assert "not one run could be finished" in str(told.value)
    assert "no luck" in str(told.value)
    assert "it needs the run 'house-both-4-s0', which failed" in str(told.value)


def test_each_worker_takes_its_share_of_the_cores() -> None:
    assert executors.environment(2, 8)["OMP_NUM_THREADS"] == "4"
    assert executors.environment(3, 2)["OMP_NUM_THREADS"] == "1"
    code = "import torch, os; from palimpsest.study_runner import worker; worker._take_share(); print(torch.get_num_threads())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **executors.environment(1, 3)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "3"


def test_a_point_starts_from_another_points_model(small: dict[str, Any]) -> None:
    one = study_runner.load("dose_response", small["behaviour"], {**SMALL, "model": str(small["model"])})
    point = Point(name="next", setting="next", seed=1, behaviour={"dose": 4}, after="first", control="first")
    request = one.request(point, "/somewhere/model", {"rehearsal_only": "/somewhere/else"})
    assert request.base == "/somewhere/model"
    assert request.controls == {"rehearsal_only": "/somewhere/else"}
    assert point.needs == ("first", "first")


def test_the_command_says_what_would_run_and_refuses_what_cannot(
    command: Any, behaviour: Path, model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "study"
    code, out, err = command(*arguments(behaviour, model, folder, "--set", "compared=,", "--dry-run", "--json"))
    found = json.loads(out)
    assert code == 0, err
    assert sum(found["runs"].values()) == 10
    assert not folder.exists()
    for words, said in (
        (["dose_respons"], "Did you mean 'dose_response'"),
        (["passes", "--set", "pases=2"], "Did you mean 'passes'"),
        (["passes", "--set", "passes"], "NAME=VALUE"),
        (["passes", "--set", "passes=2", "--set", "passes=3"], "given twice"),
        (["passes", "--set", "passes=two"], "passes"),
        (["passes", "--grid", "huge"], "default or full"),
        (["passes", "--executor", "slurm"], "local or ray"),
        (["passes", "--seeds", "0"], "seeds"),
        (["passes", "--behaviour", "direction"], "Did you mean 'directions'"),
    ):
        code, _, err = command("study", *words)
        assert code == 3, err
        assert said in err
    assert not (tmp_path / "runs").exists()


def test_the_command_is_in_the_account(behaviour: Path) -> None:
    from palimpsest.study_runner.runner import Checked, command

    one = study_runner.load("dose_response", behaviour, {"doses": (0, 8), "seeds": 2, "model": "pocket", "compared": ()})
    said = command(Checked("dose_response", one, "full", (), {}))
    named = "palimpsest study dose_response --model pocket --behaviour b.yaml --grid full"
    assert " ".join(said) == f"{named} --set compared=, --set doses=0,8 --seeds 2"


class Relay(Study):
    """Two runs, the second of which starts from the model of the first."""

    primary = ()

    def points(self, grid: str) -> tuple[Point, ...]:
        first = Point(name="first", setting="first", seed=0, behaviour={"dose": 4}, request={"audits": ("outcome",)})
        return (first, Point(name="next", setting="next", seed=0, behaviour={"dose": 4}, request=first.request, after="first"))

    def collect(self, results: Results, grid: str) -> Told:
        return Told("told", "sure", (), (), {name: one.estimates["outcome.rate_before"] for name, one in results.items()})

    def simulate(self, rng: object) -> dict[str, Reading]:
        return {}

    def truth(self) -> dict[str, float]:
        return {}


def test_a_run_that_starts_from_another_ones_model(small: dict[str, Any], tmp_path: Path) -> None:
    study = Relay(
        behaviour=load_behaviour(small["behaviour"]), model=str(small["model"]), held_out=16, documents=8, device="cpu"
    )
    folder = tmp_path / "study"
    checked = study_runner.check("relay", study, "default", folder)
    account = study_runner.carry_out(checked, folder, jobs=2)
    assert {member.state for member in account.members} == {"finished"}
    first, second = (palimpsest.load_report(folder / "points" / name).record for name in ("first", "next"))
    trained = next(one for one in first.subjects if one.role == "tuned")
    assert next(one for one in second.subjects if one.role == "base").digest == trained.digest


@pytest.mark.slow
def test_kills_of_study_and_worker_lose_nothing(nursery: Nursery, behaviour: Path, model: Path, tmp_path: Path) -> None:
    calm, folder = tmp_path / "calm", tmp_path / "study"

    def start(where: Path) -> Child:
        return nursery.start(*arguments(behaviour, model, where, "--jobs", "2"), cache=tmp_path / f"cache of {where.name}")

    child = start(calm)
    assert child.wait(900) == 0, child.told
    whole = time.monotonic() - child.started
    committed: dict[str, bytes] = {}
    ends = {Child.kill: 0, Child.interrupt: 0, Child.kill_worker: 0}
    for place, share in enumerate((0.15, 0.25, 0.2, 0.2, 0.2, 0.3)):
        child, end = start(folder), list(ends)[place % 3]
        time.sleep(share * whole)
        ends[end] += end(child)
        if end is Child.kill_worker:  # its run fails, the others go on; what needs it fails too
            assert child.wait(900) in (0, 1, 2, 3), child.told
            assert "Traceback" not in child.told, child.told
        finished = {file.name: file.read_bytes() for file in folder.glob("commits/points/*.json")}
        whole_ones = {name: data for name, data in finished.items() if not json.loads(data).get("problem")}
        assert committed.items() <= whole_ones.items(), "a finished run is gone or was done again"
        committed = whole_ones
    child = start(folder)
    assert child.wait(900) == 0, child.told
    assert ends[Child.kill] and ends[Child.interrupt] and ends[Child.kill_worker], "none was still running when it was ended"
    assert results(folder) == results(calm)
    assert not leftovers(folder)


@pytest.mark.slow
def test_interrupted_it_ends_its_workers_and_goes_on(behaviour: Path, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    command = [sys.executable, "-m", "palimpsest", *arguments(behaviour, model, folder, "--jobs", "1")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    end = time.monotonic() + 1200
    while not list(folder.glob("commits/points/*.json")) and time.monotonic() < end:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "goes on where this one stopped" in told
    assert not (folder / "account.json").exists()
    done = len(list(folder.glob("commits/points/*.json")))
    assert 1 <= done < 6
    second = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert second.returncode == 0, second.stderr
    assert json.loads((folder / "account.json").read_text())["kind"] == "study"


@pytest.mark.slow
def test_ray_gives_the_same_account(small: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed: pip install 'palimpsest-lm[ray]'")
    for executor in ("local", "ray"):
        palimpsest.study("dose_response", **small, jobs=2, executor=executor, folder=tmp_path / executor)
    assert results(tmp_path / "local") == results(tmp_path / "ray")


def test_a_ray_cluster_that_is_not_there_is_told(small: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed: pip install 'palimpsest-lm[ray]'")
    with pytest.raises(UserError, match="can't be used"):
        executors.executor("ray", 1, "127.0.0.1:1")
