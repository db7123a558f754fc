"""Export: a finished run in the form of another program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from palimpsest.cli._app import Json, app, possible
from palimpsest.core.errors import UserError, nearest

_FORMS = ("inspect",)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="The folder of a run or a diff.")],
    to: Annotated[str, typer.Option("--to", help="inspect: a log for each model and item set, which `inspect view` opens.")],
    out: Annotated[Path | None, typer.Option("--out", callback=possible, help="Where to write; RUN/FORM by default.")] = None,
    json: Json = False,
) -> None:
    """Write the items, answers and scores of a finished run for another program."""
    from palimpsest.console import Live, as_json, say

    if to not in _FORMS:
        raise UserError(f"--to: there is no form named '{to}'.{nearest(to, _FORMS)}")
    from palimpsest.peers.inspect_export import export as write

    where = out or run / to
    with Live(watched=not json, folder=where) as live:
        files = write(run, where, live)
    if json:
        as_json([str(file) for file in files])
        return
    for place in dict.fromkeys(file.parent for file in files):
        say(f"wrote {sum(file.parent == place for file in files)} logs of {place.name} to {place}")
    say(f"look at them with `inspect view --log-dir {where}`")
