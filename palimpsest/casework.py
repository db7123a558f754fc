"""Casework: on which items are the models compared, and which examples is one trained on?

Builds item sets and training examples from a request. Touches no model; the tokenizer only says what fits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from pathlib import Path

from palimpsest.audit import Case
from palimpsest.behaviour import Behaviour
from palimpsest.core.errors import Problems, UserError, nearest
from palimpsest.core.seeds import python_stream
from palimpsest.core.stats import FEWEST_CLUSTERS
from palimpsest.data.chat import POLES, Example, ItemSet
from palimpsest.data.contrast import contrasts, instructed
from palimpsest.data.material import Material, Source
from palimpsest.data.mixture import Counts, RowSource
from palimpsest.data.render import PLAIN_NOTE, Renderer
from palimpsest.data.text_files import LONGEST
from palimpsest.data.user_files import text_example
from palimpsest.request import Request
from palimpsest.training.sampler import Row, encode_rows

GENERATED = "generated"
SAMPLED = f"sampled:{GENERATED}"
"""The item set of text that the base model wrote. On it any other model has the higher loss, so it tells how far one moved and
not whether anything got worse."""
_CHARACTERS_A_TOKEN = 32
"""A token is much shorter than this; text beyond as many for each token of the context can't be seen by the model."""
_COUNTED = 2**21
"""Characters of text beyond the context whose tokens are counted one by one."""
PAIRS, INSTRUCTED = "pairs", "instructed"
"""The item sets of contrastive pairs, and of both poles' items (``instructed:express``) with an instruction in the context."""
_MOST_PAIRS = 48
_OPENINGS = ("The", "A", "In", "I", "When", "It", "One", "There", "He", "She", "We", "This", "At", "For", "My", "On")


@dataclass(frozen=True)
class Materials:
    """Opened sources of everything a request reads, by name."""

    express: Material | None = None
    withhold: Material | None = None
    rehearsal: dict[str, Material] = field(default_factory=dict)
    text: dict[str, Material] = field(default_factory=dict)

    @property
    def told(self) -> list[str]:
        poles = [material for material in (self.express, self.withhold) if material]
        return list(dict.fromkeys(note for one in (*poles, *self.rehearsal.values(), *self.text.values()) for note in one.told))


def open_materials(request: Request, world: Iterable[tuple[str, str, dict[str, object]]], problems: Problems) -> Materials:
    """Open every source, collecting what is wrong with any of them.

    Args:
        request: what was asked for.
        world: (name, scenario, parameters) of the embedded model's abilities; empty for any other model.
        problems: where to add what can't be read.
    """

    def opened(source: Source | None, *, trained: bool = True) -> Material | None:
        try:
            return source.open(trained=trained) if source else None
        except UserError as error:
            problems.add(str(error))
            return None

    behaviour = request.behaviour
    rehearsal = {_name(source): source for source in behaviour.rehearsal} if behaviour else {}
    if not rehearsal:
        rehearsal = {name: Source(scenario=scenario, parameters=parameters) for name, scenario, parameters in world}
    if behaviour and rehearsal and (strange := [name for name in behaviour.rehearsal_weights if name not in rehearsal]):
        problems.add(f"rehearsal_weights: nothing named '{strange[0]}' is rehearsed.{nearest(strange[0], rehearsal)}")
    text = {path.stem: Source(text=path) for path in (*request.text, *(behaviour.text if behaviour else ()))}
    rehearsed = {source.text for source in rehearsal.values()}
    return Materials(
        opened(behaviour.express) if behaviour else None,
        opened(behaviour.withhold) if behaviour else None,
        {name: one for name, source in rehearsal.items() if (one := opened(source))},
        {name: one for name, source in text.items() if (one := opened(source, trained=source.text in rehearsed))},
    )


