"""Cost: what would a run do, how long would it take, and does it fit into memory and onto the disk?

Operations are counted and held against this machine's own matrix rate. The time is a rough estimate, and is said to be one;
memory and disk are counted from shapes, and a run that can't fit even with the smallest batches is refused before it starts.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from palimpsest.audit import NotApplicable
from palimpsest.casework import SAMPLED, training_examples
from palimpsest.core import launch, roles
from palimpsest.core.errors import Problems
from palimpsest.core.machine import free_disk, free_memory, in_words
from palimpsest.core.measurement import Need
from palimpsest.core.seeds import numpy_stream
from palimpsest.data.chat import Example, ItemSet
from palimpsest.data.user_files import text_example
from palimpsest.foresight import AuditWork, Foreseen, MeasuringWork, Space, TrainingWork
from palimpsest.measures import _measure
from palimpsest.measures._forward import ForwardMeasure
from palimpsest.measures._measure import Budget
from palimpsest.measures._writing import gumbel
from palimpsest.measures.generations import Generations
from palimpsest.measures.task_scores import TaskScores
from palimpsest.models.matrix_rate import matrix_rate, usual_width
from palimpsest.models.parameters import streams
from palimpsest.models.sharded import numbers_gathered
from palimpsest.reach import earlier_run, foreseen
from palimpsest.training.optimizers import bytes_trained

if TYPE_CHECKING:
    from palimpsest.planning import Plan

_LOOKED_AT = 48
"""So many examples of each set stand for all of it."""
_WRITTEN_TOKENS = 96
"""Assumed length of text that the base model has yet to write."""
# Measured on two shared cores with Llamas of 0.3, 1.1 and 17 M parameters (November 2026): whole passes took 1 to 4 times the
# time of their matrix products, more the smaller the model, of which these two numbers explain most.
_INEFFICIENCY = 2.0
_SECONDS_A_LAYER = {"forward": 0.001, "training": 0.003}
_SECONDS_A_MODEL, _SECONDS_AT_THE_END = 1.0, 8.0
_ACTIVATIONS = 110
"""Bytes that training keeps for each token, layer and hidden unit (about 28 float32 tensors of hidden size)."""
_LOGIT_COPIES = 3
_BYTES = 4


def foresee(plan: Plan, folder: Path) -> Foreseen:
    """Return what a planned run would do, without doing any of it (0.3 s are spent on measuring this machine)."""
    plan = _as_if_written(plan)
    counted = _Counted(plan)
    memory, disk = counted.memory(), counted.disk(folder)
    behaviour = plan.request.behaviour
    earlier = earlier_run(folder.parent, plan.request.base, behaviour.name) if behaviour else None
    return Foreseen(
        models={role: info.parameters for role, info in plan.models.items()},
        training=counted.training,
        measuring=counted.measuring,
        audits=tuple(_audits(plan)),
        seconds=counted.seconds(),
        device=plan.device,
        memory=memory,
        disk=disk,
        problems=tuple(_misfits(plan, folder, memory, disk)),
        reach=foreseen(plan.case, plan.audits, plan.thresholds, earlier),
    )


def refuse_what_cant_fit(plan: Plan, folder: Path) -> None:
    """Check memory and disk before any work starts.

    Raises:
        UserError: the run can't fit even with the smallest batches.
    """
    plan = _as_if_written(plan)
    counted = _Counted(plan)
    problems = Problems("This can't fit here:")
    problems.extend(_misfits(plan, folder, counted.memory(), counted.disk(folder)))
    problems.raise_if_any()


def _as_if_written(plan: Plan) -> Plan:
    """Return the plan with a stand-in for text that the base model has yet to write, of the same size."""
    if plan.case.sets("text"):
        return plan
    word = plan.renderer.decode([plan.renderer.tokenizer("The", add_special_tokens=False).input_ids[-1]]) or "The"
    length = min(_WRITTEN_TOKENS, plan.context // 2)
    documents = tuple(
        text_example(" ".join([word] * (length - index % 2)), "to be written", template=f"sample {index}")
        for index in range(plan.request.documents)
    )
    items = {**plan.case.items, SAMPLED: ItemSet(name=SAMPLED, items=documents)}
    return replace(plan, case=replace(plan.case, items=items))


def _misfits(plan: Plan, folder: Path, memory: Space, disk: Space) -> Iterator[str]:
    if memory.free is not None and memory.least > memory.free:
        yield (
            f"at least {in_words(memory.least)} of memory must be free on {plan.device}, found {in_words(memory.free)}; "
            "close other programs, use --dtype bfloat16 or a smaller model"
        )
    if disk.free is not None and disk.least > disk.free:
        yield (
            f"at least {in_words(disk.least)} must be free on the disk of {folder}, found {in_words(disk.free)}; "
            "free some space, or choose a folder on another disk with --folder"
        )


def _audits(plan: Plan) -> Iterator[AuditWork]:
    for name, audit in plan.audits.items():
        try:
            yield AuditWork(name, audit.cost, len(audit.needs(plan.case)))
        except NotApplicable as reason:
            yield AuditWork(name, audit.cost, 0, str(reason))


class _Counted:
    """The work of a plan in tokens and passes, and what that takes."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.base, self.budget = plan, plan.models["base"], Budget.on(plan.device, plan.context)
        self.seeds = max(sum(role == "tuned" for role, _ in plan.trained), 1)
        self.hidden = usual_width(shape for _, shape in self.base.shapes)
        numbers = [int(found[1]) for name, _ in self.base.shapes if (found := re.search(r"\.(\d+)\.", name))]
        self.layers = 1 + max(numbers, default=0)
        self.largest = max(info.parameters for info in plan.models.values())
        self.processes = launch.count()

    @cached_property
    def training(self) -> tuple[TrainingWork, ...]:
        settings, works = self.plan.settings, []
        for role, seed in self.plan.trained:
            counts = self.plan.counts.as_rehearsal_only() if roles.kind(role) == roles.CONTROL else self.plan.counts
            steps = settings.num_train_epochs * math.ceil(counts.rows / settings.rows_per_step)
            if settings.max_steps > 0:
                steps = min(steps, settings.max_steps)
            rows = min(steps * settings.rows_per_step, settings.num_train_epochs * counts.rows)
            behaviour, rehearsal = self._row_lengths
            tokens = counts.dose * _mean(behaviour) + counts.rehearsal * _mean(rehearsal)
            works.append(TrainingWork(role, seed, rows, steps, round(tokens * rows / max(counts.rows, 1))))
        return tuple(works)

    @cached_property
    def _row_lengths(self) -> tuple[list[int], list[int]]:
        """Tokens of some behaviour rows and of some rehearsal rows."""
        behaviour, rehearsal = self._examples
        return [self._length(one) for one in behaviour], [self._length(one) for one in rehearsal] or [_WRITTEN_TOKENS]

    @cached_property
    def _row_bytes(self) -> int:
        """The most that training holds of one row: of what has a gradient all activations, of a frozen context its cache."""
        settings, most = self.plan.settings, 0
        with_gradient = self.layers * self.hidden * _ACTIVATIONS + _LOGIT_COPIES * _BYTES * self.base.vocabulary_size
        behaviour, rehearsal = self._examples
        for examples, context in ((behaviour, settings.context), (rehearsal, settings.rehearsal_context)):
            frozen = settings.context == context == "frozen"
            for example in examples:
                length = self._length(example)
                known = max(min(self.plan.renderer.encode(example).decision, length) - 1, 0) if frozen else 0
                most = max(most, (length - known) * with_gradient + known * self.layers * self.hidden * 2 * _BYTES)
        return most if rehearsal or not self.plan.counts.rehearsal else max(most, _WRITTEN_TOKENS * with_gradient)

    @cached_property
    def _examples(self) -> tuple[list[Example], list[Example]]:
        """Some behaviour rows and some rehearsal rows, where these are there already."""
        plan, behaviour = self.plan, self.plan.request.behaviour
        if not plan.trained or behaviour is None:
            return [], []
        counts = plan.counts._replace(
            express=min(plan.counts.express, _LOOKED_AT),
            withhold=min(plan.counts.withhold, _LOOKED_AT),
            rehearsal=min(plan.counts.rehearsal, _LOOKED_AT) if plan.materials.rehearsal else 0,
        )
        found = training_examples(behaviour, plan.materials, counts, plan.request.seed)
        return [*found.express, *found.withhold], list(found.rehearsal)

    def _length(self, example: Example) -> int:
        return min(len(self.plan.renderer.encode(example).tokens), self.plan.context)

    @cached_property
    def measuring(self) -> tuple[MeasuringWork, ...]:
        groups: dict[tuple[str, str, str], dict[str, Need]] = {}
        for audit in self.plan.audits.values():
            try:
                needs = audit.needs(self.plan.case)
            except NotApplicable:
                continue
            for need in needs:
                measure = _measure.load(need.measure, need.parameters)
                shared = measure.row_kind if isinstance(measure, ForwardMeasure) else need.name
                groups.setdefault((need.role, need.items, shared), {})[need.name] = need
        return tuple(
            self._measured(role, items, list(needs.values())) if items else self._weighed(role, list(needs.values()))
            for (role, items, _), needs in groups.items()
        )

    def _weighed(self, role: str, needs: list[Need]) -> MeasuringWork:
        """Return a reading of weights; most of it are the products of each matrix with itself, in float64."""
        operations = sum(2.0 * math.prod(shape) * min(shape) for _, shape in self.base.shapes if len(shape) > 1)
        models = self.seeds if role == "tuned" else 1
        on = f"weights against {needs[0].against}"
        return MeasuringWork(role, models, on, (needs[0].measure,), 0, 0, 0, weights=2 * operations)

    def _measured(self, role: str, items_name: str, needs: list[Need]) -> MeasuringWork:
        items = self.plan.case.everything[items_name].items
        some: Any = items[:: max(len(items) // _LOOKED_AT, 1)]
        measure = _measure.load(needs[0].measure, needs[0].parameters)
        dice = 0
        if isinstance(measure, Generations):
            lengths = [len(self.plan.renderer.encode(item).prompt) + measure.max_new_tokens for item in some]
            steps = measure.max_new_tokens * math.ceil(len(items) * max(lengths) / self.budget.tokens)
            dice = len(items) * measure.max_new_tokens if measure.temperature else 0
        elif isinstance(measure, TaskScores):
            lengths, written = measure.work(self.plan.renderer.tokenizer, some, self.budget)
            steps = max(written, 1) * math.ceil(sum(lengths) * len(items) / len(some) / self.budget.tokens)
        else:
            rows = measure.rows(self.plan.renderer, some, self.budget.context) if isinstance(measure, ForwardMeasure) else []
            lengths = [len(row.tokens) for row in rows] or [self._length(item) for item in some]
            steps = math.ceil(sum(lengths) * len(items) / len(some) / self.budget.tokens)
        tokens = round(sum(lengths) * len(items) / len(some))
        models = self.seeds if role == "tuned" else 1
        names = tuple(dict.fromkeys(need.measure for need in needs))
        divided = isinstance(measure, ForwardMeasure | Generations | TaskScores)
        return MeasuringWork(
            role, models, items_name, names, len(items), tokens, steps, dice, processes=self.processes if divided else 1
        )

    def seconds(self) -> float:
        """Return a rough estimate of the time it takes."""
        rate, draw = (
            matrix_rate(self.plan.device, self.plan.request.dtype, self.hidden),
            _draw_seconds(self.base.vocabulary_size),
        )
        operations = sum(6 * self.base.parameters * work.tokens for work in self.training) / self.processes
        operations += sum(
            (2 * self.largest * work.tokens / work.processes + work.weights) * work.models for work in self.measuring
        )
        overhead = sum(work.steps for work in self.training) * self.layers * _SECONDS_A_LAYER["training"]
        passes = sum(math.ceil(work.steps / work.processes) * work.models for work in self.measuring)
        overhead += passes * self.layers * _SECONDS_A_LAYER["forward"]
        drawn = sum(work.dice * work.models for work in self.measuring) * draw
        loaded = len(self.plan.models) + 2 * len(self.training)
        return _INEFFICIENCY * operations / rate + overhead + drawn + loaded * _SECONDS_A_MODEL + _SECONDS_AT_THE_END

    def memory(self) -> Space:
        """Return memory that each process needs beyond what it has already (torch itself is loaded)."""
        vocabulary = self.base.vocabulary_size
        logit = _LOGIT_COPIES * _BYTES * vocabulary
        loaded = max(info.bytes_loaded(self.plan.request.dtype) for info in self.plan.models.values())
        positions = max((work.tokens for work in self.measuring), default=0)
        if any(work.weights for work in self.measuring):  # what can't be streamed is loaded in float32, to merge without loss
            loaded = max(loaded, *(0 if streams(info) else info.bytes_loaded() for info in self.plan.models.values()))
        held = min(self.budget.logits * _LOGIT_COPIES * _BYTES, positions * logit)
        whole = loaded // max(self.largest, 1)  # bytes of one weight
        loaded = self._part(loaded, whole, 0)
        needed, least = loaded + held + self._stored, loaded + self._stored
        if self.training:
            state = bytes_trained(self.plan.settings, self.base.parameters, self.base.shapes)
            adapter = state - _BYTES * self.base.parameters if self.plan.settings.lora else 0  # each process holds all of it
            state = self._part(state - adapter, _BYTES, 0 if adapter else _BYTES) + adapter
            row = self._row_bytes
            rows = math.ceil(self.plan.settings.per_device_train_batch_size / self.processes)
            needed = max(needed, state + rows * row)
            least = max(least, state + row)
        free = free_on(self.plan.device)
        if free is not None and not self.plan.device.startswith("cuda"):
            free //= launch.on_this_machine()[1]
        return Space(needed, least, free, self.processes)

    def _part(self, total: int, weight: int, gradient: int) -> int:
        """Return what of bytes that are shared one process holds, with what it gathers for a pass.

        Args:
            total: bytes of all processes together.
            weight: bytes of one weight.
            gradient: bytes of one gradient, where there are any.
        """
        if self.processes == 1:
            return total
        gathered, group = numbers_gathered(self.base.shapes)
        return math.ceil(total / self.processes) + weight * gathered + gradient * group

    def disk(self, folder: Path) -> Space:
        """Return what the run writes: the tuned models, one checkpoint beside its predecessor, measurements, the report."""
        checkpoint = 2 * 3 * _BYTES * self.base.parameters if self.training else 0
        models = len(self.training) * _BYTES * self.base.parameters
        needed = models + checkpoint + 2 * self._stored + 20 * 2**20
        return Space(needed, needed, free_disk(folder))

    @cached_property
    def _stored(self) -> int:
        """Bytes of all measurements: 16 a token, and for a measure that keeps several cells a position those."""
        total = 0
        for work in self.measuring:
            for name in work.measures:
                measure = _measure.load(name, {})
                total += work.models * _BYTES * measure.numbers(work.items, self.layers, self.hidden)
                kind = type(measure)
                cells = kind.model_fields.get("cells")
                most = kind.model_fields.get("positions")
                positions = min(work.tokens, most.default) if most else work.tokens
                width = min(cells.default, self.base.vocabulary_size) if cells else 1
                total += work.models * positions * (16 + 8 * (width if cells else 0))
        return total


@cache
def _draw_seconds(vocabulary: int) -> float:
    """Return the seconds that one draw of noise over the vocabulary takes."""
    start = time.perf_counter()
    for step in range(4):
        gumbel(numpy_stream(0, "cost", step), vocabulary)
    return (time.perf_counter() - start) / 4


def free_on(device: str) -> int | None:
    """Return the free bytes of the memory that a device works in, or ``None`` where that can't be told."""
    return torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") else free_memory()


def _mean(lengths: list[int]) -> float:
    return sum(lengths) / len(lengths) if lengths else 0.0
