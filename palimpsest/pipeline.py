"""Pipeline: the main path, in order. Read this file first.

``planning.prepare`` has checked everything. ``execute`` goes: data -> train -> measure -> analyse -> store. Each step is
committed as it is done, so a run that was killed goes on where it was, and its record has the same bytes as that of an
undisturbed one. Several processes that were launched together all go this way; one of them writes (``ranks.decided``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

from palimpsest import item_scores, ranks
from palimpsest.audit import Audit, Case, NoSuchPart, NotApplicable, Outcome
from palimpsest.casework import GENERATED, SAMPLED, Written, encoded_rows, generated_text, probe_items, training_examples
from palimpsest.core import roles, stats
from palimpsest.core.checkup import Answer, told
from palimpsest.core.errors import UserError
from palimpsest.core.estimate import Estimate
from palimpsest.core.files import noted
from palimpsest.core.measurement import Measurement, Need
from palimpsest.core.progress import Progress, Silent, Steps
from palimpsest.core.seeds import numpy_stream
from palimpsest.data.chat import ItemSet
from palimpsest.data.tasks import TaskSet
from palimpsest.measures import checkup
from palimpsest.measures._measure import Budget
from palimpsest.measures._session import Session
from palimpsest.models import subject
from palimpsest.models.full_memory import is_full_memory
from palimpsest.models.subject import Subject, SubjectInfo
from palimpsest.planning import Plan
from palimpsest.store import provenance, seal
from palimpsest.store.atomic import to_json, write_bytes
from palimpsest.store.cache import Cache
from palimpsest.store.record import RunRecord, SeedRecord, StepLog, SubjectRecord, TrainingRecord
from palimpsest.store.run_folder import RunFolder, RunFollower
from palimpsest.training import output
from palimpsest.training.trainer import train
from palimpsest.verdict import Pair, judge_seeds

_GENERATED_TOKENS = 96
_SMALLER, _DATE = "smaller_batches", "date"


def execute(
    plan: Plan, folder: Path, cache: Cache, progress: Progress | None = None, held: Mapping[str, Subject] | None = None
) -> RunRecord:
    """Do what was planned, or the rest of it.

    Args:
        plan: from ``planning.prepare``.
        folder: the run's own folder; made if it is not there.
        cache: where measurements are kept.
        progress: who is told.
        held: models that are in memory already, by their digest; they are read from there and stay open.

    Raises:
        UserError: the folder can't be used, training went wrong, memory ran out.
    """
    progress = progress or Silent()
    for note in plan.notes:
        progress.tell(note)
    with noted(plan.files), _opened(folder, plan) as run:
        desk = Desk(plan, run, cache, progress, held or {})
        desk = replace(desk, plan=_with_date(desk))
        desk = replace(desk, plan=_with_general_text(desk))
        trained = [_train(desk, role, seed) for role, seed in desk.plan.trained]
        measured = _measure(desk, trained)
        progress.begin("analysing")
        ranks.decided(lambda: _finish(desk, trained, measured))
        return RunRecord.model_validate(run.read_json("record.json"))  # what is returned is what a reader of the file gets


def _opened(folder: Path, plan: Plan) -> RunFolder:
    """Return the run's folder: to write for the first process, to read for those beside it."""
    first = ranks.together(lambda: RunFolder(folder, plan.identity) if ranks.own() == 0 else None)
    try:
        return ranks.together(lambda: first or RunFollower(folder))
    except BaseException:
        if first is not None:
            first.close()
        raise


@dataclass(frozen=True)
class Desk:
    """What every step of one run works with."""

    plan: Plan
    run: RunFolder
    cache: Cache
    progress: Progress
    held: Mapping[str, Subject] = field(default_factory=dict)
    """Models that are in memory already, by their digest."""

    def session(self, items: Mapping[str, ItemSet | TaskSet], budget: Budget) -> Session:
        every = {**items, checkup.ITEMS.name: checkup.ITEMS}
        return Session(self.cache, every, budget, self.plan.device, self.plan.request.dtype, self.run)

    def open(self, info: SubjectInfo) -> Subject:
        """Load a model to be measured; all are read with the base's chat template."""
        held = self.held.get(self.digest(info))
        return self._loaded(info, self.plan.request.dtype) if held is None else held

    def open_to_train(self, info: SubjectInfo) -> Subject:
        """Load a model with float32 weights, whatever it is measured in: half precision loses small steps."""
        return self._loaded(info, "float32")

    def _loaded(self, info: SubjectInfo, dtype: subject.Dtype) -> Subject:
        plan = self.plan
        return ranks.together(lambda: _load(plan, info, dtype))

    def digest(self, info: SubjectInfo) -> str:
        return subject.digest_with_template(info, self.plan.template, self.plan.day, self.plan.renderer.separator)


