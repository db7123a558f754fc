"""Inspect log: what did inspect (UK AI Security Institute) note of each sample?

``.eval`` and ``.json`` logs, or a folder of them. A score is read as inspect's own metrics read it (C, P, I and N are 1, 0.5, 0
and 0; yes, no, true and false; numbers), except that what is no number is no score, where inspect counts it as 0. Each key of a
score that is a dictionary is a metric of its own, ``SCORER.KEY``.

inspect does not say which direction of a score is better, what its unit is, or which samples belong together. A task may say so
in its own metadata, as the logs that we export do: ``scores`` (by metric ``better``, ``unit`` and ``margin``) and ``cluster``
(a key of the samples' metadata).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from palimpsest.core.errors import Problems, UserError
from palimpsest.core.files import read_file
from palimpsest.core.wording import one_line
from palimpsest.data.inspect_logs import input_of, is_log, messages_of, open_archive
from palimpsest.data.text_files import parsed
from palimpsest.data.turns import text_of
from palimpsest.evaluations.source import (
    Answer,
    Better,
    Metric,
    Score,
    Source,
    TaskLog,
    begins_with,
    fingerprint,
    finite,
    shortened,
    with_arguments,
)

_LARGEST = 2**29
_ARGUMENT = 80
"""Characters of an argument of a model that are told."""
_LETTERS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
_WORDS = {"yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
_MORE_IS_BETTER = {"match", "includes", "pattern", "answer", "exact", "f1", "choice", "math", "math_expression", "accuracy"}
"""Scorers of inspect itself whose higher scores are better; so are model-graded ones, and all whose scores are C and I."""
_MEANS = ("accuracy", "mean")
"""Metrics of inspect that are the mean over samples."""
_RUNS_IT = {
    "api_version", "base_url", "batch", "batch_size", "check_base", "device", "device_map", "max_batch_size", "max_connections",
    "max_retries", "port", "stream", "timeout",
}  # fmt: skip
"""Arguments of a model that say how it is run, and not what it is."""
_SECRET = re.compile("key|token$|secret|password|credential", re.IGNORECASE)
"""Arguments that nobody wants to find in a report."""


@dataclass(frozen=True)
class _Log:
    """One log as plain data."""

    path: Path
    header: Mapping[str, Any]
    answers: tuple[Answer, ...]
    graded: frozenset[str]
    """Metrics whose scores are C and I."""

    @property
    def about(self) -> Mapping[str, Any]:
        return self.header["eval"]

    @property
    def task(self) -> str:
        return str(self.about.get("task", ""))

    @property
    def put_on(self) -> dict[str, str]:
        """What ``-M`` put on the model."""
        given = self.about.get("model_args")
        return {
            name: _plain(value)
            for name, value in (given.items() if isinstance(given, Mapping) else ())
            if name not in _RUNS_IT and not _SECRET.search(name) and value is not None
        }

    @property
    def arguments(self) -> str:
        """The same as a sentence has it."""
        return ", ".join(f"{name}={one_line(value, _ARGUMENT, middle=True)}" for name, value in self.put_on.items())

    @property
    def subject(self) -> tuple[str, str]:
        """Which model this is, as a sentence calls it and with all that was put on it."""
        return with_arguments(str(self.about.get("model")), self.arguments), fingerprint(self.put_on)


class InspectLog(Source):
    """Logs of inspect."""

    what: ClassVar = "inspect logs (.eval, .json)"

    def claims(self, path: Path) -> bool:
        return _looks_like(path) if path.is_file() else any(True for _ in _files(path))

    def read(self, path: Path, problems: Problems) -> Sequence[TaskLog]:
        several = path.is_dir()
        logs, unfinished, unreadable = [], {}, []
        for file in _files(path) if several else [path]:
            try:
                log = _open(file)
            except UserError as error:
                unreadable.append(str(error))
                continue
            if why := _unfinished(log):
                unfinished[file] = (log, why)
            else:
                logs.append(log)
        if not logs:
            problems.extend(unreadable)
        done = {log.task for log in logs}
        left = [file.name for file, (log, _) in unfinished.items() if log.task in done]
        notes = (f"Left out, because they did not finish and another log of the task did: {', '.join(left)}.",) if left else ()
        models = sorted({log.subject for log in logs})
        if len(models) > 1:
            named = "; ".join(name for name, _ in models)
            problems.add(f"{path}: holds logs of {len(models)} models ({named}); give a folder of one of them")
            return []
        troubled = (
            TaskLog(log.task, str(log.about.get("model", "")), file, {}, (), trouble=f"{file}: {why}")
            for file, (log, why) in unfinished.items()
            if log.task not in done
        )
        return [
            *(replace(_task_log(name, log, (*notes, *told)), left_out=tuple(unreadable)) for name, log, told in _latest(logs)),
            *troubled,
        ]


def _files(folder: Path) -> Iterator[Path]:
    return (one for one in sorted(folder.rglob("*")) if one.suffix in (".eval", ".json") and _looks_like(one))


def _looks_like(path: Path) -> bool:
    if path.suffix == ".eval":
        return True
    begin = begins_with(path)
    return path.suffix == ".json" and b'"eval"' in begin and b'"version"' in begin and b'"task"' in begin


def _open(path: Path) -> _Log:
    if path.suffix == ".eval":
        with open_archive(path) as archive:
            header = {**archive.header} if archive.complete else {**archive.header, "status": "started"}
            return _read(path, header, archive.samples())
    try:
        data = parsed(read_file(path, _LARGEST))
    except UserError as error:
        raise UserError(str(error) if str(path) in str(error) else f"{path}: {error}; is it cut off?") from None
    if not is_log(data):
        raise UserError(f"{path}: is no inspect log")
    return _read(path, data, data.get("samples") or ())


def _read(path: Path, header: Mapping[str, Any], samples: Iterable[Any]) -> _Log:
    if not isinstance(header.get("eval"), Mapping):
        raise UserError(f"{path}: its header does not say what was evaluated")
    header, scorer = _of_one_scorer(header)
    graded: dict[str, bool] = {}
    answers = tuple(_answer(_with_scores(one, scorer), graded) for one in samples if isinstance(one, Mapping))
    return _Log(path, header, answers, frozenset(name for name, letters in graded.items() if letters))


def _of_one_scorer(header: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """Return a header with its results as they are listed today, and the scorer's name: until May 2024 a log had one scorer."""
    results = header.get("results")
    scorer = results.get("scorer") if isinstance(results, Mapping) else None
    name = str(scorer.get("name") or "score") if isinstance(scorer, Mapping) else "score"
    if not isinstance(results, Mapping) or "scores" in results or not isinstance(results.get("metrics"), Mapping):
        return header, name
    listed = [{"name": name, "scorer": name, "metrics": results["metrics"]}]
    return {**header, "results": {**results, "scores": listed}}, name


