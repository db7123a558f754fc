"""Command line: verbs only. It knows no audit, study or scenario by name, and imports torch only when a verb needs it.

Exit codes: 0 as intended (and a diff without a behaviour), 1 crash, 2 not as intended, 3 what the user can mend (bad input or
usage, a full disk, another process in the same folder), 130 interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from palimpsest.core.errors import UserError

app = typer.Typer(
    help="Change one behaviour of a language model with few examples, then see everything else that moved.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
pocket_app = typer.Typer(help="The embedded model: sample from it, train a twin, read its card.", no_args_is_help=True)
data_app = typer.Typer(help="Look at what would be trained.", no_args_is_help=True)
app.add_typer(pocket_app, name="pocket")
app.add_typer(data_app, name="data")

NOT_AS_INTENDED, BAD_INPUT, INTERRUPTED = 2, 3, 130

Audits = Annotated[
    str | None, typer.Option("--audits", help="Names of audits, with commas; all that train nothing by default.")
]
Deep = Annotated[bool, typer.Option("--deep", help="Also run audits that have to train something.")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, mps; auto takes a GPU where there is one.")]
Dtype = Annotated[str, typer.Option("--dtype", help="Type of the weights in memory: float32, bfloat16, auto (as stored).")]
Text = Annotated[list[Path] | None, typer.Option("--text", help="General text to measure forgetting and divergence on.")]
Controls = Annotated[list[str] | None, typer.Option("--control", help="Another model to compare with, as ROLE=PATH.")]
Folder = Annotated[Path | None, typer.Option("--folder", help="The run's folder; runs/NAME-HASH by default.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would run, how long, in how much memory and disk; do nothing.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the record as JSON on standard output.")]
Seed = Annotated[int, typer.Option("--seed", help="Where all random streams start.")]
Embedded = Annotated[str, typer.Option("--model", help="pocket or hybrid-pocket.")]


@app.command()
def run(
    behaviour: Annotated[str, typer.Argument(help="A behaviour's name (see `palimpsest list`) or YAML file.")],
    model: Annotated[str, typer.Option("--model", help="A Hugging Face folder, a hub id, pocket or hybrid-pocket.")] = "pocket",
    seeds: Annotated[int, typer.Option("--seeds", help="How many training runs, each with its own seed.")] = 1,
    dose: Annotated[int | None, typer.Option("--dose", help="Behaviour examples, both poles; overrides the file.")] = None,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate", help="Overrides the file.")] = None,
    text: Text = None,
    audits: Audits = None,
    deep: Deep = False,
    device: Device = "auto",
    dtype: Dtype = "float32",
    seed: Seed = 0,
    folder: Folder = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Change a behaviour, audit what moved, write a report."""
    from palimpsest import behaviour as behaviours

    loaded = behaviours.load(behaviour)
    if dose is not None:
        loaded = type(loaded).read({**dict(loaded), "dose": dose}, "--dose")
    if learning_rate is not None:
        loaded = loaded.model_copy(update={"training": {**loaded.training, "learning_rate": learning_rate}})
    request = {
        "kind": "run",
        "base": model,
        "behaviour": loaded,
        "seeds": seeds,
        **_common(text, None, audits, deep, device, dtype, seed),
    }
    _carry_out(request, folder, dry_run, json)