def _load(plan: Plan, info: SubjectInfo, dtype: subject.Dtype) -> Subject:
    return subject.load(
        info, plan.device, dtype, chat_template=plan.template, day=plan.day, separator=plan.renderer.separator, shared=True
    )


# ---------------------------------------------------------------- data


def _with_date(desk: Desk) -> Plan:
    """Return the plan with the date that this run began on, where the chat template writes today's.

    It stays that date until the run is done, so that no model is asked another thing than the one before it.
    """
    plan = desk.plan
    if plan.day is None:
        return plan
    day = ranks.decided(lambda: _first_day(desk.run, str(plan.day)))
    note = f"The chat template writes today's date: every model of this run is asked as on {day}."
    desk.progress.tell(note)
    return replace(plan, renderer=plan.renderer.on(day), notes=(*plan.notes, note))


def _first_day(run: RunFolder, day: str) -> str:
    if run.committed(_DATE):
        return str(run.commit_note(_DATE))
    run.commit(_DATE, day)
    return day


def _with_general_text(desk: Desk) -> Plan:
    """Return the plan with general text that the base model writes itself, where nobody gave any."""
    plan = desk.plan
    needs_rehearsal = bool(plan.counts.rehearsal and not plan.materials.rehearsal)
    if not needs_rehearsal and (plan.case.sets("text") or not _reads_samples(plan)):
        return plan
    documents = plan.request.documents
    written = _written(desk, documents + (plan.counts.rows if needs_rehearsal else 0))
    case, materials, notes = plan.case, plan.materials, []
    if not case.sets("text") and len(written) >= stats.FEWEST_CLUSTERS:
        shown = tuple(written[:documents])
        case = replace(case, items={**case.items, SAMPLED: ItemSet(name=SAMPLED, items=shown)})
        notes.append(
            f"No general text was given, so divergence was measured on {len(shown)} samples that the base model wrote itself "
            "(temperature 1). They can't tell what got worse: give --text FILE for text of your own."
        )
    if needs_rehearsal:
        materials = replace(materials, rehearsal={GENERATED: Written(written[documents:])})
        notes.append("No rehearsal was given, so samples that the base model wrote itself are rehearsed.")
    for note in notes:
        desk.progress.tell(note)
    return replace(plan, case=case, materials=materials, notes=(*plan.notes, *notes))


def _reads_samples(plan: Plan) -> bool:
    """Whether any audit would read text that the base model wrote."""
    case = replace(plan.case, items={**plan.case.items, SAMPLED: probe_items(plan.request.documents)})
    return any(need.items == SAMPLED for audit in plan.audits.values() for need in _needs(audit, case))


