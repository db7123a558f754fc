"""Memory: which mistakes did the model make in real conversations, which matter here, and do they come back?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from palimpsest.cli._app import NOT_AS_INTENDED, Json, Seed, app, possible
from palimpsest.core.errors import UserError

MemoryFolder = Annotated[Path, typer.Option("--memory", callback=possible, help="The folder that holds the corrections.")]


@app.command()
def watch(
    transcripts: Annotated[
        list[Path], typer.Argument(help="Conversations: .jsonl, .json, inspect logs (.eval, .json), or folders of them.")
    ],
    memory: MemoryFolder,
    behaviour: Annotated[
        list[str] | None,
        typer.Option("--behaviour", help="What to watch for: a name or a YAML file; may be given several times."),
    ] = None,
    judge: Annotated[
        str | None, typer.Option("--judge", help="URL of an OpenAI-compatible endpoint that judges every answer besides.")
    ] = None,
    judge_model: Annotated[str | None, typer.Option("--judge-model", help="The model to ask there.")] = None,
    skip_unreadable: Annotated[bool, typer.Option("--skip-unreadable", help="Leave out lines that can't be read.")] = False,
    json: Json = False,
) -> None:
    """Find the answers in real conversations that failed, and remember them as corrections."""
    from palimpsest.console import Live, as_json
    from palimpsest.memory import watch as watching

    known = watching.known_behaviours(behaviour or [], memory)
    endpoint = _endpoint(judge, judge_model)
    with Live(watched=not json, folder=memory) as live:
        found = watching.watch(transcripts, memory, known, endpoint=endpoint, skip_unreadable=skip_unreadable, progress=live)
    as_json(_plain(found)) if json else _print_watched(found, memory)


@app.command()
def surface(
    conversation: Annotated[
        str, typer.Argument(help="A file with one conversation (.json, .jsonl, .txt), a text, or - for standard input.")
    ],
    memory: MemoryFolder,
    count: Annotated[int, typer.Option("--count", min=1, max=1_000, help="How many at most.")] = 3,
    again: Annotated[bool, typer.Option("--again", help="Also what was surfaced in this conversation before.")] = False,
    json: Json = False,
) -> None:
    """Show the corrections that matter for a conversation."""
    from palimpsest.console import as_json, say
    from palimpsest.memory.surface import surface as look

    found = look(memory, _conversation(conversation), count, again=again)
    if json:
        as_json(
            [{**vars(one.correction), "strength": one.correction.strength, "score": one.score, "why": one.why} for one in found]
        )
        return
    if not found:
        say(
            "no correction matters for this conversation"
            + ("" if again else ", or all that do were surfaced in it before (--again)")
        )
    for one in found:
        _print_correction(one)


@app.command()
def trend(
    memory: MemoryFolder,
    windows: Annotated[int, typer.Option("--windows", min=1, max=200, help="How many at most.")] = 8,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Say whether corrections come back more often than they did; exit code 2 where they do."""
    from palimpsest import api, monitor
    from palimpsest.console import Live, as_json, number, out, say, table
    from palimpsest.memory.trend import trend as look

    with Live(watched=not json) as live:
        found = look(memory, windows=windows, seed=seed, progress=live)
    told = monitor.account(memory, found)
    page = api.write_account(told, memory)
    if json:
        as_json(told.model_dump(mode="json"))
    else:
        say(told.headline, style="bold")
        for one, part in zip(found, told.parts, strict=True):
            out.print()
            say(monitor.sentence(one))
            windowed = part.tables[0]
            table(windowed.columns, [(str(row[0]), number(row[1]), number(row[2])) for row in windowed.rows])  # type: ignore[arg-type]
        for step in told.next_steps:
            say(f"next: {step}")
        say(f"\nreport: {page}")
    raise typer.Exit(NOT_AS_INTENDED if any(one.regression for one in found) else 0)


def _endpoint(url: str | None, model: str | None) -> Any:
    from palimpsest.data.endpoint import Endpoint

    if url is None and model is None:
        return None
    if url is None or model is None:
        raise UserError("--judge and --judge-model belong together: the address, and the model to ask there")
    return Endpoint.read({"url": url, "model": model}, "--judge")


def _conversation(given: str) -> Any:
    from palimpsest.core.files import read_file
    from palimpsest.memory.transcripts import read_one

    if given == "-":
        return read_one(_decoded(sys.stdin.buffer.read(), "standard input"), "standard input")
    path = Path(given)
    try:
        is_file = len(given) < 4_096 and path.is_file()
    except (OSError, ValueError):
        is_file = False
    if is_file:
        return read_one(_decoded(read_file(path, 2**26), given), given)
    if path.suffix in (".json", ".jsonl", ".txt") and len(given.split()) == 1:
        raise UserError(f"{given} can't be read: there is no such file")
    if not given.strip():
        raise UserError("the conversation is empty")
    return read_one(given, "the conversation")


def _decoded(content: bytes, source: str) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{source} can't be used: it is not UTF-8 text (byte {content[error.start]:#04x})") from None
    if not text.strip():
        raise UserError(f"{source} can't be used: it is empty")
    return text


def _print_watched(found: Any, memory: Path) -> None:
    from palimpsest.console import out, say, table
    from palimpsest.report.summary import POLES

    answers = sum(one.watched for one in found.judged.values())
    say(f"{found.conversations:,} conversations, {answers:,} new answers judged", style="bold")
    if found.judged:
        rows = [
            (f"{name}, {POLES[pole]}", f"{one.watched:,}", f"{one.failed:,}", f"{one.known_before:,}")
            for (name, pole), one in sorted(found.judged.items())
        ]
        out.print()
        table(("behaviour", "watched", "failed", "known before"), rows)
    if found.already:
        say(f"\n{found.already:,} answers were in the memory already")
    if found.disputed:
        say(f"{found.disputed:,} answers: judge and check disagree; they count neither way")
    if found.unknown:
        say(f"\n{sum(found.unknown.values()):,} answers could not be judged:")
        for reason, count in found.unknown.most_common(8):
            say(f"  {count:,}: {reason}")
        say("  Give 'behaviour' and 'pole' (express or withhold) in the line, or let a model judge (--judge).")
    for rule in found.rules:
        say(f"- {rule}", style="dim")
    say(f"\nmemory: {memory}")


def _print_correction(one: Any) -> None:
    from palimpsest.console import say
    from palimpsest.core.wording import one_line
    from palimpsest.report.summary import POLES

    correction = one.correction
    say(f"#{correction.id} {correction.behaviour}, {POLES[correction.pole]}", style="bold")
    say(f"  the model said: {one_line(correction.said, 200)}")
    say(f"  what was wrong: {correction.wrong}")
    if correction.better:
        say(f"  better: {one_line(correction.better, 200)}")
    say(f"  importance {correction.importance:.2f}; {one.why}", style="dim")


def _plain(found: Any) -> dict[str, Any]:
    return {
        "conversations": found.conversations,
        "already": found.already,
        "disputed": found.disputed,
        "unknown": dict(found.unknown),
        "judged": [{"behaviour": name, "pole": pole, **vars(one)} for (name, pole), one in sorted(found.judged.items())],
        "rules": list(found.rules),
    }