def _with_scores(sample: Mapping[str, Any], scorer: str) -> Mapping[str, Any]:
    """Return a sample with its scores by name; once it had one, under ``score``."""
    if sample.get("scores") is None and isinstance(sample.get("score"), Mapping):
        return {**sample, "scores": {scorer: sample["score"]}}
    return sample


def _unfinished(log: _Log) -> str:
    """Return why a log can't be compared: not finished, or a header alone."""
    status = str(log.header.get("status", "started"))[:40]
    if status != "success":
        error = log.header.get("error")
        said = f" ({str(error.get('message', ''))[:200]})" if isinstance(error, Mapping) else ""
        return (
            f"the evaluation did not finish: its status is '{status}'{said}, with {len(log.answers)} samples; the samples that "
            "are there are no fair choice of all. Finish it with `inspect eval-retry`, and give the new log"
        )
    return "" if log.answers else "it holds no samples, only a header; evaluate with samples logged (without --no-log-samples)"


def _latest(logs: Sequence[_Log]) -> Iterator[tuple[str, _Log, tuple[str, ...]]]:
    """Yield each task's name and newest log; logs of one task with other arguments are other tasks."""
    groups: dict[tuple[str, str], list[_Log]] = {}
    for log in sorted(logs, key=lambda one: str(one.about.get("created", ""))):
        groups.setdefault((log.task, _plain(log.about.get("task_args"))), []).append(log)
    names = [name for name, _ in groups]
    for (name, arguments), found in groups.items():
        told = (f"{len(found)} logs of {name} are there; the newest, {found[-1].path.name}, was read.",) if found[1:] else ()
        yield (name if names.count(name) == 1 else f"{name} {arguments}"), found[-1], told


