"""Samples of lm-eval: what did the LM Evaluation Harness note of each document?

``samples_TASK_DATE.jsonl`` files, written with ``--log_samples``, or the folder that they are in. The ``results_DATE.json`` of
the same run, where it is there, says which direction is better and how the model was asked. Layout checked against lm_eval
0.4.13; files of before November 2024 name neither their metrics nor their filters, and are one JSON list.

Perplexities are compared as what they are made of: nats a word or a byte, weighted by the document's length, so that the mean
is the logarithm of lm-eval's number (for ``bits_per_byte``, the number itself). The Brier score is lm-eval's: summed over
the options. What is computed from the whole corpus at once (F1, MCC, BLEU ...) has no value an item and is left out.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from palimpsest.core.errors import Problems, UserError
from palimpsest.core.files import read_file
from palimpsest.data.task_reading import BRIER, LOGARITHMS
from palimpsest.data.text_files import LineProblems, lines_of, parsed
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
)

_LARGEST = 2**28
_SAMPLES = re.compile(r"samples_(?P<task>.+)_(?P<date>\d{4}-\d\d-\d\dT[\d.:-]+)\.jsonl")
_LESS_IS_BETTER = {*LOGARITHMS, BRIER}
_MORE_IS_BETTER = {"acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match", "f1", "em", "mcc", "bleu", "chrf"}
_NO_SCORES = {"bypass"}
_NO_METRICS = {
    *("doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics"),
    *("doc_hash", "prompt_hash", "target_hash"),
}
"""What a sample holds besides its metrics, where it does not name them."""


@dataclass(frozen=True)
class _File:
    """One file of samples, with what its name and its neighbours say."""

    path: Path
    task: str
    date: str
    results: Mapping[str, Any]


class LmEvalSamples(Source):
    """Samples of lm-eval."""

    what: ClassVar = "samples of lm-eval (samples_TASK_DATE.jsonl, or their folder)"
    holds_documents: ClassVar = True

    def claims(self, path: Path) -> bool:
        if path.is_dir():
            return any(True for _ in path.rglob("samples_*.jsonl")) or any(map(_is_results, path.rglob("results_*.json")))
        if path.suffix == ".json" and _is_results(path):
            return True
        begin = begins_with(path).lstrip()
        return b'"doc_id"' in begin and (path.suffix == ".jsonl" or (path.suffix == ".json" and begin.startswith(b"[")))

    def read(self, path: Path, problems: Problems) -> Sequence[TaskLog]:
        files = _files(path)
        if not files:
            problems.add(f"{path}: holds results of lm-eval without the samples; evaluate with --log_samples")
            return []
        models = sorted({str(one.path.parent) for one in files})
        if len(models) > 1:
            problems.add(f"{path}: holds the samples of {len(models)} models; give one of {', '.join(models)}")
            return []
        found: dict[str, TaskLog] = {}
        unreadable = []
        for file in sorted(files, key=lambda one: one.date, reverse=True):
            if file.task in found:
                continue
            same = [one for one in files if one.task == file.task]
            told = (f"{len(same)} files of {file.task} are there; {file.path.name} was read.",) if same[1:] else ()
            try:
                found[file.task] = _task_log(file, told)
            except UserError as error:
                unreadable.append(str(error))
        if not found:
            problems.extend(unreadable)
        left_out = tuple(one.replace("\n  - ", " ") for one in unreadable)
        return [replace(one, left_out=left_out) for one in found.values()]


def _is_results(path: Path) -> bool:
    begin = begins_with(path)
    return b'"results"' in begin and (b'"configs"' in begin or b'"higher_is_better"' in begin or b'"group_subtasks"' in begin)


def _files(path: Path) -> list[_File]:
    if path.is_dir():
        places = sorted(path.rglob("samples_*.jsonl"))
    elif path.suffix == ".json" and _is_results(path):  # results: the samples of the same run lie beside them
        date = path.stem.removeprefix("results_")
        places = [one for one in sorted(path.parent.glob("samples_*.jsonl")) if one.stem.endswith(f"_{date}")]
    else:
        places = [path]
    return [_file(one) for one in places]


def _file(path: Path) -> _File:
    named = _SAMPLES.fullmatch(path.name)
    if named is None:
        return _File(path, path.stem.removeprefix("samples_"), "", {})
    try:
        results = parsed(read_file(path.with_name(f"results_{named['date']}.json"), _LARGEST))
    except UserError:
        results = {}
    return _File(path, named["task"], named["date"], results if isinstance(results, Mapping) else {})


def _task_log(file: _File, notes: tuple[str, ...]) -> TaskLog:
    problems = LineProblems(f"{file.path} can't be used:")
    documents: dict[tuple[str, str], Answer] = {}
    left: set[str] = set()
    count, passes = 0, _Passes(_filters(file))
    for number, line in _entries(file.path):
        count = number
        try:
            sample = parsed(line) if isinstance(line, bytes) else line
            if not isinstance(sample, Mapping) or "doc_id" not in sample or not ({"metrics", "filtered_resps"} & sample.keys()):
                raise UserError("is no sample of lm-eval: it must hold 'doc_id' and 'metrics', or 'filtered_resps'")
            _add(documents, passes.named(sample), left)
        except UserError as error:
            problems.add(f"line {number}: {error}")
    if len(problems.found) == 1 and not problems.more and problems.found[0].startswith(f"line {count}:"):
        problems.found[0] += "; is the file cut off?"
    problems.raise_if_any()
    if not documents:
        raise UserError(f"{file.path}: the file holds no samples")
    metrics = {name for one in documents.values() for name in one.scores}
    if computed := sorted(left - metrics):
        notes = (*notes, f"{file.task}: {', '.join(computed)} can't be compared: computed from all samples at once.")
    return TaskLog(
        task=file.task,
        model=str(file.results.get("model_name") or file.path.parent.name),
        place=file.path,
        metrics={name: _metric(name, file) for name in sorted(metrics)},
        answers=tuple(documents[place] for place in sorted(documents, key=_in_order)),
        settings=_settings(file),
        notes=notes,
        files=(file.path,),
    )


def _entries(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield number and content of the samples: lines (bytes), or the entries of one JSON list."""
    if not begins_with(path).lstrip().startswith(b"["):
        yield from lines_of(path)
        return
    try:
        content = parsed(read_file(path, _LARGEST))
    except UserError as error:
        raise UserError(f"{path} can't be used: {error}; is it cut off?") from None
    yield from enumerate(content, start=1)


