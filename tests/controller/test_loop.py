"""The whole loop on a tiny random model: what is written when, a kill, a larger budget, and bad input."""

# ruff: noqa: F401, F811  # fixtures are imported by name
from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from nursery import Child, Nursery
from spine import nursery
from test_pipeline import behaviour, model

import palimpsest
from palimpsest import api
from palimpsest import behaviour as behaviours
from palimpsest.controller import Tuned
from palimpsest.controller import loop as loops
from palimpsest.controller.decision import Decision, decide
from palimpsest.controller.plan import Options
from palimpsest.controller.settings import Budget
from palimpsest.core.errors import UserError
from palimpsest.core.seeds import python_stream
from palimpsest.store import account as accounts

OPTIONS = Options(start_dose=8, max_dose=16)


def tuned(behaviour: Path, model: Path, folder: Path, budget: str = "2 attempts", **rest: Any) -> Tuned:
    return palimpsest.tune(behaviour, model, budget=budget, folder=folder, options=OPTIONS, device="cpu", **rest)


def kept(folder: Path) -> dict[str, bytes]:
    found = {one: one.read_bytes() for one in folder.rglob("*") if one.is_file() and one.name not in ("lock", "timing.jsonl")}
    plain = {str(path.relative_to(folder)): data for path, data in found.items()}
    timed = [name for name in plain if name.startswith("attempts/") and name.count("/") == 1]
    return {**plain, **{name: _without_seconds(plain[name]) for name in timed}}


def _without_seconds(data: bytes) -> bytes:
    return json.dumps({key: value for key, value in json.loads(data).items() if key != "seconds"}).encode()


def test_attempts_decisions_and_account_are_all_there(behaviour: Path, model: Path, tmp_path: Path) -> None:
    told: list[tuple[int, str]] = []
    found = tuned(behaviour, model, tmp_path / "t", told=lambda one, what: told.append((one.number if one else 0, what.rule)))
    attempts, decisions = found.trajectory.attempts, found.trajectory.decisions
    assert [number for number, _ in told] == [0, 1, 2] and decisions[-1].stop == "budget"
    assert [one.settings.dose for one in attempts] == [8, 16] and not found.as_intended and found.model is None
    assert attempts[0].block != attempts[1].block
    for one in attempts:
        record = api.load_report(tmp_path / "t" / "attempts" / one.name).record
        assert {outcome.audit for outcome in record.seeds[0].outcomes} == {"outcome", "judgement", "forgetting"}
        assert [run.role for run in record.training] == ["tuned"] and record.training[0].dose == one.settings.dose
    account = found.account
    assert account.headline == "Not found in 2 tries, at this power; the budget was spent"
    left_out = next(one for one in account.reasons if one.startswith("not tried: "))
    assert "dose other than 8, 16;" in left_out and "learning rate other than 0.003;" in left_out
    assert "optimizer apollo_mini or adamw;" in left_out and "context full;" in left_out
    assert any(one.startswith("power of one try: where it should appear it finds ") for one in account.reasons)
    assert not any("can't be had" in one for one in (account.headline, *account.reasons, *account.next_steps))
    stored = [json.loads((tmp_path / "t" / "decisions" / f"{place:02d}.json").read_text()) for place in range(3)]
    assert [Decision.model_validate(one) for one in stored] == list(decisions)
    assert accounts.read(tmp_path / "t") == found.account and b"<svg" in found.report.read_bytes()
    assert api.redraw(tmp_path / "t") == found.report


