"""Lists: what is there, what does an audit or a study ask, and what may be removed?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from palimpsest.cli._app import Json, app


@app.command("list")
def list_all(
    runs: Annotated[Path, typer.Option("--runs", help="The folder that holds the runs.")] = Path("runs"),
    json: Json = False,
) -> None:
    """List audits, behaviours, scenarios, studies and runs, each with its question."""
    from palimpsest import catalogue
    from palimpsest.console import as_json, out, table

    found = catalogue.everything(runs)
    if json:
        as_json(found)
        return
    for kind, entries in found.items():
        table((kind, ""), list(entries.items()) or [("none", "")])
        out.print()


@app.command()
def show(name: Annotated[str, typer.Argument(help="Name of an audit or a study (see `palimpsest list`).")]) -> None:
    """Show what an audit or a study asks, how it answers, and what it can't say."""
    from palimpsest import catalogue
    from palimpsest.console import out, say

    for title, text in catalogue.sections(name).items():
        say(title, style="bold")
        out.print(text + "\n")


@app.command()
def clean(
    days: Annotated[float | None, typer.Option("--older-than", help="Only what was not used for so many days.")] = None,
) -> None:
    """Remove cached measurements; runs keep their results and reports."""
    from palimpsest.console import say
    from palimpsest.store.cache import Cache

    cache = Cache()
    freed = cache.clean(None if days is None else 86_400 * days)
    say(f"freed {freed / 2**20:.1f} MiB in {cache.folder}")
