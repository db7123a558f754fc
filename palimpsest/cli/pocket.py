"""Pocket: sample from the embedded model, train a twin, read its card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from palimpsest.cli._app import Json, Seed, app, possible

pocket_app = typer.Typer(help="The embedded models: sample from one, train a twin, read its card.", no_args_is_help=True)
app.add_typer(pocket_app, name="pocket")

Embedded = Annotated[str, typer.Option("--model", help="pocket or hybrid-pocket.")]


@pocket_app.command("sample")
def pocket_sample(
    count: Annotated[int, typer.Option("--count", help="Items of each ability.")] = 2,
    seed: Seed = 0,
    model: Embedded = "pocket",
) -> None:
    """Show items of every ability of an embedded model, and what it answers."""
    from palimpsest.console import table
    from palimpsest.models import pocket
    from palimpsest.pocket_samples import samples

    rows = samples(pocket.folder(model), count, seed)
    table(("ability", "prompt", "reference", "the model writes"), rows)


@pocket_app.command("info")
def pocket_info(json: Json = False, model: Embedded = "pocket") -> None:
    """Show an embedded model's card: what it can do, each with an interval."""
    from palimpsest.console import as_json
    from palimpsest.models import pocket

    card = pocket.card(model)
    as_json(card) if json else _print_card(card)


@pocket_app.command("train")
def pocket_train(
    folder: Annotated[Path, typer.Argument(callback=possible, help="Where the new model goes.")],
    size: Annotated[str, typer.Option("--size", help="tiny, small, standard or large.")] = "standard",
    seed: Seed = 0,
    steps: Annotated[int | None, typer.Option("--steps", help="Stop early, to look.")] = None,
    layout: Annotated[str, typer.Option("--layout", help="llama (pocket) or hybrid (hybrid-pocket).")] = "llama",
) -> None:
    """Train an embedded model, or a twin of another size or seed, from nothing."""
    from palimpsest.console import Live, say
    from palimpsest.training.pocket_recipe import train_pocket

    with Live(watched=True) as live:
        live.begin("training the pocket model")
        train_pocket(size, seed, folder, steps=steps, progress=live, layout=layout)
    say(f"wrote {folder}")


def _print_card(card: dict[str, Any]) -> None:
    from palimpsest.console import out

    out.print_json(data=card)
