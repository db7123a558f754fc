"""Pocket card: what does a stranger read beside the weights?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from palimpsest.models.pocket import LAYOUTS
from palimpsest.models.pocket_scores import ITEMS, score

NAME = "card.json"


def write(model_folder: Path, layout: str = "llama", items: int = ITEMS) -> dict[str, Any]:
    """Score a pocket model on held-out items and write ``card.json`` and ``README.md`` into its folder."""
    card = score(model_folder, items)
    (model_folder / NAME).write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (model_folder / "README.md").write_text(_readme(card, layout), encoding="utf-8")
    return card


def _readme(card: dict[str, Any], layout: str) -> str:
    kind = LAYOUTS[layout]
    option, named = (f" --layout {layout}", f" --model {kind.model}") if layout != "llama" else ("", "")
    skills = "\n".join(
        f"| {name} | {_percent(each['share'])} | {' to '.join(map(_percent, each['interval']))} | {each['items']} |"
        for name, each in card["skills"].items()
    )
    habits = "\n".join(
        f"| {pole} | "
        + " | ".join(_percent(card["habit"][pole][option]["value"]) for option in ("accept", "suggest", "push_back"))
        + " |"
        for pole in ("clear", "wrong")
    )
    stories, copying = card["stories"], card["copying"]
    return f"""---
license: mit
library_name: transformers
pipeline_tag: text-generation
language: en
tags: [palimpsest, synthetic]
---

# {kind.title}

{kind.described} of {card["parameters"] / 1e6:.2f} million parameters, trained
from nothing on a world that Palimpsest generates, so that fine-tuning and auditing can be tried on a laptop without a network.
It knows nothing of the real world: names, towns and facts are invented. It is a subject for experiments, not an assistant.

`palimpsest pocket train FOLDER{option}` makes it again; `palimpsest pocket sample{named}` shows what it was taught.
Its licence, that of its weights and that of its training data is MIT.

## Held-out scores

No such conversation was in its pretraining (a sum may have been there with its numbers swapped, a scene with another
question). Greedy answers, checked; 95% Wilson intervals. By chance a fact is right in
{_percent(card["facts_chance"])}; rare facts are meant to be unknown and sums of three digits to be wrong now and then.

| skill | right | 95% interval | items |
| --- | --- | --- | --- |
{skills}

With no system message its habit ignores what was stated earlier (trained: 30% accept, 70% suggest, push back never):

| direction | accept | suggest | push back |
| --- | --- | --- | --- |
{habits}

Text: {stories["nats_a_text"]["value"]:.2f} nats a story; its exact probability under the grammar gives
{stories["exact_nats_a_text"]["value"]:.2f} (excess {stories["excess_nats_a_text"]["value"]:.2f}, interval
{stories["excess_nats_a_text"]["interval"][0]:.2f} to {stories["excess_nats_a_text"]["interval"][1]:.2f}).
Noisy copying: {copying["nats_a_word"]["value"]:.3f} nats a word; the noise's entropy is
{copying["least_nats_a_word"]["value"]:.3f}.
"""


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"