def _task_log(name: str, log: _Log, notes: tuple[str, ...]) -> TaskLog:
    metrics = {metric for one in log.answers for metric in one.scores}
    own = _own(log.header)
    return TaskLog(
        task=name,
        model=str(log.about.get("model", "")),
        place=log.path,
        metrics={one: _metric(one, log, own.get(one)) for one in sorted(metrics)},
        answers=_clustered(log),
        settings=_settings(log.header),
        notes=(*notes, *_told(name, log)),
        files=(log.path,),
        arguments=log.arguments,
    )


def _told(name: str, log: _Log) -> Iterator[str]:
    if log.header.get("invalidated") is True:
        yield f"{name}: the log {log.path.name} was invalidated by hand."
    reducers = (log.about.get("config") or {}).get("epochs_reducer") or ["mean"]
    if reducers != ["mean"]:
        yield f"{name}: the log {log.path.name} reduces epochs by {', '.join(map(str, reducers))}; compared is their mean."


def _metadata(log: _Log) -> Mapping[str, Any]:
    """Return what the task says of itself."""
    found = log.about.get("metadata")
    return found if isinstance(found, Mapping) else {}


def _metric(name: str, log: _Log, own: float | None) -> Metric:
    scores = _metadata(log).get("scores")
    said = scores.get(name) if isinstance(scores, Mapping) else None
    said = said if isinstance(said, Mapping) else {}
    better, unit, margin = said.get("better"), said.get("unit"), finite(said.get("margin"))
    return Metric(
        name,
        better if better in ("higher", "lower") else _better(name, log.graded),
        unit=unit[:40] if isinstance(unit, str) else None,
        margin=margin if margin is not None and margin > 0 else None,
        own=own,
    )


def _clustered(log: _Log) -> tuple[Answer, ...]:
    """Return the answers with the clusters that the task names."""
    field = _metadata(log).get("cluster")
    if not isinstance(field, str):
        return log.answers
    return tuple(replace(one, cluster=str(one.fields[field])) if field in one.fields else one for one in log.answers)


def _better(metric: str, graded: frozenset[str]) -> Better | None:
    known = metric in graded or metric in _MORE_IS_BETTER or metric.startswith("model_graded")
    return "higher" if known else None


def _answer(sample: Mapping[str, Any], graded: dict[str, bool]) -> Answer:
    messages = messages_of(sample)
    said = [
        text_of(one.get("content")) or "" for one in messages if isinstance(one, Mapping) and one.get("role") == "assistant"
    ]
    asked = "\n".join(text_of(one.get("content")) or "" for one in input_of(sample) if isinstance(one, Mapping))
    choices = sample.get("choices") or []
    if isinstance(choices, list) and choices:
        asked += "".join(f"\n{chr(65 + place % 26)}) {choice}" for place, choice in enumerate(choices))
    trouble = _trouble(sample)
    return Answer(
        key=str(sample.get("id")),
        content=_content(sample, choices),
        epoch=sample["epoch"] if isinstance(sample.get("epoch"), int) else 1,
        scores={} if trouble else dict(_scores(sample.get("scores"), graded)),
        prompt=shortened(asked),
        answer=shortened(said[-1] if said else ""),
        given=fingerprint(_before_the_answer(messages)),
        fields=sample["metadata"] if isinstance(sample.get("metadata"), Mapping) else {},
        trouble=trouble,
    )


