"""Planning: can this be done, and with what exactly?

Everything that can be known before a model runs: files, settings, data, tokens, controls. All problems are told at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from palimpsest import audit as audits
from palimpsest.audit import Audit, Case
from palimpsest.casework import Materials, build_case, encoded_rows, open_materials, training_examples
from palimpsest.core import roles
from palimpsest.core.errors import Problems, UserError, first_line, nearest
from palimpsest.core.files import noted
from palimpsest.data.mixture import Counts, counts_for
from palimpsest.data.render import Renderer
from palimpsest.data.windows import fitted
from palimpsest.models import pocket, subject
from palimpsest.models.comparison import stop_tokens
from palimpsest.models.layout import layout
from palimpsest.models.skeleton import open_tokenizer
from palimpsest.models.subject import SubjectInfo
from palimpsest.models.vocabulary import cut_alike
from palimpsest.request import Request
from palimpsest.training import trackers
from palimpsest.training.sampler import check_rows
from palimpsest.training.settings import TrainingSettings
from palimpsest.verdict import Thresholds

_HEADING = "This can't be run:"
CHEAP, CHEAP_CONTROLS = 60.0, 3
"""Where one control run trains in under so many seconds, there are so many. In simulated worlds like the pocket's, what
moved 16 times as far is told from another seed in 42% with two runs, what moved 6 times as far
in 84% with three, and 4 times in 83% with four."""
_LOOKED_AT = 48
"""So many rows stand for all of them."""
_PRODUCTS, _SECONDS_A_STEP = 12.0, 0.02
"""Operations for each weight and token of a training step (twice the bare products), and the seconds a step takes besides."""
_USUAL_RATE = {"cpu": 3e10, "cuda": 1e13}
"""Operations a second in float32 of two cores of a laptop, and of a GPU."""
_DEVICES = "auto", "cpu", "cuda", "hpu", "mps", "mtia", "npu", "xla", "xpu"
"""Kinds of device that torch knows, with its plug-ins'; one of them may have a number behind a colon."""


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
    files: Mapping[str, str]
    """Hash of the content of every file that was read besides the models', by its path."""

    @property
    def context(self) -> int:
        return min(info.context_length for info in self.models.values())

    @property
    def template(self) -> str | None:
        return self.renderer.tokenizer.chat_template

    @property
    def day(self) -> str | None:
        """The date that the chat template is given for every model of the run; ``None`` where it writes none."""
        return self.renderer.day

    @property
    def identity(self) -> dict[str, Any]:
        """What makes a run this run: the request, the models it starts from and the content of all files that it reads."""
        digests = {role: info.digest for role, info in self.models.items()}
        return {"request": self.request.model_dump(mode="json"), "models": digests, "files": dict(self.files)}

    @property
    def seeds(self) -> list[int]:
        """The seeds of the comparisons: of the trained models, or of the one comparison of a diff."""
        return [self.request.first_seed + index for index in range(self.request.seeds)]

    @property
    def trained(self) -> list[tuple[str, int]]:
        """What a run trains: (role, seed)."""
        if self.request.kind == "diff":
            return []
        own = [(role, self.seeds[0] + roles.place_of(role)) for role in self.case.roles if role not in ("tuned", *self.models)]
        return [*(("tuned", seed) for seed in self.seeds), *own]


@dataclass(frozen=True)
class Seen:
    """What is known of a request before any model library is imported, which takes longer than all of this."""

    settings: TrainingSettings
    thresholds: Thresholds
    audits: dict[str, Audit[Any]]
    materials: Materials
    files: Mapping[str, str] = field(default_factory=dict)
    """Hash of the content of every file that was read."""


def see(request: Request) -> Seen:
    """Check what can be checked without a model library: that what is named is there, and that settings and data can be read.

    Raises:
        UserError: what is wrong, all of it at once.
    """
    with noted() as files:
        return replace(_see(request), files=files)


def _see(request: Request) -> Seen:
    problems, behaviour = Problems(_HEADING), request.behaviour
    settings = _read(TrainingSettings, behaviour.training if behaviour else {}, "training", problems)
    thresholds = _read(Thresholds, behaviour.thresholds if behaviour else {}, "thresholds", problems)
    chosen = _audits(request, problems)
    folders = _folders(request, problems)
    if (kind := request.device.partition(":")[0]) not in _DEVICES:
        problems.add(f"there is no device named '{kind}'; say one of {', '.join(_DEVICES)}")
    materials = Materials()
    if "base" in folders:
        materials = open_materials(request, pocket.CAPABILITIES if pocket.speaks(folders["base"]) else (), problems)
    problems.raise_if_any()
    assert settings is not None and thresholds is not None
    return Seen(settings, thresholds, chosen, materials)


