"""Cycle: fresh scenarios, the model answers, answers are checked, failures become examples, one pass, an audit.

Each of these is a step that is kept as soon as it is done (data first, its marker last), so a dream that was killed goes on
where it was, with the same bytes as one that was not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from palimpsest.api import write_report
from palimpsest.casework import (
    Materials,
    TrainingExamples,
    Written,
    encoded_rows,
    generated_text,
    probe_items,
    training_examples,
)
from palimpsest.core.errors import UserError
from palimpsest.core.progress import Steps
from palimpsest.core.seeds import seed_of
from palimpsest.core.spec import Spec
from palimpsest.data.chat import Example
from palimpsest.data.mixture import Counts, counts_for, plan_batches
from palimpsest.dreaming.asking import Asking, ask
from palimpsest.dreaming.bench import Bench, cycle_folder
from palimpsest.dreaming.difficulty import Tally
from palimpsest.dreaming.examples import Choosing, Chosen
from palimpsest.dreaming.hot import Lent, answers
from palimpsest.dreaming.ledger import Ledger
from palimpsest.dreaming.records import Answers, Cycle, Scenarios, Taken
from palimpsest.dreaming.request import DreamRequest
from palimpsest.models import subject
from palimpsest.models.subject import SubjectInfo
from palimpsest.pipeline import execute
from palimpsest.planning import prepare
from palimpsest.request import Request
from palimpsest.store.record import RunRecord
from palimpsest.training.output import TrainingSummary
from palimpsest.training.settings import PreferenceSettings, TrainingSettings
from palimpsest.training.trainer import objective_of, train

S = TypeVar("S", bound=Spec)
OWN_TEXT = "rehearsal"


@dataclass(frozen=True)
class Done:
    """A finished cycle with all that it left."""

    summary: Cycle
    scenarios: Scenarios
    answers: Answers
    taken: tuple[Taken, ...]
    audit: RunRecord
    info: SubjectInfo


def live(bench: Bench, cycle: int, before: Sequence[Done], ledger: Ledger, tally: Tally) -> Done:
    """Go through one cycle, or the rest of it.

    Args:
        bench: what the dream works with.
        cycle: its number, from 1.
        before: the cycles before it.
        ledger: of every example before it; those of this cycle are added.
        tally: of every answer before it; those of this cycle are added.

    Raises:
        UserError: a source can't be asked, training went wrong, memory or disk ran out.
    """
    folder, info = f"cycles/{cycle:02d}", _model_before(bench, before)
    if (summary := bench.run.read_json(f"{folder}/cycle.json")) is not None:
        return _noted(_read(bench, folder, Cycle.model_validate(summary), info), ledger, tally)
    with bench.timed(cycle, "scenarios"):
        scenarios = _kept(bench, f"{folder}/scenarios.json", Scenarios, lambda: _scenarios(bench, cycle, before, ledger, tally))
    with bench.timed(cycle, "asking"):
        found = _kept(bench, f"{folder}/answers.json", Answers, lambda: ask(bench, cycle, scenarios, info))
    with bench.timed(cycle, "examples"):
        chosen = _chosen(bench, folder, lambda: Choosing(bench, cycle, info).choose(scenarios, found))
    with bench.timed(cycle, "training"):
        after, counts, notes = _train(bench, cycle, before, chosen.taken, info)
        if not chosen.taken:
            notes = [_untrained(cycle, sum(found.failed), chosen.without_answer)]
    with bench.timed(cycle, "audit"):
        record = audit(bench, bench.request.audit_of(cycle, _path(bench, after)), cycle_folder(bench.run.path, cycle) / "audit")
    made = Cycle(
        cycle=cycle,
        examples=len(chosen.taken),
        failures=sum(one.kind == "failure" for one in chosen.taken),
        anchors=sum(one.kind == "anchor" for one in chosen.taken),
        rehearsal=counts.rehearsal,
        without_answer=chosen.without_answer,
        batches=_batches(bench, counts)[0],
        batches_of_one_pole=_batches(bench, counts)[1],
        model=after.digest,
        labels=record.verdict.labels,
        notes=(*scenarios.notes, *notes),
    )
    summary = _kept(bench, f"{folder}/cycle.json", Cycle, lambda: made)
    return _noted(Done(summary, scenarios, found, tuple(chosen.taken), record, after), ledger, tally)


def _untrained(cycle: int, failed: int, without: int) -> str:
    if not failed:
        return f"cycle {cycle}: nothing failed, so nothing was trained."
    return f"cycle {cycle}: nothing was trained, although {failed} failed: for {without} of them no good answer is known."


def settled(request: DreamRequest, done: Sequence[Done]) -> bool:
    """Whether the last audits, each on items of its own, all say that it is as intended."""
    last = done[-request.stop_after :] if request.stop_after else []
    return len(last) == request.stop_after > 0 and all(one.audit.verdict.as_intended for one in last)


def audit(bench: Bench, request: Request, folder: Path) -> RunRecord:
    """Return the audit of a model, made or read."""
    if (folder / "record.json").is_file():
        return RunRecord.model_validate_json((folder / "record.json").read_bytes())
    bench.hot.make_room()
    record = execute(prepare(request), folder, bench.cache, bench.progress, bench.hot.held())
    write_report(record, folder)
    return record


def own_text(bench: Bench) -> Materials:
    """Return the materials, with text that the base model writes itself where there is nothing to rehearse."""
    plan = bench.plan
    if plan.materials.rehearsal or not plan.counts.rehearsal:
        return plan.materials
    if (texts := bench.run.read_json(f"{OWN_TEXT}.json")) is None:
        items = probe_items(2 * bench.request.cycles * plan.counts.rehearsal).items
        bench.progress.begin("writing text to rehearse", len(items))
        texts, _ = answers(bench.hot.at(plan.models["base"]), items, plan, bench.request.seed, bench.progress, temperature=1.0)
        bench.run.write_json(f"{OWN_TEXT}.json", texts)
    bench.progress.tell("No rehearsal was given, so samples that the base model wrote itself are rehearsed.")
    return Materials(
        plan.materials.express, plan.materials.withhold, {"generated": Written(generated_text(texts))}, plan.materials.text
    )


def _noted(done: Done, ledger: Ledger, tally: Tally) -> Done:
    tally.add(done.scenarios, done.answers)
    for one in done.taken:
        ledger.add(one.example)
    return done


# ---------------------------------------------------------------- steps


def _read(bench: Bench, folder: str, summary: Cycle, before: SubjectInfo) -> Done:
    """Return a finished cycle from the folder; its model is looked at and not loaded."""
    place = bench.run.path / folder
    trained = bench.run.training("dream", summary.cycle) / "model"
    return Done(
        summary,
        Scenarios.model_validate_json((place / "scenarios.json").read_bytes()),
        Answers.model_validate_json((place / "answers.json").read_bytes()),
        _taken(place / "examples.jsonl"),
        RunRecord.model_validate_json((place / "audit" / "record.json").read_bytes()),
        subject.inspect(trained) if summary.examples else before,
    )


def _taken(path: Path) -> tuple[Taken, ...]:
    return tuple(Taken.model_validate_json(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1])


def _kept(bench: Bench, name: str, kind: type[S], make: Callable[[], S]) -> S:
    """Return a step's result from the folder; made and written first where it is not there."""
    if (found := bench.run.read_json(name)) is None:
        bench.run.write_json(name, make().model_dump(mode="json"))
        found = bench.run.read_json(name)
    return kind.model_validate(found)