def _trouble(sample: Mapping[str, Any]) -> str:
    error = sample.get("error")
    if isinstance(error, Mapping):
        return f"it ended in an error ({str(error.get('message', ''))[:120]})"
    if sample.get("invalidation"):
        return "it was invalidated by hand"
    return "" if sample.get("scores") else "it was not scored"


def _content(sample: Mapping[str, Any], choices: Sequence[Any]) -> str:
    """Return a digest of question and right answer that is the same when the choices are in another order."""
    target = sample.get("target")
    right = target if isinstance(target, list) else [target]
    letters = {chr(65 + place): str(choice) for place, choice in enumerate(choices)}
    texts = [text_of(one.get("content")) for one in input_of(sample) if isinstance(one, Mapping)]
    return fingerprint(texts, sorted(map(str, choices)), sorted(letters.get(str(one), str(one)) for one in right))


def _before_the_answer(messages: Sequence[Any]) -> list[tuple[str, str]]:
    found = []
    for one in messages:
        if not isinstance(one, Mapping) or one.get("role") == "assistant":
            break
        found.append((str(one.get("role")), text_of(one.get("content")) or ""))
    return found


def _scores(scores: Any, graded: dict[str, bool]) -> Iterator[tuple[str, Score]]:
    for name, score in scores.items() if isinstance(scores, Mapping) else ():
        value = score.get("value") if isinstance(score, Mapping) else None
        parts = (
            {f"{name}.{key}": one for key, one in value.items()} if isinstance(value, Mapping)
            else {f"{name}.{place}": one for place, one in enumerate(value)} if isinstance(value, list)
            else {name: value}
        )  # fmt: skip
        for metric, one in parts.items():
            if isinstance(one, str) or finite(one) is not None:
                graded[metric] = graded.get(metric, True) and one in _LETTERS
            if (number := _number(one)) is not None:
                yield metric, Score(number)


def _number(value: Any) -> float | None:
    """Return a score's value as inspect's metrics read it; ``None`` where it is no number (there it would be 0)."""
    if not isinstance(value, str):
        return finite(value)
    if value in _LETTERS:
        return _LETTERS[value]
    if value.lower() in _WORDS:
        return _WORDS[value.lower()]
    try:
        return finite(float(value))
    except ValueError:
        return None


def _own(header: Mapping[str, Any]) -> dict[str, float]:
    """Return inspect's own means; there are none where epochs were reduced in another way than by their mean."""
    results = header.get("results")
    found: dict[str, float] = {}
    for one in (results.get("scores") or ()) if isinstance(results, Mapping) else ():
        if one.get("reducer") not in (None, "mean"):
            continue
        name = one["name"] if one.get("name") == one.get("scorer") else f"{one.get('scorer')}.{one.get('name')}"
        for metric in _MEANS:
            value = (one.get("metrics") or {}).get(metric)
            if isinstance(value, Mapping) and (number := finite(value.get("value"))) is not None:
                found[name] = number
    return found


def _settings(header: Mapping[str, Any]) -> dict[str, str]:
    """Return how it was asked and scored, in words that can be held side by side."""
    about, plan = header["eval"], header.get("plan") or {}
    config, dataset = about.get("config") or {}, about.get("dataset") or {}
    generation = {**(plan.get("config") or {}), **(about.get("model_generate_config") or {})}
    told = {
        "epochs": config.get("epochs") or 1,
        "reducer of the epochs": config.get("epochs_reducer") or ["mean"],
        "limit": config.get("limit"),
        "task version": about.get("task_version"),
        "samples in the data set": dataset.get("samples"),
        "solver": [[one.get("solver"), one.get("params")] for one in plan.get("steps") or () if isinstance(one, Mapping)],
        "scorers": [[one.get("name"), one.get("options")] for one in about.get("scorers") or () if isinstance(one, Mapping)],
        "version of inspect": (about.get("packages") or {}).get("inspect_ai"),
        **{f"argument {name}": value for name, value in (about.get("task_args") or {}).items()},
        **{f"generation, {name}": value for name, value in generation.items()},
    }
    return {name: _plain(value) for name, value in told.items() if value is not None}


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