def build_case(
    request: Request,
    materials: Materials,
    renderer: Renderer,
    context_length: int,
    problems: Problems,
    *,
    contrasting: bool = True,
) -> Case:
    """Return the items of every pole, capability and text, and contrastive ones; the roles are filled in by the pipeline."""
    items: dict[str, ItemSet] = {}
    notes: list[str] = []
    beyond: dict[str, int] = {}
    behaviour, seed = request.behaviour, request.seed
    if behaviour:
        for pole, material in (("express", materials.express), ("withhold", materials.withhold)):
            if material:
                found = _held_out(material, pole, behaviour.held_out, request, problems, notes)
                items[pole] = _set(pole, [behaviour.complete(example, pole) for example in found])  # type: ignore[arg-type]
    for name, material in materials.rehearsal.items():
        found = _held_out(material, f"capability {name}", request.capability_items, request, problems, notes)
        kind = "text" if found and found[0].is_text else "capability"
        chosen = found
        if kind == "text":
            chosen, beyond[f"text:{name}"] = _readable(name, found[: request.documents], renderer, context_length, notes)
        items[f"{kind}:{name}"] = _set(f"{kind}:{name}", chosen)
    for name, material in materials.text.items():
        documents = _held_out(material, f"text {name}", request.documents, request, problems, notes)
        found, beyond[f"text:{name}"] = _readable(name, documents, renderer, context_length, notes)
        items[f"text:{name}"] = _set(f"text:{name}", found)
        if not request.block and not request.blocks and len(found) < FEWEST_CLUSTERS:
            problems.add(
                f"text {name}: at least {FEWEST_CLUSTERS} documents are needed to measure on, found {len(found)} (documents "
                "stand between <|endoftext|> lines, or are paragraphs joined to about 1,000 characters); give more text"
            )
    items = {name: one for name, one in items.items() if one.items}
    _refuse_misfits(items, renderer, context_length, problems)
    if behaviour and (behaviour.generation.max_new_tokens or 0) >= context_length:
        problems.add(f"generation.max_new_tokens must be below the model's context of {context_length} tokens")
    notes = [*materials.told, *notes]
    if not renderer.has_template:
        notes.append(PLAIN_NOTE)
    notes += renderer.told
    contrastive = _contrasting(behaviour, items, materials, renderer, context_length, seed) if behaviour and contrasting else {}
    return Case(
        roles=("base", "tuned"),
        items={**items, **contrastive},
        instruction=(behaviour.instruction or "") if behaviour and f"{INSTRUCTED}:express" in contrastive else "",
        check=behaviour.check if behaviour else None,
        generation={
            "max_new_tokens": (behaviour and behaviour.generation.max_new_tokens)
            or min(_answer_length(items, renderer), context_length - 1),
            "temperature": behaviour.generation.temperature if behaviour else 1.0,
            "seed": seed,
        },
        notes=tuple(notes),
        words=behaviour.words.model_dump() if behaviour else {},
        beyond=beyond,
    )


def _held_out(
    material: Material, use: str, count: int, request: Request, problems: Problems, notes: list[str]
) -> list[Example]:
    """Return the held-out examples of one use in the request's block, adding to the problems a pole that has too few for it."""
    if request.blocks:
        return _divided(material, use, count, request, problems)
    before = request.block * count
    found = material.held_out(request.seed, use, before + count)[before:]
    if not request.block or len(found) >= FEWEST_CLUSTERS:
        return found
    if use in POLES:
        problems.add(
            f"{use}: block {request.block} needs held-out items that no block before it had, at least {FEWEST_CLUSTERS}, found "
            f"{len(found)}; give more data, fewer items a block, or a smaller block"
        )
        return found
    notes.append(f"{use}: too few held-out items for one more block, so they were read from their beginning again")
    return material.held_out(request.seed, use, count)


def _contrasting(
    behaviour: Behaviour, items: dict[str, ItemSet], materials: Materials, renderer: Renderer, context_length: int, seed: int
) -> dict[str, ItemSet]:
    """Return contrastive pairs of the training split, and the poles' items with the behaviour's instruction, where they fit."""

    def fits(one: Example | None) -> bool:
        try:
            return one is not None and _longest_form(one, renderer) <= context_length
        except UserError:  # such as a template without system messages
            return False

    express = [behaviour.complete(one, "express") for one in _spare(materials.express, seed, "pairs express")]
    withhold = [behaviour.complete(one, "withhold") for one in _spare(materials.withhold, seed, "pairs withhold")]
    found = {PAIRS: [one for one in contrasts(express, withhold, behaviour.check) if fits(one)]}
    for pole in POLES:
        if behaviour.instruction and pole in items:
            told = [instructed(item, behaviour.instruction) for item in (*items[pole].items, *found[PAIRS])]
            found[f"{INSTRUCTED}:{pole}"] = (
                [one for one in told if one][: len(items[pole].items)] if all(map(fits, told)) else []
            )
    return {name: _set(name, some) for name, some in found.items() if some}


def _spare(material: Material | None, seed: int, use: str) -> list[Example]:
    """Return examples of the training split that serve for contrastive pairs, fewer where it has no more."""
    count = _MOST_PAIRS if material else 0
    while material and count:
        try:
            return material.training(seed, use, count)
        except UserError:
            count //= 2
    return []


