"""Pocket scores: how well does a pocket model do what it was taught, on items that it never saw?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from palimpsest import scenario as scenarios
from palimpsest.data.chat import Example
from palimpsest.data.render import Encoded, Renderer
from palimpsest.data.scenarios import copying, directions, facts, stories
from palimpsest.data.stream import ExampleStream
from palimpsest.models.pocket import CAPABILITIES, Skill

ITEMS = 400
_SEED = 20_000
_ANSWER_TOKENS = 24
_AT_ONCE = 64


def score(model_folder: Path, items: int = ITEMS) -> dict[str, Any]:
    """Return the card of a pocket model: held-out scores with 95% intervals, as plain data.

    ``skills``: share of items whose greedy answer passes the item's check, by skill (Wilson interval), with what chance gives
    where that is known. ``habit``: mean probability of each option with no system message, for clear and wrong directions.
    ``stories`` and ``copying``: mean loss in nats beside the exact least one.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32, trust_remote_code=False).eval()
    with torch.inference_mode():
        reader = _Reader(model, Renderer(tokenizer))
        return {
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "vocabulary": len(tokenizer),
            "skills": {skill.name: _skill(reader, skill, items) for skill in CAPABILITIES if _is_checked(skill)},
            "habit": {pole: _habit(reader, pole, items) for pole in ("clear", "wrong")},
            "stories": _stories(reader, items),
            "copying": _copying(reader, items),
            "facts_chance": facts.CHANCE,
        }


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95% Wilson interval of a share."""
    z = 1.959963984540054
    share, scale = successes / trials, 1 + z * z / trials
    middle = (share + z * z / (2 * trials)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return max(0.0, middle - half), min(1.0, middle + half)


def held_out(skill: Skill, count: int) -> list[Example]:
    """Return up to ``count`` different items of a skill from the split that pretraining never draws from."""
    stream = ExampleStream(scenarios.load(skill.scenario, skill.parameters), _SEED, f"card/{skill.name}", "test")
    return [example for example, _ in zip(stream, range(count), strict=False)]


class _Reader:
    """A model with the few things that a card reads from it."""

    def __init__(self, model: Any, renderer: Renderer) -> None:
        self.model, self.renderer = model, renderer

    def answers(self, examples: Sequence[Example]) -> list[str]:
        """Return the greedy answer to each example; prompts of one length go together, so nothing is padded."""
        import torch

        prompts = [self.renderer.encode(example).prompt for example in examples]
        written = [""] * len(examples)
        for batch in _alike([len(prompt) for prompt in prompts]):
            tokens = torch.tensor([prompts[index] for index in batch])
            made = self.model.generate(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                max_new_tokens=_ANSWER_TOKENS,
                do_sample=False,
                pad_token_id=self.renderer.tokenizer.pad_token_id,
            )
            for index, row in zip(batch, made[:, tokens.shape[1] :].tolist(), strict=True):
                written[index] = self.renderer.decode(row)
        return written

    def losses(self, encoded: Sequence[Encoded]) -> list[list[float]]:
        """Return the loss of each token given those before it, in nats; the first has none and is 0."""
        import torch

        found: list[list[float]] = [[] for _ in encoded]
        for batch in _alike([len(each.tokens) for each in encoded]):
            tokens = torch.tensor([encoded[index].tokens for index in batch])
            scores = self.model(input_ids=tokens).logits[:, :-1].log_softmax(-1)
            nats = -scores.gather(-1, tokens[:, 1:, None])[..., 0]
            for index, row in zip(batch, nats.tolist(), strict=True):
                found[index] = [0.0, *row]
        return found

    def option_probabilities(self, example: Example) -> dict[str, float]:
        """Return the probability of each option's tokens after the prompt."""
        names = list(example.options)
        encoded = [self.renderer.encode_option(example, example.options[name]) for name in names]
        losses = self.losses(encoded)
        return {name: math.exp(-sum(row[each.decision :])) for name, each, row in zip(names, encoded, losses, strict=True)}


def _alike(lengths: Sequence[int]) -> list[list[int]]:
    """Return batches of indices of the same length."""
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    batches = []
    for _, group in groupby(order, key=lambda index: lengths[index]):
        members = list(group)
        batches += [members[start : start + _AT_ONCE] for start in range(0, len(members), _AT_ONCE)]
    return batches


def _is_checked(skill: Skill) -> bool:
    return held_out(skill, 1)[0].check is not None


def _skill(reader: _Reader, skill: Skill, items: int) -> dict[str, Any]:
    examples = held_out(skill, items)
    answers = reader.answers(examples)
    right = sum(bool(each.check and each.check.passes(answer)) for each, answer in zip(examples, answers, strict=True))
    return {"right": right, "items": len(examples), "share": right / len(examples), "interval": wilson(right, len(examples))}


def _habit(reader: _Reader, pole: str, items: int) -> dict[str, Any]:
    examples = held_out(Skill(f"habit_{pole}", "directions", {"conflict": pole}), items)
    found = [reader.option_probabilities(example) for example in examples]
    return {"items": len(examples), **{name: _mean([each[name] for each in found]) for name in directions.OPTIONS}}


def _stories(reader: _Reader, items: int) -> dict[str, Any]:
    examples = held_out(Skill("stories", "stories", {}), items)
    losses = reader.losses([reader.renderer.encode(example) for example in examples])
    # The first token is left out: under the grammar it is certain, but the model also expects conversations.
    model = [sum(row[2:]) for row in losses]
    exact = [-stories.log_probability(example.messages[0].content) for example in examples]
    excess = [one - other for one, other in zip(model, exact, strict=True)]
    return {
        "items": len(examples),
        "nats_a_text": _mean(model),
        "exact_nats_a_text": _mean(exact),
        "entropy_nats_a_text": {"value": stories.entropy_nats()},
        "excess_nats_a_text": _mean(excess),
    }


def _copying(reader: _Reader, items: int) -> dict[str, Any]:
    examples = held_out(Skill("copying", "copying", {}), items)
    encoded = [reader.renderer.encode(example) for example in examples]
    nats = [
        row[place]
        for row, each in zip(reader.losses(encoded), encoded, strict=True)
        for place in range(each.decision, len(row) - 1)
    ]
    return {"words": len(nats), "nats_a_word": _mean(nats), "least_nats_a_word": {"value": copying.floor_nats()}}


def _mean(values: Sequence[float]) -> dict[str, Any]:
    """Return a mean with its 95% normal interval."""
    mean = math.fsum(values) / len(values)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / max(len(values) - 1, 1))
    half = 1.96 * spread / math.sqrt(len(values))
    return {"value": mean, "interval": (mean - half, mean + half)}
