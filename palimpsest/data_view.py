"""Data view: what does the model see of each training example, and which of its tokens learn?

Loads a tokenizer and no weights. A row of which nothing would learn stops it, as it would stop the run.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from rich.text import Text

from palimpsest import behaviour as behaviours
from palimpsest.behaviour import Behaviour
from palimpsest.casework import open_materials, training_examples
from palimpsest.console import safe
from palimpsest.core.errors import Problems
from palimpsest.data.chat import Example
from palimpsest.data.mixture import SOURCES, Counts, RowSource, counts_for
from palimpsest.data.render import PLAIN_NOTE, Encoded, Renderer
from palimpsest.models import pocket
from palimpsest.models.comparison import stop_tokens
from palimpsest.models.folder import locate
from palimpsest.models.skeleton import open_tokenizer
from palimpsest.request import Request
from palimpsest.training.sampler import check_rows, encode_rows
from palimpsest.training.settings import TrainingSettings

LEARNS, HALF_LEARNS, CONTEXT = "bold green", "green", "dim"
OPEN, CLOSE = "⟦", "⟧"
"""Around what learns, for terminals without colour."""


def view(behaviour: str | Path | Behaviour, model: str, count: int, seed: int) -> Iterator[Text]:
    """Yield the first examples of each source, as a run with this seed would train on them.

    Args:
        behaviour: its name, its YAML file, or itself.
        model: a model folder, a hub id, or ``pocket`` or ``hybrid-pocket``; gives tokenizer and template.
        count: examples of each source.
        seed: the run's seed.

    Raises:
        UserError: what can't be read, and every row of which no token learns (file and line), all at once.
    """
    loaded = behaviours.load(behaviour)
    request = Request.read({"kind": "run", "base": model, "behaviour": loaded, "seed": seed}, "the command")
    path = locate(pocket.resolve(model))
    problems = Problems("There is nothing to look at:")
    renderer = _renderer(path, loaded.separator, problems)
    materials = open_materials(request, pocket.CAPABILITIES if pocket.speaks(path) else (), problems)
    settings = TrainingSettings.read(loaded.training, "'training'")
    problems.raise_if_any()
    assert renderer is not None
    counts = counts_for(loaded.dose, settings.rehearsal_share, loaded.express_share)
    drawn = training_examples(loaded, materials, counts if materials.rehearsal else counts._replace(rehearsal=0), seed)
    examples: dict[RowSource, list[Example]] = dict(zip(SOURCES, (drawn.express, drawn.withhold, drawn.rehearsal), strict=True))
    rows = [row for source, some in examples.items() for row in encode_rows(renderer, some, source)]
    check_rows(rows, None, len(renderer.tokenizer))
    yield from _notes(renderer, counts, examples, materials.told)
    for source, some in examples.items():
        yield from _section(renderer, source, some, count)


def _renderer(path: Path, separator: str, problems: Problems) -> Renderer | None:
    tokenizer = open_tokenizer(path, problems.found)
    if tokenizer is None or not tokenizer.is_fast:
        return None
    return Renderer(tokenizer, ends=stop_tokens(path, None, tokenizer), separator=separator)


def _notes(renderer: Renderer, counts: Counts, examples: dict[RowSource, list[Example]], told: list[str]) -> Iterator[Text]:
    yield Text.assemble("What learns is ", (f"{OPEN}marked so{CLOSE}", LEARNS), "; the rest is context.")
    if not renderer.has_template:
        yield Text(PLAIN_NOTE)
    yield from map(Text, renderer.told)
    if counts.rehearsal and not examples["rehearsal"]:
        yield Text(f"The {counts.rehearsal} rehearsal rows will be text that the base model writes before training.")
    yield from (Text(safe(note)) for note in told)


def _section(renderer: Renderer, source: RowSource, examples: list[Example], count: int) -> Iterator[Text]:
    if not examples:
        return
    encoded = [renderer.encode(example) for example in examples]
    learning, tokens = sum(one.trained for one in encoded), sum(len(one.tokens) for one in encoded)
    yield Text(
        f"\n{source}: {len(examples)} rows, {tokens} tokens, {learning} of them learn ({learning / tokens:.0%})", style="bold"
    )
    for example, one in zip(examples[:count], encoded, strict=False):
        yield Text(safe(f"\n{example.source} ({len(one.tokens)} tokens, {one.trained} learn)"), style="italic")
        yield shown(renderer, one)


def shown(renderer: Renderer, encoded: Encoded) -> Text:
    """Return an example's tokens as text, template tokens included, with what learns marked."""
    text = Text()
    for weight, places in groupby(range(len(encoded.tokens)), key=lambda place: encoded.weights[place]):
        piece = safe(_decoded(renderer, [encoded.tokens[place] for place in places]))
        if weight >= 1.0:
            text.append(f"{OPEN}{piece}{CLOSE}", style=LEARNS)
        else:
            text.append(piece, style=HALF_LEARNS if weight else CONTEXT)
    return text


def _decoded(renderer: Renderer, tokens: list[int]) -> str:
    """Return tokens as they read in the middle of a text, so that a leading space is seen."""
    anchor = renderer.tokenizer("a", add_special_tokens=False).input_ids[-1:]
    begun = len(renderer.tokenizer.decode(anchor))
    return renderer.tokenizer.decode([*anchor, *tokens], skip_special_tokens=False, clean_up_tokenization_spaces=False)[begun:]