def _divided(material: Material, use: str, count: int, request: Request, problems: Problems) -> list[Example]:
    """Return the items of one block of several; a capability or a text with too few for that is left out, and told so."""
    found = material.held_out(request.seed, use, request.blocks * count)
    size = len(found) // request.blocks
    if size >= FEWEST_CLUSTERS:
        return found[request.block * size : (request.block + 1) * size]
    if use in POLES:
        problems.add(
            f"{use}: {request.blocks} blocks of at least {FEWEST_CLUSTERS} held-out items are needed, found {len(found)} "
            "items; give more data"
        )
    return []


def left_out(case: Case, materials: Materials) -> tuple[str, ...]:
    """Return the names of what a case does not measure because it has too few held-out items for a block of their own."""
    measured = {name.partition(":")[2] for name in case.items}
    return tuple(name for name in (*materials.rehearsal, *materials.text) if name not in measured)


def probe_items(count: int) -> ItemSet:
    """Return prompts from which the base model writes its own general text: the beginning of a sequence, or a first word."""
    words = islice(cycle(_OPENINGS), count)
    return _set("probe", [text_example(f"{word} {index}", "probe") for index, word in enumerate(words)])


def generated_text(documents: Iterable[str]) -> list[Example]:
    """Return what the base model wrote as documents, empty ones and repetitions left out."""
    kept = dict.fromkeys(text for document in documents if len(text := document.strip()) > 1)
    return [text_example(text, "generated by the base model", template=f"sample {index}") for index, text in enumerate(kept)]


@dataclass(frozen=True)
class TrainingExamples:
    """Examples of one training run, in the order in which they are used."""

    express: list[Example]
    withhold: list[Example]
    rehearsal: list[Example]


def training_examples(behaviour: Behaviour, materials: Materials, counts: Counts, seed: int) -> TrainingExamples:
    """Return fresh training examples. The poles of a small dose are the first ones of a larger dose.

    Raises:
        UserError: a source has too few.
    """
    express = materials.express.training(seed, "express", counts.express) if materials.express else []
    withhold = materials.withhold.training(seed, "withhold", counts.withhold) if materials.withhold else []
    if counts.rehearsal and not any(behaviour.rehearsal_weights.get(name, 1) for name in materials.rehearsal):
        raise UserError("there is nothing to rehearse: give 'rehearsal' sources, or rehearsal_share: 0")
    turns = rehearsal_turns(tuple(materials.rehearsal), behaviour.rehearsal_weights, counts.rehearsal)
    drawn = {
        name: iter(material.training(seed, f"rehearsal {name}", turns.count(name)))
        for name, material in materials.rehearsal.items()
    }
    rehearsal = [next(drawn[name]) for name in turns]
    return TrainingExamples(
        [_decisions_only(behaviour.complete(example, "express")) for example in express],
        [_decisions_only(behaviour.complete(example, "withhold")) for example in withhold],
        [_decisions_only(example) for example in rehearsal],
    )


def rehearsal_turns(names: Sequence[str], weights: Mapping[str, int], count: int) -> list[str]:
    """Return from which source each rehearsal row is taken: in rounds in which a source stands as often as its weight.

    What weighs more comes first, so that it has its rows in a short rehearsal too.
    """
    most = max((weights.get(name, 1) for name in names), default=1)
    order = [name for lap in range(most, 0, -1) for name in names if weights.get(name, 1) >= lap]
    return list(islice(cycle(order), count))


def _decisions_only(example: Example) -> Example:
    """Return an example of which nothing but its decisions learns; questions have a small weight in pretraining."""
    return example.model_copy(update={"question_weight": 0.0}) if example.question_weight else example


def encoded_rows(renderer: Renderer, examples: TrainingExamples, context_length: int) -> list[Row]:
    """Return examples as rows for training; a bare text is cut to the context, a conversation that is too long stays so."""
    sources: tuple[tuple[RowSource, list[Example]], ...] = (
        ("express", examples.express),
        ("withhold", examples.withhold),
        ("rehearsal", examples.rehearsal),
    )
    rows = []
    for source, chosen in sources:
        shown = [_beginning(example, context_length) for example in chosen]
        for example, row in zip(shown, encode_rows(renderer, shown, source), strict=True):
            cut = replace(row, tokens=row.tokens[:context_length], weights=row.weights[:context_length])
            rows.append(cut if example.is_text else row)
    return rows


