"""Steered rows: which numbers stand in the tables on a steering vector?

Pure functions from what was gathered to the rows of tables; an audit makes tables of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from palimpsest.core import stats
from palimpsest.core.estimate import Estimate
from palimpsest.core.stats.directions import METHODS, naive
from palimpsest.core.wording import chance, number
from palimpsest.data.steered import (
    FEW,
    MULTIPLES,
    POLES,
    Agreed,
    Contrast,
    Data,
    Direction,
    alone,
    along,
    cosines_by_chance,
    few,
    spread,
    with_training,
)

Cell = str | int | Estimate | None
_MOST_BLOCKS = 7
_PAIRS = {"answers": "Pairs of answers", "instruction": "Prompts with and without the instruction"}
_VECTORS = {"answers": "The vector of the answers", "instruction": "The vector of the instruction"}
_METHODS = {"mean": "mean difference", "pca": "uncentred PCA", "logistic": "logistic regression"}


class Rows(NamedTuple):
    """One table."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


def consistency(contrast: Contrast, by_level: list[Agreed], made_from: str) -> list[Rows]:
    """Return how far pairs agree, and how far their two sides lie apart, block by block."""
    chosen, block = by_level[contrast.level], contrast.block
    random = "Random signs: the same with the two sides of each pair exchanged at random, mean and middle 95% of draws, "
    random += f"after block {block}."

    def table(names: tuple[str, ...]) -> list[tuple[Cell, ...]]:
        rows: list[tuple[Cell, ...]] = [
            (int(contrast.depth[level]) - 1, *(by_level[level].found[name] for name in names)) for level in some(contrast)
        ]
        rows.append(("random signs", *(spread(chosen.shuffled[name]) for name in names)))
        rows.append(("p", *(chance(chosen.p_value(name)) for name in names)))
        return rows

    slopes = [stats.level(contrast.slope[level], contrast.trial, unit="nats") for level in some(contrast)]
    apart = table(("d_prime", "wrong_way"))
    return [
        Rows(
            title=f"{_PAIRS[made_from]}: do they agree with a direction that they are not part of?",
            columns=("after block", "between pairs", "in sample", "left out", "split half"),
            rows=tuple(table(("pairwise", "in_sample", "left_out", "split_half"))),
            note=f"Cosines of {len(contrast.cluster)} pairs. Left out: with the direction of all other templates. {random}",
        ),
        Rows(
            title=f"{_PAIRS[made_from]}: do both sides lie apart, and where does adding it steer?",
            columns=("after block", "d\N{PRIME} left out", "wrong way", "trial slope"),
            rows=tuple((*row, slope) for row, slope in zip(apart, [*slopes, "", ""], strict=True)),
            note="Along the direction of all other templates. Wrong way: share of pairs on its wrong side. Trial slope: by how "
            f"much adding it once raises log-odds on pairs of other templates. It is added after block {block}, where this is "
            "largest.",
        ),
    ]


def some(contrast: Contrast) -> list[int]:
    """Return the levels that tables show: at most so many, evenly spread, with the one where the direction is added."""
    even = np.linspace(0, len(contrast.depth) - 1, min(_MOST_BLOCKS, len(contrast.depth)))
    return sorted({contrast.level, *(round(level) for level in even)})


def how_little(contrast: Contrast, chosen: Agreed, rng: np.random.Generator) -> Rows:
    pairs, rho = contrast.pairs(contrast.level), chosen.found["pairwise"]
    own, random = few(pairs, rng)
    chance_few, chance_all = (number(count**-0.5, 2) for count in (FEW, pairs.count))
    inside, outside = (chosen.shuffled[name] for name in ("in_sample", "left_out"))
    rows = [
        (f"{FEW} pairs (nothing in common: {chance_few})", spread(own.in_sample), naive(rho, FEW), spread(random.in_sample)),
        (
            f"all {pairs.count} (nothing in common: {chance_all})",
            chosen.found["in_sample"],
            naive(rho, pairs.count),
            spread(inside),
        ),
        ("all, left out", chosen.found["left_out"], rho, spread(outside)),
    ]
    return Rows(
        title="How little an in-sample cosine says",
        columns=("made from", "cosine", "by the formula", "random signs"),
        rows=tuple(rows),
        note="A pair is part of the direction it is compared with, so few pairs always agree: k pairs with a mean pairwise "
        "cosine \N{GREEK SMALL LETTER RHO} give \N{SQUARE ROOT}((1 + (k \N{MINUS SIGN} 1)\N{GREEK SMALL LETTER RHO}) / k). "
        "With 5 pairs, 0.61 means \N{GREEK SMALL LETTER RHO} = 0.22. In the last row stands \N{GREEK SMALL LETTER RHO} itself. "
        f"Ranges: middle 95% of draws. After block {contrast.block}.",
    )


def methods(contrast: Contrast) -> Rows:
    pairs, mean = contrast.pairs(contrast.level), contrast.vector(contrast.level)
    rows = []
    for method in METHODS:
        one = alone(pairs, contrast.cluster, method)
        vector = contrast.vector(contrast.level, method)
        cosine = float(vector @ mean / max(np.linalg.norm(vector) * np.linalg.norm(mean), 1e-30))
        rows.append((_METHODS[method], number(cosine, 3, signed=True), one["left_out"], one["wrong_way"]))
    return Rows(
        title="Three ways to make the direction",
        columns=("method", "cosine with the mean", "left out", "wrong way"),
        rows=tuple(rows),
        note=f"After block {contrast.block}. Random signs give the same PCA direction up to its sign: it does not see which "
        "answer is which.",
    )