def _written(desk: Desk, count: int) -> list[Any]:
    plan = desk.plan
    how = {"max_new_tokens": min(_GENERATED_TOKENS, plan.context // 2), "seed": plan.request.seed}
    need = Need(measure="generations", role="base", items="probe", parameters=how)
    session = desk.session({"probe": probe_items(count)}, Budget.on(plan.device, plan.context))
    base = plan.models["base"]
    digests = {"base": desk.digest(base)}
    session.take(partial(desk.open, base), [need], digests, desk.progress)
    found = session.get(need, digests)
    assert found is not None, "it was just taken"
    return generated_text(found.texts["answer"])


# ---------------------------------------------------------------- train


@dataclass(frozen=True)
class Trained:
    """One training run that is done."""

    role: str
    seed: int
    info: SubjectInfo
    record: TrainingRecord
    sealed: dict[str, str]
    """Hashes of its files, by name from the run's folder."""


def _train(desk: Desk, role: str, seed: int) -> Trained:
    plan, behaviour = desk.plan, desk.plan.request.behaviour
    assert behaviour is not None, "only a run trains, and a run has a behaviour"
    base = plan.models["base"]
    counts = plan.counts.as_rehearsal_only() if roles.kind(role) == roles.CONTROL else plan.counts
    rows = encoded_rows(plan.renderer, training_examples(behaviour, plan.materials, counts, seed), base.context_length)
    folder = desk.run.training(role, seed)
    desk.progress.begin(f"training {role.replace('_', ' ')} (seed {seed})")
    with desk.open_to_train(base) as model:
        settings = plan.settings.model_copy(update={"seed": seed})
        hears = Steps(desk.progress)
        summary = train(model.model.requires_grad_(True), model.tokenizer, rows, settings, folder, hears, base=base.name)
    lines = (folder / "steps.jsonl").read_text(encoding="utf-8").splitlines()
    record = TrainingRecord(
        role=role,
        seed=seed,
        dose=summary.dose,
        rehearsal_share=summary.rehearsal_share,
        steps=tuple(StepLog.model_validate_json(line) for line in lines),
        settings=summary.settings,
        model_folder=str((folder / "model").relative_to(desk.run.path)),
    )
    info = ranks.together(lambda: output.trained(folder))
    names = {**summary.files, **seal.hashes(folder, [folder / "training.json", folder / "examples.jsonl"])}
    place = folder.relative_to(desk.run.path)
    return Trained(role, seed, info, record, {(place / name).as_posix(): value for name, value in names.items()})


# ---------------------------------------------------------------- measure


@dataclass(frozen=True)
class Measured:
    """Where the measurements are: the session that took them, and each comparison's models by seed and role."""

    session: Session
    digests: dict[int, dict[str, str]]
    told: tuple[str, ...]


def _measure(desk: Desk, trained: Sequence[Trained]) -> Measured:
    """Take everything that the audits need; where memory runs out, everything again in smaller batches."""
    budget, told = Budget.on(desk.plan.device, desk.plan.context), []
    for _ in range(desk.run.commit_note(_SMALLER) or 0):  # which one of several processes left for the next launch
        budget = budget.halved()
        told.append(_told_of(budget))
    while True:
        session = desk.session(desk.plan.case.everything, budget)
        try:
            return Measured(session, _measure_all(desk, session, trained), tuple(told))
        except (RuntimeError, MemoryError) as error:
            if not is_full_memory(error) or budget.smallest:
                raise
            budget = budget.halved()
            told.append(_told_of(budget))
            if ranks.count() > 1:
                raise _start_again(desk, len(told)) from error
            desk.progress.tell(told[-1])


def _told_of(budget: Budget) -> str:
    return f"Memory ran out while measuring: all models were read in batches of {budget.tokens} tokens instead."


def _start_again(desk: Desk, halvings: int) -> UserError:
    """Note how small batches have to be: memory runs out in one process, and the others are amid a pass that needs it."""
    write_bytes(desk.run.path / "commits" / f"{_SMALLER}.json", to_json(halvings))
    return UserError(
        f"memory ran out in process {ranks.own()} of {ranks.count()} while measuring; give the same command again: it goes on "
        "from here with batches of half the size"
    )


def _measure_all(desk: Desk, session: Session, trained: Sequence[Trained]) -> dict[int, dict[str, str]]:
    """One model at a time, so that two never have to fit into memory together. Controls are shared between seeds."""
    needs = [need for audit in desk.plan.audits.values() for need in _needs(audit, desk.plan.case)]
    loaded = dict.fromkeys(one.role for need in needs for one in _with_beginnings(need) if one.items)
    needs = [*map(checkup.need, loaded), *needs]  # first, so that a model that gives no numbers stops here
    digests: dict[int, dict[str, str]] = {}
    for seed in desk.plan.seeds:
        own = {one.role: one.info for one in trained if one.role != "tuned" or one.seed == seed}
        infos = {**desk.plan.models, **own}
        digests[seed] = {role: desk.digest(info) for role, info in infos.items()}
        for role, ready in _in_turn(needs, list(infos)):
            session.take(partial(desk.open, infos[role]), ready, digests[seed], desk.progress, infos)
    return digests


def _in_turn(needs: Sequence[Need], roles: Sequence[str]) -> Iterator[tuple[str, list[Need]]]:
    """Yield what to take from which model, in an order in which all that a need starts from was taken before it.

    It goes round the models until nothing waits, so that a model is opened again only where it reads what a later one wrote.
    """
    chains = [chain for chain in map(_with_beginnings, needs) if all(one.role in roles for one in chain)]
    waiting = {one.name: one for chain in chains for one in chain}
    taken: set[str] = set()
    for role in cycle(roles):
        ready: list[Need] = []
        for need in [need for need in waiting.values() if need.role == role]:
            if need.after is None or need.after.name in taken:
                ready.append(need)
                taken.add(need.name)
                del waiting[need.name]
        if ready:
            yield role, ready
        if not waiting:
            return


def _with_beginnings(need: Need) -> tuple[Need, ...]:
    """Return what a need starts from, what that starts from, and so on, and last the need itself."""
    return (*_with_beginnings(need.after), need) if need.after else (need,)


def _needs(audit: Audit[Any], case: Case) -> tuple[Need, ...]:
    try:
        return audit.needs(case)
    except NotApplicable:
        return ()


# ---------------------------------------------------------------- analyse


def _finish(desk: Desk, trained: Sequence[Trained], measured: Measured) -> None:
    """Analyse what was measured, and write what it comes to."""
    seeds = [_analyse(desk, measured, seed) for seed in desk.plan.seeds]
    desk.run.write_json("record.json", _conclude(desk, seeds, trained, measured).model_dump(mode="json"))
    files = {name: value for one in trained for name, value in one.sealed.items()}
    desk.run.seal(files, {one.record.model_folder: one.info.digest for one in trained})


def _analyse(desk: Desk, measured: Measured, seed: int) -> SeedRecord:
    outcomes = []
    for name, audit in desk.plan.audits.items():
        outcomes.append(_answer(name, audit, desk, measured, seed))
    stood = _holm(desk.plan, SeedRecord(seed=seed, outcomes=tuple(outcomes)))
    record = SeedRecord(seed=seed, outcomes=tuple(_marked_if_found(one, stood) for one in outcomes))
    for outcome in record.outcomes:
        desk.run.write_json(f"results/{seed}/{outcome.audit}.json", outcome.model_dump(mode="json"))
    needs = [need for audit in desk.plan.audits.values() for need in _needs(audit, desk.plan.case)]
    lines = item_scores.as_lines(desk.plan.case, needs, lambda need: measured.session.get(need, measured.digests[seed]))
    desk.run.write_text(f"{item_scores.FOLDER}/{seed}.jsonl", lines)
    return record


def _marked_if_found(outcome: Outcome, stood: Mapping[str, bool]) -> Outcome:
    """Return an outcome without its marks where the whole that they are parts of did not stand among all questions.

    Parts are asked about only after the whole was found, so that marks add nothing to the chance of one false alarm.
    """
    figure = outcome.result.figure if outcome.result else {}
    if outcome.result is None or not figure.get("marked") or stood.get(f"{outcome.audit}.{figure['marked_after']}"):
        return outcome
    result = outcome.result.model_copy(update={"figure": figure | {"marked": [], "mark": ""}})
    return outcome.model_copy(update={"result": result})


def _answer(name: str, audit: Audit[Any], desk: Desk, measured: Measured, seed: int) -> Outcome:
    """Return one audit's outcome. Its failure is told in its place and takes nothing else down."""
    try:
        found: dict[str, Measurement] = {}
        for need in audit.needs(desk.plan.case):
            taken = measured.session.get(need, measured.digests[seed])
            assert taken is not None, f"the measurement {need.measure} of {need.role} on {need.items or 'its weights'} is gone"
            found[need.name] = taken
        rng = numpy_stream(desk.plan.request.seed, "analyse", name)
        return Outcome(audit=name, state="measured", result=audit.analyse(audit.gather(desk.plan.case, found), rng))
    except NotApplicable as reason:
        return Outcome(audit=name, state="not_applicable", why=str(reason), mendable=not isinstance(reason, NoSuchPart))
    except Exception as error:
        return Outcome(audit=name, state="failed", why=f"{type(error).__name__}: {error}")


# ---------------------------------------------------------------- conclude


def _conclude(desk: Desk, seeds: list[SeedRecord], trained: Sequence[Trained], measured: Measured) -> RunRecord:
    plan, request, behaviour = desk.plan, desk.plan.request, desk.plan.request.behaviour
    subjects = tuple(_subjects(desk, trained, measured))
    digests = {role: {one.digest for one in subjects if one.role == role} for role in ("base", "tuned")}
    for one in subjects:
        for doubt in told(one.checks):
            desk.progress.tell(f"{one.name}: {doubt}")
    return RunRecord(
        kind=request.kind,
        title=request.title,
        question=behaviour.question if behaviour else "What differs between these two models?",
        verdict=judge_seeds(
            [one.findings for one in seeds],
            plan.thresholds,
            intended=behaviour is not None,
            same=digests["base"] == digests["tuned"],
            pair=_pair(plan.models),
        ),
        seeds=tuple(seeds),
        across_seeds=_across(seeds),
        holm=_holm(plan, seeds[0]),
        subjects=subjects,
        training=tuple(one.record for one in trained),
        notes=tuple(dict.fromkeys((*plan.notes, *measured.told))),
        provenance=provenance.stable(
            plan.device,
            plan.seeds,
            {role: info.digest for role, info in plan.models.items()},
            request.command,
            {} if plan.day is None else {"date": plan.day},
        ),
        specification={
            "request": request.model_dump(mode="json", exclude_none=True),
            "training": plan.settings.model_dump(mode="json") if request.kind == "run" else {},
            "thresholds": plan.thresholds.model_dump(mode="json"),
            "audits": {name: audit.model_dump(mode="json") for name, audit in plan.audits.items()},
        },
    )


def _pair(models: Mapping[str, SubjectInfo]) -> Pair:
    """Return what is known of the base and the tuned model from their files alone; nothing of one that is trained here."""
    base, tuned = models["base"], models.get("tuned")
    if tuned is None:
        return ""
    return "adapter" if tuned.base is not None else "equal" if tuned.weights == base.weights else ""


def _subjects(desk: Desk, trained: Sequence[Trained], measured: Measured) -> list[SubjectRecord]:
    def described(role: str, name: str, path: str, info: SubjectInfo, seed: int) -> SubjectRecord:
        return SubjectRecord(
            role=role,
            name=name,
            path=path,
            digest=info.digest,
            parameters=info.parameters,
            architecture=info.architecture,
            dtype=info.dtype,
            checks=_checks(measured, role, seed),
        )

    seeds = desk.plan.seeds
    given = [described(role, info.name, str(info.path), info, seeds[0]) for role, info in desk.plan.models.items()]
    several = len(seeds) > 1
    return given + [
        described(
            one.role,
            f"{one.role} (seed {one.seed})" if several else one.role,
            one.record.model_folder,
            one.info,
            one.seed if one.role == "tuned" else seeds[0],  # a control belongs to every comparison, whatever its own seed
        )
        for one in trained
    ]


def _checks(measured: Measured, role: str, seed: int) -> tuple[Answer, ...]:
    """Return what was checked of a model in this run; nothing where only its weights were read, whatever the cache knows."""
    key = measured.session.key(checkup.need(role), measured.digests[seed])
    found = measured.session.run.measurement(key)
    return checkup.answers(found) if found else ()


def _across(seeds: list[SeedRecord]) -> dict[str, Estimate]:
    """Return each estimate's mean over training seeds, where there are several."""
    found: dict[str, list[Estimate]] = {}
    for record in seeds if len(seeds) > 1 else ():
        for audit, result in record.results.items():
            for name, estimate in result.estimates.items():
                found.setdefault(f"{audit}.{name}", []).append(estimate)
    return {name: stats.over_seeds(estimates) for name, estimates in found.items() if len(estimates) == len(seeds)}


def _holm(plan: Plan, record: SeedRecord) -> dict[str, bool]:
    p_values = {
        f"{audit}.{name}": estimate.p_value
        for audit, result in record.results.items()
        for name, estimate in result.estimates.items()
        if name.split(":")[0] in plan.audits[audit].primary and estimate.p_value is not None  # what is not tested can't fall
    }
    return stats.holm(p_values, plan.thresholds.family_error)
