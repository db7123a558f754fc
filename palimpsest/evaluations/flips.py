"""Flips: which items did one model get right and the other not, and what did both answer?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from palimpsest.audit import Sample
from palimpsest.core.wording import number
from palimpsest.evaluations.comparison import Found
from palimpsest.evaluations.matching import Item, Matched, Pair
from palimpsest.evaluations.paired import Compared, rows_of, sides
from palimpsest.store.account import Part

_SHOWN = {"worse": 12, "better": 6}
"""So many items that got worse, and better, are shown with both answers for each task."""


def parts(found: Found) -> Iterator[Part]:
    """Yield the part of each task in which any item moved: how many, and the first of them with prompt and both answers."""
    for matched in found.matched:
        rows = rows_of(found.compared, matched)
        if moved := _moved(rows):
            yield _part(found, matched, rows, moved)


def _moved(rows: Sequence[Compared]) -> list[tuple[Pair, list[Compared]]]:
    """Return the items of a task of which a score moved, with the metrics that moved, those that fell most first.

    Where there are scores of 0 and 1, these alone: of others nearly every item moves a little.
    """
    flipped = [one for one in rows if one.exact is not None]
    shares = [one for one in rows if one.metric.unit == "share"]
    moved: dict[int, tuple[Pair, list[Compared]]] = {}
    for one in sorted(flipped or shares or rows, key=lambda one: one.sign == 0):
        for pair, by in zip(one.pairs, one.moved, strict=True):
            if by:
                moved.setdefault(id(pair), (pair, []))[1].append(one)
    return sorted(moved.values(), key=lambda pair: _gain(*pair))


def _gain(pair: Pair, rows: Sequence[Compared]) -> float:
    """Return by how much an item got better, over the metrics that moved; what fell comes first."""
    total = 0.0
    for one in rows:
        first, second = pair.before.score(one.metric.name), pair.after.score(one.metric.name)
        if first is not None and second is not None:
            total += (one.sign or 1) * (second.value - first.value)
    return total


def _part(found: Found, matched: Matched, rows: Sequence[Compared], moved: Sequence[tuple[Pair, list[Compared]]]) -> Part:
    worse = [pair for pair in moved if _gain(*pair) < 0]
    better = [pair for pair in reversed(moved) if _gain(*pair) > 0]
    both = len(moved) - len(worse) - len(better)
    picked = [*worse[: _SHOWN["worse"]], *better[: _SHOWN["better"]]]
    down, up = sides(any(one.sign for _, metrics in moved for one in metrics))
    named = tuple(f"{letter}: {name}" for letter, name in zip("AB", found.names, strict=True))
    return Part(
        name=matched.before.task,
        question="Which answers flipped?"
        if any(one.exact is not None for one in rows)
        else "Which items moved, and what was answered?",
        answer=f"{len(worse):,} of {len(matched.pairs):,} items got {down}, {len(better):,} got {up}"
        + (f", {both:,} moved one way in one metric and as far the other way in another" if both else "")
        + (f"; {len(picked)} of them are shown, all are in pairs.jsonl." if len(picked) < len(moved) else "."),
        samples=tuple(_sample(pair, metrics, (named[0], named[1])) for pair, metrics in picked),
    )


def _sample(pair: Pair, rows: Sequence[Compared], sides: tuple[str, str]) -> Sample:
    first, second = _answers(pair)
    metric = rows[0].metric
    return Sample(
        title=f"{pair.name}: {', '.join(one.metric.name for one in rows)}",
        prompt=pair.before.first.prompt,
        before=first,
        after=second,
        before_passes=_passes(pair.before, rows[0]),
        after_passes=_passes(pair.after, rows[0]),
        sides=sides,
        marks=(_scored(pair.before, metric.name), _scored(pair.after, metric.name)),
    )


def _answers(pair: Pair) -> tuple[str, str]:
    """Return both answers; with several epochs all of them, each after its number."""
    sides = []
    for item in (pair.before, pair.after):
        several = len(item.answers) > 1
        sides.append("\n".join(f"{f'epoch {one.epoch}: ' if several else ''}{one.answer}" for one in item.answers))
    return sides[0], sides[1]


def _passes(item: Item, one: Compared) -> bool | None:
    score = item.score(one.metric.name)
    if score is None or one.sign == 0 or score.value not in (0.0, 1.0) or one.metric.unit != "share":
        return None
    return score.value == (1.0 if one.sign > 0 else 0.0)


def _scored(item: Item, metric: str) -> str:
    score = item.score(metric)
    if score is None:
        return "no score"
    return f"{metric} {number(score.value, 0 if score.value in (0.0, 1.0) else 3)}"
