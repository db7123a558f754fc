"""Comparison: what differs between two logs, from their files to numbers?

The main path in order: find out what the two are, read them, pair their tasks and items, compare, write.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from palimpsest.core.errors import Problems, UserError, first_line
from palimpsest.core.files import open_file
from palimpsest.evaluations import source
from palimpsest.evaluations.matching import Matched, NothingShared, match, mean_of, without_score
from palimpsest.evaluations.paired import ROUNDING, Compared, Options, compare, rows_of
from palimpsest.evaluations.source import TaskLog

_AGREES = 1e-6
"""A log's own mean may differ from ours by so much, relatively: it was rounded when it was written."""
_TWO_PROGRAMS = (
    "A and B were measured by two programs. On the same model their log-likelihoods agree to about 1e-5 of their size, so "
    "differences as small as that are rounding."
)


@dataclass(frozen=True)
class Found:
    """Two logs, compared."""

    paths: tuple[Path, Path]
    kind: str
    """The source's name."""
    matched: tuple[Matched, ...]
    compared: tuple[Compared, ...]
    left_out: tuple[str, ...]
    """Tasks that could not be compared and files that could not be read, and why."""
    notes: tuple[str, ...]
    digests: Mapping[str, str]
    """Of every file that was read, by its path."""

    @property
    def names(self) -> tuple[str, str]:
        """What the two are called: their models, or where these are called the same, their files."""
        models = [Path(one.model).name or one.model for one in (self.matched[0].before, self.matched[0].after)]
        if models[0] != models[1] and all(models):
            return models[0], models[1]
        return self.paths[0].name, self.paths[1].name


def carry_out(before: Path, after: Path, options: Options, *, cluster: str | None = None, tasks: Sequence[str] = ()) -> Found:
    """Compare two logs, or two folders of logs.

    Args:
        before: what is compared with.
        after: what is compared.
        options: margins and metrics.
        cluster: the field of a sample or document whose value is its cluster.
        tasks: only these; all that are in both where there are none.

    Raises:
        UserError: what is wrong with either, all of it at once.
    """
    problems = Problems("These can't be compared:")
    kinds, logs = _read(before, after, problems)
    pairs, left_out = _same_tasks(logs, (before, after), tasks, problems)
    matched, apart = [], []
    for one, other in pairs:
        try:
            matched.append(match(one, other, cluster))
        except NothingShared as error:
            apart.append(str(error))
        except UserError as error:
            problems.add(str(error))
    if tasks or not matched:  # what was named, or all of it
        problems.extend(apart)
    left_out += apart
    left_out += dict.fromkeys(why for side in logs for log in side for why in log.left_out)
    if problems.found and matched:
        problems.add(f"without {'this' if len(problems.found) == 1 else 'these'}: --tasks {_listed(matched)}")
    problems.raise_if_any()
    told = [note for side in logs for log in side for note in log.notes]
    told += [note for one in matched for note in one.notes]
    told += [note for one in matched for note in _own_means(one)]
    if len(kinds) > 1:
        told.insert(0, _TWO_PROGRAMS)
    if _same_file(before, after):
        told.insert(0, "A and B are the same file or folder.")
    compared = compare(matched, options)
    digests = {str(file): _digest(file) for one in matched for log in (one.before, one.after) for file in log.files}
    for one in matched:
        metrics = [row.metric.name for row in rows_of(compared, one)]
        told += [f"{one.before.task} {note}" for note in without_score(one.pairs, metrics)]
    told += _rounded(compared)
    return Found(
        (before, after),
        " and ".join(kinds),
        tuple(matched),
        tuple(compared),
        tuple(left_out),
        tuple(dict.fromkeys(told)),
        digests,
    )


def lines(found: Found) -> str:
    """Return every pair as a line of JSON: task, name and cluster, what was asked and answered, and both scores by metric."""
    scores: dict[int, dict[str, tuple[float, float]]] = {}
    for one in found.compared:
        for pair, first, second in zip(one.pairs, *one.values, strict=True):
            scores.setdefault(id(pair), {})[one.metric.name] = (float(first), float(second))
    rows = (
        {
            "task": matched.before.task,
            "item": pair.name,
            "cluster": pair.cluster,
            "prompt": pair.before.first.prompt,
            "answers": [[one.answer for one in side.answers] for side in (pair.before, pair.after)],
            "scores": scores.get(id(pair), {}),
        }
        for matched in found.matched
        for pair in matched.pairs
    )
    return "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows)


