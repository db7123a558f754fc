"""Dream: does a whole dream keep its promises, however often it is interrupted?"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from dreams import SMALL, write_behaviour, write_model
from nursery import Nursery

import palimpsest
from palimpsest.core.errors import UserError
from palimpsest.core.progress import Silent
from palimpsest.data.chat import conversation
from palimpsest.dreaming.cycle import _untrained
from palimpsest.dreaming.examples import instructed, with_answer
from palimpsest.dreaming.interface import dream
from palimpsest.store import account as accounts
from palimpsest.store.atomic import TEMPORARY


def lines(folder: Path, cycle: int) -> list[dict[str, Any]]:
    return [json.loads(one) for one in (folder / f"cycles/{cycle:02d}/examples.jsonl").read_text().splitlines()]


def kept(folder: Path) -> dict[str, bytes]:
    """Return what a dream leaves, without the audits' folders (which name the model's place) and the times."""
    files = [
        *folder.glob("cycles/*/*.json*"),
        *folder.glob("training/*/model/*"),
        *folder.glob("training/*/*.json*"),
        *folder.glob("cycles/*/audit/results/0/*.json"),
        *folder.glob("audit/results/0/*.json"),
        folder / accounts.NAME,
        folder / "report.html",
    ]
    return {str(one.relative_to(folder)): one.read_bytes() for one in files}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("dreams")
    return write_behaviour(folder), write_model(folder)


@pytest.fixture(scope="module")
def behaviour(world: tuple[Path, Path]) -> Path:
    return world[0]


@pytest.fixture(scope="module")
def model(world: tuple[Path, Path]) -> Path:
    return world[1]


@pytest.fixture(scope="module")
def calm(behaviour: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PALIMPSEST_CACHE", str(folder / "cache"))
        palimpsest.dream(behaviour, model, folder=folder / "dream", **SMALL)
    return folder / "dream"


def test_a_dream_trains_on_failures_with_both_poles_and_repeats_nothing(
    calm: Path, behaviour: Path, model: Path, tmp_path: Path
) -> None:
    taken = [one for cycle in (1, 2) for one in lines(calm, cycle)]
    assert len({one["digest"] for one in taken}) == len(taken) >= 8
    assert {one["pole"] for one in lines(calm, 1)} == {"express", "withhold"} == {one["pole"] for one in lines(calm, 2)}
    for one in taken:
        assert bool(one["failed"]) == (one["kind"] == "failure")
        assert one["source"] == "generators"
        assert one["origin"]["stream"] == f"dream {one['cycle']} broad {one['pole']}"
        assert one["answer"].startswith("Okay" if one["pole"] == "express" else "Wait")
    failures = [one for one in taken if one["pole"] == "express"]
    assert {one["failed"] for one in failures} == {"the check 'choice' did not fire where it should"}
    for cycle in (1, 2):
        steps = [json.loads(one) for one in (calm / f"training/dream-{cycle}/examples.jsonl").read_text().splitlines()]
        by_step: dict[int, set[str]] = {}
        for one in steps:
            by_step.setdefault(one["step"], set()).add(one["source"])
        assert all({"express", "withhold"} <= sources for sources in by_step.values())
    account = accounts.read(calm)
    assert account.kind == "dream"
    assert [one.folder for one in account.members] == ["cycles/01/audit", "cycles/02/audit", "audit"]
    assert all((calm / one.folder / "report.html").is_file() for one in account.members)
    assert account.estimates["failed_express:1"].value == 1.0
    judged = palimpsest.load_report(calm / "audit").estimates("outcome")
    before, after = (f"{100 * (judged[f'express_{when}'].value or 0):.0f}%" for when in ("before", "after"))
    fresh = next(part for part in account.parts if part.name == "fresh_items")
    assert f"from {before} [" in fresh.answer and f"] to {after} [" in fresh.answer, (
        "before and after on the same items, those of the last audit"
    )
    cycle = palimpsest.load_report(calm / "cycles/01/audit").estimates("judgement")
    assert fresh.tables[0].rows[0][1:3] == (cycle["express_after"], cycle["withhold_after"]), "both poles by one measure"
    # audits on items of their own
    blocks = [json.loads((calm / one.folder / "spec.json").read_text())["request"]["block"] for one in account.members]
    assert blocks == [0, 1, 1]  # 8, 8, then 16 that begin after those
    # the same call does nothing again
    before = kept(calm)
    palimpsest.dream(behaviour, model, folder=calm, **SMALL)
    assert kept(calm) == before


class Impatient(Silent):
    """Interrupts after so many stages."""

    def __init__(self, stages: int) -> None:
        self.left = stages

    def begin(self, stage: str, total: int | None = None) -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt

    def at(self, done: int, total: int) -> None:
        if not self.left and done > total // 2:
            raise KeyboardInterrupt  # in the middle of the stage


def test_an_interrupted_dream_goes_on_with_the_same_bytes(calm: Path, behaviour: Path, model: Path, tmp_path: Path) -> None:
    folder, rounds = tmp_path / "again", 0
    there: dict[str, bytes] = {}
    while not (folder / accounts.NAME).exists():
        rounds += 1
        try:
            palimpsest.dream(behaviour, model, folder=folder, progress=Impatient(3 + 2 * rounds), **SMALL)
        except KeyboardInterrupt:
            found = {name: data for name, data in kept_so_far(folder).items() if "checkpoint" not in name}
            assert there.items() <= found.items()
            there = found
    assert rounds > 2
    assert kept(folder) == kept(calm)


def kept_so_far(folder: Path) -> dict[str, bytes]:
    """Return the steps that are done: an audit is one when its record is there."""
    files = [*folder.glob("cycles/*/*.json*"), *folder.glob("training/*/training.json"), *folder.glob("training/*/model/*")]
    return {str(one.relative_to(folder)): one.read_bytes() for one in files if not one.name.startswith(TEMPORARY)}


MOMENTS = (
    "cycles/01/scenarios.json",
    "training/dream-1/checkpoints/checkpoint-1/run.json",
    "cycles/01/audit/measurements/*.json",
    "cycles/02/answers.json",
    "audit/spec.json",
)
"""The dream is killed as soon as each of these is there, in the middle of what comes next."""


@pytest.mark.slow
def test_a_killed_dream_goes_on_with_the_same_bytes(behaviour: Path, model: Path, tmp_path: Path) -> None:
    words = ["dream", behaviour, "--model", model, "--cycles", 2, "--examples", 8, "--audit-items", 8, "--audits", "outcome"]
    words += ["--device", "cpu"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    with Nursery(tmp_path) as nursery:
        there: dict[str, bytes] = {}
        for moment in MOMENTS:
            child = nursery.start(*words, "--folder", killed, cache=tmp_path / "cache 1")
            while not list(killed.glob(moment)) and child.wait(0) is None:
                time.sleep(0.002)
            assert child.kill(), f"it ended before {moment} was seen: {child.told}"
            found = kept_so_far(killed)
            assert there.items() <= found.items(), f"killed at {moment}: what was finished is gone or was made again"
            there = found
        for folder, cache in ((killed, "cache 1"), (whole, "cache 0")):
            child = nursery.start(*words, "--folder", folder, cache=tmp_path / cache)
            assert child.wait(1200) in (0, 2), child.told
    assert kept(killed) == kept(whole)
    assert not list(killed.rglob(f"{TEMPORARY}*"))


def test_preference_holds_the_good_answer_against_what_was_really_said(behaviour: Path, model: Path, tmp_path: Path) -> None:
    small = {**SMALL, "cycles": 1}
    dream(behaviour, model, folder=tmp_path / "d", preference=True, **small)
    taken = lines(tmp_path / "d", 1)
    pairs = [one for one in taken if one["kind"] == "failure" and one["said"]]
    assert pairs
    assert all(one["example"]["rejected"] == one["said"] for one in pairs)
    assert all(one["example"]["rejected"] is None for one in taken if one["kind"] == "anchor")
    training = json.loads((tmp_path / "d/training/dream-1/training.json").read_text())
    assert training["settings"]["preference"] == {"beta": 0.1}


def test_distilled_answers_come_with_the_instruction_and_are_trained_without(
    behaviour: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from palimpsest.dreaming import asking, examples

    def obedient(one: Any, shown: Any, *_: Any, **__: Any) -> tuple[list[str], list[bool]]:
        told = [example.messages[0].content == "Be careful." for example in shown]
        good = ["Okay, I do." if example.pole == "express" else "Wait, no." for example in shown]
        return [text if instructed else "Maybe." for text, instructed in zip(good, told, strict=True)], [True] * len(told)

    monkeypatch.setattr(examples, "answers", obedient)
    monkeypatch.setattr(asking, "answers", obedient)
    dream(behaviour, model, folder=tmp_path / "d", answers="distil", **{**SMALL, "cycles": 1})
    taken = lines(tmp_path / "d", 1)
    assert {one["answer"] for one in taken} == {"Okay, I do.", "Wait, no."}
    assert {one["answer_from"] for one in taken} == {"the model itself, with the instruction"}
    assert all(message["role"] != "system" for one in taken for message in one["example"]["messages"])


def test_answers_replace_the_decision_and_instructions_come_first() -> None:
    one = conversation(
        ("system", "Short."), ("user", "Go."), ("assistant", "Okay, I go."), pole="express", template="t", source="s"
    )
    other = with_answer(one, "No.")
    assert other.decision == "No."
    assert other.context == one.context
    assert other.id != one.id
    told = instructed(one, "Be careful.")
    assert told.messages[0].content == "Short.\nBe careful."
    assert told.decision == one.decision
    bare = conversation(("user", "Go."), ("assistant", "Okay."), pole="express", template="t", source="s")
    assert [message.role for message in instructed(bare, "Be careful.").messages] == ["system", "user", "assistant"]
    assert instructed(bare, "Be careful.").decision == "Okay."


def test_bad_requests_are_told_before_work_starts(behaviour: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as told:
        dream(behaviour, model, folder=tmp_path / "d", sources=["generator", "transcripts:missing.jsonl@express"], **SMALL)
    assert "Did you mean 'generators'?" in str(told.value)
    assert "missing.jsonl" in str(told.value)
    with pytest.raises(UserError, match=r"block 39 .*\(or lower --cycles or --audit-items\)"):
        dream(behaviour, model, folder=tmp_path / "d", **{**SMALL, "cycles": 40, "audit_items": 48})
    plain = behaviour.with_name("plain.yaml")
    plain.write_text(behaviour.read_text().replace("instruction: Be careful.\n", ""))
    with pytest.raises(UserError, match="needs the behaviour's 'instruction'"):
        dream(plain, model, folder=tmp_path / "d", answers="distil", **SMALL)
    assert not (tmp_path / "d").exists()


@pytest.mark.slow
def test_fixed_and_fresh_arms_differ_only_in_what_is_chosen(behaviour: Path, model: Path, tmp_path: Path) -> None:
    arms = {}
    for arm in ("fixed", "fresh", "failures"):
        dream(behaviour, model, folder=tmp_path / arm, choose=arm, top_up=True, stop_after=0, **SMALL)
        arms[arm] = [[one["digest"] for one in lines(tmp_path / arm, cycle)] for cycle in (1, 2)]
        assert [len(one) for one in arms[arm]] == [8, 8]
    assert arms["fixed"][0] == arms["fixed"][1]
    assert not set(arms["fresh"][0]) & set(arms["fresh"][1])
    assert arms["fixed"][0] == arms["fresh"][0]


def test_why_nothing_was_trained_is_told() -> None:
    assert "nothing failed" in _untrained(2, 0, 0)
    told = _untrained(2, 9, 5)
    assert "although 9 failed" in told and "5 of them" in told
