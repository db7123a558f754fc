"""Pocket: sample from the embedded model, train a twin, read its card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from palimpsest.cli._app import Json, Seed, app

pocket_app = typer.Typer(help="The embedded model: sample from it, train a twin, read its card.", no_args_is_help=True)
app.add_typer(pocket_app, name="pocket")


@pocket_app.command("sample")
def pocket_sample(
    count: Annotated[int, typer.Option("--count", help="Items of each ability.")] = 2,
    seed: Seed = 0,
) -> None:
    """Show items of every ability of the embedded model, and what it answers."""
    from palimpsest.console import table
    from palimpsest.models import pocket
    from palimpsest.pocket_samples import samples

    rows = samples(pocket.folder(), count, seed)
    table(("ability", "prompt", "reference", "the model writes"), rows)


@pocket_app.command("info")
def pocket_info(json: Json = False) -> None:
    """Show the embedded model's card: what it can do, each with an interval."""
    from palimpsest.console import as_json
    from palimpsest.models import pocket

    as_json(pocket.card()) if json else _print_card(pocket.card())


@pocket_app.command("train")
def pocket_train(
    folder: Annotated[Path, typer.Argument(help="Where the new model goes.")],
    size: Annotated[str, typer.Option("--size", help="tiny, small, standard or large.")] = "standard",
    seed: Seed = 0,
    steps: Annotated[int | None, typer.Option("--steps", help="Stop early, to look.")] = None,
) -> None:
    """Train the embedded model, or a twin of another size or seed, from nothing."""
    from palimpsest.console import Live, say
    from palimpsest.training.pocket_recipe import train_pocket

    with Live(watched=True) as live:
        live.begin("training the pocket model")
        train_pocket(size, seed, folder, steps=steps, progress=live)
    say(f"wrote {folder}")


def _print_card(card: dict[str, Any]) -> None:
    from palimpsest.console import out

    out.print_json(data=card)
