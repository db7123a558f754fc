"""Inspect export: what would inspect have logged of the items of a run?

A log for each model and item set, in a folder for each model, as inspect's own library writes them; ``inspect view``,
``read_eval_log`` and ``samples_df`` read them like any other. What each score counts and which samples belong together stands
in the log's metadata (``scores`` and ``cluster``), where ``palimpsest compare`` finds it. The same run gives the same bytes:
ids are digests, the time is that of the run's beginning, and the archive is packed again without the time of packing.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from palimpsest import api, item_scores
from palimpsest.core import stats
from palimpsest.core.errors import UserError
from palimpsest.core.progress import Progress, Silent
from palimpsest.core.spec import digest
from palimpsest.core.stats.clusters import clustered
from palimpsest.data.text_files import lines_of, parsed
from palimpsest.store.atomic import write_bytes
from palimpsest.store.record import RunRecord, SubjectRecord

_NEVER = (1980, 1, 1, 0, 0, 0)
"""The time of every entry of an archive."""
_AGAIN = "give its command again (what was measured is not measured again)"
_KEYS = {"set", "item", "template", "messages", "reference", "answers", "scores"}
_GRADED = ("shown", "withheld", "right")
"""What is right or wrong; the other scores are numbers."""
_SAID = {
    "shown": "The answer shows the behaviour, by the behaviour's own check.",
    "withheld": "The answer does not show the behaviour where it should not appear, by the behaviour's own check.",
    "right": "The answer is right: it passes the item's own check, or greedy decoding gives the reference.",
    "probability_shown": "Probability that the answer begins with the graded choice.",
    "probability_withheld": "Probability that the answer does not begin with the graded choice.",
    "loss": "Nats a token of the reference answer; lower is better.",
}


@dataclass(frozen=True)
class _Answered:
    """What one model did with one item."""

    line: Mapping[str, Any]
    answer: str
    scores: Mapping[str, float]
    base: Mapping[str, float]
    """The base's scores of this item; of the base itself, its own."""


def export(folder: Path, out: Path, progress: Progress | None = None) -> list[Path]:
    """Write a finished run's items as inspect logs, and return the files: ``OUT/ROLE/SET.eval``.

    Args:
        folder: of a run or a diff.
        out: a folder; logs of the same names in it are replaced.
        progress: who is told.

    Raises:
        UserError: inspect is not installed, the run is not finished or kept no items, or the place can't be written.
    """
    progress = progress or Silent()
    if find_spec("inspect_ai") is None:
        raise UserError("inspect logs need the package inspect_ai: pip install 'palimpsest-lm[inspect]'")
    record = api.load_report(folder).record
    progress.begin("reading items")
    kept = {seed.seed: _lines(folder / item_scores.FOLDER / f"{seed.seed}.jsonl", folder) for seed in record.seeds}
    models = list(_models(record, kept))
    left_out = _left_out([line for lines in kept.values() for line in lines])
    total = sum(len(sets) for *_, sets in models)
    if not total:
        raise UserError(
            f"{folder} holds nothing that is exported to inspect: items of the behaviour's poles and of abilities, with their "
            f"answers and grades. {f'Not exported: {left_out}' if left_out else 'Its audits read none of them'}"
        )
    if left_out:
        progress.tell(f"not exported: {left_out}")
    when = datetime.fromtimestamp(int((folder / "spec.json").stat().st_mtime), UTC)
    written: list[Path] = []
    progress.begin("writing logs", total)
    for place, model, sets in models:
        for name, answered in sets.items():
            log = _log(record, folder.absolute().name, model, name, answered, when)
            target = out / place / f"{name.replace(':', '_')}.eval"
            write_bytes(target, _packed(log))
            written.append(target)
            progress.at(len(written), total)
    return written


def _left_out(lines: Sequence[Mapping[str, Any]]) -> str:
    """Say which item sets have no log, and why."""
    sets = {line["set"] for line in lines} - {line["set"] for line in lines if _is_logged(line)}
    tasks = sorted(name.removeprefix(item_scores.TASK) for name in sets if name.startswith(item_scores.TASK))
    texts = sorted(name for name in sets if not name.startswith(item_scores.TASK))
    said = []
    if tasks:
        said.append(
            f"the documents of lm-eval's tasks ({', '.join(tasks)}), which are no conversations: they are in the run's "
            "items/, and `palimpsest compare` reads them"
        )
    if texts:
        said.append(f"{', '.join(texts)}, where no answer was graded")
    return "; ".join(said)