def _read(before: Path, after: Path, problems: Problems) -> tuple[tuple[str, ...], tuple[Sequence[TaskLog], Sequence[TaskLog]]]:
    """Return the kinds that the two are of, two where both may hold the same documents, and the tasks of each."""
    kinds = [source.kind_of(path, problems) for path in (before, after)]
    if None not in kinds and kinds[0] != kinds[1]:
        first, second = (source.find(str(kind)) for kind in kinds)
        if not (first.holds_documents and second.holds_documents):
            problems.add(f"both must be of one kind: {before} holds {first.what}, {after} holds {second.what}")
    ours, theirs = (_tasks(kind, path, problems) for kind, path in zip(kinds, (before, after), strict=True))
    if problems.found:
        problems.extend(one.trouble for one in (*ours, *theirs) if one.trouble)
        problems.found = list(dict.fromkeys(problems.found))  # A and B may be the same
    problems.raise_if_any()
    if kinds[0] != kinds[1]:  # each tells much that the other does not know of
        ours, theirs = _with_settings_of(ours, theirs), _with_settings_of(theirs, ours)
    return tuple(dict.fromkeys(map(str, kinds))), (ours, theirs)


def _with_settings_of(logs: Sequence[TaskLog], others: Sequence[TaskLog]) -> list[TaskLog]:
    """Return logs with those of their settings that the others tell too."""
    known = {name for log in others for name in log.settings}
    return [replace(log, settings={name: said for name, said in log.settings.items() if name in known}) for log in logs]


def _tasks(kind: str | None, path: Path, problems: Problems) -> Sequence[TaskLog]:
    """Return the tasks of one side; a log of a shape that nobody foresaw is told as such and is no crash."""
    try:
        return source.find(kind).read(path, problems) if kind else ()
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        problems.add(
            f"{path}: is not laid out as {source.find(str(kind)).what} are ({type(error).__name__}: {first_line(error)})"
        )
        return ()


def _same_tasks(
    logs: tuple[Sequence[TaskLog], Sequence[TaskLog]], paths: tuple[Path, Path], wanted: Sequence[str], problems: Problems
) -> tuple[list[tuple[TaskLog, TaskLog]], list[str]]:
    """Return the tasks that both hold, and what is told of those that are left out."""
    ours, theirs = ({one.task: one for one in side} for side in logs)
    troubled: dict[str, list[str]] = {}
    for one in (*ours.values(), *theirs.values()):
        if one.trouble:
            troubled.setdefault(one.task, []).append(one.trouble)
    both = [name for name in ours if name in theirs and name not in troubled]
    if not both and troubled:
        problems.extend(why for told in troubled.values() for why in told)
    elif not both:
        held = "; ".join(f"{path} holds {', '.join(one.task for one in side)}" for path, side in zip(paths, logs, strict=True))
        problems.add(f"both must hold the same task, and no task is in both: {held}")
    for name in wanted:
        if name not in both and both:
            problems.extend(troubled.get(name) or [f"--tasks: there is no task '{name}' in both; there are {', '.join(both)}"])
    left_out = []
    if not wanted:
        for letter, side, other in (("A", ours, theirs), ("B", theirs, ours)):
            if alone := [name for name in side if name not in other and name not in troubled]:
                left_out.append(f"only in {letter}: {', '.join(alone)}")
        left_out += [f"{name}: {'; '.join(why)}" for name, why in troubled.items()]
    return [(ours[name], theirs[name]) for name in both if not wanted or name in wanted], left_out


def _listed(matched: Sequence[Matched]) -> str:
    return ",".join(one.before.task for one in matched)


def _rounded(compared: Sequence[Compared]) -> list[str]:
    """Say where all scores differ by rounding alone, which counts as no difference."""
    told = [f"{one.name} ({one.rounded:,} of {len(one.pairs):,} items)" for one in compared if one.same and one.rounded]
    bound = f"{ROUNDING:.0e}".replace("e-0", "e-")
    return [f"Scores that differ by no more than {bound} of their size count as equal: {', '.join(told)}."] if told else []


def _own_means(matched: Matched) -> list[str]:
    """Say where the log's own number is not the mean of its items' scores, as we read them."""
    told = []
    for letter, log in (("A", matched.before), ("B", matched.after)):
        for name, metric in log.metrics.items():
            ours = mean_of(log, name)
            if (
                metric.own is not None
                and ours is not None
                and not math.isclose(ours, metric.own, rel_tol=_AGREES, abs_tol=_AGREES)
            ):
                told.append(
                    f"{log.task}: the log of {letter} itself says {metric.own:.6g} for {name}, and the mean over its items is "
                    f"{ours:.6g}; it was reduced in another way, or scores were read as numbers that are none."
                )
    return told


def _same_file(before: Path, after: Path) -> bool:
    try:
        return before.samefile(after)
    except OSError:
        return False


def _digest(file: Path) -> str:
    found = hashlib.blake2b(digest_size=16)
    with open_file(file) as stream:
        while piece := stream.read(2**20):
            found.update(piece)
    return found.hexdigest()
