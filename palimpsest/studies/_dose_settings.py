"""Dose settings: how do the other settings of ``dose_response`` differ from the behaviour's own?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from palimpsest.audit import Table
from palimpsest.core import stats
from palimpsest.core.estimate import Estimate
from palimpsest.store.account import Part
from palimpsest.studies._dose_parts import ALSO, BOTH, CLEAR, EQUAL, HOUSE, WAYS, DoseParts, setting
from palimpsest.studies._family import Family
from palimpsest.studies._readings import EXPRESS, WITHHOLD
from palimpsest.studies._study import Grid


def comparisons(parts: DoseParts, grid: Grid) -> dict[str, Estimate]:
    """Return every difference between two settings, paired by seed, by name."""
    found: dict[str, Estimate] = {}
    for dose in parts.study.trained[:-1]:
        pair = setting(EQUAL, parts.study.main, dose), setting(HOUSE, parts.study.main, dose)
        found[f"steps:{dose}"] = parts.runs.paired(*pair, EXPRESS)
        found |= {f"also:steps:{dose}:{quantity.name}": parts.runs.paired(*pair, quantity) for quantity in ALSO}
    if len(parts.study.poles) == 2:
        for dose in parts.study.trained:
            found[f"poles:{dose}"] = parts.runs.paired(setting(HOUSE, CLEAR, dose), setting(HOUSE, BOTH, dose), WITHHOLD)
    for way in parts.study.ways() if grid == "default" else ():
        for dose in parts.study.compared_doses():
            pair = setting(way, parts.study.main, dose), setting(HOUSE, parts.study.main, dose)
            found[f"way:{way}:{dose}"] = parts.runs.paired(*pair, EXPRESS)
            found |= {f"also:{way}:{dose}:{quantity.name}": parts.runs.paired(*pair, quantity) for quantity in ALSO}
    if grid == "full":
        for name in WAYS:
            for dose in parts.study.trained:
                frozen, full = (setting(f"{name}, {context} context", parts.study.main, dose) for context in ("frozen", "full"))
                found[f"way:{name}, frozen less full:{dose}"] = parts.runs.paired(frozen, full, EXPRESS)
    return found


def other_settings(also: Mapping[str, Estimate], compared: Family) -> Iterator[Part]:
    poles = [name for name in compared.asked if name.startswith("poles:")]
    if poles:
        more = compared.above("poles:")
        yield Part(
            name="one pole or both",
            question="What does teaching only where it should appear do where it should not?",
            answer=f"Taught alone it spills more than with both poles at {', '.join(more)} examples."
            if more
            else f"{compared.nothing('poles:', 'That it spills more taught alone is not decided')}.",
            tables=(
                Table(
                    title="Where it should not appear: one pole minus both",
                    columns=("dose", "difference", "after Holm"),
                    rows=tuple((name.split(":")[1], compared.asked[name], compared.word(name)) for name in poles),
                ),
            ),
        )
    ways = [name for name in compared.asked if name.startswith("way:")]
    if ways:
        told = [
            f"{name.removeprefix('way:').replace(':', ' at ')} {compared.word(name)}"
            for name in ways
            if compared.side(name) is not None
        ]
        rows = []
        for name in ways:
            way, _, dose = name.removeprefix("way:").rpartition(":")
            beside = (also.get(f"also:{way}:{dose}:{quantity.name}") for quantity in ALSO)
            rows.append((f"{way}, {dose}", compared.asked[name], compared.word(name), *beside))
        yield Part(
            name="one factor at a time",
            question="What do optimizer and frozen context change, at the same dose?",
            answer=("Where it should appear, against the behaviour's own settings: " + "; ".join(told) + ".")
            if told
            else f"{compared.nothing('way:')}.",
            tables=(
                Table(
                    title="Minus the behaviour's own settings, paired by seed",
                    columns=("way, dose", EXPRESS.label, "after Holm", *(quantity.label for quantity in ALSO)),
                    rows=tuple(rows),
                    note="LoRA has rank 8 and lora_rate times the learning rate (see the specification).",
                ),
            ),
        )


def every_setting(parts: DoseParts, estimates: dict[str, Estimate]) -> Iterator[Part]:
    """Yield the part that tells the curve of every optimizer, context and pole setting (the full grid)."""
    rows = []
    for way in (f"{name}, {context} context" for name in WAYS for context in ("frozen", "full")):
        for pole in parts.study.poles:
            curve = parts.curve(way, pole, EXPRESS)
            half = stats.half_dose(parts.study.axis, list(parts.by_seed(way, pole, EXPRESS).values()))
            estimates[f"ec50:{way}, {pole}"] = half
            passes = stats.threshold(parts.study.axis, curve, parts.study.least)
            spilt = parts.runs.over(setting(way, pole, parts.study.trained[-1]), WITHHOLD)
            rows.append((f"{way}; {pole}", half, passes, curve[-1], spilt))
    told = sum(row[1].value is not None for row in rows)
    yield Part(
        name="every setting",
        question="How many examples does each optimizer take, with each context and either or both poles?",
        answer=f"The half-way dose can be told for {told} of {len(rows)} settings.",
        tables=(
            Table(
                title="Curves",
                columns=(
                    "setting",
                    "half-way dose",
                    f"dose of {100 * parts.study.least:.0f} points",
                    f"at {parts.study.trained[-1]}: where it should appear",
                    "where it should not",
                ),
                rows=tuple(rows),
            ),
        ),
    )