def _chosen(bench: Bench, folder: str, make: Callable[[], Chosen]) -> Chosen:
    """Return the examples of a cycle; ``examples.jsonl`` is for people and programs, the commit says that it is whole."""
    name = f"{folder}/examples.jsonl"
    note = bench.run.read_json(f"{folder}/examples.json")
    if note is None:
        found = make()
        bench.run.write_text(name, "".join(one.model_dump_json() + "\n" for one in found.taken))
        bench.run.write_json(f"{folder}/examples.json", {"lines": len(found.taken), "without_answer": found.without_answer})
        note = bench.run.read_json(f"{folder}/examples.json")
    return Chosen(list(_taken(bench.run.path / name)), note["without_answer"])


def _scenarios(bench: Bench, cycle: int, before: Sequence[Done], ledger: Ledger, tally: Tally) -> Scenarios:
    if bench.request.choose == "fixed" and before:
        return Scenarios(proposals=before[0].scenarios.proposals)
    try:
        return Asking(bench, ledger).scenarios(cycle, tally)
    finally:
        for one in bench.planned.sources.values():
            one.close()


def _model_before(bench: Bench, before: Sequence[Done]) -> SubjectInfo:
    return before[-1].info if before else bench.plan.models["base"]


def _path(bench: Bench, info: SubjectInfo) -> str:
    return bench.request.base if info.digest == bench.plan.models["base"].digest else str(info.path)


