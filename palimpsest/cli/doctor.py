"""Doctor: can the numbers of this model be trusted?"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from palimpsest.cli._app import MODEL, NOT_AS_INTENDED, Device, Json, app, refuse_absent
from palimpsest.core.errors import UserError, nearest

TYPES = ("float32", "bfloat16", "float16", "auto")


@app.command()
def doctor(
    named: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="The same as --model.")] = None,
    model: Annotated[str | None, typer.Option("--model", help=f"{MODEL}; pocket by default.")] = None,
    tuned: Annotated[str | None, typer.Option("--tuned", help="What was made of it: is it another model at all?")] = None,
    adapter: Annotated[str | None, typer.Option("--adapter", help="A PEFT adapter, read on --model whatever it names.")] = None,
    device: Device = "auto",
    dtype: Annotated[
        str, typer.Option("--dtype", help=f"Type of the weights in memory: {', '.join(TYPES)} (as stored).")
    ] = "float32",
    json: Json = False,
) -> None:
    """Check what could spoil a model's numbers: batches, padding, tokens, template, type; exit code 2 where something does."""
    if named is not None and model is not None:
        raise UserError(f"the model is given twice, as {named} and as --model {model}: give one of them")
    base = named or model or "pocket"
    if tuned is not None and adapter is not None:
        raise UserError("--tuned and --adapter are two names for the second model: give one of them")
    if dtype not in TYPES:
        raise UserError(f"--dtype must be one of {', '.join(TYPES)}, found '{dtype}'.{nearest(dtype, TYPES)}")
    refuse_absent(base, tuned, adapter)
    from palimpsest.doctor import examine

    found = examine(base, tuned or adapter, device, dtype, adapter=adapter is not None)
    _as_json(found) if json else _print(found)
    raise typer.Exit(NOT_AS_INTENDED if any(one.state == "failed" for one in found) else 0)


def _as_json(found: Any) -> None:
    from palimpsest.console import as_json

    as_json([one.plain() for one in found])


def _print(found: Any) -> None:
    from palimpsest.console import out, say, table
    from palimpsest.core.checkup import sorted_by_state

    before: set[Any] = set()
    for one in found:
        size = f"{one.info.architecture}, {one.info.parameters:,} parameters"
        say(f"{one.role}: {one.info.name} ({size}; {one.dtype} on {one.device})", style="bold")
        answers = sorted_by_state(one.answers)
        shown = [answer for answer in answers if _said(answer) not in before]
        table(("", "what", "found"), [(answer.state, answer.about, _words(answer)) for answer in shown])
        if len(shown) < len(answers):
            say(f"{len(answers) - len(shown)} more answers are those of the base", style="dim")
        out.print()
        before |= set(map(_said, answers))
    failed, unsaid = (
        sum(answer.state == state for one in found for answer in one.answers) for state in ("failed", "could not say")
    )
    touching = f"{failed} of these {'touches' if failed == 1 else 'touch'} numbers: see what follows from each"
    untouched = f"{unsaid} checks could not say, the others touch no number" if unsaid else "nothing here touches the numbers"
    say(touching if failed else untouched, style="bold")


def _said(answer: Any) -> tuple[str, ...]:
    return answer.about, answer.state, answer.found


def _words(answer: Any) -> str:
    return f"{answer.found}. What follows: {answer.follows}" if answer.follows else answer.found