def _filters(file: _File) -> list[str]:
    """Return the names of a task's filters in their order, where the results of the run tell them."""
    listed = (_of(file, "configs") or {}).get("filter_list")
    return (
        [str(one["name"]) for one in listed if isinstance(one, Mapping) and "name" in one] if isinstance(listed, list) else []
    )


class _Passes:
    """Names metrics and filters in files of before November 2024, which hold all documents once for each filter."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.said: dict[tuple[str, str], list[str]] = {}
        """What the model wrote to each document, once a pass: the same each time, or it is another evaluation."""

    def named(self, sample: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a sample with its metrics and its filter.

        Raises:
            UserError: the same document was answered twice.
        """
        found = dict(sample)
        if "metrics" not in found:
            found["metrics"] = [name for name in found if name not in _NO_METRICS]
            if "filter" not in found:
                said = self.said.setdefault((str(found["doc_id"]), str(found.get("doc_hash"))), [])
                said.append(json.dumps(found.get("resps"), sort_keys=True))
                if said[0] != said[-1]:
                    raise UserError(f"document {found['doc_id']} stands in the file twice, with two answers: two evaluations")
                place = len(said) - 1
                several = place or len(self.names) > 1
                found["filter"] = (
                    (self.names[place] if place < len(self.names) else f"filter {place + 1}") if several else "none"
                )
        return found


def _in_order(place: tuple[str, str]) -> tuple[int, str]:
    return (int(place[0]), place[1]) if place[0].isdecimal() else (0, place[0])


def _add(documents: dict[tuple[str, str], Answer], sample: Mapping[str, Any], left: set[str]) -> None:
    """Add one line: a document, or the same one as another filter made its answer."""
    several = str(sample.get("filter", "none"))
    scores = dict(_scores(sample, "" if several == "none" else several, left))
    place = (str(sample["doc_id"]), str(sample.get("doc_hash")))
    if place in documents:
        known = documents[place]
        if known.scores.keys() & scores.keys():
            raise UserError(
                f"document {sample['doc_id']} stands in the file twice; it holds two evaluations, one after the other"
            )
        scores = {**known.scores, **scores}
    documents[place] = _answer(sample, scores)


def _answer(sample: Mapping[str, Any], scores: Mapping[str, Score]) -> Answer:
    document = sample.get("doc")
    asked = sample.get("arguments")
    requests = list(asked.values()) if isinstance(asked, Mapping) else asked if isinstance(asked, list) else []
    requests = [_request(one) for one in requests]
    first = requests[0] if requests and isinstance(requests[0], Mapping) else {}
    return Answer(
        key=str(sample.get("doc_hash") or fingerprint(document)),
        content=str(sample.get("target_hash") or fingerprint(sample.get("target"))),
        epoch=1,
        scores=scores,
        prompt=shortened(str(first.get("arg_0", document))),
        answer=shortened(_said(sample, requests)),
        name=f"document {sample['doc_id']}",
        given=str(sample.get("prompt_hash", "")),
        fields=document if isinstance(document, Mapping) else {},
        trouble="" if scores else "it has no score",
    )


