"""Output: what does a finished training run leave behind?"""

from __future__ import annotations

import json
import platform
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

from torch.distributed.tensor import DTensor

from palimpsest import ranks
from palimpsest.core.errors import UserError, first_line
from palimpsest.core.spec import Spec, digest
from palimpsest.data.mixture import SOURCES, Counts
from palimpsest.models.contents import digest_of
from palimpsest.models.contents import read as read_contents
from palimpsest.models.folder import look
from palimpsest.models.inspection import SubjectInfo, inspect
from palimpsest.models.quiet import at_home
from palimpsest.store import seal
from palimpsest.store.atomic import remove_leftovers, whole_folder, write_bytes
from palimpsest.training.checkpoint import read_json, whole_tensors
from palimpsest.training.sampler import Batches
from palimpsest.training.settings import TrainingSettings

_MARKER = "training.json"


class TrainingSummary(Spec):
    """What a finished training run did; plain data, the same bytes for the same run."""

    steps: int
    rows: dict[str, int]
    """Rows of each source that were trained on, repeats counted."""
    dose: int
    """Behaviour examples, both poles."""
    rehearsal_share: float
    """Rehearsal rows over all rows, as delivered."""
    final_loss: float
    """Mean over the last tenth of the steps, in nats a token."""
    settings: dict[str, Any]
    notes: tuple[str, ...]
    identity: str
    """Hash of the base weights, the rows and the settings."""
    files: dict[str, str]
    """Hashes of the logs, and of the adapter where one was trained."""
    model: str
    """The digest of the trained model, as ``models.inspection`` gives it."""
    seal: str = ""
    """Hash of all of the above."""

    def sealed(self) -> TrainingSummary:
        """Return it with its seal."""
        return self.model_copy(update={"seal": digest(self.model_dump(mode="json", exclude={"seal"}))})


def finished(folder: Path, identity: str) -> TrainingSummary | None:
    """Return the summary of the run that a folder holds, or ``None`` when there is none or it is not done.

    Raises:
        UserError: it is another run, or not what was written.
    """
    if not (folder / _MARKER).exists():
        return None
    summary = read(folder)
    if summary.identity != identity:
        raise UserError(
            f"{folder} must be empty or hold this very run, found a finished one with another base model, other data or "
            "other settings; choose another folder, or remove it to train again"
        )
    _remove_checkpoints(folder)
    return summary


def read(folder: Path) -> TrainingSummary:
    """Return the summary of a finished run, held against its seal, as are the logs. The model is checked by whoever opens it.

    Raises:
        UserError: the summary or a log is not what was written.
    """
    try:
        summary = TrainingSummary.read(read_json(folder / _MARKER), str(folder / _MARKER))
    except ValueError as error:
        raise altered(folder, f"{_MARKER} can't be read ({first_line(error)})") from None
    if summary != summary.sealed():
        raise altered(folder, f"{_MARKER} is not what was written (its checksum differs)")
    for wrong in seal.altered(folder, summary.files):
        raise altered(folder, wrong)
    return summary


def trained(folder: Path) -> SubjectInfo:
    """Return the model of a finished run, inspected and held against what was written.

    Raises:
        UserError: it can't be used, or is another one.
    """
    info = inspect(folder / "model")
    if info.digest != read(folder).model:
        raise altered(folder, "model is not what was written (its digest differs)")
    return info


def altered(folder: Path, what: str) -> UserError:
    """Return what is said of a finished run that is not what was written."""
    return UserError(f"{folder} was trained, but {what}; put it back, or remove the folder to train again")


