"""Paired: by how much do the scores of two models differ on the same items, and is that beyond the margin?

The difference is taken item by item and clustered (``core/stats``); Holm's correction goes over all tasks and metrics together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from palimpsest.core import stats
from palimpsest.core.errors import Problems, UserError, nearest
from palimpsest.core.estimate import Estimate
from palimpsest.evaluations.matching import Matched, Pair
from palimpsest.evaluations.source import SHARE_MARGIN, Better, Metric

ONE_SIDED = 0.025
ROUNDING = 1e-5
"""Scores that differ by no more than this of their size are equal: two programs, or two batch sizes, sum in another order."""
State = Literal["regression", "improvement", "moved", "worse", "better", "differs", "unchanged", "identical", "open", "unknown"]
"""Beyond the margin: ``regression``, ``improvement``, or ``moved`` where nobody says which is better. Different from no change,
but not shown to be beyond the margin: ``worse``, ``better``, ``differs``. Inside the margin: ``unchanged``. No item has another
score: ``identical``. Not decided: ``open``. Too few clusters: ``unknown``."""


@dataclass(frozen=True)
class Options:
    """What the user says of margins and metrics."""

    share_margin: float = SHARE_MARGIN
    """Of all scores between 0 and 1, as a share of 1."""
    margins: Mapping[str, float] | None = None
    """Of single metrics, in their own unit."""
    better: Mapping[str, Better] | None = None
    """Which direction is better, where the log does not say."""
    metrics: tuple[str, ...] = ()
    """Only these; all where there are none."""

    @classmethod
    def given(
        cls,
        margin: float | Mapping[str, float] | None = None,
        better: Mapping[str, Better] | None = None,
        metrics: Iterable[str] = (),
    ) -> Options:
        """Check what the user says.

        Raises:
            UserError: a margin is not over 0, or a direction is no direction.
        """
        problems = Problems("This can't be used:")
        margins = dict(margin) if isinstance(margin, Mapping) else {} if margin is None else {"": margin}
        share = margins.pop("", SHARE_MARGIN)
        for name, size in {"": share, **margins}.items():
            if not (isinstance(size, int | float) and 0 < size < float("inf")):
                problems.add(f"--margin{f' {name}' if name else ''} must be over 0, found {size}")
        if share >= 1:
            problems.add(f"--margin of shares must be below 1 (0.02 is two points), found {share}")
        for name, direction in (better or {}).items():
            if direction not in ("higher", "lower"):
                problems.add(f"--better {name} must be higher or lower, found '{direction}'")
        problems.raise_if_any()
        return cls(float(share), margins, dict(better or {}), tuple(metrics))


@dataclass(frozen=True)
class Compared:
    """One metric of one task on both models."""

    task: str
    metric: Metric
    pairs: tuple[Pair, ...]
    """The items that both have a score for, as the arrays hold them."""
    values: tuple[np.ndarray, np.ndarray]
    """Before and after, [items]; with weights, scaled so that their mean is the weighted one."""
    before: Estimate
    after: Estimate
    change: Estimate
    worse: int
    """Items whose score got worse (fell, where nobody says which is better)."""
    improved: int
    exact: float | None
    """Exact McNemar test of as many one way as the other, where scores are 0 or 1."""
    beyond: float | None = None
    """One-sided p-value of a change beyond the margin, on the worse side, or on either where nobody says which is worse."""
    holds: bool = False
    """Whether the change differs from none after Holm's correction over all."""
    beyond_holds: bool = False
    """Whether it is beyond the margin after Holm's correction over all."""
    left: int = 0
    """Items without a score on one side."""

    @property
    def name(self) -> str:
        return f"{self.task} {self.metric.name}"

    @property
    def sign(self) -> int:
        """Which side is better: 1 above, -1 below, 0 where nobody says."""
        return {"higher": 1, "lower": -1, None: 0}[self.metric.better]

    @property
    def same(self) -> bool:
        """Whether every item has the same score on both sides, up to rounding."""
        return not self.moved.any()

    @cached_property
    def moved(self) -> np.ndarray:
        """By how much each item's score moved, [items]; 0 where it is no more than rounding."""
        return _moved(*self.values)

    @property
    def rounded(self) -> int:
        """Items whose scores differ, but by no more than rounding."""
        return int(((self.moved == 0.0) & (self.values[0] != self.values[1])).sum())

    @property
    def state(self) -> State:
        change, margin = self.change, self.change.margin
        if self.same:
            return "identical"
        if not change.known or change.value is None:
            return "unknown"
        rose = change.value > 0
        direction = self.sign * (1 if rose else -1)
        outside = margin is not None and (change.above(margin) is True or change.above(-margin) is False)
        if outside and self.beyond_holds:
            return {1: "improvement", -1: "regression", 0: "moved"}[direction]  # type: ignore[return-value]
        if change.equivalent:
            return "unchanged"
        if self.holds:
            return {1: "better", -1: "worse", 0: "differs"}[direction]  # type: ignore[return-value]
        return "open"


def compare(matched: Sequence[Matched], options: Options) -> list[Compared]:
    """Return every metric that both logs of a task have, with Holm's correction over all of them.

    Raises:
        UserError: a metric that was named is not there, or a task has no metric in both logs.
    """
    problems = Problems("These logs can't be compared:")
    found = [one for each in matched for one in _of_task(each, options, problems)]
    there = {name for each in matched for name in (*each.before.metrics, *each.after.metrics)}
    for option, names in (
        ("--metrics", options.metrics),
        ("--margin", options.margins or {}),
        ("--better", options.better or {}),
    ):
        problems.extend(f"{option}: there is no metric '{name}'.{nearest(name, there)}" for name in names if name not in there)
    problems.raise_if_any()
    return _corrected(found)