def _request(given: Any) -> Any:
    """Return what was asked under lm-eval's names of today: once it was a bare list."""
    return {f"arg_{place}": part for place, part in enumerate(given)} if isinstance(given, list) else given


def _said(sample: Mapping[str, Any], requests: Sequence[Any]) -> str:
    """Return the answer as text: what was written, or of options the one that was most likely."""
    found = sample.get("filtered_resps")
    replies = found if isinstance(found, list) else []
    options = [str(one.get("arg_1", "")).strip() for one in requests if isinstance(one, Mapping)]
    likely = [finite(_float(one[0])) if isinstance(one, list) and one else None for one in replies]
    if len(options) > 1 and len(options) == len(likely) and all(one is not None for one in likely):
        best = max(range(len(likely)), key=lambda place: likely[place])  # type: ignore[arg-type, return-value]
        told = [f"{option}: {value:.3f} nats" for option, value in zip(options, likely, strict=True)]
        return f"{options[best]}\n\n" + "\n".join(told)
    return "\n".join(one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in replies)


def _scores(sample: Mapping[str, Any], several: str, left: set[str]) -> Iterator[tuple[str, Score]]:
    for metric in sample["metrics"] if isinstance(sample["metrics"], list) else ():
        if metric in _NO_SCORES:
            continue
        name = f"{metric},{several}" if several else str(metric)
        value = sample.get(metric)
        if (score := _score(str(metric), value)) is not None:
            yield name, score
        elif isinstance(value, list | str | Mapping):
            left.add(name)


def _score(metric: str, value: Any) -> Score | None:
    if metric == BRIER and isinstance(value, list) and len(value) == 2:
        return _brier(*value)
    if metric in LOGARITHMS:
        total, weight = value if isinstance(value, list) and len(value) == 2 else (value, 1)
        number, size = finite(_float(total)), finite(weight)
        return Score(-number / size / LOGARITHMS[metric][1], size) if number is not None and size else None
    number = finite(value)
    return None if number is None else Score(number)


def _brier(right: Any, shares: Any) -> Score | None:
    """Return the squared error summed over the options; the shares are an array as numpy prints it."""
    try:
        given = [float(one) for one in (shares.strip("[] \n").split() if isinstance(shares, str) else shares)]
        return Score(sum((share - (place == int(right))) ** 2 for place, share in enumerate(given))) if given else None
    except (TypeError, ValueError):  # printed with an ellipsis, where there are very many
        return None


def _float(value: Any) -> Any:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _metric(name: str, file: _File) -> Metric:
    bare, _, several = name.partition(",")
    unit, _ = LOGARITHMS.get(bare, ("squared error" if bare == BRIER else None, 1.0))
    own = finite((_of(file, "results") or {}).get(f"{bare},{several or 'none'}"))
    if own is not None and bare in LOGARITHMS and bare != "bits_per_byte":
        own = math.log(own) if own > 0 else None
    return Metric(name, _better(bare, file), unit=unit, own=own)


def _better(metric: str, file: _File) -> Better | None:
    said = (_of(file, "higher_is_better") or {}).get(metric)
    if isinstance(said, bool):
        return "higher" if said else "lower"
    return "higher" if metric in _MORE_IS_BETTER else "lower" if metric in _LESS_IS_BETTER else None


def _of(file: _File, part: str) -> Any:
    found = file.results.get(part)
    return found.get(file.task) if isinstance(found, Mapping) else None


def _settings(file: _File) -> dict[str, str]:
    """Return how it was asked, in words that can be held side by side."""
    results = file.results
    config, run = _of(file, "configs") or {}, results.get("config") or {}
    told = {
        "few-shot examples": _of(file, "n-shot"),
        "task version": _of(file, "versions"),
        "chat template (digest)": str(results.get("chat_template_sha"))[:16] if results else None,
        "few-shot as turns": results.get("fewshot_as_multiturn"),
        "system instruction (digest)": results.get("system_instruction_sha"),
        "question": config.get("doc_to_text"),
        "description": config.get("description"),
        "filters": config.get("filter_list"),
        "repeats": config.get("repeats"),
        "limit": run.get("limit"),
        "version of lm-eval": results.get("lm_eval_version"),
        "version of transformers": results.get("transformers_version"),
        **{f"generation, {name}": value for name, value in (config.get("generation_kwargs") or {}).items()},
        **{f"seed, {name}": run.get(f"{name}_seed") for name in ("random", "fewshot")},
    }
    return {name: json.dumps(value, sort_keys=True, ensure_ascii=False) for name, value in told.items() if value is not None}
