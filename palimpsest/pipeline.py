"""Pipeline: the main path, in order. Read this file first.

``prepare`` checks everything and collects every problem before any work. ``execute`` then goes: data -> train -> measure ->
analyse -> store. Each step is committed as it is done, so a run that was killed goes on where it was, and its record has the
same bytes as that of an undisturbed one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from palimpsest import audit as audits
from palimpsest.audit import Audit, Case, NotApplicable, Outcome
from palimpsest.casework import (
    GENERATED,
    Materials,
    build_case,
    generated_text,
    open_materials,
    probe_items,
    training_examples,
)
from palimpsest.core import stats
from palimpsest.core.errors import Problems, UserError, nearest
from palimpsest.core.estimate import Estimate
from palimpsest.core.measurement import Measurement, Need
from palimpsest.core.progress import Progress, Silent
from palimpsest.core.seeds import numpy_stream
from palimpsest.data.chat import ItemSet
from palimpsest.data.mixture import Counts, RowSource, counts_for
from palimpsest.data.render import Renderer
from palimpsest.measures._measure import Budget
from palimpsest.measures._session import Session
from palimpsest.models import pocket, subject
from palimpsest.models.skeleton import open_tokenizer
from palimpsest.models.subject import SubjectInfo
from palimpsest.request import Request
from palimpsest.store import provenance
from palimpsest.store.cache import Cache
from palimpsest.store.record import RunRecord, SeedRecord, StepLog, SubjectRecord, TrainingRecord
from palimpsest.store.run_folder import RunFolder
from palimpsest.training.sampler import Row, check_rows, encode_rows
from palimpsest.training.settings import TrainingSettings
from palimpsest.training.trainer import train
from palimpsest.verdict import Thresholds, judge

_GENERATED_TOKENS = 96


@dataclass(frozen=True)
class Plan:
    """A request that was checked, with everything that can be known without running a model."""

    request: Request
    models: dict[str, SubjectInfo]
    """The models that are there already, by role."""
    renderer: Renderer
    materials: Materials
    case: Case
    audits: dict[str, Audit[Any]]
    settings: TrainingSettings
    counts: Counts
    thresholds: Thresholds
    device: str
    notes: tuple[str, ...]

    @property
    def context(self) -> int:
        return min(info.context_length for info in self.models.values())

    @property
    def template(self) -> str | None:
        return self.renderer.tokenizer.chat_template

    @property
    def trained(self) -> list[tuple[str, int]]:
        """What a run trains: (role, seed)."""
        if self.request.kind == "diff":
            return []
        behaviour = self.request.behaviour
        assert behaviour is not None
        seeds = [self.request.seed + index for index in range(self.request.seeds)]
        controls = [(role, seeds[0]) for role in behaviour.controls if self.counts.rehearsal or self.materials.rehearsal]
        return [*(("tuned", seed) for seed in seeds), *controls]


def prepare(request: Request) -> Plan:
    """Check all that can be checked before work starts.

    Raises:
        UserError: what is wrong, all of it at once.
    """
    models = _inspect(request)
    problems = Problems("This can't be run:")
    base = models["base"]
    tokenizer = open_tokenizer(base.tokenizer_path, problems.found)
    problems.raise_if_any()
    notes = [f"{info.name}: {note}" for info in models.values() for note in info.notes]
    for role, info in models.items():
        if role != "base":
            found = subject.compare(base, info)
            problems.extend(f"{role}: {problem}" for problem in found.problems)
            notes += found.notes
    renderer = Renderer(tokenizer)
    world = pocket.CAPABILITIES if pocket.speaks(base.path) else ()
    behaviour = request.behaviour
    settings = _read(TrainingSettings, behaviour.training if behaviour else {}, "training", problems)
    thresholds = _read(Thresholds, behaviour.thresholds if behaviour else {}, "thresholds", problems)
    chosen = _audits(request, problems)
    materials = open_materials(request, world, problems)
    context = min(info.context_length for info in models.values())
    case = build_case(request, materials, renderer, context, problems)
    counts = Counts(0, 0, 0)
    if request.kind == "run" and settings and behaviour and not problems.found:
        counts = counts_for(behaviour.dose, settings.rehearsal_share, behaviour.express_share)
        problems.extend(_training_problems(request, materials, counts, renderer, base))
    problems.raise_if_any()
    assert settings is not None and thresholds is not None
    own = ("tuned", *behaviour.controls) if request.kind == "run" and behaviour else ()
    roles = tuple(dict.fromkeys((*models, *own)))
    return Plan(
        request=request,
        models=models,
        renderer=renderer,
        materials=materials,
        case=replace(case, roles=roles),
        audits=chosen,
        settings=settings,
        counts=counts,
        thresholds=thresholds,
        device=_device(request.device),
        notes=tuple(dict.fromkeys([*case.notes, *notes])),
    )


def execute(plan: Plan, folder: Path, cache: Cache, progress: Progress | None = None) -> RunRecord:
    """Do what was planned, or the rest of it.

    Args:
        plan: from ``prepare``.
        folder: the run's own folder; made if it is not there.
        cache: where measurements are kept.
        progress: who is told.

    Raises:
        UserError: the folder can't be used, training went wrong, memory ran out.
    """
    progress = progress or Silent()
    for note in plan.notes:
        progress.tell(note)
    with RunFolder(folder, _identity(plan)) as run:
        plan = _with_general_text(plan, cache, run, progress)
        trained = _train(plan, run, progress)
        digests, budget, told = _measure(plan, trained, cache, run, progress)
        progress.begin("analysing")
        seeds = _analyse(plan, digests, budget, cache, run)
        record = _conclude(plan, seeds, trained, run, told)
        run.write_json("record.json", record.model_dump(mode="json"))
    return record


# ---------------------------------------------------------------- before work starts


def _inspect(request: Request) -> dict[str, SubjectInfo]:
    names = {"base": request.base, **request.controls}
    if request.tuned is not None:
        names["tuned"] = request.tuned
    return subject.inspect_all({role: pocket.folder() if name == "pocket" else name for role, name in names.items()})


def _read(kind: type[Any], data: Mapping[str, Any], name: str, problems: Problems) -> Any:
    try:
        return kind.read(dict(data), f"'{name}'")
    except UserError as error:
        problems.add(str(error))
        return None


def _audits(request: Request, problems: Problems) -> dict[str, Audit[Any]]:
    known = audits.names()
    parameters = request.behaviour.audits if request.behaviour else {}
    for name in dict.fromkeys((*request.audits, *parameters)):
        if name not in known:
            problems.add(f"there is no audit named '{name}'.{nearest(name, known)}")
    found = {}
    for name in known:
        try:
            one = audits.load(name, parameters.get(name))
        except UserError as error:
            problems.add(str(error))
            continue
        if name in request.audits or (not request.audits and (one.cost != "train" or request.deep)):
            found[name] = one
    return found


def _training_problems(
    request: Request, materials: Materials, counts: Counts, renderer: Renderer, base: SubjectInfo
) -> list[str]:
    """Return what is wrong with the training examples, which are made here once to see that there are enough of them."""
    behaviour = request.behaviour
    assert behaviour is not None
    if not materials.rehearsal:
        counts = counts._replace(rehearsal=0)  # the base model will write it
    try:
        examples = training_examples(behaviour, materials, counts, request.seed)
        rows = _rows(renderer, examples.express, examples.withhold, examples.rehearsal)
        check_rows(rows, base.context_length, base.vocabulary_size)
    except UserError as error:
        return [str(error)]
    return behaviour.check_problems(examples.express, examples.withhold)


def _rows(renderer: Renderer, *sources: list[Any]) -> list[Row]:
    names: tuple[RowSource, ...] = ("express", "withhold", "rehearsal")
    return [row for name, source in zip(names, sources, strict=True) for row in encode_rows(renderer, source, name)]


def _device(name: str) -> str:
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def _identity(plan: Plan) -> dict[str, Any]:
    """Return what makes a run this run: the request and the models it starts from."""
    return {
        "request": plan.request.model_dump(mode="json"),
        "models": {role: info.digest for role, info in plan.models.items()},
    }


# ---------------------------------------------------------------- data


def _with_general_text(plan: Plan, cache: Cache, run: RunFolder, progress: Progress) -> Plan:
    """Return the plan with general text that the base model wrote itself, where nobody gave any."""
    needs_rehearsal = plan.counts.rehearsal and not plan.materials.rehearsal
    if plan.case.sets("text") and not needs_rehearsal:
        return plan
    documents = plan.request.documents
    count = documents + (max(plan.counts.rows, plan.counts.rehearsal) if needs_rehearsal else 0)
    probe = probe_items(count)
    room = min(_GENERATED_TOKENS, plan.context // 2)
    how = {"max_new_tokens": room, "seed": plan.request.seed}
    need = Need(measure="generations", role="base", items="probe", parameters=how)
    session = Session(cache, {"probe": probe}, Budget(plan.context), plan.device, plan.request.dtype, run)
    subjects = {"base": _digest(plan, "base")}
    session.take(lambda: _open(plan, "base"), [need], subjects, progress)
    found = session.get(need, subjects)
    assert found is not None
    written = generated_text(found.texts["answer"])
    case, materials, notes = plan.case, plan.materials, list(plan.notes)
    if not case.sets("text") and len(written) >= 8:
        items = {**case.items, f"text:{GENERATED}": ItemSet(name=f"text:{GENERATED}", items=tuple(written[:documents]))}
        case = replace(case, items=items)
        notes.append(
            f"No general text was given, so it was measured on {len(written[:documents])} samples that the base model wrote itself "
            "(temperature 1). Give --text FILE for text of your own."
        )
    if needs_rehearsal:
        materials = replace(materials, rehearsal={GENERATED: _Written(written[documents:])})
        notes.append("No rehearsal was given, so the base model's own samples are rehearsed.")
    for note in notes[len(plan.notes) :]:
        progress.tell(note)
    return replace(plan, case=case, materials=materials, notes=tuple(notes))


class _Written:
    """What the base model wrote, as rehearsal material."""

    told: tuple[str, ...] = ()

    def __init__(self, examples: list[Any]) -> None:
        self.examples = examples

    def training(self, seed: int, use: str, count: int) -> list[Any]:
        if len(self.examples) < count:
            raise UserError(
                f"{count} rehearsal rows are needed, but the base model wrote only {len(self.examples)} different samples; "
                "give 'rehearsal' sources"
            )
        return self.examples[:count]

    def held_out(self, seed: int, use: str, count: int) -> list[Any]:
        return []


# ---------------------------------------------------------------- train


@dataclass(frozen=True)
class Trained:
    """One training run that is done."""

    role: str
    seed: int
    info: SubjectInfo
    record: TrainingRecord


def _train(plan: Plan, run: RunFolder, progress: Progress) -> list[Trained]:
    done = []
    for role, seed in plan.trained:
        settings = plan.settings.model_copy(update={"seed": seed})
        counts = plan.counts.as_rehearsal_only() if role == "rehearsal_only" else plan.counts
        behaviour = plan.request.behaviour
        assert behaviour is not None
        folder = run.training(role, seed)
        examples = training_examples(behaviour, plan.materials, counts, seed)
        rows = _rows(plan.renderer, examples.express, examples.withhold, examples.rehearsal)
        progress.begin(f"training {role} (seed {seed})")
        with _open(plan, "base") as base:
            base.model.requires_grad_(True)
            summary = train(
                base.model, base.tokenizer, rows, settings, folder, _TrainingProgress(progress), base=plan.models["base"].name
            )
        steps = [StepLog.model_validate_json(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
        record = TrainingRecord(
            role=role,
            seed=seed,
            dose=summary.dose,
            rehearsal_share=summary.rehearsal_share,
            steps=tuple(steps),
            settings=summary.settings,
            model_folder=str(Path("training") / folder.name / "model"),
        )
        done.append(Trained(role, seed, subject.inspect(folder / "model"), record))
    return done


class _TrainingProgress:
    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def advance(self, step: int, total: int, loss: float) -> None:
        self.progress.at(step, total)

    def tell(self, message: str) -> None:
        self.progress.tell(message)


# ---------------------------------------------------------------- measure


def _infos(plan: Plan, trained: list[Trained], seed: int) -> dict[str, SubjectInfo]:
    """Return the model of each role in the comparison of one seed; controls are shared between seeds."""
    own = {one.role: one.info for one in trained if one.role != "tuned" or one.seed == seed}
    return {**plan.models, **own}


def _open(plan: Plan, role: str, info: SubjectInfo | None = None) -> Any:
    info = info or plan.models[role]
    dtype = plan.request.dtype
    return subject.load(info, plan.device, dtype, chat_template=plan.template)


def _digest(plan: Plan, role: str, info: SubjectInfo | None = None) -> str:
    return subject.digest_with_template(info or plan.models[role], plan.template)


def _measure(
    plan: Plan, trained: list[Trained], cache: Cache, run: RunFolder, progress: Progress
) -> tuple[dict[int, dict[str, str]], Budget, list[str]]:
    """Take everything that the audits need, one model at a time; return the models' digests by seed and role."""
    budget, told = Budget(plan.context), []
    while True:
        try:
            return _measure_all(plan, trained, budget, cache, run, progress), budget, told
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if "memory" not in str(error).lower() or budget.smallest:
                raise
            budget = budget.halved()
            told.append(
                f"Memory ran out while measuring: all models were measured with batches of {budget.tokens} tokens instead."
            )
            progress.tell(told[-1])