def test_a_smaller_dose_is_the_beginning_of_a_larger_one(behaviour: Path, model: Path, tmp_path: Path) -> None:
    tuned(behaviour, model, tmp_path / "t")

    def poles(attempt: str) -> dict[str, list[str]]:
        lines = (tmp_path / "t" / "attempts" / attempt / "training" / "tuned-0" / "examples.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        return {pole: [row["from"] for row in rows if row["source"] == pole] for pole in ("express", "withhold")}

    small, large = poles("01"), poles("02")
    assert all(set(small[pole]) < set(large[pole]) for pole in small)


def test_a_broken_search_goes_on_and_ends_with_the_same_bytes(
    behaviour: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = tuned(behaviour, model, tmp_path / "calm")
    real, calls = api.carry_out, []

    def breaks(*arguments: Any) -> Any:
        calls.append(arguments[1])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(api, "carry_out", breaks)
    with pytest.raises(KeyboardInterrupt):
        tuned(behaviour, model, tmp_path / "broken")
    written = json.loads((tmp_path / "broken" / "decisions" / "01.json").read_text())
    assert written["next"]["dose"] == 16, "a decision is written before the attempt that it asks for begins"
    again = tuned(behaviour, model, tmp_path / "broken")
    assert again.account == calm.account and [one.name for one in calls] == ["01", "02", "02"]
    assert kept(tmp_path / "calm").keys() == kept(tmp_path / "broken").keys()
    differing = [name for name, data in kept(tmp_path / "calm").items() if kept(tmp_path / "broken")[name] != data]
    assert not differing
    for place, stored in enumerate(again.trajectory.decisions[1:], start=1):
        planned = again.trajectory.attempts[:place]
        assert decide(planned, _bounds(again), Budget(attempts=2), _thresholds()) == stored


def _bounds(found: Tuned) -> Any:
    from palimpsest.controller.settings import Bounds

    return Bounds.model_validate(found.account.specification["bounds"])


def _thresholds() -> Any:
    from palimpsest.verdict import Thresholds

    return Thresholds()


def test_more_budget_goes_on_with_the_same_search(behaviour: Path, model: Path, tmp_path: Path) -> None:
    # the items are divided by the first budget only where the data have enough of them, which these do not
    first = tuned(behaviour, model, tmp_path / "t", "1 attempt")
    assert len(first.trajectory.attempts) == 1
    second = tuned(behaviour, model, tmp_path / "t", "2 attempts")
    assert second.trajectory.attempts[0] == first.trajectory.attempts[0] and len(second.trajectory.attempts) == 2


def test_the_final_audit_reads_the_chosen_model_on_items_of_its_own(
    behaviour: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loops.seen_in

    def content(record: Any) -> Any:
        found = real(record)
        return found.model_copy(update={"labels": ("as_intended",), "headline": "As intended (made up)"})

    monkeypatch.setattr(loops, "seen_in", content)
    found = tuned(behaviour, model, tmp_path / "t", "3 attempts")
    first, second = found.trajectory.attempts
    assert found.trajectory.decisions[-1].stop == "confirmed" and second.purpose == "confirm"
    assert first.settings == second.settings and (first.training_seed, second.training_seed) == (0, 1)
    final = api.load_report(tmp_path / "t" / "final").record
    assert len(final.seeds[0].outcomes) > 3
    assert {run.role for run in final.training} == {"tuned", "rehearsal_only"}
    assert found.model is not None
    chosen = tmp_path / "t" / "attempts" / "01" / "training" / "tuned-0" / "model" / "model.safetensors"
    assert (found.model / "model.safetensors").read_bytes() == chosen.read_bytes()
    assert found.account.label == final.verdict.labels[0] != "as_intended"
    assert "contradicts the choice" in found.account.headline and not found.as_intended
    items = [_items(tmp_path / "t" / place) for place in ("attempts/01", "attempts/02", "final")]
    assert all(items) and not any(items[a] & items[b] for a, b in ((0, 1), (0, 2), (1, 2)))


def _items(folder: Path) -> set[str]:
    record = api.load_report(folder).record
    outcome = next(one.result for one in record.seeds[0].outcomes if one.audit == "outcome")
    assert outcome is not None
    return {sample.prompt for sample in outcome.samples}


@pytest.mark.slow
def test_kills_and_interrupts_in_any_attempt_lose_no_finished_step(
    behaviour: Path, model: Path, tmp_path: Path, nursery: Nursery
) -> None:
    bounds = ("--device", "cpu", "--start-dose", 8, "--max-dose", 16, "--budget", "2 attempts")

    def start(name: str) -> Child:
        words = ("tune", behaviour, "--model", model, *bounds, "--folder", tmp_path / name)
        return nursery.start(*words, cache=tmp_path / f"cache of {name}")

    calm = start("calm")
    assert calm.wait(1200) == 2, calm.told
    whole, dice, ends = time.monotonic() - calm.started, python_stream(0, "kills", "tune"), 0
    finished: dict[str, bytes] = {}
    for end in (Child.kill, Child.interrupt) * 3:
        child = start("disturbed")
        time.sleep(dice.uniform(0.1, 0.5) * whole)
        ends += end(child)
        found = {
            name: data for name, data in kept(tmp_path / "disturbed").items() if name.startswith(("decisions/", "attempts/0"))
        }
        whole_steps = {name: data for name, data in found.items() if name.count("/") == 1}
        assert finished.items() <= whole_steps.items(), "a finished step is gone or was made again"
        finished = whole_steps
    again = start("disturbed")
    assert again.wait(1200) == 2, again.told
    assert (
        ends >= 2
        and (tmp_path / "disturbed" / "account.json").read_bytes() == (tmp_path / "calm" / "account.json").read_bytes()
    )


def test_bad_input_is_told_before_any_work(behaviour: Path, model: Path, tmp_path: Path) -> None:
    one = behaviours.load(behaviour)
    with pytest.raises(UserError, match="no 'withhold' pole"):
        tuned(one.model_copy(update={"withhold": None}), model, tmp_path / "t")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="must lie inside the bounds"):
        palimpsest.tune(one, model, folder=tmp_path / "t", options=Options(start_dose=40, max_dose=16), device="cpu")
    with pytest.raises(UserError, match="LOW:HIGH with 0 < LOW"):
        palimpsest.tune(one, model, folder=tmp_path / "t", options=Options(learning_rate_range=(1e-3, 1e-4)), device="cpu")
    with pytest.raises(UserError, match="no audit named 'outcom'"):
        tuned(behaviour, model, tmp_path / "t", audits=("outcom",))
    few = tmp_path / "few.jsonl"
    few.write_text("".join((tmp_path / "no_held_out.jsonl").read_text().splitlines(keepends=True)[:20]))
    assert one.withhold is not None
    small = one.model_copy(update={"withhold": one.withhold.model_copy(update={"held_out": few})})
    with pytest.raises(UserError, match="at least 24 held-out items a pole"):
        tuned(small, model, tmp_path / "t")  # type: ignore[arg-type]
    assert not (tmp_path / "t").exists()


@pytest.mark.slow
def test_a_search_on_the_pocket_whose_bounds_exclude_what_works_claims_no_impossibility(tmp_path: Path) -> None:
    """With AdamW and a full context `directions` can be had (87.5 / 17.5%); 20 examples at a low learning rate are too few."""
    small = behaviours.load("directions").model_copy(update={"held_out": 16})
    bounds = Options(start_dose=16, max_dose=20, learning_rate_range=(1e-5, 2e-5), max_rehearsal=0.2, search_items=16)
    found = palimpsest.tune(small, "pocket", budget="4 attempts", folder=tmp_path / "t", options=bounds, device="cpu")
    told, count = found.account, len(found.trajectory.attempts)
    assert not found.as_intended and told.headline.startswith(f"Not found in {count} tries, at this power")
    left_out = next(one for one in told.reasons if one.startswith("not tried: "))
    rates = sorted({one.settings.learning_rate for one in found.trajectory.attempts})
    assert f"learning rate other than {', '.join(f'{rate:.3g}' for rate in rates)};" in left_out
    assert "optimizer" in left_out and "context full" in left_out
    assert any(one.startswith("power of one try: ") and "independent items" in one for one in told.reasons)
    assert "can't be had" not in found.report.read_text(encoding="utf-8")
