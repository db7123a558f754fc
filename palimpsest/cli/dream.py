"""Dream: train on the model's own failures, cycle by cycle.

torch is imported only when the verb starts to work.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from palimpsest.cli._app import (
    NOT_AS_INTENDED,
    Audits,
    Device,
    DryRun,
    Dtype,
    Folder,
    Json,
    Model,
    Seed,
    Text,
    app,
    names,
    refuse_absent,
)


@app.command()
def dream(
    behaviour: Annotated[str, typer.Argument(help="A behaviour's name (see `palimpsest list`) or YAML file.")],
    model: Model = "pocket",
    cycles: Annotated[int, typer.Option("--cycles", help="At most so many cycles.")] = 6,
    examples: Annotated[int, typer.Option("--examples", help="At most so many examples a cycle, both poles.")] = 64,
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--source",
            help="Where scenarios come from: generators, model:FOLDER, endpoint:URL#MODEL, transcripts:FILE@POLE, "
            "memory:FOLDER; several may be given, each with =SHARE.",
        ),
    ] = None,
    answers: Annotated[
        str, typer.Option("--answers", help="reference, or distil: the model's own answer with the behaviour's instruction.")
    ] = "reference",
    preference: Annotated[
        bool,
        typer.Option("--preference", help="Prefer the good answer to what the model really said, in place of imitating it."),
    ] = False,
    stop_after: Annotated[
        int, typer.Option("--stop-after", help="Stop when so many audits running say as intended; 0: never.")
    ] = 2,
    audit_items: Annotated[int, typer.Option("--audit-items", help="Held-out items a pole in each cycle's audit.")] = 32,
    text: Text = None,
    audits: Audits = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    seed: Seed = 0,
    folder: Folder = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Train on the model's own failures, cycle by cycle, and audit each on fresh items."""
    refuse_absent(model)
    from palimpsest.console import Live, as_json
    from palimpsest.dreaming import interface

    request = interface.asked(
        behaviour,
        model,
        sources=source or (),
        text=text or (),
        cycles=cycles,
        examples=examples,
        answers=answers,
        preference=preference,
        stop_after=stop_after,
        audit_items=audit_items,
        audits=names(audits),
        device=device,
        dtype=dtype,
        seed=seed,
    )
    where = folder or interface.folder_for(request)
    with Live(watched=not json, folder=where) as live:
        live.begin("checking")
        planned = interface.plan(request)
        done = None if dry_run else interface.carry_out(planned, where, live)
    if done is None:
        _print_foreseen(planned, where, json)
        raise typer.Exit(0)
    as_json(done.account.model_dump(mode="json")) if json else _print_account(done)
    raise typer.Exit(0 if done.account.label in ("as_intended", "described") else NOT_AS_INTENDED)


def _print_account(done: Any) -> None:
    from palimpsest.console import headline, number, out, reasons, say, table
    from palimpsest.core.estimate import Estimate

    account = done.account
    headline(account.headline, account.sure)
    for part in account.parts[:2]:
        for one in part.tables:
            rows = [
                [number(cell) if isinstance(cell, Estimate) else "" if cell is None else str(cell) for cell in row]
                for row in one.rows
            ]
            table(one.columns, rows, one.title)
            out.print()
    reasons(account.reasons, account.next_steps)
    say(f"\nmodel: {done.model}\nreport: {done.report}")


def _print_foreseen(planned: Any, where: Path, json: bool) -> None:
    from palimpsest.console import as_json, say
    from palimpsest.dreaming.forecast import foresee

    found = foresee(planned, where)
    if json:
        as_json(found.model_dump(mode="json"))
        return
    for sentence in found.sentences:
        say(sentence)
