"""Validity worlds: is a method right in one world of a kind and size?

Each function here returns a ``Row``: a world's name and a question that is asked of fresh draws; ``validity.py`` counts.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from scipy import special

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import hostile
from hostile import Pair, World, moved

from palimpsest.core import stats
from palimpsest.core.estimate import Estimate, exact
from palimpsest.core.seeds import numpy_stream
from palimpsest.core.stats.change_point import change_point
from palimpsest.core.stats.spread import ONE_IN

Ask = Callable[[np.random.Generator, int], bool | None]
"""Whether it is right in one world of a size; ``None`` where the method does not decide."""
LIMIT = 0.20
"""Of the spill, as the verdict's."""
WANTED = 0.6
"""How far the behaviour moves where it should."""
RISE = math.exp(0.5)
"""Mean of lognormal rises."""
DOSES = (0, 10, 20, 50, 100, 200, 500, 1000)


@dataclass(frozen=True)
class Row:
    """One world."""

    world: str
    ask: Ask
    why: str = ""
    """Why it falls short, where it does."""
    wrong: bool = True
    """Whether a claim is wrong in it, where claims are counted."""


def holds(estimate: Estimate, truth: float) -> bool | None:
    """Whether the interval holds the truth; ``None`` without an interval."""
    return None if estimate.interval is None else bool(estimate.interval[0] <= truth <= estimate.interval[1])


def of_values(world: World, method: Callable[[np.ndarray, np.ndarray], Estimate], why: str = "") -> Row:
    return Row(world.name, lambda rng, size: holds(method(*world.sample(rng, size)), world.truth), why)


def by_chance(rng: np.random.Generator, sizes: np.ndarray) -> np.ndarray:
    """As ``hostile.one_explodes``, but one cluster in twenty by chance: a sample may hold none."""
    bursts = rng.random(sizes.size) < 1 / ONE_IN
    return hostile.spread_out(0.05 * rng.normal(size=sizes.size) + 2.0 * bursts, sizes) + 0.1 * rng.normal(size=sizes.sum())


BY_CHANCE = World("one cluster in 20 explodes, by chance", by_chance, 2.0 / ONE_IN)
UNSEEN = "what carries the mean is in no cluster of many samples, and no interval covers what its sample does not show"
SKEWED = "the mean rests on few clusters, and they show less skewness than there is"


def as_mean(values: np.ndarray, labels: np.ndarray) -> Estimate:
    return stats.mean(values, labels, unit="nats")


def as_difference(values: np.ndarray, labels: np.ndarray) -> Estimate:
    before = np.sin(np.arange(values.size))
    return stats.mean_difference(before, before + values, labels, unit="nats")


def as_positive(values: np.ndarray, labels: np.ndarray) -> Estimate:
    return stats.positive_mean(values, labels, unit="nats")


def why_of(name: str) -> str:
    return UNSEEN if "zeros" in name else SKEWED if "lognormal" in name else ""


def of_pair(world: Pair) -> Row:
    return Row(world.name, lambda rng, size: holds(stats.rate_difference(*world.sample(rng, size)), world.truth))


def z(rate: float) -> float:
    return float(special.ndtri(rate))


def told_apart(name: str, hit: float, alarm: float, sizes: Callable[[int], np.ndarray] | None = None) -> Row:
    """Two poles, each with clusters of its own, whose rates are beta distributed."""

    def ask(rng: np.random.Generator, size: int) -> bool | None:
        one, other = (World("", hostile.at_rate(rate), rate, sizes or World.sizes).sample(rng, size) for rate in (hit, alarm))
        return holds(stats.d_prime(one[0], other[0], one[1], other[1] + size)[0], marginal)

    marginal = z(hit) - z(alarm)
    return Row(name, ask, "the rates of whole clusters differ, and few are seen")


def apart_changed(name: str, express: tuple[float, float], withhold: tuple[float, float], sizes=None) -> Row:
    def ask(rng: np.random.Generator, size: int) -> bool | None:
        one, other = (Pair("", moved(*rates), 0.0, sizes or Pair.sizes).sample(rng, size) for rates in (express, withhold))
        return holds(stats.d_prime_change(one[0], one[1], other[0], other[1], one[2], other[2] + size), truth)

    truth = z(express[1]) - z(express[0]) - z(withhold[1]) + z(withhold[0])
    return Row(name, ask)


def spill(rng: np.random.Generator, templates: int, base: float, truth: float) -> Estimate:
    """A behaviour that moved by 60 points where it should, and where it should not wholly in some of the templates."""
    sizes = np.full(templates, hostile.SIZE)
    (before, wanted), (outside, _) = moved(base, base + WANTED)(rng, sizes), moved(base, base)(rng, sizes)
    leaks = hostile.spread_out(rng.random(templates) < truth * WANTED / (1 - base), sizes)
    labels, most = np.repeat(np.arange(templates), sizes), (float(outside.mean()), 1 - float(outside.mean()))
    after = np.where(leaks, 1.0, outside)
    return stats.ratio(after - outside, wanted - before, templates + labels, labels, most=most)


def within_limit(truth: float, base: float) -> Row:
    return Row(
        f"{truth:.0%}, before {base:.0%}",
        lambda rng, size: spill(rng, size, base, truth).above(LIMIT) is False,
        wrong=truth >= LIMIT,
    )


def upper_end(truth: float, base: float) -> Row:
    """Whether the interval's upper end, which the verdict reads, is above the truth."""

    def ask(rng: np.random.Generator, size: int) -> bool | None:
        interval = spill(rng, size, base, truth).interval
        return None if interval is None else interval[1] >= truth

    return Row(f"{truth:.0%} leaks, before {base:.0%}", ask, UNSEEN)


