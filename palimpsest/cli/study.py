"""Studies: carry out many runs that answer one question, and tell what they say together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from palimpsest.cli._app import NOT_AS_INTENDED, Device, Dtype, Folder, Json, Model, app, refuse_absent
from palimpsest.core.errors import UserError


@app.command()
def study(
    name: Annotated[str, typer.Argument(help="A study's name (see `palimpsest list`).")],
    model: Model = "pocket",
    behaviour: Annotated[str, typer.Option("--behaviour", help="A behaviour's name or YAML file.")] = "directions",
    grid: Annotated[str, typer.Option("--grid", help="default (within an hour on the embedded model) or full.")] = "default",
    seeds: Annotated[int | None, typer.Option("--seeds", help="Training seeds of every setting; 3 by default.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="A parameter of the study, as NAME=VALUE.")] = None,
    jobs: Annotated[int | None, typer.Option("--jobs", help="Runs at once; as many as cores by default, at most 4.")] = None,
    executor: Annotated[str, typer.Option("--executor", help="Where runs are carried out: local or ray.")] = "local",
    ray_address: Annotated[str | None, typer.Option("--ray-address", help="A Ray cluster that is there.")] = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    folder: Folder = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say which runs there would be and how long; do nothing.")] = False,
    json: Json = False,
) -> None:
    """Answer one question with many runs; killed or interrupted, the same command goes on."""
    from palimpsest.studies._study import GRIDS, find

    if grid not in GRIDS:
        raise UserError(f"--grid must be default or full, found '{grid}'")
    find(name)
    refuse_absent(model)
    from palimpsest import study_runner
    from palimpsest.console import Live, as_json

    given = {"model": model, "device": device, "dtype": dtype, **parameters(settings or ())}
    given |= {"seeds": seeds} if seeds is not None else {}
    one = study_runner.load(name, behaviour, given)
    study_runner.check_executor(executor, jobs, ray_address)
    where = folder or study_runner.folder_for(name, one, grid)
    with Live(watched=not json, folder=where) as live:
        checked = study_runner.check(name, one, grid, where, live)
        account = None if dry_run else study_runner.carry_out(checked, where, jobs, executor, ray_address, live)
    if account is None:
        foreseen = study_runner.foresee(checked, where, jobs)
        as_json(foreseen.plain()) if json else _print_foreseen(foreseen)
        return
    as_json(account.model_dump(mode="json")) if json else _print_account(account, where)
    if any(member.state == "failed" for member in account.members):
        raise typer.Exit(NOT_AS_INTENDED)


def parameters(given: list[str] | tuple[str, ...]) -> dict[str, Any]:
    """Return the parameters written as NAME=VALUE: a number, a word, or several of them with commas.

    Raises:
        UserError: one is not of that form, or is given twice.
    """
    found: dict[str, Any] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise UserError(f"--set must be NAME=VALUE, found '{one}'")
        if name.strip() in found:
            raise UserError(f"--set {name.strip()} is given twice")
        found[name.strip()] = _value(value)
    return found


def _value(text: str) -> Any:
    parts = [_plain(part) for part in text.split(",") if part.strip()]
    return parts if "," in text else parts[0]


def _plain(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.strip(), text.strip())


def _print_account(account: Any, folder: Path) -> None:
    from palimpsest.console import headline, reasons, say

    headline(account.headline, account.sure)
    for part in account.parts:
        say(f"{part.name}: {part.answer}")
    say("")
    reasons(account.reasons)
    failed = [member for member in account.members if member.state == "failed"]
    for member in failed:
        say(f"failed: {member.name}: {member.told}", style="bold red")
    say(f"\nreport: {folder / 'report.html'}")


def _print_foreseen(foreseen: Any) -> None:
    from palimpsest.console import out, say, table

    table(("setting", "runs", "rows", "steps"), foreseen.rows())
    out.print()
    for sentence in foreseen.sentences():
        say(sentence)