def curve(one: Direction, made_from: str) -> Rows:
    """Return what adding each multiple does."""
    shown, other, text = one.effects["express"], one.effects.get("withhold"), one.text
    rows: list[tuple[Cell, ...]] = []
    for multiple in (each for each in shown.multiples if each):
        random = shown.random(multiple)
        elsewhere = other if other and multiple in other.multiples else None
        rows.append(
            (
                number(multiple, 1, signed=True),
                stats.mean(shown.at(multiple), shown.cluster, unit="nats"),
                "" if random is None else stats.mean(random, shown.cluster, unit="nats"),
                "" if elsewhere is None else stats.mean(elsewhere.at(multiple), elsewhere.cluster, unit="nats"),
                (text.estimate(multiple) if text else None) or "",
                (text.estimate(multiple, random=True) if text else None) or "",
            )
        )
    note = "Change of the log-odds of the behaviour, in nats, against adding nothing. Random: directions of the same length. "
    note += "On text: divergence from adding nothing, in nats a token, added at every token."
    if shown.draws:
        slopes = ", ".join(number(slope, 2, signed=True) for slope in sorted(shown.random_slopes.mean(1)))
        note += f" Slopes of the {len(shown.draws)} random directions: {slopes}."
    return Rows(
        title=f"{_VECTORS[made_from]}, added after block {one.contrast.block}: what it does",
        columns=("multiple", "where it should appear", "random", "where it should not", "on text", "random, on text"),
        rows=tuple(rows),
        note=note,
    )


def training(data: Data, made_from: str, rng: np.random.Generator, count: int) -> Rows:
    """Return whether a vector, extracted before training, foretells what training did."""
    contrast, tuned = data.directions[made_from].contrast, data.shifts["tuned", "express"]
    control, labels = next(iter(data.controls("express")), None), data.clusters["express"]
    levels = some(contrast)
    cosines = with_training(contrast, tuned, labels, levels)
    floors = with_training(contrast, control, labels, levels) if control is not None else {}
    rows = []
    for level in levels:
        plain, shuffled, random = cosines_by_chance(contrast, tuned, level, rng, count)
        vector = contrast.vector(level)
        p_value = float((1 + (np.abs(random) >= abs(plain)).sum()) / (1 + count))
        rows.append(
            (
                int(contrast.depth[level]) - 1,
                cosines[level],
                floors.get(level, ""),
                spread(shuffled),
                spread(random),
                chance(p_value),
                stats.mean(along(vector, tuned[:, level]), labels, unit=MULTIPLES),
                stats.mean(along(vector, control[:, level]), labels, unit=MULTIPLES) if control is not None else "",
            )
        )
    return Rows(
        title=f"{_VECTORS[made_from]}, extracted before training: does it foretell what training changed?",
        columns=(
            "after block", "cosine with training", "with rehearsal only", "shuffled labels", "random directions", "p",
            "moved along it", "rehearsal only",
        ),
        rows=tuple(rows),
        note="Cosine between the mean difference of the pairs and the mean shift where the model decides, on held-out items "
        "where the behaviour should appear; noise of both taken off. Shuffled labels and random directions: mean and middle "
        "95%; p: share of random directions whose cosine is as far from 0. Pairs that all agree give the same direction or its "
        "opposite when shuffled, so that their range is wide. Moved along it: in multiples of the vector; 1 is as far as the "
        "two sides of a pair lie apart. Rehearsal only: the first such run.",
    )  # fmt: skip


def same(data: Data, found: Mapping[str, Estimate], pole: str) -> list[Rows]:
    """Return how far instruction, vectors and training are one thing: of the next token, and of the shift inside."""
    ways = data.ways[pole]
    names = list(ways.outputs)
    blocks = sorted({one.contrast.block for one in data.directions.values()})
    tables = [
        Rows(
            title=f"Instruction, vector, training: the next token {POLES[pole]}",
            columns=("KL of", *(f"from {name}" for name in names)),
            rows=tuple((one, *(found.get(f"kl:{pole}:{one}|{other}", "") for other in names)) for one in names),
            note=f"KL(row || column) in nats where the model decides, on {len(ways.cluster)} items. Each vector is added once.",
        )
    ]
    rows = []
    for one, other in ways.compared:
        cosine = found[f"shift_cosine:{pole}:{one}|{other}"]
        rows.append((f"{one} and {other}", cosine, ways.swapped(one, other, data.level)))
    if rows:
        tables.append(
            Rows(
                title=f"Instruction, vector, training: the shift {POLES[pole]}",
                columns=("ways", "cosine, same item", "cosine, another item"),
                rows=tuple(rows),
                note="Cosine of two shifts from the base where the model decides, mean over the blocks from "
                f"{blocks[-1]} on. Another item: the second way's shift is that of an item of another template; what is left "
                "has nothing to do with the item. Where a few coordinates rule the last blocks, even a random direction of the "
                "vector's length has a high cosine: only what is above that says something.",
            )
        )
    return tables