@app.command()
def diff(
    base: Annotated[str, typer.Argument(help="The model before: a Hugging Face folder, a hub id, pocket or hybrid-pocket.")],
    tuned: Annotated[str, typer.Argument(help="The model after; also a PEFT adapter folder.")],
    behaviour: Annotated[
        str | None, typer.Option("--behaviour", help="What was meant to change: a name or a YAML file.")
    ] = None,
    text: Text = None,
    control: Controls = None,
    audits: Audits = None,
    deep: Deep = False,
    device: Device = "auto",
    dtype: Dtype = "float32",
    seed: Seed = 0,
    folder: Folder = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Audit any two checkpoints, whoever made them."""
    from palimpsest import behaviour as behaviours

    request = {
        "kind": "diff",
        "base": base,
        "tuned": tuned,
        "behaviour": behaviours.load(behaviour) if behaviour else None,
        **_common(text, control, audits, deep, device, dtype, seed),
    }
    _carry_out(request, folder, dry_run, json)


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("behaviour.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a commented behaviour file to start from, with its data beside it."""
    from palimpsest.console import say
    from palimpsest.starter import write

    for written in write(path, force=force):
        say(f"wrote {written}")
    say(f"Look at what would be trained with `palimpsest data show {path}`, edit it, then `palimpsest run {path}`.")


@app.command()
def report(run: Annotated[Path, typer.Argument(help="A run's folder.")]) -> None:
    """Draw the report of a stored run again."""
    from palimpsest.api import load_report, write_report
    from palimpsest.console import say

    found = load_report(run)
    say(f"report: {write_report(found.record, found.folder)}")


@app.command("list")
def list_all(
    runs: Annotated[Path, typer.Option("--runs", help="The folder that holds the runs.")] = Path("runs"),
    json: Json = False,
) -> None:
    """List audits, behaviours, scenarios and runs, each with its question."""
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
def show(audit: Annotated[str, typer.Argument(help="An audit's name (see `palimpsest list`).")]) -> None:
    """Show what an audit asks, how it answers, and what it can't say."""
    from palimpsest import catalogue
    from palimpsest.console import out, say

    for title, text in catalogue.sections(audit).items():
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
    folder: Annotated[Path, typer.Argument(help="Where the new model goes.")],
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


def _common(
    text: list[Path] | None, control: list[str] | None, audits: str | None, deep: bool, device: str, dtype: str, seed: int
) -> dict[str, Any]:
    return {
        "text": tuple(path.absolute() for path in text or ()),
        "controls": dict(_role(one) for one in control or ()),
        "audits": tuple(name.strip() for name in audits.split(",") if name.strip()) if audits else (),
        "deep": deep,
        "device": device,
        "dtype": dtype,
        "seed": seed,
    }


def _role(given: str) -> tuple[str, str]:
    role, found, path = given.partition("=")
    if not found or not path:
        raise UserError(f"--control must be ROLE=PATH, found '{given}'")
    return role, path


def _carry_out(data: dict[str, Any], folder: Path | None, dry_run: bool, json: bool) -> None:
    from palimpsest import api
    from palimpsest.console import Live, as_json
    from palimpsest.request import Request

    request = Request.read(data, "the command")
    where = folder or api.folder_for(request)
    with Live(watched=not json, folder=where) as live:
        live.begin("checking")
        planned = api.plan(request)
        record = None if dry_run else api.carry_out(planned, where, live)
    if record is None:
        from palimpsest.cost import foresee

        foreseen = foresee(planned, where)
        as_json(foreseen.plain()) if json else _print_foreseen(foreseen)
        raise typer.Exit(BAD_INPUT if foreseen.problems else 0)
    path = where / "report.html"
    as_json(record.model_dump(mode="json")) if json else _print_summary(record, path)
    raise typer.Exit(0 if record.verdict.as_intended else NOT_AS_INTENDED)


def _print_summary(record: Any, path: Path) -> None:
    from palimpsest.console import number, out, say, table
    from palimpsest.report import summary

    said = summary(record)
    say(said.headline, style="bold")
    say(f"how sure: {said.sure}\n", style="dim")
    for columns, rows in said.tables():
        table(columns, [(label, *map(number, numbers)) for label, numbers in rows])
        out.print()
    for reason in record.verdict.reasons:
        say(f"- {reason}")
    for step in record.verdict.next_steps:
        say(f"next: {step}")
    say(f"\nreport: {path}")


def _print_foreseen(foreseen: Any) -> None:
    from palimpsest.console import out, say, table

    for columns, rows in foreseen.tables():
        table(columns, rows)
        out.print()
    for sentence in foreseen.sentences():
        say(sentence)
    for one in foreseen.problems:
        say(f"can't run: {one}", style="bold red")


def _print_card(card: dict[str, Any]) -> None:
    from palimpsest.console import out

    out.print_json(data=card)


def main() -> None:
    """Run the command line and leave with the exit code that a script can read."""
    sys.exit(_run())


def _run() -> int:
    usage_error: type[Exception] = typer.BadParameter.__mro__[1]  # click's, which typer keeps to itself
    try:
        code = app(standalone_mode=False)
    except UserError as error:
        from palimpsest.console import problem

        problem(error)
        return BAD_INPUT
    except usage_error as error:
        error.show()  # type: ignore[attr-defined]
        return BAD_INPUT
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception:
        import traceback

        from palimpsest.console import safe

        sys.stderr.write(safe(traceback.format_exc()))
        return 1
    if code == INTERRUPTED:  # which typer makes of Ctrl-C too
        from palimpsest.console import err

        err.print("\ninterrupted; the same command goes on where this one stopped")
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    main()