# ---------------------------------------------------------------- one pass


def _train(
    bench: Bench, cycle: int, before: Sequence[Done], taken: Sequence[Taken], info: SubjectInfo
) -> tuple[SubjectInfo, Counts, list[str]]:
    """Train the model as it is on the examples of this cycle, and return what came of it."""
    express = [one.example for one in taken if one.pole == "express"]
    withhold = [one.example for one in taken if one.pole == "withhold"]
    if not taken:
        return info, Counts(0, 0, 0), []
    share = counts_for(len(taken), bench.plan.settings.rehearsal_share).rehearsal
    counts = Counts(len(express), len(withhold), share)
    rehearsal, notes = _rehearsal(bench, cycle, sum(one.summary.rehearsal for one in before), share)
    examples = TrainingExamples(express, withhold, rehearsal)
    rows = encoded_rows(bench.plan.renderer, examples, bench.plan.models["base"].context_length)
    settings = _settings(bench, cycle)
    folder = bench.run.training("dream", cycle)
    bench.progress.begin(f"training on {len(taken)} examples")

    def once(one: Lent) -> TrainingSummary:
        return train(
            one.model.requires_grad_(True),
            one.tokenizer,
            rows,
            settings,
            folder,
            Steps(bench.progress),
            base=bench.plan.models["base"].name,
            objective=objective_of(settings, anchors=True),
        )

    after = bench.hot.train(info, folder, once)
    if (alone := _batches(bench, counts)[1]) and len(bench.planned.targets) > 1:
        notes.append(f"cycle {cycle}: {alone} batches hold one pole only; the other had too few scenarios with a good answer.")
    return after, counts, notes


def _settings(bench: Bench, cycle: int) -> TrainingSettings:
    """Return the behaviour's settings with a seed of the cycle's own."""
    usual = bench.plan.settings
    wanted = (usual.preference or PreferenceSettings()) if bench.planned.prefers else None
    seed = seed_of(bench.request.seed, "dream training", cycle) % 2**31
    return usual.model_copy(update={"seed": seed, "preference": wanted})


def _rehearsal(bench: Bench, cycle: int, before: int, count: int) -> tuple[list[Example], list[str]]:
    """Return rehearsal rows that no cycle before had; where there are none left, they begin again in another order."""
    if not count:
        return [], []
    behaviour, materials, seed = bench.request.behaviour, own_text(bench), bench.request.seed
    try:
        return training_examples(behaviour, materials, Counts(0, 0, before + count), seed).rehearsal[before:], []
    except UserError:
        again = training_examples(behaviour, materials, Counts(0, 0, count), seed + cycle).rehearsal
        return again, [f"cycle {cycle}: the rehearsal material was used up, so it began again in another order."]


def _batches(bench: Bench, counts: Counts) -> tuple[int, int]:
    """Return how many batches there are, and how many of them lack a pole that should be in them."""
    if not counts.rows:
        return 0, 0
    made = plan_batches(counts, bench.plan.settings.rows_per_step, 0)
    wanted = set(bench.planned.targets)
    return len(made), sum(not wanted <= {row.source for row in batch} for batch in made)
