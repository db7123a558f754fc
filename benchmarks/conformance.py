"""Conformance: which of the library's causal classes can be compared, audit by audit, and which can't and why?

    python benchmarks/conformance.py [--only llama,mamba2] [--workers 2]

Builds a tiny random model of every class that transformers has for causal language modelling, and a slightly changed copy. Runs
the whole diff on the pair: a behaviour with both poles and an instruction, general text, every audit that trains nothing.
Holds the log-probabilities that audits read against plain calls for each row, and what is written against the likeliest tokens
of plain calls. Tries whether a decision can be trained over a frozen context. Writes docs/architectures.md from what came out;
with --only, prints the rows and writes nothing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

PAGE = Path(__file__).parents[1] / "docs" / "architectures.md"
EXACT_NATS = 1e-4


def row(kind: str) -> Any:
    """Return what came out for one class (``tests/architectures.py``)."""
    import architectures
    import torch
    from transformers import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        return architectures.look(kind, Path(place))


def lines(rows: Sequence[Any]) -> Iterator[str]:
    """Yield the page, line by line."""
    import architectures
    import torch
    import transformers

    ran, refused, unbuilt = (architectures.parted(rows)[name] for name in ("ran", "refused", "unbuilt"))
    reasons, largest = architectures.reasons(ran), max((one.off_nats for one in ran), default=0.0)
    yield from (
        "# Architectures",
        "",
        f"Made by `python benchmarks/conformance.py` with transformers {transformers.__version__} and torch "
        f"{torch.__version__}: nothing here is written by hand. A tiny random model of every class that the library has for "
        "causal language modelling, and a slightly changed copy, went through the whole `palimpsest diff`.",
        "",
        f"- {len(rows)} model types: {len(ran)} were compared, {len(refused)} are refused, {len(unbuilt)} can't be built from "
        "general guesses at small sizes.",
        f"- Of those compared, {sum(one.off_nats <= EXACT_NATS for one in ran)} give the same log-probabilities in the batches "
        f"that audits read as in a plain call for each row (within {EXACT_NATS:g} nats; the largest is {largest:.1e}), "
        f"and {sum(one.written == 1.0 for one in ran)} write what plain calls find likeliest.",
        f"- {sum(not one.padded for one in ran)} would give other numbers for padded rows (*rows: alike*): only rows of one "
        "length share their batches. A trial on the loaded model finds out.",
        f"- {sum(not one.frozen for one in ran)} can be trained over a frozen context; the others need `context: full` and say "
        "so.",
        "",
        "## Compared",
        "",
        "All audits that are not named measured something. What a number stands for is told below the table.",
        "",
        "| model type | class | rows | largest difference (nats) | written as read | training | can't say |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    )
    for one in ran:
        silent = "; ".join(f"{audit} ({reasons[why]})" for audit, why in architectures.silent(one).items())
        trained = "context: full" if one.frozen else "frozen context"
        cells = (one.kind, one.architecture, architectures.state(one), f"{one.off_nats:.1e}", f"{one.written:.0%}", trained)
        yield f"| {' | '.join(cells)} | {silent} |"
    yield from ("", "What the numbers in brackets stand for:", "")
    yield from (f"{number}. {why}" for why, number in reasons.items())
    yield from ("", "## Refused", "", "| model type | class | | what is said |", "| --- | --- | --- | --- |")
    yield from (f"| {one.kind} | {one.architecture} | refused | {one.refused} |" for one in refused)
    yield from (
        "",
        "## Not built",
        "",
        "These want settings that can't be guessed from the names of their fields; a real model",
    )
    yield from ("of theirs may well work.", "", "| model type | | why |", "| --- | --- | --- |")
    yield from (f"| {one.kind} | not built | {one.unbuilt} |" for one in unbuilt)


def main() -> None:
    import architectures

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help="model types, separated by commas")
    parser.add_argument("--workers", type=int, default=2)
    chosen = parser.parse_args()
    kinds = [kind for kind in chosen.only.split(",") if kind] or architectures.kinds()
    rows: list[Any] = []
    # not concurrent.futures, whose pool can stop for good when it replaces a worker
    with get_context("spawn").Pool(chosen.workers, maxtasksperchild=40) as pool:
        for one in pool.imap(row, kinds):
            rows.append(one)
            print(one if chosen.only else one.kind, flush=True)
    print(Counter(part for part, found in architectures.parted(rows).items() for _ in found))
    if not chosen.only:
        PAGE.write_text("\n".join(lines(rows)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