def over_seeds(name: str, draw: hostile.Draw, truth: float, seeds: int, spread: float) -> Row:
    """Seeds that are read on the same items, each with a shift and some noise of its own."""

    def ask(rng: np.random.Generator, size: int) -> bool | None:
        values, labels = World("", draw, truth).sample(rng, size)
        shifted = (values + spread * rng.normal() + 0.2 * rng.normal(size=values.size) for _ in range(seeds))
        return holds(stats.across_seeds([as_mean(one, labels) for one in shifted]), truth)

    return Row(f"{name}, {seeds} seeds, their spread {spread:g}", ask, why_of(name))


def conversations(rng: np.random.Generator, units: int, rates: np.ndarray, leaning: float) -> np.ndarray:
    """Failures of conversations with one answer each; each leans on the one before it (a latent AR(1) process)."""
    noise = rng.normal(size=units)
    for place in range(1, units):
        noise[place] = leaning * noise[place - 1] + math.sqrt(1 - leaning**2) * noise[place]
    return (special.ndtr(noise) < rates).astype(int)


def alarm(name: str, rate: float, leaning: float = 0.0, within: float = 0.0, most: int = 1) -> Row:
    """Whether a change is seen where there is none."""

    def ask(rng: np.random.Generator, units: int) -> bool | None:
        trials = rng.integers(1, most + 1, units)
        scale = (1 - within) / within if within else 0.0
        rates = rng.beta(rate * scale, (1 - rate) * scale, units) if within else np.full(units, rate)
        failures = rng.binomial(trials, rates) if most > 1 else conversations(rng, units, rates, leaning)
        chance = change_point(failures, trials, rng, detectable=False).p_value
        return None if chance is None else chance <= 0.05

    return Row(name, ask, "few conversations show little of how far each leans on the one before it" if leaning else "")


def place(rng: np.random.Generator, units: int) -> bool | None:
    """Whether the set holds the place at which .1 became .6, where a change is seen."""
    cut = round(0.6 * units)
    failures = conversations(rng, units, np.where(np.arange(units) < cut, 0.1, 0.6), 0.0)
    places = change_point(failures, np.ones(units, dtype=int), rng, detectable=False).places
    return None if places is None else places[0] <= cut <= places[1]


def half_way(items: float, seeds: float, slope: float) -> Row:
    """Three seeds on the same templates, each with a half-way dose of its own; the truth is that of the mean curve."""

    def curve(halves: np.ndarray) -> np.ndarray:
        return 0.65 / (1 + (halves[:, None] / np.array(DOSES[1:])) ** slope)

    @cache
    def truth() -> float:
        many = 80 * np.exp(numpy_stream(17, "half").normal(0.0, items, 20_000))
        return stats.logistic(DOSES, [0.0, *curve(many).mean(axis=0).tolist()]).half

    def ask(rng: np.random.Generator, templates: int) -> bool | None:
        own, labels, rows = rng.normal(0.0, items, templates), np.arange(templates), []
        for _ in range(3):
            values = curve(80 * np.exp(own + rng.normal(0.0, seeds))) + rng.normal(0.0, 0.02, (templates, len(DOSES) - 1))
            rows.append([exact(0.0, "points"), *(stats.mean(column, labels, unit="points") for column in values.T)])
        return holds(stats.half_dose(DOSES, rows), truth())

    return Row(f"templates' spread {items:g}, seeds' {seeds:g}, slope {slope:g}", ask)


def equal(name: str, world: World | Pair, margin: float) -> Row:
    """Whether "unchanged" is claimed."""

    def ask(rng: np.random.Generator, size: int) -> bool | None:
        arrays = world.sample(rng, size)
        if isinstance(world, Pair):
            return bool(stats.rate_difference(*arrays, margin=margin).equivalent)
        return bool(stats.mean(*arrays, unit="nats", margin=margin).equivalent)

    return Row(f"{name}, margin {margin:.2g}", ask)


def balanced(rng: np.random.Generator, sizes: np.ndarray) -> np.ndarray:
    """As many lognormal rises as falls."""
    return hostile.lognormal(rng, sizes) - hostile.lognormal(rng, sizes)


def calm(rng: np.random.Generator, sizes: np.ndarray) -> np.ndarray:
    return 0.05 * hostile.spread_out(rng.normal(size=sizes.size), sizes) + 0.1 * rng.normal(size=sizes.sum())


def twice(name: str, draw: hostile.Draw, mean: float, sizes: Callable[[int], np.ndarray] = World.sizes) -> Row:
    """Whether an effect of twice the smallest that such samples state is found (p below .05)."""
    world = World(name, draw, mean, sizes)

    def asked(rng: np.random.Generator, size: int, effect: float) -> Estimate:
        values, labels = world.sample(rng, size)
        return as_mean(values - mean + effect, labels)

    @cache
    def smallest(size: int) -> float:
        stated = (asked(numpy_stream(17, "smallest", number), size, 0.0).minimum_detectable for number in range(41))
        return float(np.median([one or 0.0 for one in stated]))

    def ask(rng: np.random.Generator, size: int) -> bool | None:
        chance = asked(rng, size, 2 * smallest(size)).p_value
        return None if chance is None else chance < 0.05

    return Row(name, ask)


def anything_fell(name: str, draw: hostile.Draw, truth: float, abilities: int = 16) -> Row:
    """Whether anything is said to have fallen beyond the margin, where each of many abilities lies exactly at it."""
    world = World(name, draw, truth)

    def ask(rng: np.random.Generator, size: int) -> bool | None:
        some = (world.sample(rng, size) for _ in range(abilities))
        return any(stats.fallen([stats.mean(*arrays, unit="nats", margin=truth) for arrays in some]))

    return Row(f"{abilities} abilities at the margin, {name}", ask)