def prepare(request: Request, seen: Seen | None = None) -> Plan:
    """Check all that can be checked before work starts.

    Args:
        request: what was asked for.
        seen: what ``see`` returned, where that was called already.

    Raises:
        UserError: what is wrong, all of it at once.
    """
    seen = seen or see(request)
    with noted(seen.files) as files:
        plan = _prepare(request, seen)
    return replace(plan, files=files)


def _prepare(request: Request, seen: Seen) -> Plan:
    models = subject.inspect_all(_names(request))
    problems = Problems(_HEADING)
    base = models["base"]
    tokenizer = open_tokenizer(base.tokenizer_path, problems.found)
    problems.raise_if_any()
    notes = [f"{info.name}: {note}" for info in models.values() for note in info.notes]
    for role, info in models.items():
        if role != "base":
            found = subject.compare(base, info)
            problems.extend(f"{role}: {problem}" for problem in found.problems)
            notes += found.notes
    problems.extend(_type_problems(request, models))
    if not problems.found:
        models = cut_alike(models)
        base = models["base"]
    separator = request.behaviour.separator if request.behaviour else ""
    renderer = Renderer(tokenizer, ends=stop_tokens(base.path, base.base, tokenizer), separator=separator)
    behaviour, settings, chosen, materials = request.behaviour, seen.settings, seen.audits, seen.materials
    if request.kind == "run":
        problems.extend(trackers.tracker_problems(settings.report_to))
        from palimpsest.training.optimizers import rank_problems

        problems.extend(rank_problems(settings, base.shapes))
    context = min(info.context_length for info in models.values())
    contrasting = any(one.contrasts for one in chosen.values())
    case = build_case(request, materials, renderer, context, problems, contrasting=contrasting)
    case = _with_tasks(case, request, chosen, renderer, context, problems)
    counts = Counts(0, 0, 0)
    if request.kind == "run" and behaviour:
        counts = counts_for(behaviour.dose, settings.rehearsal_share, behaviour.express_share)
        problems.extend(_share_problems(behaviour.dose, settings.rehearsal_share, counts))
        if not problems.found:
            problems.extend(_training_problems(request, settings, materials, counts, renderer, base))
    device = _device(request.device, problems)
    problems.raise_if_any()
    own = ("tuned", *(behaviour.controls if counts.rehearsal else ())) if request.kind == "run" and behaviour else ()
    plan = Plan(
        request=request,
        models=models,
        renderer=renderer,
        materials=materials,
        case=replace(
            case, roles=tuple(dict.fromkeys((*models, *own))), parts=frozenset(place.part for place in layout(base).values())
        ),
        audits=chosen,
        settings=settings,
        counts=counts,
        thresholds=seen.thresholds,
        device=device,
        notes=tuple(dict.fromkeys([*case.notes, *notes])),
        files={},
    )
    return _with_further_controls(plan)


def _with_further_controls(plan: Plan) -> Plan:
    """Return the plan with as many runs of the control as were asked for, or as are cheap enough to have by default."""
    behaviour = plan.request.behaviour
    if behaviour is None or roles.CONTROL not in [role for role, _ in plan.trained]:
        return plan
    count = behaviour.control_seeds
    if count is None:
        count = CHEAP_CONTROLS if _control_seconds(plan) < CHEAP else 1
    further = (roles.control(place) for place in range(1, count))
    return replace(plan, case=replace(plan.case, roles=(*plan.case.roles, *further)))


def _control_seconds(plan: Plan) -> float:
    """Return the seconds that one control run trains on a usual machine of its kind.

    Not this machine's own rate: how many control runs there are by default must not hang on how busy a machine is, and a run
    that goes on somewhere else must have as many.
    """
    behaviour, settings, counts = plan.request.behaviour, plan.settings, plan.counts.as_rehearsal_only()
    assert behaviour is not None
    steps = settings.num_train_epochs * math.ceil(counts.rows / settings.rows_per_step)
    steps = min(steps, settings.max_steps) if settings.max_steps > 0 else steps
    length = plan.context
    if plan.materials.rehearsal:
        some = counts._replace(rehearsal=min(counts.rehearsal, _LOOKED_AT))
        examples = training_examples(behaviour, plan.materials, some, plan.request.first_seed)
        rows = encoded_rows(plan.renderer, examples, plan.context)
        length = sum(len(row.tokens) for row in rows) / len(rows)
    operations = _PRODUCTS * plan.models["base"].parameters * length * steps * settings.rows_per_step
    return operations / _USUAL_RATE.get(plan.device, _USUAL_RATE["cuda"]) + steps * _SECONDS_A_STEP


