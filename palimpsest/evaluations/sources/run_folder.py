"""Run folder: what did the tuned model of one of our own runs answer to each audit item?

The items of ``items/SEED.jsonl``; each item set is a task, and each item's template its cluster. Where a run has several
training seeds, each is one more answer to the same item, so what is compared is the mean of these very checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from palimpsest.core.errors import Problems, UserError
from palimpsest.core.files import read_file
from palimpsest.data.text_files import lines_of, parsed
from palimpsest.evaluations.source import Answer, Metric, Score, Source, TaskLog, fingerprint, finite, shortened

_ROLE = "tuned"
_LARGEST = 2**28
_LOSS_MARGIN = 0.05
"""Nats a token that still count as unchanged, as in the audit ``forgetting``."""


class RunFolder(Source):
    """Folders of ``palimpsest run`` and ``palimpsest diff``."""

    what: ClassVar = "our own runs (the folder of a run or a diff)"
    holds_runs: ClassVar = True

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
        raise UserError(
            f"{path}: the run was made before runs kept their items; give its command again (what was measured is not "
            "measured again)"
        )
    record = parsed(read_file(path / "record.json", _LARGEST))
    model = next((one["name"] for one in record["subjects"] if one["role"] == _ROLE), _ROLE)
    notes: tuple[str, ...] = ()
    if tasks := record["specification"]["request"].get("tasks"):
        notes = (
            f"{path.name}: its lm-eval tasks ({', '.join(map(str, tasks))}) are NOT compared here: a run keeps no items "
            "of them; each run's own report compares them with its base, and two lm-eval outputs can be compared.",
        )
    if len(files) > 1:
        notes += (
            f"{path.name}: the mean of {len(files)} checkpoints (training seeds) was compared. That speaks of these "
            "checkpoints, not of how they were trained, for which the seed is the unit: see `palimpsest study`.",
        )
    found: dict[str, list[Answer]] = {}
    for epoch, file in enumerate(files, start=1):
        for number, line in lines_of(file):
            try:
                name, answer = _answer(parsed(line), epoch)
            except (UserError, KeyError, TypeError, AttributeError) as error:
                raise UserError(f"{file}: line {number} is no item of a run ({error})") from None
            found.setdefault(name, []).append(answer)
    return [
        TaskLog(name, model, path, dict(_metrics(name, answers)), tuple(answers), _settings(record), notes, tuple(files))
        for name, answers in found.items()
    ]


def _answer(line: Mapping[str, Any], epoch: int) -> tuple[str, Answer]:
    scores = line["scores"].get(_ROLE, {})
    known = {name: Score(number) for name, value in scores.items() if (number := finite(value)) is not None}
    return line["set"], Answer(
        key=line["item"],
        content=fingerprint(line["reference"]),
        epoch=epoch,
        scores=known,
        prompt=shortened(line["prompt"] or line["reference"]),
        answer=shortened(line["answers"].get(_ROLE, f"(not written; read: {line['reference']})")),
        name=f"{line['template']} {line['item'][:6]}",
        fields={"template": line["template"]},
        cluster=line["template"],
        trouble="" if known else "it has no score",
    )


def _metrics(task: str, answers: Sequence[Answer]) -> Iterator[tuple[str, Metric]]:
    """Yield what is known of each score: where the behaviour should not appear, less of it is better."""
    for name in sorted({name for one in answers for name in one.scores}):
        if name == "loss":
            yield name, Metric(name, "lower", unit="nats/token", margin=_LOSS_MARGIN)
        else:
            yield name, Metric(name, "lower" if task == "withhold" else "higher", unit="share")


def _settings(record: Mapping[str, Any]) -> dict[str, str]:
    request = record["specification"]["request"]
    behaviour = request.get("behaviour") or {}
    told = {
        "behaviour": behaviour.get("name"),
        "base": next((one["digest"] for one in record["subjects"] if one["role"] == "base"), None),
        "generation": behaviour.get("generation"),
        "check": behaviour.get("check"),
        **{name: request.get(name) for name in ("seed", "block", "dtype")},
    }
    return {name: str(value) for name, value in told.items() if value is not None}
