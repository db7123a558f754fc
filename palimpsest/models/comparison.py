"""Comparison: can two models be compared token by token, and weight by weight?

Read from the tokenizers themselves, before any weights are loaded.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palimpsest.models.folder import read_json
from palimpsest.models.inspection import SubjectInfo
from palimpsest.models.skeleton import open_tokenizer
from palimpsest.models.vocabulary import cut_alike

_PROBE = (
    f"{string.printable} The quick brown fox doesn't jump over 13 lazy dogs, twice: naïve café – “fine”.\n\n"
    "    def add(a, b):\n\treturn a + b  # 1234567890\r\nΩμέγα Привет 你好 مرحبا 🙂"
)


@dataclass(frozen=True)
class Comparison:
    """What stands in the way of comparing two models, and what a reader has to know."""

    problems: tuple[str, ...]
    """Without an answer to these nothing can be compared."""
    notes: tuple[str, ...]
    weights_comparable: bool
    """Whether both have the same weights by name and shape."""


def compare(base: SubjectInfo, tuned: SubjectInfo) -> Comparison:
    """Say whether the outputs, and whether the weights, of two models can be compared."""
    problems: list[str] = []
    one, other = open_tokenizer(base.tokenizer_path, problems), open_tokenizer(tuned.tokenizer_path, problems)
    notes: list[str] = []
    if not problems:
        problems += _different_tokens(one, other)
        if not problems:
            problems += _beyond(base, tuned, one, other)
            notes += _further(base, tuned, one, other)
        if not problems:
            problems += _different_splits(one, other)
        notes += _different_templates(one, other)
    if base.context_length != tuned.context_length:
        shorter = min(base.context_length, tuned.context_length)
        notes.append(f"Contexts are {base.context_length} and {tuned.context_length} tokens: both are read up to {shorter}.")
    alike = cut_alike({"base": base, "tuned": tuned})
    difference = different_shapes(alike["base"], alike["tuned"])
    return Comparison(tuple(problems), (*notes, *difference), not difference)


def comparison_problems(base: SubjectInfo, tuned: SubjectInfo) -> tuple[str, ...]:
    """Return what makes two models incomparable; empty when they can be compared."""
    return compare(base, tuned).problems


def _different_tokens(one: Any, other: Any) -> list[str]:
    before, after = one.get_vocab(), other.get_vocab()
    if before.items() <= after.items():
        return []
    only_before, only_after = sorted(before.keys() - after.keys()), sorted(after.keys() - before.keys())
    moved = sorted(token for token in before.keys() & after.keys() if before[token] != after[token])
    parts = [
        f"{len(tokens)} {what} ({', '.join(map(repr, tokens[:5]))}{' ...' if len(tokens) > 5 else ''})"
        for tokens, what in (
            (only_before, "only in the base"),
            (only_after, "only in the tuned model"),
            (moved, "with another id"),
        )
        if tokens
    ]
    return [
        f"both models must have the same tokens, but the base has {len(before)} and the tuned model {len(after)}: "
        f"{'; '.join(parts)}. Compare a model with the one that it was made from"
    ]


def _beyond(base: SubjectInfo, tuned: SubjectInfo, one: Any, other: Any) -> list[str]:
    """Return why the rows of the embeddings that both models have are not enough to compare them."""
    common, found = min(base.vocabulary_size, tuned.vocabulary_size), []
    lost = sorted(token for token, place in one.get_vocab().items() if place >= common)
    if lost:
        found.append(
            f"both models must have an embedding for every token of the base, but the tuned model has none for {lost[0]!r}"
        )
    ends = sorted(token for token, place in _added(one, other).items() if place in stop_tokens(tuned.path, tuned.base, other))
    if ends:
        found.append(
            f"the tuned model ends its answers with {ends[0]!r}, a token that the base does not have, so answers can't be "
            "compared; compare with the base as its training began: add the same tokens to the base's tokenizer, call "
            "model.resize_token_embeddings, and save both to a folder"
        )
    return found


def _further(base: SubjectInfo, tuned: SubjectInfo, one: Any, other: Any) -> list[str]:
    """Say what only one model has, and what is done with it."""
    found, added = [], sorted(_added(one, other))
    if added:
        shown = ", ".join(map(repr, added[:5])) + (" ..." if len(added) > 5 else "")
        found.append(f"The tuned model has {len(added)} further {'token' if len(added) == 1 else 'tokens'} ({shown}).")
    if base.vocabulary_size != tuned.vocabulary_size:
        sizes = f"{base.vocabulary_size:,} and {tuned.vocabulary_size:,}"
        found.append(
            f"The embeddings have {sizes} rows (base and tuned): both models are read with the first "
            f"{min(base.vocabulary_size, tuned.vocabulary_size):,} only, as if there were no other tokens."
        )
    return found


def _added(one: Any, other: Any) -> dict[str, int]:
    known = one.get_vocab()
    return {token: place for token, place in other.get_vocab().items() if token not in known}


def stop_tokens(path: Path, base: Path | None, tokenizer: Any) -> set[int]:
    """Return the tokens that end an answer: what generation settings, configuration and tokenizer call the end."""
    found = {tokenizer.eos_token_id}
    for folder in filter(None, (path, base)):
        for name in ("generation_config.json", "config.json"):
            ends = read_json(folder / name).get("eos_token_id")
            found |= set(ends) if isinstance(ends, list) else {ends}
    return {token for token in found if isinstance(token, int)}


def _different_splits(one: Any, other: Any) -> list[str]:
    before, after = (kind(_PROBE, add_special_tokens=False).input_ids for kind in (one, other))
    if before == after:
        return []
    place = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after)))
    shown = [kind.convert_ids_to_tokens(ids[place : place + 3]) for kind, ids in ((one, before), (other, after))]
    return [f"both tokenizers must cut text alike, but where the base reads {shown[0]} the tuned model reads {shown[1]}"]


def _different_templates(one: Any, other: Any) -> list[str]:
    if one.chat_template == other.chat_template:
        return []
    if one.chat_template and other.chat_template:
        return ["The chat templates differ: both models are read with the base's."]
    if one.chat_template:
        return ["Only the base has a chat template: both models are read with it."]
    return ["Only the tuned model has a chat template: as prompts have to be the same, both are read without one."]


def different_shapes(base: SubjectInfo, tuned: SubjectInfo) -> list[str]:
    """Return why two models can't be compared weight by weight, in one sentence; empty when they can."""
    if base.architecture != tuned.architecture:
        return [f"The weights are not comparable: {base.architecture} and {tuned.architecture}."]
    before, after = dict(base.shapes), dict(tuned.shapes)
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            sizes = [str(shapes.get(name, "absent")) for shapes in (before, after)]
            return [f"The weights are not comparable: {name} is {sizes[0]} in the base and {sizes[1]} in the tuned model."]
    return []
