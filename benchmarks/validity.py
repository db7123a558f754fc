"""Validity: how often does each method of the statistics hold the truth, in worlds that were not made for it?

    python benchmarks/validity.py [--replicates 300] [--only mean ratio ...]

Draws worlds whose answer is known (``tests/hostile.py``, ``validity_worlds.py``), asks each method, and writes docs/validity.md
(but for the section of ``benchmarks/coverage.py``). With ``--only``, prints these tables and writes nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from coverage import Share, Tally
from pages import VALIDITY, measured, replace
from side_by_side import markdown
from validity_worlds import (
    BY_CHANCE,
    LIMIT,
    RISE,
    UNSEEN,
    WANTED,
    Row,
    alarm,
    anything_fell,
    apart_changed,
    as_difference,
    as_mean,
    as_positive,
    balanced,
    calm,
    equal,
    half_way,
    of_pair,
    of_values,
    over_seeds,
    place,
    told_apart,
    twice,
    upper_end,
    why_of,
    within_limit,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import hostile
from hostile import CLUSTERS, MEANS, PAIRS, RATES, Pair, World, lost_templates, moved, zipf

from palimpsest.core import stats
from palimpsest.core.seeds import numpy_stream
from palimpsest.core.stats.spread import ONE_IN, degrees_of

LEAST = 0.92


@dataclass(frozen=True)
class Table:
    """One method in its worlds, at several sizes."""

    name: str
    says: str
    rows: tuple[Row, ...]
    sizes: tuple[int, ...] = CLUSTERS
    unit: str = "clusters"
    covers: bool = True
    """Whether it counts truths held (the more the better), and not claims or alarms."""
    most: float | None = None
    """The error that its claims or alarms may have."""
    every: int = 1
    """What takes long is asked in one world of so many."""

    def tallies(self, replicates: int) -> dict[str, list[Tally]]:
        """Ask in all worlds; a list over the sizes for each."""
        worlds = max(1, replicates // self.every)
        return {row.world: [self._tally(row, size, worlds) for size in self.sizes] for row in self.rows}

    def _tally(self, row: Row, size: int, worlds: int) -> Tally:
        tally = Tally()
        for number in range(worlds):
            tally.count(row.ask(numpy_stream(17, self.name, row.world, size, number), size))
        return tally

    def lines(self, found: dict[str, list[Tally]]) -> Iterator[str]:
        """Yield it as markdown."""
        rows = [
            {"": world, **{f"{size} {self.unit}": str(tally) for size, tally in zip(self.sizes, tallies, strict=True)}}
            for world, tallies in found.items()
        ]
        yield from (f"### {self.name}", "", self.says, "", *markdown(rows), "")


POSITIVE = (hostile.lognormal, hostile.mostly_zero)
TABLES = (
    Table(
        "mean",
        "Of values or differences; clusters of 8 items, of one (documents), or with sizes like 1/rank (Zipf).",
        (*(of_values(world, as_mean, why_of(world.name)) for world in MEANS), of_values(BY_CHANCE, as_mean, UNSEEN)),
    ),
    Table(
        "mean: what is found",
        "How often an effect of twice the smallest that such samples state is found (80% or more is what it says).",
        (
            twice("normal", hostile.normal, 0.3),
            twice("t3", hostile.heavy, 0.3),
            twice("lognormal rises", hostile.lognormal, RISE),
            twice("lognormal rises and falls", balanced, 0.0),
            twice("Zipf sizes", hostile.normal, 0.3, zipf),
        ),
        covers=False,
    ),
    Table(
        "mean_difference",
        "Paired by item.",
        tuple(of_values(world, as_difference, why_of(world.name)) for world in (*MEANS[:3], MEANS[6], MEANS[8])),
    ),
    Table(
        "positive_mean",
        "Of what can't be below 0, such as a distance.",
        tuple(of_values(world, as_positive, why_of(world.name)) for world in MEANS if world.draw in POSITIVE),
    ),
    Table("rate", "Of 0/1 outcomes.", tuple(of_values(world, stats.rate, UNSEEN) for world in RATES)),
    Table("rate_difference", "Of 0/1 outcomes before and after, paired by item.", tuple(of_pair(world) for world in PAIRS)),
    Table(
        "d_prime",
        "Hits against false alarms, rates beta distributed over clusters (correlation .3).",
        (
            told_apart(".7 and .3", 0.7, 0.3),
            told_apart(".3 and .3", 0.3, 0.3),
            told_apart(".98 and .02", 0.98, 0.02),
            told_apart(".5 and .02", 0.5, 0.02),
            told_apart(".7 and .3, Zipf sizes", 0.7, 0.3, zipf),
        ),
    ),
    Table(
        "d_prime_change",
        "d' after less d' before, on the same items.",
        (
            apart_changed("no change at .3", (0.3, 0.3), (0.3, 0.3)),
            apart_changed("no change at .02", (0.02, 0.02), (0.02, 0.02)),
            apart_changed(".3 to .7, and .3 to .4", (0.3, 0.7), (0.3, 0.4)),
            apart_changed(".02 to .98, .02 stays", (0.02, 0.98), (0.02, 0.02)),
            apart_changed(".3 to .7, and .3 to .4, Zipf sizes", (0.3, 0.7), (0.3, 0.4), zipf),
        ),
    ),
    Table(
        "ratio",
        f"The upper end of the spill's bound, where the behaviour moved by {WANTED:.0%} and leaks wholly in some templates.",
        tuple(upper_end(truth, base) for truth in (0.4, 0.2, 0.1) for base in (0.0, 0.3)),
        every=2,
    ),
    Table(
        "ratio: surely within",
        f'How often "surely within {LIMIT:.0%}" is said at a true spill, by the rate before; from {LIMIT:.0%} on it is wrong.',
        tuple(within_limit(truth, base) for truth in (0.4, 0.25, 0.2, 0.1, 0.0) for base in (0.0, 0.1, 0.3)),
        sizes=(8, 12, 24),
        unit="templates",
        covers=False,
        most=0.05,
        every=2,
    ),
    Table(
        "two_level",
        "The mean over seeds that are read on the same items (`across_seeds`).",
        (
            over_seeds("normal", hostile.normal, 0.3, 3, 0.02),
            over_seeds("normal", hostile.normal, 0.3, 3, 0.3),
            over_seeds("t3", hostile.heavy, 0.3, 3, 0.1),
            over_seeds("lognormal", hostile.lognormal, RISE, 3, 0.02),
            over_seeds("lognormal", hostile.lognormal, RISE, 8, 0.1),
        ),
        every=2,
    ),
    Table(
        "change_point: false alarms",
        "How often a change is seen (p at most .05) where there is none.",
        (
            alarm("independent, .3", 0.3),
            alarm("1 to 4 answers, correlated .4, at .1", 0.1, within=0.4, most=4),
            alarm("each leans on the one before it by .3", 0.3, leaning=0.3),
            alarm("each leans on the one before it by .6", 0.3, leaning=0.6),
        ),
        sizes=(24, 40, 80),
        unit="conversations",
        covers=False,
        most=0.05,
        every=3,
    ),
    Table(
        "change_point: place",
        "How often the set of places holds the true one, where a change is seen.",
        (Row(".1 to .6, three fifths along", place),),
        sizes=(24, 40, 80),
        unit="conversations",
        every=3,
    ),
    Table(
        "half_dose",
        "The dose at which half of the change is there, over three seeds.",
        (half_way(0.3, 0.15, 2.5), half_way(0.05, 0.3, 2.5), half_way(0.3, 0.02, 6.0)),
        unit="templates",
        every=6,
    ),
    Table(
        "unchanged: wrong claims",
        'How often "unchanged" is said where the change is exactly the margin (5% is what it says).',
        (
            equal("lognormal rises", World("", hostile.lognormal, RISE), RISE),
            equal("lognormal rises, documents", World("", hostile.lognormal, RISE, hostile.alone), RISE),
            equal("one cluster in 20 by chance", BY_CHANCE, BY_CHANCE.truth),
            equal("whole templates lost", Pair("", lost_templates(0.05), -0.05), 0.05),
            equal("whole templates lost", Pair("", lost_templates(0.12), -0.12), 0.12),
        ),
        sizes=(12, 24, 60, 80),
        covers=False,
        most=0.05,
    ),
    Table(
        "unchanged: right claims",
        'How often "unchanged" is said where nothing changed on average: the more the better.',
        (
            equal("lognormal rises and falls", World("", balanced, 0.0), RISE),
            equal("no cluster explodes", World("", calm, 0.0), BY_CHANCE.truth),
            equal("no answer flips", Pair("", lost_templates(0.0, 0.9), 0.0), 0.05),
            equal("answers flip both ways at .98", Pair("", moved(0.98, 0.98), 0.0), 0.05),
            equal("answers flip both ways at .3", Pair("", moved(0.3, 0.3, 0.9), 0.0), 0.12),
        ),
        sizes=(12, 24, 60, 80),
        covers=False,
    ),
    Table(
        "fallen",
        "How often anything is said to have got worse beyond its margin, where no ability of 16 has (2.5% is what it says).",
        (anything_fell("normal", hostile.normal, 0.3), anything_fell("lognormal", hostile.lognormal, RISE)),
        every=3,
        covers=False,
        most=0.025,
    ),
)


def degrees(draws: int = 20_000) -> Iterator[str]:
    """Yield the degrees of freedom of a mean's variance with Zipf sizes, beside those of simulated independent items."""
    rows = []
    for clusters in CLUSTERS:
        sizes = zipf(clusters)
        share = sizes / sizes.sum()
        sums = numpy_stream(17, "degrees", clusters).normal(size=(draws, clusters)) * np.sqrt(sizes)
        variances = (np.square(sums - share * sums.sum(axis=1, keepdims=True)) / (1 - share)).sum(axis=1)
        former = float(np.square(np.square(sizes).sum())) / float(np.power(sizes.astype(float), 4).sum()) - 1
        seen = 2 * variances.mean() ** 2 / variances.var()
        rows.append({"": f"{clusters} Zipf clusters", "used": f"{degrees_of(sizes):.1f}", "simulated": f"{seen:.1f}",
                     "(sum n²)² / sum n⁴ - 1": f"{former:.1f}", "clusters - 1": str(clusters - 1)})  # fmt: skip
    yield from (
        "### Degrees of freedom",
        "",
        f"With sizes like 1/rank; simulated: 2 E²/Var of the variance in {draws:,} worlds.",
    )
    yield from ("", *markdown(rows), "")