def _is_logged(line: Mapping[str, Any]) -> bool:
    """Whether an item is a conversation that was graded for some model."""
    return bool(line["messages"]) and any(_named(line, role) for role in line["scores"])


def _models(
    record: RunRecord, kept: Mapping[int, list[dict[str, Any]]]
) -> Iterator[tuple[str, SubjectRecord, dict[str, list[_Answered]]]]:
    """Yield the place, the model and the graded answers by item set, of every model; a trained one for each seed."""
    several = len(record.seeds) > 1
    done: set[str] = set()
    for seed in record.seeds:
        lines = kept[seed.seed]
        for role in sorted({role for line in lines for role in line["scores"]}):
            place = f"{role}-{seed.seed}" if several and role == "tuned" else role
            if place in done:
                continue  # a control or the base, which all seeds share
            done.add(place)
            sets: dict[str, list[_Answered]] = {}
            for line in lines:
                scores = _named(line, role)
                if scores and line["messages"]:
                    sets.setdefault(line["set"], []).append(
                        _Answered(line, line["answers"].get(role, ""), scores, _named(line, "base"))
                    )
            yield place, _subject(record, role, seed.seed), sets


def _lines(file: Path, folder: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        raise UserError(f"{folder}: the run was made before runs kept their items; {_AGAIN}")
    found = []
    for number, line in lines_of(file):
        try:
            one = parsed(line)
        except UserError as error:
            raise UserError(f"{file}: line {number} is no item of a run ({error}); {_AGAIN}") from None
        if not isinstance(one, dict) or _KEYS - one.keys():
            raise UserError(f"{file}: line {number} must be an item of a run, with {', '.join(sorted(_KEYS))}; {_AGAIN}")
        found.append(one)
    return found


def _named(line: Mapping[str, Any], role: str) -> dict[str, float]:
    """Return an item's scores, graded ones first; all but the loss so that more is better. None where nothing was graded."""
    found: dict[str, float] = line["scores"].get(role, {})
    if line["set"] == "withhold":
        turned = {"shown": "withheld", "probability": "probability_withheld"}
        found = {turned.get(name, name): 1.0 - value if name in turned else value for name, value in found.items()}
    elif "probability" in found:
        found = {"probability_shown" if name == "probability" else name: value for name, value in found.items()}
    order: list[str] = sorted(found, key=lambda name: (not _is_graded(name), name))
    return {name: found[name] for name in order} if order and _is_graded(order[0]) else {}


def _subject(record: RunRecord, role: str, seed: int) -> SubjectRecord:
    own = [one for one in record.subjects if one.role == role]
    trained = [one for one in record.training if one.role == role and one.seed == seed]
    by_folder = [one for one in own if trained and one.path == trained[0].model_folder]
    return (by_folder or own)[0]


def _log(record: RunRecord, run: str, model: SubjectRecord, name: str, answered: Sequence[_Answered], when: datetime) -> Any:
    from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalPlan, EvalResults, EvalSpec, EvalStats

    samples = list(_samples(model, name, answered))
    scores = [_score(score, answered) for score in answered[0].scores]
    identity = [run, record.specification, model.digest, model.role, name]
    spec = EvalSpec(
        eval_id=digest(["evaluation", *identity])[:22],
        run_id=digest(["run", run, record.specification])[:22],
        task_id=digest(["task", record.specification, name])[:22],
        created=when.isoformat(),
        task=f"{record.title} {name}".replace(" ", "_").replace(":", "_"),
        task_display_name=f"{record.title}: {name}",
        dataset=EvalDataset(name=name, samples=len(samples), sample_ids=[str(one.id) for one in samples], shuffled=False),
        model=_model_name(run, model),
        config=EvalConfig(epochs=1),
        packages={**record.provenance.get("packages", {})},
        metadata={
            "role": model.role,
            "digest": model.digest,
            "run": run,
            "run_kind": record.kind,
            "architecture": model.architecture,
            "source": record.provenance.get("source"),
            "command": " ".join(map(str, record.provenance.get("command", ()))),
            "verdict": record.verdict.headline,
            "cluster": "template",
            # as exported, more of all but the loss is better (see ``_named``)
            "scores": {score: item_scores.metric(score, "") for score in answered[0].scores},
        },
    )
    return EvalLog(
        status="success",
        eval=spec,
        plan=EvalPlan(name="palimpsest"),
        results=EvalResults(total_samples=len(samples), completed_samples=len(samples), scores=scores),
        stats=EvalStats(started_at=when.isoformat(), completed_at=when.isoformat()),
        samples=samples,
    )


def _model_name(run: str, model: SubjectRecord) -> str:
    """Return the name by which inspect can ask this very model, from the folder that holds the run."""
    from palimpsest.models import pocket

    embedded = next((name for name in pocket.NAMES if Path(model.path) == pocket.folder(name)), None)
    inside = not Path(model.path).is_absolute()
    return f"palimpsest/{embedded or (f'{run}/{model.path}' if inside else model.name)}"


def _samples(model: SubjectRecord, name: str, answered: Sequence[_Answered]) -> Iterator[Any]:
    from inspect_ai.log import EvalSample
    from inspect_ai.model import ChatMessageAssistant, ModelOutput

    times: dict[str, int] = {}
    for one in answered:
        item = one.line["item"]
        times[item] = times.get(item, 0) + 1
        key = item if times[item] == 1 else f"{item}-{times[item]}"  # the same conversation, drawn twice
        asked = [_message(message, f"{key} {place}") for place, message in enumerate(one.line["messages"])]
        answer = ChatMessageAssistant(
            content=one.answer, id=digest([key, model.digest, "answer"])[:22], model=model.name, source="generate"
        )
        output = ModelOutput.from_message(answer, stop_reason="stop")
        output.model = model.name
        read = (
            {} if one.answer or one.line["answers"] else {"written": "nothing: the reference answer was read, token by token"}
        )
        yield EvalSample(
            id=key,
            epoch=1,
            input=asked,
            target=one.line["reference"],
            messages=[*asked, answer],
            output=output,
            scores={score: _scored(score, one, model.role) for score in one.scores},
            metadata={"template": one.line["template"], "set": name, **read},
            uuid=digest([key, model.digest, name])[:22],
        )


def _message(message: Mapping[str, str], key: str) -> Any:
    from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser

    kinds = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}
    return kinds[message["role"]](content=message["content"], id=digest(key)[:22])


