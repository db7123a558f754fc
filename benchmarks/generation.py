"""Generation: how fast are 500 short answers written, beside a plain loop over `generate` of transformers?

    python benchmarks/generation.py [--repeats N]

The pocket answers fresh questions of its world and stops by itself; a random model goes on until it hits one of every sixteenth
token, which count as ends. Greedy, so that both sides must write the same tokens; and sampled, ours with its dice, theirs with
``do_sample``. The model is loaded before the clock starts, and both sides render the questions. transformers takes the prompts
in their order, in the batch size that is fastest for it on a tenth of the work; "sorted" is the same with the prompts sorted by
length, which a plain loop does not do.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import material
import numpy as np
import side_by_side

_BATCHES = (8, 32, 64, 128)
_COUNT = 500
_MOST = 32
_PLACE = Path(material.tempfile.gettempdir()) / "palimpsest benchmarks"
_SKILLS = ("Directions", "Doubts", "Recall", "Scenes", "AboutModels", "Facts", "Programs", "Instructions")


def measure(
    side: str, size: str, count: int, temperature: float = 0.0, batch: int = 1, ordered: bool = False
) -> side_by_side.Numbers:
    """Write once; the tokens are left in a file."""
    from palimpsest.models import subject

    items = items_of(size, count)
    with subject.load(subject.inspect(material.pair(size)[0])) as model:
        work = write_ours if side == "ours" else write_theirs
        work(model, items_of(size, 3), temperature, batch, ordered)
        with side_by_side.Meter() as meter:
            written = work(model, items, temperature, batch, ordered)
        end = sorted(model.stop_token_ids)
    kept = [tokens[: next((place + 1 for place, token in enumerate(tokens) if token in end), None)] for tokens in written]
    _file(side, size).write_text(json.dumps(kept))
    total = sum(map(len, kept))
    return {"seconds": meter.seconds, "mebibytes": meter.mebibytes, "tokens": total}


def _file(side: str, size: str) -> Path:
    return _PLACE / f"{side} writes {size}.json"


def items_of(size: str, count: int) -> Any:
    import random

    from palimpsest.core.seeds import python_stream
    from palimpsest.data.chat import Example, ItemSet, Message, Span
    from palimpsest.models import pocket

    if size == "pocket":
        kinds = [one for one in pocket.world() if type(one).__name__ in _SKILLS]
        made = [kinds[index % len(kinds)].make(python_stream(5, "generation", index)) for index in range(count)]
    else:
        rng, made = random.Random(3), []
        for number in range(count):
            begun = material.passage(rng, material.words(size), 8, 40)
            span = Span(message=0, start=len(begun), end=len(begun) + 2)
            told = (Message(role="text", content=f"{begun} a"),)
            made.append(Example(messages=told, decisions=(span,), template=str(number), source=str(number)))
    return ItemSet(name="items", items=tuple(made))


def write_ours(model: Any, items: Any, temperature: float, _batch: int, _ordered: bool) -> list[list[int]]:
    from palimpsest.measures._measure import Budget
    from palimpsest.measures.generations import Generations

    how = Generations(max_new_tokens=_MOST, temperature=temperature)
    found = how.take(model, items, Budget.on(model.device, model.context_length), None, lambda *_: None)
    start, count = found.arrays["start"], found.arrays["tokens"] + found.arrays["stopped"]
    return [found.arrays["token"][end - own : end].tolist() for end, own in zip(start[1:], count, strict=True)]


def write_theirs(model: Any, items: Any, temperature: float, batch: int, ordered: bool) -> list[list[int]]:
    import torch

    prompts = [model.renderer.encode(item).prompt for item in items.items]
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]) if ordered else index)
    written: list[list[int]] = [[]] * len(prompts)
    for low in range(0, len(order), batch):
        chosen = order[low : low + batch]
        width = max(len(prompts[index]) for index in chosen)
        padded = [[model.pad_token_id] * (width - len(prompts[index])) + list(prompts[index]) for index in chosen]
        mask = [[0] * (width - len(prompts[index])) + [1] * len(prompts[index]) for index in chosen]
        found = model.model.generate(
            input_ids=torch.tensor(padded, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            max_new_tokens=_MOST,
            do_sample=temperature > 0,
            top_k=0,
            pad_token_id=model.pad_token_id,
            eos_token_id=sorted(model.stop_token_ids),
        )
        for index, tokens in zip(chosen, found[:, width:].tolist(), strict=True):
            written[index] = tokens
    return written


def _floor(size: str, tokens: int, read: int, rate: float) -> float:
    config = json.loads((material.pair(size)[0] / "config.json").read_text())
    hidden = config["hidden_size"]
    layers = config["num_hidden_layers"] * (4 * hidden * hidden + 3 * hidden * config["intermediate_size"])
    return 2.0 * (layers * (read + tokens) + hidden * config["vocab_size"] * tokens) / rate


def plan(bench: side_by_side.Bench) -> None:
    for size in ("pocket", "30M"):
        for temperature in (0.0, 1.0):
            _race(bench, size, temperature)
    _growth(bench)


def _race(bench: side_by_side.Bench, size: str, temperature: float) -> None:
    work = {"size": size, "count": _COUNT, "temperature": temperature}
    tried = {
        batch: bench.apart({**work, "side": "transformers", "count": _COUNT // 10, "batch": batch})["seconds"]
        for batch in _BATCHES
    }
    best = min(tried, key=lambda batch: tried[batch])
    ours = bench.apart({**work, "side": "ours"})
    inner = 128 if size == "pocket" else 512
    bench.race(
        "Writing 500 answers",
        f"{size}, {'sampled' if temperature else 'greedy'}",
        {
            "ours": {**work, "side": "ours"},
            "transformers": {**work, "side": "transformers", "batch": best},
            "sorted": {**work, "side": "transformers", "batch": best, "ordered": True},
        },
        goals={"seconds": ("transformers", 2.0)},
        floor=_floor(size, int(ours["tokens"]), _read(size), side_by_side.matrix_rate(256, inner, inner)),
    )
    same = ""
    if not temperature:
        one, other = (json.loads(_file(side, size).read_text()) for side in ("ours", "transformers"))
        alike = sum(left == right for left, right in zip(one, other, strict=True))
        same = f"; {alike} of {_COUNT} answers are the same tokens"
    mean = np.mean([len(tokens) for tokens in json.loads(_file("ours", size).read_text())])
    bench.remark(
        f"{size}, {'sampled' if temperature else 'greedy'}: the fastest batch size of {_BATCHES} for transformers was {best}; "
        f"an answer has {mean:.1f} tokens on average, at most {_MOST}{same}."
    )


def _read(size: str) -> int:
    """Return the tokens of all prompts."""
    from transformers import AutoTokenizer

    from palimpsest.data.render import Renderer

    renderer = Renderer(AutoTokenizer.from_pretrained(material.pair(size)[0]))
    return sum(len(renderer.encode(item).prompt) for item in items_of(size, _COUNT).items)


def _growth(bench: side_by_side.Bench) -> None:
    for title, axis, amounts in (
        ("Greedy answers, pocket", "answers", [("pocket", count) for count in (30, 100, 300, 1000)]),
        ("60 greedy answers", "parameters", [(size, 60) for size in ("pocket", "3M", "10M", "30M")]),
    ):
        series: dict[str, list[tuple[float, float]]] = {"ours": [], "transformers": []}
        for size, count in amounts:
            x = count if axis == "answers" else material.parameters(size)
            for side in series:
                found = bench.apart({"side": side, "size": size, "count": count, "batch": 32})
                series[side].append((x, found["seconds"]))
        bench.growth(title, axis, series)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    side_by_side.main(__doc__, measure, plan)