def rows_of(compared: Sequence[Compared], matched: Matched) -> list[Compared]:
    """Return the comparisons of one task."""
    return [one for one in compared if one.task == matched.before.task]


def sides(directed: bool) -> tuple[str, str]:
    """Return what an item is called whose score fell, and one whose score rose, by whether it is known which is better."""
    return ("worse", "better") if directed else ("lower", "higher")


def _of_task(matched: Matched, options: Options, problems: Problems) -> list[Compared]:
    both = [name for name in matched.before.metrics if name in matched.after.metrics]
    if not both:
        sides = (", ".join(one.metrics) or "none" for one in (matched.before, matched.after))
        problems.add("{}: no metric is in both logs: A has {}, B has {}; score both with the same scorer".format(
            matched.before.task, *sides))  # fmt: skip
        return []
    wanted = [name for name in both if not options.metrics or name in options.metrics]
    found = []
    for name in wanted:
        try:
            found.append(_of_metric(matched, matched.before.metrics[name], options))
        except UserError as error:
            problems.add(str(error))
    return found


def _of_metric(matched: Matched, metric: Metric, options: Options) -> Compared:
    task = matched.before.task
    scored = [(pair, pair.before.score(metric.name), pair.after.score(metric.name)) for pair in matched.pairs]
    kept = [(pair, one, other) for pair, one, other in scored if one is not None and other is not None]
    if not kept:
        raise UserError(f"{task}: no item has a score for '{metric.name}' in both logs")
    weights = np.array([[one.weight, other.weight] for _, one, other in kept])
    if not np.array_equal(weights[:, 0], weights[:, 1]):
        raise UserError(
            f"{task}: '{metric.name}' counts other words or bytes of the same item in A than in B; was its text changed?"
        )
    values = np.array([[one.value, other.value] for _, one, other in kept])
    before, after = (_linear(side, weights[:, 0]) for side in values.T)
    clusters = np.array([pair.cluster for pair, _, _ in kept])
    metric = _settled(metric, values, options)
    margin, unit = metric.margin, "points" if metric.unit == "share" else metric.unit or ""
    moved = _moved(values[:, 0], values[:, 1])
    if not moved.any():
        after = before  # of nothing but rounding nobody wants a test
    if stats.is_outcome(values) and metric.unit == "share":
        sides = [stats.rate(one, clusters) for one in (before, after)]
        change = stats.rate_difference(before, after, clusters, unit=unit, margin=margin)
        exact = stats.flips(before, after).p_value
    else:
        sides = [stats.level(one, clusters, unit=metric.unit or "") for one in (before, after)]
        change = stats.mean_difference(before, after, clusters, unit=unit, margin=margin)
        exact = None
    gained = moved * (-1 if metric.better == "lower" else 1)
    return Compared(
        task, metric, tuple(pair for pair, _, _ in kept), (values[:, 0], values[:, 1]), sides[0], sides[1], change,
        int((gained < 0).sum()), int((gained > 0).sum()), exact, _beyond(before, after, clusters, metric, change.value),
        left=len(scored) - len(kept),
    )  # fmt: skip


def _moved(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return after - before, and 0 where that is no more than rounding; what is counted is never rounded."""
    difference = after - before
    if not (before % 1.0).any() and not (after % 1.0).any():
        return difference
    sizes = np.maximum(np.maximum(abs(before), abs(after)), (abs(before).mean() + abs(after).mean()) / 2)
    return np.where(abs(difference) <= ROUNDING * sizes, 0.0, difference)


def _linear(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return values whose mean is the weighted mean, and whose residuals are its own (those of a ratio, linearised)."""
    if (weights == weights[0]).all():
        return values
    middle = float((values * weights).sum() / weights.sum())
    return middle + (values - middle) * weights / weights.mean()


def _settled(metric: Metric, values: np.ndarray, options: Options) -> Metric:
    """Return the metric with the unit, the margin and the direction that hold here."""
    unit = metric.unit
    if unit is None and values.min() >= 0 and values.max() <= 1:
        unit = "share"
    margin = options.share_margin if unit == "share" else metric.margin
    margin = (options.margins or {}).get(metric.name, margin)
    return replace(metric, unit=unit, margin=margin, better=(options.better or {}).get(metric.name, metric.better))


def _beyond(before: np.ndarray, after: np.ndarray, clusters: np.ndarray, metric: Metric, change: float | None) -> float | None:
    """Return the one-sided p-value of a change beyond the margin to the side to which it went."""
    if metric.margin is None or change is None:
        return None
    return stats.beyond_margin(before, after, clusters, margin=metric.margin, side=1 if change > 0 else -1)


def _corrected(found: Sequence[Compared]) -> list[Compared]:
    """Correct over all: the tests of any change at 5%, and those of a change beyond the margin at 2.5% a side."""
    names = [f"{place}" for place, _ in enumerate(found)]
    differs = stats.holm({name: one.change.p_value for name, one in zip(names, found, strict=True)})
    beyond = stats.holm({name: one.beyond for name, one in zip(names, found, strict=True)}, ONE_SIDED)
    return [replace(one, holds=differs[name], beyond_holds=beyond[name]) for name, one in zip(names, found, strict=True)]
