"""Coverage: how often does a 95% interval hold the truth, ours beside those that peers print, on the same worlds?

    python benchmarks/coverage.py [--replicates 150] [--peers FOLDER] [--only WORLD ...]

Each tool's own function is called on the same arrays of each world (``tests/hostile.py`` and three small ones here); a peer
that is not installed is left out, with the reason. Writes its section of docs/validity.md, and the short table of README.md.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as replaced
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import hostile
from hostile import MEANS, PAIRS, RATES, Pair, World
from pages import README, VALIDITY, measured, replace
from side_by_side import markdown

from palimpsest.core import stats
from palimpsest.core.seeds import numpy_stream

Interval = tuple[float, float] | None
NORMAL = statistics.NormalDist().inv_cdf(0.975)
RESAMPLES = 400
"""Of modeldiffr, which resamples in plain Python: its own 2,000 take 0.4 s a world of 192 items. In small worlds it has all."""
ALL_RESAMPLES, SMALL = 2000, 100
NULL_RUNS, SIGMA = 3, 3.0
"""What dlm-sway 0.1.0 takes unless told otherwise: null runs (``NullAdapterSpec.runs``) and ``assert_z_gte``."""


@dataclass(frozen=True)
class Share:
    """A share of worlds, printed in percent with its Monte Carlo standard error."""

    count: int
    of: int

    @property
    def value(self) -> float:
        return self.count / self.of

    @property
    def error(self) -> float:
        """Standard error, over 0 also where all worlds agree (a success and a failure are added)."""
        near = (self.count + 1) / (self.of + 2)
        return math.sqrt(near * (1 - near) / self.of)

    def __str__(self) -> str:
        return f"{self.value:.1%} ± {100 * self.error:.1f}" if self.of else "none decided"


@dataclass
class Tally:
    """What a tool's intervals did in worlds of one kind."""

    worlds: int = 0
    decided: int = 0
    held: int = 0

    def add(self, interval: Interval, truth: float) -> None:
        self.count(None if interval is None else bool(interval[0] <= truth <= interval[1]))

    def count(self, held: bool | None) -> None:
        """Count one world; ``None`` where nothing was decided."""
        self.worlds += 1
        self.decided += held is not None
        self.held += bool(held)

    @property
    def coverage(self) -> Share:
        return Share(self.held, self.decided)

    def __str__(self) -> str:
        told = Share(self.decided, self.worlds)
        return str(self.coverage) if told.value == 1 or not self.decided else f"{self.coverage} (of {told.value:.0%} decided)"


@dataclass(frozen=True)
class Tool:
    """How one tool gives an interval of a mean, of a change, and of a rate where it has another one for that."""

    name: str
    called: str
    mean: Callable[[np.ndarray, np.ndarray], Interval]
    change: Callable[[np.ndarray, np.ndarray, np.ndarray], Interval]
    rate: Callable[[np.ndarray, np.ndarray], Interval] | None = None

    def interval(self, world: World | Pair, arrays: Sequence[np.ndarray]) -> Interval:
        """Return what it says of one draw of a world."""
        called: Any = self.change if isinstance(world, Pair) else self.rate if self.rate and world in RATES else self.mean
        return called(*arrays)


def ours() -> Tool:
    def mean(values: np.ndarray, labels: np.ndarray) -> Interval:
        return stats.mean(values, labels, unit="nats").interval

    def rate(values: np.ndarray, labels: np.ndarray) -> Interval:
        return stats.rate(values, labels).interval

    def change(before: np.ndarray, after: np.ndarray, labels: np.ndarray) -> Interval:
        return stats.rate_difference(before, after, labels).interval

    return Tool("palimpsest", "`stats.mean`, `stats.rate`, `stats.rate_difference`", mean, change, rate)


def modeldiffr() -> Tool:
    from modeldiffr.stats import paired_bootstrap

    def change(before: np.ndarray, after: np.ndarray, _: np.ndarray) -> Interval:
        draws = ALL_RESAMPLES if len(before) <= SMALL else RESAMPLES
        found = paired_bootstrap(before.tolist(), after.tolist(), n_resamples=draws)
        return found["ci_low"], found["ci_high"]

    called = (
        f"`stats.paired_bootstrap` ({ALL_RESAMPLES:,} resamples up to {SMALL} items, {RESAMPLES} above), of one mean from zeros"
    )
    return Tool("modeldiffr", called, lambda values, labels: change(np.zeros_like(values), values, labels), change)


def dlm_sway() -> Tool:
    from dlm_sway.core.stats import bootstrap_ci

    called = "`core.stats.bootstrap_ci` of the items' values or differences"
    return Tool("dlm-sway", called, lambda values, _: bootstrap_ci(values), lambda a, b, _: bootstrap_ci(b - a))


