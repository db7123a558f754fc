"""Runs: change a behaviour, or compare two models, and draw the report.

torch is imported only when a verb needs it.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from palimpsest.cli._app import (
    BAD_INPUT,
    NOT_AS_INTENDED,
    Audits,
    Block,
    Controls,
    Deep,
    Device,
    DryRun,
    Dtype,
    Fewshot,
    Folder,
    Json,
    Limit,
    Model,
    Seed,
    Tasks,
    Text,
    app,
    common,
    tasks_of,
)
from palimpsest.core import launch
from palimpsest.core.progress import Silent


@app.command()
def run(
    behaviour: Annotated[str, typer.Argument(help="A behaviour's name (see `palimpsest list`) or YAML file.")],
    model: Model = "pocket",
    seeds: Annotated[int, typer.Option("--seeds", help="How many training runs, each with its own seed.")] = 1,
    training_seed: Annotated[int | None, typer.Option("--training-seed", help="The first one's seed, if not --seed.")] = None,
    dose: Annotated[int | None, typer.Option("--dose", help="Behaviour examples, both poles; overrides the file.")] = None,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate", help="Overrides the file.")] = None,
    control_seeds: Annotated[
        int | None, typer.Option("--control-seeds", help="Runs of the control; 3 where cheap, else 1; overrides the file.")
    ] = None,
    text: Text = None,
    tasks: Tasks = None,
    limit: Limit = 192,
    fewshot: Fewshot = None,
    audits: Audits = None,
    deep: Deep = False,
    device: Device = "auto",
    dtype: Dtype = "float32",
    seed: Seed = 0,
    block: Block = 0,
    folder: Folder = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Change a behaviour, audit what moved, write a report."""
    from palimpsest import behaviour as behaviours

    loaded = behaviours.load(behaviour)
    if dose is not None:
        loaded = type(loaded).read({**dict(loaded), "dose": dose}, "--dose")
    if control_seeds is not None:
        loaded = type(loaded).read({**dict(loaded), "control_seeds": control_seeds}, "--control-seeds")
    if learning_rate is not None:
        loaded = loaded.model_copy(update={"training": {**loaded.training, "learning_rate": learning_rate}})
    request = {
        "kind": "run",
        "base": model,
        "behaviour": loaded,
        "seeds": seeds,
        "training_seed": training_seed,
        "block": block,
        **tasks_of(tasks, limit, fewshot),
        **common(text, None, audits, deep, device, dtype, seed),
    }
    _carry_out(request, folder, dry_run, json)


@app.command()
def diff(
    base: Annotated[str, typer.Argument(help="The model before: a Hugging Face folder, a hub id, pocket or hybrid-pocket.")],
    tuned: Annotated[str, typer.Argument(help="The model after; also a PEFT adapter folder.")],
    behaviour: Annotated[
        str | None, typer.Option("--behaviour", help="What was meant to change: a name or a YAML file.")
    ] = None,
    text: Text = None,
    tasks: Tasks = None,
    limit: Limit = 192,
    fewshot: Fewshot = None,
    control: Controls = None,
    audits: Audits = None,
    deep: Deep = False,
    device: Device = "auto",
    dtype: Dtype = "float32",
    seed: Seed = 0,
    block: Block = 0,
    folder: Folder = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Audit any two checkpoints, whoever made them."""
    from palimpsest import behaviour as behaviours

    request = {
        "kind": "diff",
        "base": base,
        "tuned": tuned,
        "behaviour": behaviours.load(behaviour) if behaviour else None,
        "block": block,
        **tasks_of(tasks, limit, fewshot),
        **common(text, control, audits, deep, device, dtype, seed),
    }
    _carry_out(request, folder, dry_run, json)


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("behaviour.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a commented behaviour file to start from, with its data beside it."""
    from palimpsest.console import say
    from palimpsest.starter import write

    for written in write(path, force=force):
        say(f"wrote {written}")
    say(f"Look at what would be trained with `palimpsest data show {path}`, edit it, then `palimpsest run {path}`.")


@app.command()
def report(run: Annotated[Path, typer.Argument(help="The folder of a run, a study, or another series of runs.")]) -> None:
    """Draw the report of a stored run again."""
    from palimpsest.api import is_sealed, redraw
    from palimpsest.console import say

    say(f"report: {redraw(run)}")
    if (run / "record.json").is_file() and not is_sealed(run):
        say("The run has no seal.json: whether its files are what was written can't be told.")


def _carry_out(data: dict[str, Any], folder: Path | None, dry_run: bool, json: bool) -> None:
    from palimpsest import api
    from palimpsest.console import Live, as_json
    from palimpsest.request import Request
    from palimpsest.store.provenance import Timed

    request = Request.read(data, "the command")
    where = folder or api.folder_for(request)
    with Live(watched=not json, folder=where) if launch.own() == 0 else nullcontext(Silent()) as live:
        timed = Timed(live)
        timed.begin("checking")
        planned = api.plan(request)
        record = None if dry_run else api.carry_out(planned, where, timed)
    speaks = launch.own() == 0
    if record is None:
        from palimpsest.cost import foresee

        foreseen = foresee(planned, where)
        if speaks:
            as_json(foreseen.plain()) if json else _print_foreseen(foreseen)
        raise typer.Exit(BAD_INPUT if foreseen.problems else 0)
    if speaks:
        path = where / "report.html"
        as_json(record.model_dump(mode="json")) if json else _print_summary(record, path)
    # A launcher reports every code but 0 as a crash of the process; what came out is in the record.
    raise typer.Exit(0 if record.verdict.as_intended or launch.count() > 1 else NOT_AS_INTENDED)


def _print_summary(record: Any, path: Path) -> None:
    from palimpsest.console import headline, number, out, reasons, say, table
    from palimpsest.reach import sentence
    from palimpsest.report import reach_of, summary

    said = summary(record)
    headline(said.headline, said.sure)
    for columns, rows in said.tables():
        table(columns, [(label, *map(number, numbers)) for label, numbers in rows])
        out.print()
    reasons(record.verdict.reasons, record.verdict.next_steps)
    if rows := reach_of(record):
        say(sentence(rows))
    say("")
    for one in (each for each in record.training if each.role == "tuned"):
        say(f"model: {path.parent / one.model_folder}" + (f" (seed {one.seed})" if len(record.seeds) > 1 else ""))
    say(f"report: {path}")


def _print_foreseen(foreseen: Any) -> None:
    from palimpsest.console import out, say, table

    for columns, rows in foreseen.tables():
        table(columns, rows)
        out.print()
    for sentence in foreseen.sentences():
        say(sentence)
    for one in foreseen.problems:
        say(f"can't run: {one}", style="bold red")