def limits(found: dict[str, dict[str, list[Tally]]]) -> Iterator[str]:
    """Yield what does not hold."""
    unseen = ", ".join(f"{(1 - 1 / ONE_IN) ** clusters:.0%} of samples of {clusters}" for clusters in CLUSTERS)
    yield from ("## Limits", "", f"- What one cluster in {ONE_IN} carries by chance is in no cluster of {unseen}; "
                "no interval of a mean covers what its sample does not show.")  # fmt: skip
    yield from _listed(f"Covered less than {LEAST:.0%}", [table for table in TABLES if table.covers], found)
    yield from _listed("Wrong more often than is said, by over two errors", [table for table in TABLES if table.most], found)


def _listed(what: str, tables: Sequence[Table], found: dict[str, dict[str, list[Tally]]]) -> Iterator[str]:
    lines = [line for table in tables for line in _short(table, found[table.name])]
    yield f"- {what}:{'' if lines else ' nothing.'}"
    yield from lines


def _short(table: Table, found: dict[str, list[Tally]]) -> Iterator[str]:
    """Yield the worlds in which a method falls short, and why."""

    def falls_short(share: Share) -> bool:
        if not share.of:
            return False
        return share.value < LEAST if table.most is None else share.value - 2 * share.error > table.most

    for row in (row for row in table.rows if row.wrong):
        cells = zip(table.sizes, (tally.coverage for tally in found[row.world]), strict=True)
        low = [f"{share} at {size}" for size, share in cells if falls_short(share)]
        if low:
            yield f"  - `{table.name}`, {row.world}: {', '.join(low)} {table.unit}{f' ({row.why})' if row.why else ''}."


def introduction(replicates: int) -> Iterator[str]:
    yield "How often each method of `palimpsest/core/stats` holds the truth, in worlds whose answer is known and whose shape it"
    yield f"does not assume. `python benchmarks/validity.py`: {measured(replicates)}"
    yield "(a half to a sixth of them where a method takes long). ± is the Monte Carlo standard error. Coverage is that of what"
    yield 'is decided; where some worlds get no interval ("could not say"), the share that is decided stands beside it.'
    yield ""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=300, help="worlds of each kind")
    parser.add_argument("--only", nargs="*", help="names of tables")
    parser.add_argument("--page", type=Path, default=VALIDITY, help="the page")
    given = parser.parse_args(arguments)
    found = {}
    for table in TABLES:
        if not given.only or table.name in given.only:
            found[table.name] = table.tallies(given.replicates)
            print("\n".join(table.lines(found[table.name])), flush=True)
    if given.only:
        return
    text = [line for table in TABLES for line in table.lines(found[table.name])]
    if not given.page.exists():
        given.page.write_text("# Validity\n", encoding="utf-8")
    replace(given.page, "methods", [*introduction(given.replicates), "## Methods", "", *text, *degrees(), *limits(found)])


if __name__ == "__main__":
    main()