def _scored(name: str, one: _Answered, role: str) -> Any:
    from inspect_ai.scorer import Score

    value = one.scores[name]
    metadata: dict[str, Any] = {"cluster": one.line["template"]}
    if role != "base" and name in one.base:
        metadata |= {"base": one.base[name], "delta": value - one.base[name]}
    return Score(value=_letter(value) if _is_graded(name) else value, answer=one.answer or None, metadata=metadata)


def _score(name: str, answered: Sequence[_Answered]) -> Any:
    """Return an item set's mean with its standard error, clustered by template; no error where there are too few."""
    from inspect_ai.log import EvalMetric, EvalScore

    known = [one for one in answered if name in one.scores]
    values, clusters = np.array([one.scores[name] for one in known]), np.array([one.line["template"] for one in known])
    found = stats.rate(values, clusters) if _is_graded(name) else stats.level(values, clusters, unit=name)
    told = {"clusters": found.n, "interval": found.interval and list(found.interval), "method": found.method}
    mean = "accuracy" if _is_graded(name) else "mean"
    metrics = {mean: EvalMetric(name=mean, value=float(values.mean()), metadata=told)}
    if found.interval is not None:
        error = clustered(values, clusters).standard_error
        metrics["stderr"] = EvalMetric(name="stderr", value=error, params={"cluster": "template"})
    return EvalScore(
        name=name,
        scorer=name,
        scored_samples=len(known),
        unscored_samples=len(answered) - len(known),
        metrics=metrics,
        metadata={"meaning": _SAID.get(name, name)},
    )


def _is_graded(name: str) -> bool:
    return name in _GRADED


def _letter(value: float) -> str:
    """Return inspect's letter for right and wrong."""
    return "C" if value else "I"


def _packed(log: Any) -> bytes:
    """Return a log as inspect writes it, packed so that the same log gives the same bytes and any unzip reads it."""
    from inspect_ai.log import write_eval_log

    content = BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "log.eval"
        write_eval_log(log, str(file), "eval")
        with zipfile.ZipFile(file) as given, zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as packed:
            for name in dict.fromkeys(given.namelist()):
                packed.writestr(zipfile.ZipInfo(name, _NEVER), given.read(name), zipfile.ZIP_DEFLATED)
    return content.getvalue()