def lm_eval() -> Tool:
    from lm_eval.api.metrics import mean_stderr

    called = "`api.metrics.mean_stderr`, ± 1.96; a change from the two models' errors, unpaired"
    return _from_errors("lm-eval", called, lambda values, _: float(mean_stderr(values.tolist())))


def inspect_stderr() -> Tool:
    from inspect_ai.scorer import stderr

    error = stderr(cluster="cluster")
    called = "`scorer.stderr(cluster=...)`, ± 1.96; a change from the two models' errors, unpaired"
    return _from_errors("inspect stderr", called, lambda values, labels: float(error(_scores(values, labels))))


def inspect_ci() -> Tool:
    from inspect_ai.scorer import ci, ci_wilson

    def of(metric: Any, values: np.ndarray, labels: np.ndarray) -> Interval:
        found = metric(_scores(values, labels))
        return float(found["lower"]), float(found["upper"])

    mean, rate = partial(of, ci(cluster="cluster")), partial(of, ci_wilson(cluster="cluster"))

    def change(before: np.ndarray, after: np.ndarray, labels: np.ndarray) -> Interval:
        return mean(after - before, labels)

    called = (
        "`scorer.ci(cluster=...)` and `ci_wilson(cluster=...)`; for a change given our item differences, which it does not make"
    )
    return Tool("inspect ci", called, mean, change, rate)


def _from_errors(name: str, called: str, error: Callable[[np.ndarray, np.ndarray], float]) -> Tool:
    def around(value: float, size: float) -> Interval:
        return float(value - NORMAL * size), float(value + NORMAL * size)

    def change(before: np.ndarray, after: np.ndarray, labels: np.ndarray) -> Interval:
        return around(after.mean() - before.mean(), math.hypot(error(before, labels), error(after, labels)))

    return Tool(name, called, lambda values, labels: around(values.mean(), error(values, labels)), change)


def _scores(values: np.ndarray, labels: np.ndarray) -> list[Any]:
    from inspect_ai.scorer import SampleScore, Score

    pairs = zip(values.tolist(), labels.tolist(), strict=True)
    return [SampleScore(score=Score(value=value), sample_metadata={"cluster": label}) for value, label in pairs]


PEERS: dict[Callable[[], Tool], str] = {
    modeldiffr: "modeldiffr",
    dlm_sway: "dlm-sway",
    lm_eval: "lm_eval",
    inspect_stderr: "inspect_ai",
    inspect_ci: "inspect_ai",
}
"""The peers, each with the package that must be installed."""