class Written:
    """What the base model wrote, as rehearsal material."""

    told: tuple[str, ...] = ()

    def __init__(self, examples: list[Example]) -> None:
        self.examples = examples

    def training(self, seed: int, use: str, count: int) -> list[Example]:
        if len(self.examples) < count:
            raise UserError(
                f"{count} rehearsal rows are needed, but the base model wrote only {len(self.examples)} different samples; "
                "give 'rehearsal' sources"
            )
        order = list(self.examples)
        python_stream(seed, use, "order").shuffle(order)
        return order[:count]

    def held_out(self, seed: int, use: str, count: int) -> list[Example]:
        return []


def _beginning(example: Example, context_length: int) -> Example:
    """Return a bare text cut to what may fit into the context, so that a book need not be tokenised to its end."""
    most = _CHARACTERS_A_TOKEN * context_length
    if not example.is_text or len(example.messages[0].content) <= most:
        return example
    return text_example(example.messages[0].content[:most], example.source, example.template)


def _readable(
    name: str, documents: list[Example], renderer: Renderer, context_length: int, notes: list[str]
) -> tuple[list[Example], int]:
    """Return the beginnings of documents, without those in which no token has one before it, and how many tokens are not read.

    What is not read is told: how much of the text the numbers are of is part of what they say.
    """
    shown = [_beginning(document, context_length) for document in documents]
    sizes = [len(renderer.encode(document).tokens) for document in shown]
    kept = [place for place, size in enumerate(sizes) if size > 1]
    whole, exact = _whole_sizes(documents, shown, sizes, renderer)
    read, there = (sum(found[place] for place in kept) for found in ([min(size, context_length) for size in sizes], whole))
    if read < there:
        cut = sum(whole[place] > context_length for place in kept)
        more = any(document.is_text and len(document.messages[0].content) == LONGEST for document in documents)
        about = "more than " if more else "" if exact else "about "
        notes.append(
            f"{name}: {read:,} of {about}{there:,} tokens were read; of {cut:,} of {len(kept):,} documents only "
            f"the beginning fits into the model's context of {context_length:,} tokens"
        )
    if len(kept) < len(shown):
        some = len(shown) - len(kept)
        notes.append(f"{name}: {some:,} of {len(shown):,} documents have no two tokens and were left out")
    return [shown[place] for place in kept], there - read


def _whole_sizes(
    documents: list[Example], shown: list[Example], sizes: list[int], renderer: Renderer
) -> tuple[list[int], bool]:
    """Return how many tokens each whole document has, and whether all were counted: those of long books are reckoned."""
    long = [place for place, (one, own) in enumerate(zip(documents, shown, strict=True)) if one is not own]
    lengths = {place: len(documents[place].messages[0].content) for place in long}
    exact, found = sum(lengths.values()) <= _COUNTED, list(sizes)
    for place in long:
        rate = sizes[place] / len(shown[place].messages[0].content)
        found[place] = len(renderer.encode(documents[place]).tokens) if exact else round(rate * lengths[place])
    return found, exact


def _set(name: str, items: list[Example]) -> ItemSet:
    return ItemSet(name=name, items=tuple(items))


def _name(source: Source) -> str:
    file = source.data or source.text
    return (
        file.stem
        if file
        else "_".join(
            [
                str(source.scenario),
                *(str(value) for value in source.parameters.values() if isinstance(value, str) and not Path(value).suffix),
            ]
        )
    )


def _answer_length(items: dict[str, ItemSet], renderer: Renderer) -> int:
    """Return room for the longest reference answer and a little more."""
    lengths = [
        renderer.encode(item).trained
        for name, one in items.items()
        if name.split(":")[0] not in ("text", "sampled")
        for item in one.items[:64]
    ]
    return min(max(lengths, default=24) + 8, 128)


def _refuse_misfits(items: dict[str, ItemSet], renderer: Renderer, context_length: int, problems: Problems) -> None:
    for name, one in items.items():
        if one.items[0].is_text:
            continue
        try:
            sizes = [(_longest_form(item, renderer), item.source) for item in one.items]
        except UserError as error:
            problems.add(f"{name}: {error}")
            continue
        longest, source = max(sizes)
        if longest > context_length:
            over = sum(size > context_length for size, _ in sizes)
            problems.add(
                f"{name}: {over} of {len(sizes)} held-out items are longer than the model's context of {context_length} tokens "
                f"(the longest, {source}, has {longest}); shorten them"
            )


def _longest_form(item: Example, renderer: Renderer) -> int:
    """Return the tokens of an item with its answer or with the longest of its options."""
    forms = [renderer.encode(item)]
    for name, text in item.options.items():
        try:
            forms.append(renderer.encode_option(item, text))
        except UserError as error:
            raise UserError(f"{item.source}, option '{name}' ({text[:40]!r}): {error}") from None
    return max(len(form.tokens) for form in forms)
