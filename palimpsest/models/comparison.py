"""Comparison: can two models be compared token by token, and weight by weight?

Read from the tokenizers themselves, before any weights are loaded.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Any

from palimpsest.models.inspection import SubjectInfo
from palimpsest.models.skeleton import open_tokenizer

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
        if base.vocabulary_size != tuned.vocabulary_size and not problems:
            problems.append(
                f"the models must give the same logits, but {base.name} gives {base.vocabulary_size} "
                f"and {tuned.name} {tuned.vocabulary_size}; cut the padding of the larger embedding"
            )
        if not problems:
            problems += _different_splits(one, other)
        notes += _different_templates(one, other)
    if base.context_length != tuned.context_length:
        shorter = min(base.context_length, tuned.context_length)
        notes.append(f"Contexts are {base.context_length} and {tuned.context_length} tokens: both are read up to {shorter}.")
    difference = different_shapes(base, tuned)
    return Comparison(tuple(problems), (*notes, *difference), not difference)


def comparison_problems(base: SubjectInfo, tuned: SubjectInfo) -> tuple[str, ...]:
    """Return what makes two models incomparable; empty when they can be compared."""
    return compare(base, tuned).problems


def _different_tokens(one: Any, other: Any) -> list[str]:
    before, after = one.get_vocab(), other.get_vocab()
    if before == after:
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
