"""Tune: find a small training that makes a behaviour as intended."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from palimpsest.cli._app import (
    BAD_INPUT,
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
    common,
)
from palimpsest.core.errors import UserError


@app.command()
def tune(
    behaviour: Annotated[str, typer.Argument(help="A behaviour's name (see `palimpsest list`) or YAML file, with both poles.")],
    model: Model = "pocket",
    budget: Annotated[
        str, typer.Option("--budget", help="What the search may cost, like '10 attempts, 2000 examples, 30 minutes'.")
    ] = "12 attempts",
    start_dose: Annotated[
        int | None, typer.Option("--start-dose", help="Examples of the first attempt; 20 by default.")
    ] = None,
    max_dose: Annotated[int | None, typer.Option("--max-dose", help="Most examples of one attempt; 1000 by default.")] = None,
    learning_rate_range: Annotated[
        str | None,
        typer.Option("--learning-rate-range", help="LOW:HIGH; a quarter of the behaviour's own to four times it by default."),
    ] = None,
    max_rehearsal: Annotated[
        float | None, typer.Option("--max-rehearsal", help="Largest share of rehearsal rows; 0.5 by default.")
    ] = None,
    search_items: Annotated[
        int | None, typer.Option("--search-items", help="Items of each capability while it searches; 96 by default.")
    ] = None,
    text: Text = None,
    audits: Audits = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    seed: Seed = 0,
    folder: Folder = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Find a small training that is as intended: train, audit, decide, again."""
    from palimpsest import behaviour as behaviours
    from palimpsest import controller
    from palimpsest.console import Live, as_json
    from palimpsest.controller.plan import Options
    from palimpsest.controller.settings import Budget
    from palimpsest.request import Request

    spent = Budget.parse(budget)
    bounds = {
        "start_dose": start_dose,
        "max_dose": max_dose,
        "learning_rate_range": _range(learning_rate_range) if learning_rate_range else None,
        "max_rehearsal": max_rehearsal,
        "search_items": search_items,
    }
    options = Options.read({name: value for name, value in bounds.items() if value is not None}, "the command")
    asked = common(text, None, audits, False, device, dtype, seed)
    request = Request.read({"kind": "run", "base": model, "behaviour": behaviours.load(behaviour), **asked}, "the command")
    where = folder or controller.folder_for(request, options)
    with Live(watched=not json, folder=where) as live:
        live.begin("checking")
        planned = controller.prepare(request, options, spent)
        found = None if dry_run else controller.carry_out(planned, spent, where, live, None if json else _tell)
    if found is None:
        raise typer.Exit(_foresee(planned, spent, where, json))
    as_json(found.account.model_dump(mode="json")) if json else _print_summary(found)
    raise typer.Exit(0 if found.as_intended else NOT_AS_INTENDED)


def _range(given: str) -> tuple[float, float]:
    low, found, high = given.partition(":")
    try:
        if not found:
            raise ValueError
        return float(low), float(high)
    except ValueError:
        raise UserError(f"--learning-rate-range must be LOW:HIGH, like 1e-5:1e-4, found '{given}'") from None


def _tell(attempt: Any, decision: Any) -> None:
    """Say what an attempt showed and what follows, while it goes on."""
    from palimpsest.console import err, safe
    from palimpsest.core.wording import spell

    def line(text: str, style: str = "") -> None:
        err.print(safe(text), style=style, soft_wrap=not err.is_terminal)

    if attempt is not None:
        line(f"\nattempt {attempt.number}: {attempt.seen.headline} ({spell(attempt.seconds)})", "bold")
        line(f"  saw: {attempt.seen.in_words}")
    line(f"  decided, {decision.rule}: {decision.why}")
    for one in decision.evidence:
        line(f"    - {one}")
    if decision.next is not None:
        line(f"  next: {decision.next.in_words}")


def _print_summary(found: Any) -> None:
    from palimpsest.console import headline, number, out, reasons, say, table

    account = found.account
    headline(account.headline, account.sure)
    rows = [
        (f"{one.number}{'*' if one.purpose == 'confirm' else ''}", str(one.settings.dose), str(one.settings.counts.rehearsal),
         f"{one.settings.learning_rate:.2g}", number(one.seen.outcome), number(one.seen.withheld),
         ", ".join(one.seen.labels).replace("_", " "))
        for one in found.trajectory.attempts
    ]  # fmt: skip
    final = found.trajectory.final_seen
    if final is not None:
        rows.append(
            ("final", "", "", "", number(final.outcome), number(final.withheld), ", ".join(final.labels).replace("_", " "))
        )
    table(("attempt", "dose", "rehearsal", "rate", "where it should", "where it should not", "verdict"), rows)
    out.print()
    reasons(account.reasons, account.next_steps)
    if found.model is not None:
        say(f"\nmodel: {found.model}")
    say(f"report: {found.report}")


def _foresee(planned: Any, budget: Any, where: Path, json: bool) -> int:
    """Say what the first attempt and the largest possible search would take."""
    from palimpsest.console import as_json, out, say, table
    from palimpsest.controller.foreseen import foresee

    found = foresee(planned, budget, where)
    if json:
        as_json(found.plain())
    else:
        table(("bounds", ""), list(found.bounds.items()))
        out.print()
        for sentence in found.sentences:
            say(sentence)
        for one in found.problems:
            say(f"can't run: {one}", style="bold red")
    return BAD_INPUT if found.problems else 0