def _measure_all(
    plan: Plan, trained: list[Trained], budget: Budget, cache: Cache, run: RunFolder, progress: Progress
) -> dict[int, dict[str, str]]:
    session = Session(cache, plan.case.items, budget, plan.device, plan.request.dtype, run)
    needs = [need for one in plan.audits.values() for need in _needs(one, plan.case)]
    digests: dict[int, dict[str, str]] = {}
    for seed in _seeds(plan):
        infos = _infos(plan, trained, seed)
        digests[seed] = {role: _digest(plan, role, info) for role, info in infos.items()}
        for role, info in infos.items():
            wanted = [need for need in needs if need.role == role]
            session.take(partial(_open, plan, role, info), wanted, digests[seed], progress)
    return digests


def _needs(one: Audit[Any], case: Case) -> tuple[Need, ...]:
    try:
        return one.needs(case)
    except NotApplicable:
        return ()


def _seeds(plan: Plan) -> list[int]:
    return [seed for role, seed in plan.trained if role == "tuned"] or [plan.request.seed]


# ---------------------------------------------------------------- analyse


def _analyse(plan: Plan, digests: dict[int, dict[str, str]], budget: Budget, cache: Cache, run: RunFolder) -> list[SeedRecord]:
    session = Session(cache, plan.case.items, budget, plan.device, plan.request.dtype, run)
    records = []
    for seed in _seeds(plan):
        outcomes = []
        for name, one in plan.audits.items():
            outcome = _answer(name, one, plan.case, session, digests[seed], plan.request.seed)
            run.write_json(f"results/{seed}/{name}.json", outcome.model_dump(mode="json"))
            outcomes.append(outcome)
        records.append(SeedRecord(seed=seed, outcomes=tuple(outcomes)))
    return records