def as_one(before: float, after: float) -> Callable[[np.random.Generator, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Outcomes of two rates, the same for all items of a cluster: templates that are right or wrong as a whole."""

    def draw(rng: np.random.Generator, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        one, other = ((rng.random(sizes.size) < rate).astype(float) for rate in (before, after))
        return hostile.spread_out(one, sizes), hostile.spread_out(other, sizes)

    return draw


@dataclass(frozen=True)
class Case:
    """A world with as many clusters as it is tried at."""

    world: World | Pair
    clusters: int = 24
    short: bool = False
    """Whether it is among the few of the README."""

    @property
    def name(self) -> str:
        return self.world.name


def _case(name: str, **how: Any) -> Case:
    return Case(next(world for world in (*MEANS, *RATES, *PAIRS) if world.name == name), **how)


def _by(size: int) -> Callable[[int], np.ndarray]:
    return lambda clusters: np.full(clusters, size)


CASES = (
    Case(Pair("40 items in clusters of 4, a tenth lost", hostile.lost_templates(0.1), -0.1, _by(4)), 10, short=True),
    Case(World("40 items in clusters of 4, lognormal", hostile.lognormal, math.exp(0.5), _by(4)), 10),
    Case(Pair("100 items in 20 clusters, no change", as_one(0.5, 0.5), 0.0, _by(5)), 20, short=True),
    _case("normal"),
    _case("t3"),
    _case("lognormal documents", short=True),
    _case("95% zeros, documents"),
    _case("Zipf sizes", short=True),
    _case("rate .02"),
    _case("rate .02, documents", short=True),
    _case("no change at .3", short=True),
    _case("no change at .02"),
    _case("from .3 to .6"),
    _case("whole templates lost, .05", short=True),
    _case("from .02 to .1, documents"),
)


@dataclass
class Found:
    """What came out: tallies by world and tool, the tools that took part, and why others did not."""

    replicates: int
    tools: list[Tool]
    absent: list[str]
    tallies: dict[str, dict[str, Tally]] = field(default_factory=dict)

    def rows(self, cases: Sequence[Case] = CASES) -> list[dict[str, str]]:
        """Return the table of coverage."""
        return [
            {
                "": f"{case.name} ({case.clusters} clusters)",
                **{tool: str(tally) for tool, tally in self.tallies[case.name].items()},
            }
            for case in cases
        ]

    def alarms(self) -> list[dict[str, str]]:
        """Return the table of false alarms: how often 0 is excluded where nothing changed."""
        null = [case for case in CASES if isinstance(case.world, Pair) and case.world.truth == 0.0]
        return [
            {
                "": f"{case.name} ({case.clusters} clusters)",
                **{tool: str(Share(one.decided - one.held, one.worlds)) for tool, one in self.tallies[case.name].items()},
            }
            for case in null
        ]


@cache
def tools() -> tuple[list[Tool], list[str]]:
    """Return ours and the peers that are installed, and a sentence about each that is not."""
    present, absent = [ours()], []
    for peer, package in PEERS.items():
        try:
            tool = peer()
            present.append(replaced(tool, called=f"{package} {version(package)}: {tool.called}"))
        except (ImportError, PackageNotFoundError) as error:
            absent.append(f"{package} is left out: {error}")
    return present, absent


def compare(replicates: int, cases: Sequence[Case] = CASES) -> Found:
    """Give every tool the same worlds."""
    present, absent = tools()
    found = Found(replicates, present, absent)
    for case in cases:
        row = found.tallies[case.name] = {tool.name: Tally() for tool in present}
        for number in range(replicates):
            arrays = case.world.sample(numpy_stream(17, "coverage", case.name, number), case.clusters)
            for tool in present:
                row[tool.name].add(tool.interval(case.world, arrays), case.world.truth)
        print(f"{case.name}: " + ", ".join(f"{tool} {tally}" for tool, tally in row.items()), flush=True)
    return found


def three_sigma(worlds: int = 20_000) -> Iterator[str]:
    """Yield how often dlm-sway's rule calls a run that is no other than its null runs a change, in a sentence each."""
    try:
        from dlm_sway.core.result import Verdict
        from dlm_sway.probes._zscore import verdict_from_z, z_score
    except ImportError as error:
        yield f"dlm-sway's three sigma are left out: {error}"
        return
    for name, draw in (
        ("normal", lambda rng: rng.normal(size=NULL_RUNS + 1)),
        ("lognormal", lambda rng: np.exp(rng.normal(size=NULL_RUNS + 1))),
    ):
        rng, count = numpy_stream(17, "three sigma", name), 0
        for _ in range(worlds):
            *null, run = draw(rng).tolist()
            known = {"mean": statistics.fmean(null), "std": statistics.pstdev(null), "n": float(NULL_RUNS)}
            count += verdict_from_z(z_score(run, known), SIGMA) is Verdict.PASS
        yield (
            f"dlm-sway's rule, {SIGMA:g} sigma over {NULL_RUNS} null runs (`probes._zscore.z_score`, `verdict_from_z`, with "
            f"the mean and `pstdev` that its `null_adapter` publishes), finds a change in {Share(count, worlds)} of runs that "
            f"are null runs themselves ({name}; nominal 0.1%)."
        )


def lines(found: Found) -> Iterator[str]:
    """Yield the section of docs/validity.md."""
    yield from ("## Beside the tools that print intervals", "")
    yield f"`python benchmarks/coverage.py`: {measured(found.replicates)}, every tool on the same ones. ± is the Monte Carlo"
    yield "standard error; what a tool does not decide is not counted in its coverage."
    yield from ("", "**Coverage of the 95% interval**", "", *markdown(found.rows()), "")
    yield from ("**False alarms: 0 excluded where nothing changed**", "", *markdown(found.alarms()), "")
    yield from (f"- {tool.name}: {tool.called}." for tool in found.tools)
    yield from (f"- {why}" for why in (*found.absent, *three_sigma()))


def short(found: Found) -> Iterator[str]:
    """Yield the section of the README."""
    worlds = "worlds that were made for none of them"
    yield f"How often a 95% interval holds the truth, in {found.replicates} {worlds} ([docs/validity.md](docs/validity.md))."
    yield from ("", *markdown(found.rows([case for case in CASES if case.short])))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=150, help="worlds of each kind")
    parser.add_argument("--peers", help="a folder with peers' packages (pip install --no-deps --target), if not installed")
    parser.add_argument("--only", nargs="*", help="names of worlds; prints their rows and writes nothing")
    parser.add_argument("--page", type=Path, default=VALIDITY, help="the page with the section")
    parser.add_argument("--readme", type=Path, default=README, help="the page with the short table")
    given = parser.parse_args(arguments)
    if given.peers:
        sys.path.append(given.peers)
    if given.only:
        cases = [case for case in CASES if case.name in given.only]
        print("\n".join(markdown(compare(given.replicates, cases).rows(cases))))
        return
    found = compare(given.replicates)
    replace(given.page, "peers", lines(found))
    replace(given.readme, "coverage", short(found))


if __name__ == "__main__":
    main()
