"""Compare: two evaluations of the same tasks, item by item, whoever made them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from palimpsest.cli._app import NOT_AS_INTENDED, Json, app, names, possible
from palimpsest.core.errors import UserError

_FEW = 6
"""So many comparisons are shown in full; of more, those that did not move are only named."""
_LOG = "An inspect log (.eval, .json), an lm-eval samples file, the folder of one of our runs, or a folder of logs."


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(metavar="A", help=_LOG)],
    after: Annotated[Path, typer.Argument(metavar="B", help="What is compared with it: the same kind, the same tasks.")],
    margin: Annotated[
        list[str] | None,
        typer.Option(
            "--margin",
            help="What counts as unchanged: 0.02 is two points of every score between 0 and 1 (0.05 by default); "
            "METRIC=SIZE is of one metric, in its own unit.",
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option("--cluster", help="Metadata key (inspect) or document field (lm-eval) whose items belong together."),
    ] = None,
    better: Annotated[
        list[str] | None, typer.Option("--better", help="METRIC=higher or METRIC=lower, where the log does not say.")
    ] = None,
    metrics: Annotated[str | None, typer.Option("--metrics", help="Only these, with commas.")] = None,
    tasks: Annotated[str | None, typer.Option("--tasks", help="Only these, with commas.")] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder", "--out", callback=possible, help="Where the report is written; runs/compare-NAMES-HASH by default."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Compare two evaluations item by item; exit code 2 on a regression beyond the margin."""
    from palimpsest import api
    from palimpsest.console import Live, as_json

    margins, directions = _margins(margin or ()), _named(better or (), "--better")
    with Live(watched=not json) as live:
        live.begin("comparing")
        found = api.compare(
            before, after, cluster=cluster, margin=margins, better=directions,  # type: ignore[arg-type]
            metrics=names(metrics), tasks=names(tasks), folder=folder,
        )  # fmt: skip
    as_json(found.account.model_dump(mode="json")) if json else _print(found)
    raise typer.Exit(NOT_AS_INTENDED if found.regression else 0)


def _margins(given: list[str] | tuple[str, ...]) -> float | dict[str, float] | None:
    """Return margins by metric; the key "" is that of all shares."""
    bare = [one for one in given if "=" not in one]
    if len(bare) > 1:
        raise UserError(f"--margin is given {len(bare)} times without a metric; say METRIC=SIZE for all but one")
    found = {
        name: _size(size, f"--margin {name}") for name, size in _named([one for one in given if "=" in one], "--margin").items()
    }
    return {**({"": _size(bare[0], "--margin")} if bare else {}), **found} or None


def _named(given: list[str] | tuple[str, ...], option: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in given:
        name, equals, value = one.rpartition("=")
        if not equals or not name.strip() or not value.strip():
            raise UserError(f"{option} must be METRIC=VALUE, found '{one}'")
        if name.strip() in found:
            raise UserError(f"{option} {name.strip()} is given twice")
        found[name.strip()] = value.strip()
    return found


def _size(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{option} must be a number, like 0.02, found '{text}'") from None


def _print(found: Any) -> None:
    from palimpsest.console import headline, out, reasons, say, table
    from palimpsest.core.wording import MINUS
    from palimpsest.evaluations.account import WORDS

    account = found.account
    rows = account.parts[0].tables[0].rows
    named = () if len(rows) <= _FEW else (WORDS["unchanged"], WORDS["identical"])
    headline(account.headline, account.sure)
    reasons(account.reasons)
    out.print()
    if drawn := [_row(*row) for row in rows if row[-1] not in named]:
        table(("", "A", "B", f"B {MINUS} A", ""), drawn)
    for state in named:
        if alike := [name for name, *_, own in rows if own == state]:
            say(f"{state} ({len(alike)}): {', '.join(alike)}", style="dim")
    out.print()
    reasons((), account.next_steps)
    for note in account.notes:
        say(f"note: {note}", style="dim")
    if account.next_steps or account.notes:
        out.print()
    say(f"report: {found.report}")


def _row(name: str, before: Any, after: Any, change: Any, moved: str, _: Any, state: str) -> tuple[str, ...]:
    """Return a row of the table in the width of a terminal: levels without their intervals, which the report has."""
    from palimpsest.console import folded
    from palimpsest.core.wording import amount, shown
    from palimpsest.evaluations.account import WORDS

    levels = [shown(one, change=False) for one in (before, after)]
    told = shown(change, change=True)
    interval = "" if change.interval == (0.0, 0.0) else told.interval or "no interval"
    comes_to = [state, moved]
    if state == WORDS["open"] and change.above(0.0) is not None:
        comes_to.append("differs before Holm only")
    elif state == WORDS["open"] and change.minimum_detectable is not None:
        comes_to.append(f"finds ≥ {amount(change.minimum_detectable, change.unit)}")
    return (
        "\n".join(folded(name)),
        *(f"{one.value}{one.unit if one.unit == '%' else ''}" for one in levels),
        f"{told.value} {told.unit}".strip() + f"\n{interval}",
        "\n".join(comes_to),
    )
