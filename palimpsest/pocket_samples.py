"""Pocket samples: what does the embedded model answer to fresh items of each of its abilities?"""

from __future__ import annotations

import re
from pathlib import Path

from palimpsest.data.chat import Example, ItemSet, Span
from palimpsest.data.material import Source
from palimpsest.measures._measure import Budget
from palimpsest.measures.generations import Generations
from palimpsest.models import pocket, subject

_SPARE_TOKENS = 8
_BEGINNING = re.compile(r"\S+(?:\s+\S+){0,11}")
"""So many words of a bare text are given; the model goes on from there."""


def samples(folder: Path, count: int, seed: int) -> list[tuple[str, str, str, str]]:
    """Return (ability, prompt, reference, what the model writes) for held-out items of every ability, written greedily.

    Args:
        folder: a pocket model.
        count: items of each ability.
        seed: which items.

    Raises:
        UserError: the folder holds no model.
    """
    rows = []
    with subject.load(subject.inspect(folder)) as model:
        for name, scenario, parameters in pocket.CAPABILITIES:
            found = Source(scenario=scenario, parameters=parameters).open().held_out(seed, f"sample {name}", count)
            items = [_to_be_continued(item) if item.is_text else item for item in found]
            if not items:
                continue
            longest = max(model.renderer.encode(item).trained for item in items)
            measure = Generations(max_new_tokens=longest + _SPARE_TOKENS, temperature=0)
            budget = Budget(model.context_length)
            written = measure.take(model, ItemSet(name=name, items=tuple(items)), budget, None, lambda *_: None)
            rows += [
                (name, item.context, item.decision.strip(), answer.strip())
                for item, answer in zip(items, written.texts["answer"], strict=True)
            ]
    return rows


def _to_be_continued(item: Example) -> Example:
    """Return a bare text of which the model is given the beginning and decides the rest."""
    content = item.messages[0].content
    begun = _BEGINNING.match(content)
    cut = begun.end() if begun and begun.end() < len(content) else 0
    return item.model_copy(update={"decisions": (Span(message=0, start=cut, end=len(content)),)})