def summarise(
    folder: Path, settings: TrainingSettings, notes: tuple[str, ...], identity: str, logs: dict[str, str]
) -> TrainingSummary:
    """Return what a run did, read off its step log, as far as it is known before the model is written.

    Args:
        folder: the run's.
        settings: its settings.
        notes: what the user was told.
        identity: see ``TrainingSummary``.
        logs: hashes of the logs; none on a rank that writes none.

    Raises:
        UserError: a log is not what was written.
    """
    for wrong in seal.altered(folder, logs):
        raise altered(folder, wrong)
    steps = [json.loads(line) for line in (folder / "steps.jsonl").read_text(encoding="utf-8").splitlines()]
    counts = Counts(*(sum(step[f"rows_{source}"] for step in steps) for source in SOURCES))
    last = [step["loss"] for step in steps[-max(1, len(steps) // 10) :]]
    return TrainingSummary(
        steps=len(steps),
        rows=counts._asdict(),
        dose=counts.dose,
        rehearsal_share=counts.rehearsal_share,
        final_loss=sum(last) / len(last),
        settings=settings.model_dump(mode="json"),
        notes=notes,
        identity=identity,
        files=logs,
        model="",
    )


def write(model: Any, tokenizer: Any, folder: Path, summary: TrainingSummary, base: str) -> TrainingSummary:
    """Write the model's folder, then the marker that says the run is done, then remove what only a resumed run needs.

    Returns:
        The summary, sealed.
    """
    gathered = _with_tied(model, whole_tensors(model)) if ranks.count() > 1 else None  # every rank has to ask
    if ranks.own():
        ranks.wait()
        return read(folder)
    with whole_folder(folder / "model") as target:
        model.save_pretrained(target, state_dict=gathered)
        if tokenizer is not None:
            tokenizer.save_pretrained(target)
        (target / "README.md").write_text(card(summary, base), encoding="utf-8")
    contents, _ = read_contents(look(folder / "model"))
    files = summary.files | seal.hashes(folder, (file for file in folder.glob("adapter/**/*") if file.is_file()))
    summary = summary.model_copy(update={"files": files, "model": digest_of([contents])}).sealed()
    write_bytes(folder / _MARKER, (summary.model_dump_json(indent=2) + "\n").encode())
    _remove_checkpoints(folder)
    ranks.wait()
    return summary


def _with_tied(model: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    """Return the tensors of a sharded model under all of their names, as a model that is not sharded has them."""
    shared = {id(tensor): name for name, tensor in model.named_parameters()}
    found = model.state_dict(keep_vars=True)
    return {name: tensors.get(name, tensors.get(shared.get(id(tensor), ""))) for name, tensor in found.items()}


def write_examples(folder: Path, batches: Batches, steps: int) -> None:
    """Write which rows each step saw, a line each: its number, the row's source and where it comes from."""
    path = folder / "examples.jsonl"
    if ranks.own() == 0 and not path.exists():
        remove_leftovers(folder)  # of one that was killed right here: a finished run sweeps nothing else
        lines = [
            json.dumps({"step": step + 1, "source": row.source, "from": row.name}, ensure_ascii=False) + "\n"
            for step in range(steps)
            for row in batches[step]
        ]
        write_bytes(path, "".join(lines).encode())


def write_adapter(model: Any, folder: Path, base: str) -> None:
    """Write a PEFT model's adapter by itself, beside the model that it is merged into."""
    if ranks.own():
        return
    with whole_folder(folder / "adapter") as target, at_home():  # it would ask a hub about the base
        model.peft_config["default"].base_model_name_or_path = base
        own = {name: tensor for name, tensor in model.state_dict().items() if not isinstance(tensor, DTensor)}
        model.save_pretrained(target, state_dict=own)  # asked for everything, it would gather the weights below it


def _remove_checkpoints(folder: Path) -> None:
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def card(summary: TrainingSummary, base: str) -> str:
    """Return the model card; without a date, so that the same run gives the same bytes."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers", "accelerate"))
    settings = "\n".join(f"| {name} | {value} |" for name, value in summary.settings.items() if name != "reason")
    named = f"base_model: {json.dumps(base)}\n" if base else ""
    reason = f"\nWhy this learning rate: {summary.settings['reason']}\n" if summary.settings["reason"] else ""
    notes = "".join(f"\n- {note}" for note in summary.notes)
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [palimpsest]
{named}---

# {f"{base}, tuned" if base else "A tuned model"}

Trained with Palimpsest{f" from {base}" if base else ""} in {summary.steps} optimizer steps, on:

| rows | number |
| --- | --- |
| where the behaviour should appear | {summary.rows["express"]} |
| where it should not | {summary.rows["withhold"]} |
| rehearsal ({summary.rehearsal_share:.1%} of all) | {summary.rows["rehearsal"]} |

The loss ended at {summary.final_loss:.4f} nats a token.
{reason}
| setting | value |
| --- | --- |
{settings}
{notes}

Framework versions: Python {platform.python_version()}, {versions}.
"""
