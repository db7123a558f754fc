"""Data: what would be trained?"""

from __future__ import annotations

from typing import Annotated

import typer

from palimpsest.cli._app import Seed, app

data_app = typer.Typer(help="Look at what would be trained.", no_args_is_help=True)
app.add_typer(data_app, name="data")


@data_app.command("show")
def data_show(
    behaviour: Annotated[str, typer.Argument(help="A behaviour's name or YAML file.")],
    model: Annotated[str, typer.Option("--model", help="The model whose tokenizer and template are used.")] = "pocket",
    count: Annotated[int, typer.Option("--count", help="Examples of each source.")] = 3,
    seed: Seed = 0,
) -> None:
    """Show training examples as the model sees them, the tokens that learn in colour; a row with none stops."""
    from palimpsest.console import out
    from palimpsest.data_view import view

    for line in view(behaviour, model, count, seed):
        out.print(line, soft_wrap=True)