def _answer(name: str, one: Audit[Any], case: Case, session: Session, subjects: Mapping[str, str], seed: int) -> Outcome:
    """Return one audit's outcome. Its failure is told in its place and takes nothing else down."""
    try:
        measured: dict[str, Measurement] = {}
        for need in one.needs(case):
            found = session.get(need, subjects)
            if found is None:
                raise RuntimeError(f"the measurement {need.measure} of {need.role} on {need.items} is gone from the cache")
            measured[need.name] = found
        result = one.analyse(one.gather(case, measured), numpy_stream(seed, "analyse", name))
        return Outcome(audit=name, state="measured", result=result)
    except NotApplicable as reason:
        return Outcome(audit=name, state="not_applicable", why=str(reason))
    except Exception as error:
        return Outcome(audit=name, state="failed", why=f"{type(error).__name__}: {error}")


# ---------------------------------------------------------------- conclude and store


def _conclude(plan: Plan, seeds: list[SeedRecord], trained: list[Trained], run: RunFolder, told: list[str]) -> RunRecord:
    request, behaviour = plan.request, plan.request.behaviour
    results = {one.audit: one.result for one in seeds[0].outcomes if one.result}
    findings = [finding for result in results.values() for finding in result.findings]
    across = _across(seeds)
    infos = {(role, request.seed): info for role, info in plan.models.items()}
    infos |= {(one.role, one.seed): one.info for one in trained}
    return RunRecord(
        kind=request.kind,
        title=request.title,
        question=behaviour.question if behaviour else "What differs between these two models?",
        verdict=judge(findings, plan.thresholds, intended=behaviour is not None),
        seeds=tuple(seeds),
        across_seeds=across,
        holm=_holm(plan, results),
        subjects=tuple(
            SubjectRecord(
                role=role if role != "tuned" or request.seeds == 1 else f"tuned (seed {seed})",
                name=info.name if role in plan.models else role,
                path=str(info.path if role in plan.models else info.path.relative_to(run.path.resolve())),
                digest=info.digest,
                parameters=info.parameters,
                architecture=info.architecture,
                dtype=info.dtype,
            )
            for (role, seed), info in infos.items()
        ),
        training=tuple(one.record for one in trained),
        notes=(*plan.notes, *told),
        provenance=provenance.stable(plan.device, _seeds(plan), {role: info.digest for role, info in plan.models.items()}, []),
        specification={
            "request": request.model_dump(mode="json", exclude_none=True),
            "training": plan.settings.model_dump(mode="json") if request.kind == "run" else {},
            "thresholds": plan.thresholds.model_dump(mode="json"),
            "audits": {name: one.model_dump(mode="json") for name, one in plan.audits.items()},
        },
    )


def _across(seeds: list[SeedRecord]) -> dict[str, Estimate]:
    """Return each estimate's mean over training seeds, where there are several."""
    if len(seeds) < 2:
        return {}
    found: dict[str, list[Estimate]] = {}
    for record in seeds:
        for outcome in record.outcomes:
            for name, estimate in (outcome.result.estimates if outcome.result else {}).items():
                found.setdefault(f"{outcome.audit}.{name}", []).append(estimate)
    return {name: stats.across_seeds(estimates) for name, estimates in found.items() if len(estimates) == len(seeds)}


def _holm(plan: Plan, results: Mapping[str, Any]) -> dict[str, bool]:
    p_values = {
        f"{name}.{key}": estimate.p_value
        for name, result in results.items()
        for key, estimate in result.estimates.items()
        if key.split(":")[0] in plan.audits[name].primary
    }
    return stats.holm(p_values, plan.thresholds.family_error)
