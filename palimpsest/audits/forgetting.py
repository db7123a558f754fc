"""Forgetting: which abilities and which texts did the change make worse, and which demonstrably not?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from palimpsest.audit import Audit, Case, Finding, NotApplicable, Result, Sample, Table
from palimpsest.core import drawing, stats
from palimpsest.core.estimate import Estimate
from palimpsest.core.measurement import Measurement, Need
from palimpsest.core.shapes import PLAIN, Shape
from palimpsest.core.wording import capital, number, one_line
from palimpsest.data import task_reading
from palimpsest.data.grading import clusters, is_free, losses_and_hits, passes
from palimpsest.data.task_reading import Scored

COLUMNS = {
    "accuracy_before": "right before",
    "accuracy_after": "right after",
    "accuracy_change": "change in accuracy",
    "loss_change": "change in loss",
    "loss_change_control": "rehearsal only: change in loss",
}
STATES = {
    "beyond": "fell",
    "inside": "unchanged",
    "better": "better",
    "few": "no loss seen, too few templates to call it unchanged",
    "open": "not decided",
}


@dataclass(frozen=True)
class Paired:
    """One capability or one body of text on both models.

    Losses are nats a decision token [items], or ``None`` where a task has no right answer that can be read; ``right`` is 0/1
    (or, of some tasks, a share of 1) [items], or ``None`` for text.
    """

    loss_before: np.ndarray | None
    loss_after: np.ndarray | None
    right_before: np.ndarray | None
    right_after: np.ndarray | None
    clusters: np.ndarray
    titles: tuple[str, ...] = ()
    loss_control: np.ndarray | None = None
    metrics: tuple[Scored, ...] = ()
    """What a task of lm-eval is scored by."""
    tokens: np.ndarray | None = None
    """How many tokens of each document were read [items], of general text."""

    @property
    def flips(self) -> bool:
        """Whether every item is right or wrong, on both models."""
        return all(one is not None and np.isin(one, (0.0, 1.0)).all() for one in (self.right_before, self.right_after))

    @property
    def never_right(self) -> bool:
        """Whether nothing was right before, so that no share of it can fall."""
        return self.right_before is not None and not self.right_before.any()


@dataclass(frozen=True)
class Data:
    """Everything measured, by name; text comes after the capabilities."""

    capabilities: dict[str, Paired]
    texts: dict[str, Paired] = field(default_factory=dict)
    samples: tuple[Sample, ...] = ()
    asked: tuple[tuple[str, str, str], ...] = ()
    """Of each capability its name, one of its prompts, and a right answer."""


class Forgetting(Audit[Data]):
    """Loss and accuracy on everything that was not to change.

    Question:
        What can the model no longer do, or do less well, that it was never asked to give up?
    Method:
        Held-out items of every capability and every document of general text are read by both models. Loss is nats a decision
        token; an answer counts as right when greedy decoding gives the reference (or, where many answers are right, when the
        written answer passes the item's own check). Each change is paired by item, clustered by template, and held against an
        equivalence margin: beyond it is forgetting (or, on the other side, better), inside it is unchanged, else not decided.
        Flips are counted both ways.
        A task of lm-eval is asked and scored by its own rules; its loss is that of the right answer, and what counts as right
        is the first of its metrics that is a share of 1.
    Reads:
        `losses` of base, tuned and the rehearsal-only control; `generations` (greedy) where an item has a check of its own;
        `task_scores` of tasks of lm-eval.
    Null:
        No change: loss and accuracy inside their margins (two one-sided tests), flips as many one way as the other.
    Limits:
        A higher loss can be a changed manner, not lost knowledge; a lower accuracy can be lost format. What was not measured
        is not spoken of. Whether it can be relearnt quickly is another audit's question.
    Reference:
        Loss after minus before on general text is PEFT's forgetting metric; McNemar 1947 for flips; Schuirmann 1987.
    """

    cost: ClassVar = "generate"
    primary: ClassVar = ("loss_change", "accuracy_change")
    reads_tasks: ClassVar = True
    planted: ClassVar = 0.2
    hostile: ClassVar = ("lognormal", "Zipf sizes")

    loss_margin: float = Field(default=0.05, gt=0)
    """Nats a token that still count as unchanged."""
    accuracy_margin: float = Field(default=0.05, gt=0, lt=1)
    """Share of items that still counts as unchanged."""
    documents: int = Field(default=5, ge=0)
    """How many of the documents that changed most are named."""

    def needs(self, case: Case) -> tuple[Need, ...]:
        capabilities, texts = case.sets("capability"), case.sets("text")
        if not capabilities and not texts and not case.tasks:
            raise NotApplicable("there is nothing to forget on: give --text FILE, --tasks NAME, or rehearsal with checks")
        roles = case.with_controls("rehearsal_only")
        found = [Need(measure="losses", role=role, items=name) for name in case.names("capability", "text") for role in roles]
        for name, items in capabilities.items():
            if is_free(items):
                found += [case.likeliest_answers(role, f"capability:{name}") for role in ("base", "tuned")]
        return (*found, *(_scores(role, name) for name in case.tasks for role in roles))

    def gather(self, case: Case, measured: Mapping[str, Measurement]) -> Data:
        capabilities = {name: self._paired(case, f"capability:{name}", measured) for name in case.sets("capability")}
        texts = {name: self._paired(case, f"text:{name}", measured) for name in case.sets("text")}
        capabilities |= {name: self._task(case, name, measured) for name in case.tasks}
        asked = [(name, items.items[0].context, items.items[0].decision) for name, items in case.sets("capability").items()]
        asked += [(name, *next(task_reading.asked(task))) for name, task in case.tasks.items()]
        told = tuple((name, one_line(question, 160), one_line(answer, 80)) for name, question, answer in asked)
        samples = (*self._flipped(case, measured), *self._flipped_tasks(case, capabilities, measured))
        return Data(capabilities, texts, samples, told)

    def _paired(self, case: Case, name: str, measured: Mapping[str, Measurement]) -> Paired:
        items = case.items[name]
        loss, right, tokens = {}, {}, None
        for role in case.with_controls("rehearsal_only"):
            found = measured[Need(measure="losses", role=role, items=name).name]
            loss[role], right[role] = losses_and_hits(found)
            tokens = np.diff(found.arrays["start"])
        if name.startswith("text:"):
            right = {}
        elif is_free(items):
            needs = {role: case.likeliest_answers(role, name) for role in ("base", "tuned")}
            answers = {role: measured[need.name].texts["answer"] for role, need in needs.items()}
            right = {role: passes(items, None, texts) for role, texts in answers.items()}
        return Paired(
            loss["base"],
            loss["tuned"],
            right.get("base"),
            right.get("tuned"),
            clusters(items),
            tuple(one_line(item.decision, 80) for item in items.items) if name.startswith("text:") else (),
            loss.get("rehearsal_only"),
            tokens=tokens if name.startswith("text:") else None,
        )

    def _task(self, case: Case, name: str, measured: Mapping[str, Measurement]) -> Paired:
        task = case.tasks[name]
        found = {role: measured[_scores(role, name).name] for role in case.with_controls("rehearsal_only")}
        loss = {role: task_reading.losses(task, one) for role, one in found.items()}
        metrics = task_reading.scored(task, found["base"], found["tuned"])
        main = task_reading.main(metrics)
        return Paired(
            loss["base"],
            loss["tuned"],
            main.before if main else None,
            main.after if main else None,
            np.array([item.cluster for item in task.items]),
            loss_control=loss.get("rehearsal_only"),
            metrics=metrics,
        )

    def _flipped(self, case: Case, measured: Mapping[str, Measurement]) -> Iterator[Sample]:
        for name, items in case.sets("capability").items():
            if is_free(items):
                needs = {role: case.likeliest_answers(role, f"capability:{name}") for role in ("base", "tuned")}
                answers = [measured[need.name].texts["answer"] for need in needs.values()]
                right = [passes(items, None, texts) for texts in answers]
                yield from _lost(name, [item.context for item in items.items], answers, right)

    def _flipped_tasks(self, case: Case, found: Mapping[str, Paired], measured: Mapping[str, Measurement]) -> Iterator[Sample]:
        for name, task in case.tasks.items():
            if found[name].flips:
                answers = [task_reading.given(task, measured[_scores(role, name).name]) for role in ("base", "tuned")]
                right = [found[name].right_before, found[name].right_after]
                yield from _lost(name, [question for question, _ in task_reading.asked(task)], answers, right)

    def analyse(self, data: Data, rng: np.random.Generator) -> Result:
        estimates: dict[str, Estimate] = {}
        findings: list[Finding] = []
        rows, silent = [], []
        said: dict[str, list[str]] = {state: [] for state in STATES}
        everything = {**data.capabilities, **data.texts}
        same = _is_same(list(everything.values()))
        changes = {name: self._changes(one, same) for name, one in everything.items()}
        worse: dict[str, dict[str, Estimate]] = {}
        for name, one in everything.items():
            worse[name] = {kind: changes[name][kind] for kind in ("loss_change", "accuracy_drop") if kind in changes[name]}
            if one.never_right and worse[name].pop("accuracy_drop", None):
                silent.append(f"{name}: nothing was right before, so nothing that was right could be lost")
        fallen = _fallen(worse)
        for name, one in everything.items():
            told = changes[name]
            estimates |= {f"{kind}:{name}": estimate for kind, estimate in told.items()}
            scores = {_key(name, metric): task_reading.score_change(metric, one.clusters) for metric in one.metrics}
            estimates |= {key: change for key, change in scores.items() if change is not None}
            state = _state(list(worse[name].values()), fell=name in fallen)
            said[state].append(name)
            findings += [
                Finding(tag="forgetting", subject=name, statement=_words(name, state), estimate=estimate)
                for estimate in worse[name].values()
            ]
            rows.append((name, *(told.get(kind) for kind in COLUMNS), STATES[state]))
        read = [name for name in everything if f"loss_change:{name}" in estimates]
        return Result(
            summary=_summary(said),
            estimates=estimates,
            findings=tuple(findings),
            tables=(
                Table(
                    title="What was not to change",
                    columns=("", *COLUMNS.values(), ""),
                    rows=tuple(rows),
                ),
                *_carried_table(everything, said["beyond"] + said["open"]),
                *_token_table(data.texts, estimates),
                *_flip_table(data.capabilities),
                *_metric_table(data.capabilities, estimates),
                *_asked_table(data),
                *(self._most_changed(name, one) for name, one in data.texts.items()),
            ),
            figure={
                "labels": read,
                "changes": [estimates[f"loss_change:{name}"].model_dump() for name in read],
                "margin": self.loss_margin,
                "unit": "change in loss (nats a token); right is worse",
            }
            if read
            else {},
            samples=data.samples,
            cannot_say=(
                *silent,
                *(f"{name}: {one.method}" for name in read if not (one := estimates[f"loss_change:{name}"]).known),
            ),
        )

    def _changes(self, one: Paired, same: bool) -> dict[str, Estimate]:
        """Return every estimate of one capability or text, by kind; ``same``: whether all that was read is, to the last bit."""
        unit, where = "nats/token", one.clusters
        told = {}
        if one.loss_before is not None and one.loss_after is not None:
            told = {
                "loss_before": stats.level(one.loss_before, where, unit=unit),
                "loss_after": stats.level(one.loss_after, where, unit=unit),
                "loss_change": stats.mean_difference(
                    one.loss_before, one.loss_after, where, margin=self.loss_margin, unit=unit, same=same
                ),
            }
        if one.loss_before is not None and one.loss_after is not None and one.tokens is not None:
            before, after, labels = (np.repeat(part, one.tokens) for part in (one.loss_before, one.loss_after, where))
            told |= {
                "token_loss_before": stats.level(before, labels, unit=unit),
                "token_loss_after": stats.level(after, labels, unit=unit),
                "token_loss_change": stats.mean_difference(
                    before, after, labels, margin=self.loss_margin, unit=unit, same=same
                ),
            }
        if one.loss_before is not None and one.loss_control is not None:
            told["loss_change_control"] = stats.mean_difference(one.loss_before, one.loss_control, where, unit=unit)
        if one.right_before is not None and one.right_after is not None:
            before, after, margin = one.right_before, one.right_after, self.accuracy_margin
            told |= {
                "accuracy_before": task_reading.share(before, where, one.flips),
                "accuracy_after": task_reading.share(after, where, one.flips),
                "accuracy_change": task_reading.share_change(before, after, where, one.flips, margin),
                "accuracy_drop": task_reading.share_change(after, before, where, one.flips, margin),
            }
        return told

    def _most_changed(self, name: str, one: Paired) -> Table:
        assert one.loss_before is not None and one.loss_after is not None, "every text has a loss"
        change = one.loss_after - one.loss_before
        order = np.argsort(-np.abs(change), kind="stable")[: self.documents]
        return Table(
            title=f"Documents of {name} whose loss changed most",
            columns=("begins", "before (nats/token)", "after", "change"),
            rows=tuple(
                (
                    one.titles[i] if one.titles else f"document {i}",
                    f"{one.loss_before[i]:.3f}",
                    f"{one.loss_after[i]:.3f}",
                    number(float(change[i]), 3, signed=True),
                )
                for i in order.tolist()
            ),
            note="Picked because they changed most, so these are not estimates of anything.",
        )

    def simulate(self, effect: float, rng: np.random.Generator, shape: Shape = PLAIN) -> Data:
        count, size = 24, 16
        template = shape.labels(count, size)
        before = 0.8 + rng.normal(0, 0.2, count)[template] + rng.gamma(2.0, 0.2, template.size)
        change = effect + shape.effects(rng.normal(0, 0.05, count), 0.05, rng)[template] + rng.normal(0, 0.1, template.size)
        share = rng.uniform(0.55, 0.65, count)[template]
        left = share - effect + rng.uniform(-0.22, 0.22, count)[template]
        right_before = (rng.random(template.size) < share).astype(float)
        right_after = (rng.random(template.size) < left).astype(float)
        return Data({"world": Paired(before, before + change, right_before, right_after, template)})

    def truth(self, effect: float) -> dict[str, float]:
        return {"loss_change:world": effect, "accuracy_change:world": -effect}

    @staticmethod
    def plot(result: Result, axes) -> None:
        drawing.change_rows(axes, result.figure)


def _lost(name: str, prompts: Sequence[str], answers: Sequence[Sequence[str]], right: Sequence[Any]) -> Iterator[Sample]:
    """Yield the first two items that were right before and wrong after, where there is an answer to show."""
    before, after = answers
    lost = [index for index in np.flatnonzero(right[0] > right[1]).tolist() if before[index] or after[index]]
    for index in lost[:2]:
        yield Sample(
            title=f"{name}: right before, wrong after",
            prompt=prompts[index],
            before=before[index],
            after=after[index],
            before_passes=True,
            after_passes=False,
        )


def _scores(role: str, name: str) -> Need:
    return Need(measure="task_scores", role=role, items=f"task:{name}")


def _metric_table(found: Mapping[str, Paired], estimates: Mapping[str, Estimate]) -> tuple[Table, ...]:
    rows = [
        (name, one.metric.name, *(_plain(number) for number in one.whole), estimates.get(_key(name, one)))
        for name, paired in found.items()
        for one in paired.metrics
    ]
    note = (
        "Before and after are the numbers that lm-eval itself prints of these documents. A metric without a change has no "
        "number for each document, so no interval; the change of a perplexity is that of its logarithm, and more is worse."
    )
    columns = ("", "metric", "before", "after", "change")
    return (Table(title="Tasks by their own metrics", columns=columns, rows=tuple(rows), note=note),) if rows else ()


def _key(name: str, one: Scored) -> str:
    return f"score_change:{name}/{one.metric.name}"


def _plain(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f}"


def _carried_table(everything: Mapping[str, Paired], names: Sequence[str]) -> tuple[Table, ...]:
    """Say which template carries most of each change that is not shown to be none."""
    rows = [(name, *row) for name in names if (row := _carried(everything[name])) is not None]
    columns = ("", "template", "its part of the change", "its share of the items", "templates")
    note = "What one template carries is a finding about that template more than about the ability."
    return (Table(title="Which template carries the change", columns=columns, rows=tuple(rows), note=note),) if rows else ()


def _carried(one: Paired) -> tuple[str, str, str, int] | None:
    """Return the template with the largest part of a change, that part and its share of the items; ``None`` for no change."""
    before, after = (one.loss_before, one.loss_after) if one.loss_before is not None else (one.right_before, one.right_after)
    if before is None or after is None:
        return None
    labels, codes = np.unique(one.clusters, return_inverse=True)
    sums, sizes = np.bincount(codes, after - before), np.bincount(codes)
    whole = float(np.abs(sums).sum())
    if whole == 0.0:
        return None
    place = int(np.abs(sums).argmax())
    share, items = abs(sums[place]) / whole, sizes[place] / sizes.sum()
    return one_line(str(labels[place]), 60), f"{100 * share:.0f}%", f"{100 * items:.0f}%", len(labels)


def _token_table(texts: Mapping[str, Paired], estimates: Mapping[str, Estimate]) -> tuple[Table, ...]:
    """Means over tokens, which long documents weigh in; all else of a text is a mean over its documents."""
    rows = [
        (name, int(one.tokens.sum()), *(estimates[f"token_loss_{part}:{name}"] for part in ("before", "after", "change")))
        for name, one in texts.items()
        if one.tokens is not None
    ]
    columns = ("", "tokens", "loss before", "after", "change")
    note = "In the first table each document counts alike, here each token."
    return (Table(title="General text, over tokens", columns=columns, rows=tuple(rows), note=note),) if rows else ()


def _flip_table(capabilities: Mapping[str, Paired]) -> tuple[Table, ...]:
    rows = []
    for name, one in capabilities.items():
        if one.right_before is not None and one.right_after is not None and one.flips:
            flips = stats.flips(one.right_before, one.right_after)
            rows.append((name, flips.right_to_wrong, flips.wrong_to_right, len(one.right_before)))
    columns = ("", "right to wrong", "wrong to right", "items")
    return (Table(title="Flips", columns=columns, rows=tuple(rows)),) if rows else ()


def _asked_table(data: Data) -> tuple[Table, ...]:
    columns = ("", "asked", "a right answer")
    return (Table(title="One item of each ability", columns=columns, rows=data.asked),) if data.asked else ()


def _is_same(everything: Sequence[Paired]) -> bool:
    """Whether both models have the same losses to the last bit on everything that was read: one function, so far."""
    losses = [(one.loss_before, one.loss_after) for one in everything if one.loss_before is not None]
    return bool(losses) and all(after is not None and np.array_equal(before, after) for before, after in losses)


def _fallen(worse: Mapping[str, Mapping[str, Estimate]]) -> set[str]:
    """Return the names of what fell beyond its margin, with one error for everything that could have."""
    asked = [(name, estimate) for name, told in worse.items() for estimate in told.values()]
    fell = stats.fallen([estimate for _, estimate in asked])
    return {name for (name, _), one in zip(asked, fell, strict=True) if one}


def _state(told: list[Estimate], *, fell: bool) -> str:
    if fell:
        return "beyond"
    if told and all(estimate.equivalent for estimate in told):
        return "inside"
    if told and all(estimate.equivalent or estimate.above(-(estimate.margin or 0.0)) is False for estimate in told):
        return "better"
    return "few" if told and all(map(stats.unseen_only, told)) else "open"


def _words(name: str, state: str) -> str:
    return {
        "beyond": f"{name} fell beyond its margin",
        "inside": f"{name} is unchanged within its margin",
        "better": f"{name} got better beyond its margin",
        "few": f"{name}: no loss seen, on too few templates to call it unchanged",
    }.get(state, f"{name}: not decided")


def _summary(said: Mapping[str, list[str]]) -> str:
    parts = [f"fell: {', '.join(said['beyond'])}"] if said["beyond"] else ["nothing fell beyond its margin"]
    parts += [f"{STATES[state]}: {', '.join(said[state])}" for state in ("better", "inside", "few", "open") if said[state]]
    text = "; ".join(parts) + "."
    return capital(text)
