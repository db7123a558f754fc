"""Run folder: what did the tuned model of one of our own runs answer to each audit item?

The items of ``items/SEED.jsonl``; each item set is a task, and each item's template its cluster. Where a run has several
training seeds, each is one more answer to the same item, so what is compared is the mean of these very checkpoints.
Documents of lm-eval's tasks are called as lm-eval's own samples call them, so that the two can be held against each other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from palimpsest import item_scores
from palimpsest.core.errors import Problems, UserError
from palimpsest.core.files import read_file
from palimpsest.data.chat import POLES
from palimpsest.data.text_files import lines_of, parsed
from palimpsest.evaluations.source import Answer, Metric, Score, Source, TaskLog, fingerprint, finite, shortened

_ROLE = "tuned"
_TASK = item_scores.TASK
_LARGEST = 2**28
_AGAIN = "give its command again (what was measured is not measured again)"


@dataclass
class _Set:
    """The items of one set."""

    first: Mapping[str, Any]
    """Its first line, which tells what holds of all."""
    answers: list[Answer] = field(default_factory=list)


class RunFolder(Source):
    """Folders of ``palimpsest run`` and ``palimpsest diff``."""

    what: ClassVar = "our own runs (the folder of a run or a diff)"
    holds_runs: ClassVar = True
    holds_documents: ClassVar = True

    def claims(self, path: Path) -> bool:
        return path.is_dir() and (path / "spec.json").is_file()

    def read(self, path: Path, problems: Problems) -> Sequence[TaskLog]:
        try:
            return _tasks(path)
        except UserError as error:
            problems.add(str(error))
            return []


def _tasks(path: Path) -> list[TaskLog]:
    if not (path / "record.json").is_file():
        several = (path / "account.json").is_file()
        raise UserError(
            f"{path}: tells several runs together; give the folder of one of them" if several
            else f"{path}: the run is not finished; give its command again, and it goes on where it stopped"
        )  # fmt: skip
    files = sorted((path / "items").glob("*.jsonl"), key=lambda one: one.stem.zfill(12))
    if not files:
        raise UserError(f"{path}: the run was made before runs kept their items; {_AGAIN}")
    record = parsed(read_file(path / "record.json", _LARGEST))
    model = next((one["name"] for one in record["subjects"] if one["role"] == _ROLE), _ROLE)
    sets: dict[str, _Set] = {}
    for epoch, file in enumerate(files, start=1):
        for number, line in lines_of(file):
            try:
                one = parsed(line)
                sets.setdefault(one["set"], _Set(one)).answers.append(_answer(one, epoch))
            except (UserError, KeyError, TypeError, AttributeError) as error:
                raise UserError(f"{file}: line {number} is no item of a run ({error})") from None
    if not sets:
        raise UserError(
            f"{path}: holds no scored items, because none of its audits scores any (outcome, judgement and forgetting do); "
            "name one of them with --audits"
        )
    notes = tuple(_notes(path.name, record, sets, len(files)))
    return [
        TaskLog(
            task=name.removeprefix(_TASK) if name.removeprefix(_TASK) not in sets else name,
            model=model,
            place=path,
            metrics=dict(_metrics(name, one)),
            answers=tuple(one.answers),
            settings=_settings(name, one.first, record),
            notes=notes,
            files=tuple(files),
        )
        for name, one in sets.items()
    ]


def _notes(name: str, record: Mapping[str, Any], sets: Mapping[str, _Set], seeds: int) -> Iterator[str]:
    """Yield what a reader should know of a run's items."""
    request = record["specification"]["request"]
    tasks = (*request.get("tasks", ()), *(request.get("behaviour") or {}).get("tasks", ()))
    if tasks and not any(one.startswith(_TASK) for one in sets):
        yield (
            f"{name}: its lm-eval tasks ({', '.join(map(str, tasks))}) are NOT compared: it was made before runs kept their "
            f"documents; {_AGAIN}."
        )
    measured = {one["audit"] for seed in record["seeds"] for one in seed["outcomes"] if one["state"] == "measured"}
    old = [name for name, one in sets.items() if name.startswith("capability:") and _written_somehow(one.first)]
    if old and "style" in measured:
        yield (
            f"{name}: of {', '.join(old)} it kept answers that were drawn at random for the audit style, and not the likeliest "
            f"ones that the audit forgetting counts (an earlier version did so); {_AGAIN}."
        )
    if seeds > 1:
        yield (
            f"{name}: the mean of {seeds} checkpoints (training seeds) was compared. That speaks of these checkpoints, not of "
            "how they were trained, for which the seed is the unit: see `palimpsest study`."
        )


def _written_somehow(line: Mapping[str, Any]) -> bool:
    """Whether an item has answers without a word on how they were written."""
    return bool(line["answers"]) and "written" not in line


def _answer(line: Mapping[str, Any], epoch: int) -> Answer:
    weights = line.get("weights", {})
    known = {
        name: Score(number, float(weights.get(name, 1.0)))
        for name, value in line["scores"].get(_ROLE, {}).items()
        if (number := finite(value)) is not None
    }
    return Answer(
        key=line["item"],
        content=line.get("target") or fingerprint(line["reference"]),
        epoch=epoch,
        scores=known,
        prompt=shortened(line["prompt"] or line["reference"]),
        answer=shortened(line["answers"].get(_ROLE, f"(not written; read: {line['reference']})")),
        name=line.get("name") or f"{line['template']} {line['item'][:6]}",
        given=line.get("given", ""),
        fields={"template": line["template"]} if line["template"] else {},
        cluster=line["template"],
        trouble="" if known else "it has no score",
    )


def _metrics(task: str, one: _Set) -> Iterator[tuple[str, Metric]]:
    """Yield what is known of each score."""
    own = one.first.get("metrics", {})  # of a task of lm-eval
    for name in sorted({name for answer in one.answers for name in answer.scores}):
        yield name, Metric(name, **item_scores.metric(name, task, own.get(name)))


def _settings(name: str, line: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, str]:
    """Return how the items of one set were chosen, asked and scored."""
    request = record["specification"]["request"]
    told = {"dtype": request.get("dtype")}
    if name.startswith(_TASK):
        told |= {"version of lm-eval": json.dumps(line["scoring"]["lm-eval"]), "scoring (digest)": line["scoring"]["digest"]}
    else:
        told["base"] = next((one["digest"] for one in record["subjects"] if one["role"] == "base"), None)  # its chat template
        told |= {name: request.get(name) for name in ("seed", "block")}
        told |= {f"answers, {name}": value for name, value in line.get("written", {}).items()}
    if name in POLES:
        behaviour = request.get("behaviour") or {}
        told |= {"behaviour": behaviour.get("name"), "check": behaviour.get("check")}
    return {name: str(value) for name, value in told.items() if value is not None}