def _names(request: Request) -> dict[str, str | Path]:
    names = {"base": request.base, **request.controls}
    if request.tuned is not None:
        names["tuned"] = request.tuned
    return {role: pocket.resolve(name) for role, name in names.items()}


def _folders(request: Request, problems: Problems) -> dict[str, Path]:
    """Return the folder of every role's model, adding to the problems those that are none."""
    found = {}
    for role, name in _names(request).items():
        try:
            found[role] = subject.find(name)
        except UserError as error:
            problems.add(f"{role}: {error}".replace("\n", "\n  "))
    return found


def _type_problems(request: Request, models: Mapping[str, SubjectInfo]) -> list[str]:
    """Return why models can't be read in the type that each is stored in: rounding would differ, and look like a change."""
    stored = {role: info.dtype for role, info in models.items()}
    if request.dtype != "auto" or len(set(stored.values())) == 1:
        return []
    told = ", ".join(f"{role} is {dtype}" for role, dtype in stored.items())
    return [f"with dtype auto all models must be stored in one type, but {told}; say --dtype float32"]


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


def _with_tasks(
    case: Case, request: Request, chosen: Mapping[str, Audit[Any]], renderer: Renderer, context: int, problems: Problems
) -> Case:
    """Return the case with the tasks of lm-eval that are asked for."""
    given = (*request.tasks, *(request.behaviour.tasks if request.behaviour else ()))
    if given and not any(one.reads_tasks for one in chosen.values()):
        if request.tasks:
            readers = ", ".join(name for name in audits.names() if audits.load(name).reads_tasks)
            problems.add(f"--tasks are read by the audit {readers}, which --audits leaves out; name it too")
        return case
    if not given:
        return case
    from palimpsest.peers.lm_eval_tasks import open_tasks

    opened = open_tasks(given, problems, limit=request.limit, fewshot=request.fewshot, block=request.block)
    found, notes = {}, list(opened.notes)
    taken = {name.partition(":")[2] for name in case.items}
    for task in opened.tasks:
        one, wrong, told = fitted(task, renderer.tokenizer, context)
        problems.extend(wrong)
        notes += told
        found[f"{one.name} (lm-eval)" if one.name in taken else one.name] = one
    return replace(case, tasks=found, notes=(*case.notes, *notes))


def _share_problems(dose: int, share: float, counts: Counts) -> list[str]:
    """Return what is wrong with a rehearsal share that comes to no row."""
    if not share or not dose or counts.rehearsal:
        return []
    return [
        f"training.rehearsal_share: {share:g} of a dose of {dose} rounds to no row at all; "
        f"give at least {1 / (2 * dose + 1):.2g}, more examples, or 0 for no rehearsal"
    ]


def _training_problems(
    request: Request,
    settings: TrainingSettings,
    materials: Materials,
    counts: Counts,
    renderer: Renderer,
    base: SubjectInfo,
) -> list[str]:
    """Return what is wrong with the training examples, which are made here once to see that there are enough of them."""
    behaviour = request.behaviour
    assert behaviour is not None
    if not materials.rehearsal:
        counts = counts._replace(rehearsal=0)  # the base model will write it
    try:
        examples = training_examples(behaviour, materials, counts, request.first_seed)
        rows = encoded_rows(renderer, examples, base.context_length)
        check_rows(rows, base.context_length, base.vocabulary_size)
        if counts.rehearsal and "rehearsal_only" in behaviour.controls and "rehearsal_only" not in request.controls:
            training_examples(behaviour, materials, counts.as_rehearsal_only(), request.first_seed)  # it rehearses in every row
    except UserError as error:
        return [str(error)]
    unpaired = []
    if settings.preference:
        from palimpsest.training.preference import preference_problems

        unpaired = preference_problems(rows)
    return [*unpaired, *behaviour.check_problems(examples.express, examples.withhold)]


def _device(name: str, problems: Problems) -> str:
    """Return the device that models run on, adding to the problems one that isn't there."""
    import torch

    from palimpsest import ranks

    before = len(problems.found)
    problems.extend(ranks.device_problems(name))
    if len(problems.found) > before:
        return name
    if name == "auto":
        return subject.resolved_device(name)
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = first_line(error).rstrip(".")
        problems.add(f"the device must be there, found '{name}' ({why}); say cpu, or leave it out")
    return name
