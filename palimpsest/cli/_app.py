"""Application: what do all verbs share?

The typer application, its exit codes, and the options that several verbs take.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from palimpsest.core import roles
from palimpsest.core.errors import UserError
from palimpsest.core.files import refuse_impossible

app = typer.Typer(
    help="Change one behaviour of a language model with few examples, then see everything else that moved.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

NOT_AS_INTENDED, BAD_INPUT, INTERRUPTED = 2, 3, 130

MODEL = "A Hugging Face folder, a hub id, pocket or hybrid-pocket"
Model = Annotated[str, typer.Option("--model", help=f"{MODEL}.")]
Audits = Annotated[
    str | None, typer.Option("--audits", help="Names of audits, with commas; all that train nothing by default.")
]
Deep = Annotated[bool, typer.Option("--deep", help="Also run audits that have to train something.")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, mps; auto takes a GPU where there is one.")]
Dtype = Annotated[str, typer.Option("--dtype", help="Type of the weights in memory: float32, bfloat16, auto (as stored).")]
Text = Annotated[list[Path] | None, typer.Option("--text", help="General text to measure forgetting and divergence on.")]
Tasks = Annotated[
    str | None, typer.Option("--tasks", help="Tasks of lm-eval to measure forgetting on: names or YAML files, with commas.")
]
Limit = Annotated[int, typer.Option("--limit", help="Documents of each task, the first ones; 0 for all.")]
Fewshot = Annotated[int | None, typer.Option("--fewshot", help="Examples before each question of a task, if not its own.")]
Controls = Annotated[
    list[str] | None,
    typer.Option("--control", help="Another model to compare with, as ROLE=PATH; rehearsal_only several times."),
]


def possible(place: Path | None) -> Path | None:
    """Refuse, as an option's callback, a place where nothing can be written."""
    if place is not None:
        refuse_impossible(place)
    return place


Folder = Annotated[
    Path | None, typer.Option("--folder", callback=possible, help="The run's folder; runs/NAME-HASH by default.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would run, how long, in how much memory and disk; do nothing.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the record as JSON on standard output.")]
Block = Annotated[int, typer.Option("--block", help="Which held-out items: two blocks have none in common.")]
Seed = Annotated[int, typer.Option("--seed", help="Where all random streams start.")]


def common(
    text: list[Path] | None, control: list[str] | None, audits: str | None, deep: bool, device: str, dtype: str, seed: int
) -> dict[str, Any]:
    """Return the fields of a request that run and diff share, as they were given on the command line."""
    return {
        "text": tuple(path.absolute() for path in text or ()),
        "controls": _controls(control or ()),
        "audits": names(audits),
        "deep": deep,
        "device": device,
        "dtype": dtype,
        "seed": seed,
    }


def tasks_of(given: str | None, limit: int, fewshot: int | None) -> dict[str, Any]:
    """Return the fields of a request that say which tasks of lm-eval are asked, and how much of them."""
    found = (str(Path(name).absolute()) if Path(name).suffix in (".yaml", ".yml") else name for name in names(given))
    return {"tasks": tuple(found), "limit": limit, "fewshot": fewshot}


def refuse_absent(*models: str | None) -> None:
    """Refuse models that are not there, before a verb imports torch, which takes longer than to look.

    Raises:
        UserError: what was given for a model is none, of all of them at once.
    """
    from palimpsest.models import inspection, pocket

    problems = []
    for name in dict.fromkeys(filter(None, models)):
        try:
            inspection.find(pocket.resolve(name))
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))


def names(given: str | None) -> tuple[str, ...]:
    """Return names that were given in one option, with commas between them."""
    return tuple(name.strip() for name in (given or "").split(",") if name.strip())


def _controls(given: Iterable[str]) -> dict[str, str]:
    try:
        return roles.numbered(_role(one) for one in given)
    except ValueError as error:
        raise UserError(f"--control: {error}") from None


def _role(given: str) -> tuple[str, str]:
    role, found, path = given.partition("=")
    if not found or not path:
        raise UserError(f"--control must be ROLE=PATH, found '{given}'")
    return role, path
