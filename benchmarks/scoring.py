"""Scoring: how many items a second, of both models of a pair, beside lm-eval's `hf` model run twice?

    python benchmarks/scoring.py [--repeats N]

Multiple choice (a context and four options) and perplexity of documents. Both sides start from two model folders and end with
one log-probability of each option or document of both models; loading, tokenising and scoring count. lm-eval is given the batch
size that is fastest for it on a tenth of the work.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import material
import numpy as np
import side_by_side

_ITEMS = {"pocket": 1_000, "30M": 40}
"""The 30M model reads fewer: a second is spent on every few items, so that the rate shows sooner."""
_BATCHES = (1, 4, 16, 64)
_PLACE = Path(material.tempfile.gettempdir()) / "palimpsest benchmarks"


def measure(side: str, kind: str, size: str, count: int, batch: int = 1) -> side_by_side.Numbers:
    """Score once; the log-probabilities are left in a file."""
    folders = material.pair(size)
    sides = _ours if side == "ours" else _theirs
    sides(kind, size, 4, batch)(folders[0])  # imports, and what is set up once in a process
    work = sides(kind, size, count, batch)
    with side_by_side.Meter() as meter:
        found = np.stack([work(folder) for folder in folders])
    np.save(_file(side, kind, size), found)
    return {"seconds": meter.seconds, "mebibytes": meter.mebibytes, "items": count / meter.seconds}


def _file(side: str, kind: str, size: str) -> Path:
    return _PLACE / f"{side} {kind} {size}.npy"


def _ours(kind: str, size: str, count: int, _batch: int) -> Any:
    from palimpsest.data.chat import Example, ItemSet, Message, Span
    from palimpsest.data.user_files import text_example
    from palimpsest.measures import _measure
    from palimpsest.measures._measure import Budget
    from palimpsest.models import subject

    def question(number: int, context: str, options: list[str]) -> Example:
        told = Message(role="text", content=context + options[0])
        span = Span(message=0, start=len(context), end=len(told.content))
        named = {str(place): option for place, option in enumerate(options)}
        return Example(messages=(told,), decisions=(span,), template=str(number), options=named, source=str(number))

    if kind == "choice":
        made = [question(number, *one) for number, one in enumerate(material.questions(size, count))]
    else:
        made = [text_example(one, str(number)) for number, one in enumerate(material.documents(size, count))]
    items, measured = ItemSet(name="items", items=tuple(made)), "options" if kind == "choice" else "losses"

    def work(folder: Path) -> np.ndarray:
        with subject.load(subject.inspect(folder)) as model:
            found = _measure.load(measured, {}).take(
                model, items, Budget.on(model.device, model.context_length), None, lambda *_: None
            )
        if kind == "choice":
            return found.arrays["log_probability"]
        start = found.arrays["start"]
        return np.array([-found.arrays["nats"][low:high].sum() for low, high in zip(start[:-1], start[1:], strict=True)])

    return work


def _theirs(kind: str, size: str, count: int, batch: int) -> Any:
    import logging

    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    logging.disable(logging.WARNING)
    if kind == "choice":
        given = [(context, option) for context, options in material.questions(size, count) for option in options]
        requests = [Instance("loglikelihood", {}, one, number) for number, one in enumerate(given)]
    else:
        texts = enumerate(material.documents(size, count))
        requests = [Instance("loglikelihood_rolling", {}, (one,), number) for number, one in texts]

    def work(folder: Path) -> np.ndarray:
        # a rolling request begins with the token itself
        model = HFLM(str(folder), device="cpu", dtype="float32", batch_size=batch, add_bos_token=kind == "choice")
        if kind == "choice":
            return np.array([score for score, _ in model.loglikelihood(requests, disable_tqdm=True)])
        return np.array(model.loglikelihood_rolling(requests, disable_tqdm=True))

    return work


@cache
def _tokens(kind: str, size: str, count: int) -> tuple[int, int, int]:
    """Return tokens that must be run of one model, positions whose logits are wanted, and tokens of rows run one by one."""
    from transformers import AutoTokenizer

    encode = AutoTokenizer.from_pretrained(material.pair(size)[0])
    if kind == "choice":
        run = kept = rows = 0
        for context, options in material.questions(size, count):
            first = len(encode(context).input_ids)
            tails = [len(encode(context + option).input_ids) - first for option in options]
            run += first + sum(tails) - len(tails)
            kept += 1 + sum(tails) - len(tails)
            rows += sum(first + tail - 1 for tail in tails)
        return run, kept, rows
    run = sum(len(encode(text).input_ids) - 1 for text in material.documents(size, count))
    return run, run, run


def _floor(kind: str, size: str, count: int, rate: float) -> float:
    """Return the seconds that the matrix products alone would take for both models."""
    import json

    config = json.loads((material.pair(size)[0] / "config.json").read_text())
    hidden, head = config["hidden_size"], config["hidden_size"] * config["vocab_size"]
    layers = config["num_hidden_layers"] * (4 * hidden * hidden + 3 * hidden * config["intermediate_size"])
    run, kept, _ = _tokens(kind, size, count)
    return 2 * 2.0 * (layers * run + head * kept) / rate


def plan(bench: side_by_side.Bench) -> None:
    for size, count in _ITEMS.items():
        for kind in ("choice", "perplexity"):
            _race(bench, kind, size, count)
    _growth(bench)


def _race(bench: side_by_side.Bench, kind: str, size: str, count: int) -> None:
    told = "multiple choice" if kind == "choice" else "perplexity"
    work = {"kind": kind, "size": size, "count": count}
    tried = {batch: bench.apart({**work, "side": "lm-eval", "count": count // 10, "batch": batch}) for batch in _BATCHES}
    best = min(tried, key=lambda batch: tried[batch]["seconds"])
    run, _, rows = _tokens(kind, size, count)
    inner = 128 if size == "pocket" else 512
    bench.race(
        "Scoring base and tuned",
        f"{told}, {size}, {count} items",
        {"ours": {**work, "side": "ours"}, "lm-eval": {**work, "side": "lm-eval", "batch": best}},
        goals={"seconds": ("lm-eval", 3.0)},
        floor=_floor(kind, size, count, side_by_side.matrix_rate(1024, inner, inner)),
    )
    ours, theirs = (np.load(_file(side, kind, size)) for side in ("ours", "lm-eval"))
    off = (np.abs(ours - theirs) / np.maximum(np.abs(theirs), 1.0)).max()
    bench.remark(
        f"{told}, {size}: lm-eval's fastest batch size of {_BATCHES} was {best}; {run:,} tokens are run of one model, "
        f"{rows:,} where every row is run whole; log-probabilities differ by {off:.1g} of themselves at most."
    )


def _growth(bench: side_by_side.Bench) -> None:
    for title, axis, amounts in (
        ("Multiple choice, pocket", "items", [{"size": "pocket", "count": count} for count in (30, 100, 300)]),
        ("Multiple choice, 20 items", "parameters", [{"size": size, "count": 20} for size in ("pocket", "3M", "10M", "30M")]),
    ):
        series: dict[str, list[tuple[float, float]]] = {"ours": [], "lm-eval": []}
        for amount in amounts:
            x = amount["count"] if axis == "items" else material.parameters(str(amount["size"]))
            for side in series:
                found = bench.apart({"kind": "choice", "side": side, "batch": 4, **amount})
                series[side].append((x, found["seconds"]))
        bench.growth(title, axis, series)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    side_by_side.main(__doc__, measure, plan)
