"""Hostile: do the statistics hold in worlds that nobody's method assumed, and are they decided often enough?

A rate over replicates is held against its limit less (or plus) two Monte Carlo errors. What stays short of
it is named (``KNOWN_WITHIN``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import hostile
import numpy as np
import pytest
from hostile import MEANS, PAIRS, RATES, SIZE, Pair, World
from scipy import special

from palimpsest.core import stats
from palimpsest.core.estimate import Estimate
from palimpsest.core.seeds import numpy_stream

COVERED, DECIDED, WRONG = 0.92, 0.80, 0.05
POSITIVE = ("lognormal", "lognormal documents", "95% zeros", "95% zeros, documents", "Zipf sizes, lognormal")
RARE = {
    ("95% zeros, documents", 8): "of 8 documents one is not 0 in 34% of samples, three in 1%",
    ("95% zeros, documents", 12): "of 12 documents three are not 0 in 2% of samples",
    ("95% zeros, documents", 24): "of 24 documents three are not 0 in 12% of samples",
    ("95% zeros, documents", 80): "of 80 documents three are not 0 in 77% of samples",
    ("95% zeros", 8): "of 8 clusters three are not 0 in 58% of samples",
}
"""Worlds in which fewer than three clusters differ in more than a fifth of samples: not deciding is right."""


class Held(NamedTuple):
    """Of replicates: how many were decided, and the share of those whose interval holds the truth."""

    decided: int
    covered: float


def error(share: float, count: int) -> float:
    """Return two Monte Carlo errors of a share."""
    return 2 * math.sqrt(share * (1 - share) / max(count, 1))


def held(found: Iterator[Estimate], truth: float) -> Held:
    inside = [low - 1e-12 <= truth <= high + 1e-12 for low, high in (one.interval for one in found if one.interval)]
    return Held(len(inside), float(np.mean(inside)) if inside else float("nan"))


def difference(world: World, rng: np.random.Generator, clusters: int) -> Estimate:
    """Return the change of items whose values were alike before (``test_most_items_the_same...`` has the others)."""
    values, labels = world.sample(rng, clusters)
    before = rng.integers(0, 3, values.size)
    return stats.mean_difference(before, before + values, labels, unit="nats")


def rate_change(world: Pair, rng: np.random.Generator, clusters: int) -> Estimate:
    return stats.rate_difference(*world.sample(rng, clusters))


def told_apart(rates: tuple[float, float, float, float], change: bool) -> Callable[..., Estimate]:
    """Return d' after, or its change, of two poles with these rates before and after."""

    def found(world: Pair, rng: np.random.Generator, clusters: int) -> Estimate:
        sizes = world.sizes(clusters)
        labels = np.repeat(np.arange(clusters), sizes)
        before, after = hostile.moved(*rates[:2])(rng, sizes)
        held_back, let_through = hostile.moved(*rates[2:])(rng, sizes)
        if change:
            return stats.d_prime_change(before, after, held_back, let_through, labels, labels)
        return stats.d_prime(after, let_through, labels, labels)[0]

    return found


def d_primes() -> Iterator[tuple[str, Pair, Callable[..., Estimate]]]:
    for sizes in (PAIRS[0].sizes, hostile.zipf):
        for rates in ((0.3, 0.7, 0.3, 0.3), (0.02, 0.6, 0.02, 0.02), (0.3, 0.98, 0.3, 0.02), (0.02, 0.98, 0.02, 0.1)):
            z = [float(special.ndtri(rate)) for rate in rates]
            for change, truth in ((True, z[1] - z[3] - z[0] + z[2]), (False, z[1] - z[3])):
                name = f"{rates[0]} to {rates[1]} beside {rates[2]} to {rates[3]}" + ", Zipf sizes" * (sizes is hostile.zipf)
                yield (
                    "d_prime_change" if change else "d_prime",
                    Pair(name, lambda *_: None, truth, sizes),  # type: ignore[return-value]
                    told_apart(rates, change),
                )


def grid() -> Iterator[tuple[str, World | Pair, Callable[..., Estimate]]]:
    for world in MEANS:
        yield "mean", world, lambda world, rng, n: stats.mean(*world.sample(rng, n), unit="nats")
        yield "mean_difference", world, difference
    for world in MEANS:
        if world.name in POSITIVE:
            yield "positive_mean", world, lambda world, rng, n: stats.positive_mean(*world.sample(rng, n), unit="nats")
    for world in RATES:
        yield "rate", world, lambda world, rng, n: stats.rate(*world.sample(rng, n))
    for pair in PAIRS:
        yield "rate_difference", pair, rate_change
    yield from d_primes()


GRID = [pytest.param(*each, id=f"{each[0]}: {each[1].name}") for each in grid()]


def check(function: str, world: World | Pair, estimate: Callable[..., Estimate], clusters: int, replicates: int) -> None:
    stream = (function, world.name, clusters)
    samples = (estimate(world, numpy_stream(5, *stream, index), clusters) for index in range(replicates))
    found = held(samples, world.truth)
    if (world.name, clusters) in RARE:
        assert found.decided < DECIDED * replicates + error(DECIDED, replicates) * replicates  # or it should leave the list
    else:
        assert found.decided >= (DECIDED - error(DECIDED, replicates)) * replicates, found
    assert found.decided < 30 or found.covered >= COVERED - error(COVERED, found.decided), found


def test_most_items_the_same_to_the_last_bit_are_not_called_identical() -> None:
    """Documents with a number of their own, of which 95% keep it (a model that changed for one word in its vocabulary)."""
    world, found = next(one for one in MEANS if one.name == "95% zeros, documents"), []
    for index in range(200):
        values, labels = world.sample(rng := numpy_stream(5, "own", index), 24)
        before = rng.gamma(4.0, 0.5, values.size)
        found.append(stats.mean_difference(before, before + values, labels, unit="nats"))
    result = held(iter(found), world.truth)
    assert result.decided < 30 or result.covered >= COVERED, result


@pytest.mark.parametrize(("function", "world", "estimate"), GRID)
def test_intervals_hold_the_truth(function: str, world: World | Pair, estimate: Callable[..., Estimate]) -> None:
    check(function, world, estimate, 24, 60)


@pytest.mark.slow
@pytest.mark.parametrize("clusters", hostile.CLUSTERS)
@pytest.mark.parametrize(("function", "world", "estimate"), GRID)
def test_intervals_hold_the_truth_in_the_full_grid(
    function: str, world: World | Pair, estimate: Callable[..., Estimate], clusters: int
) -> None:
    check(function, world, estimate, clusters, 1_000)


def seeds_sharing_items(rng: np.random.Generator, seeds: int, between: float, shared: float, own: float) -> Estimate:
    """Return what several seeds, read on the same 24 clusters, say together of a mean of 0.3."""
    labels = np.repeat(np.arange(24), SIZE)
    items, found = shared * rng.normal(size=24), []
    for _ in range(seeds):
        level = 0.3 + between * rng.normal() + (items + own * rng.normal(size=24))[labels]
        found.append(stats.mean(level + 0.5 * rng.normal(size=labels.size), labels, unit="nats"))
    return stats.across_seeds(found)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("scatter", [(0.0, 1.0, 0.3), (0.06, 1.0, 0.3), (0.2, 0.3, 0.3), (0.0, 0.0, 1.0)])
def test_intervals_over_seeds_hold_for_other_items(seeds: int, scatter: tuple[float, float, float]) -> None:
    found = held((seeds_sharing_items(numpy_stream(5, "seeds", index), seeds, *scatter) for index in range(1_000)), 0.3)
    assert found.decided == 1_000 and found.covered >= COVERED - error(COVERED, 1_000), found


def seen(world: World, effect: float, index: int) -> Estimate:
    """Return the change where it is ``effect`` on average and scatters as the world does."""
    rng = numpy_stream(6, "seen", world.name, index)
    values, labels = world.sample(rng, 24)
    before = rng.gamma(4.0, 0.5, values.size)
    return stats.mean_difference(before, before + values - world.truth + effect, labels, unit="nats")


def check_power(world: World, replicates: int) -> None:
    """What is stated is a rise of all clusters alike; a fall against the skewness takes more (docs/validity.md)."""
    smallest = [seen(world, 0.0, index).minimum_detectable for index in range(replicates)]
    effect = 2 * float(np.median([one for one in smallest if one is not None]))
    found = [seen(world, effect, replicates + index).above(0.0) is True for index in range(replicates)]
    assert np.mean(found) >= DECIDED - error(DECIDED, replicates), np.mean(found)


SEEN = [pytest.param(world, id=world.name) for world in MEANS if (world.name, 24) not in RARE]


@pytest.mark.parametrize("world", SEEN)
def test_twice_the_smallest_that_is_seen_is_found(world: World) -> None:
    check_power(world, 40)


@pytest.mark.slow
@pytest.mark.parametrize("world", SEEN)
def test_twice_the_smallest_that_is_seen_is_found_in_the_full_grid(world: World) -> None:
    check_power(world, 1_000)


def at_the_margin(kind: str, rng: np.random.Generator, clusters: int, margin: float = 0.05) -> Estimate:
    """Return a change that is as large as its margin, so that "unchanged" is wrong."""
    sizes = np.full(clusters, SIZE)
    labels = np.repeat(np.arange(clusters), sizes)
    if kind == "templates lost":
        return stats.rate_difference(*hostile.lost_templates(margin)(rng, sizes), labels, margin=margin)
    if kind == "lognormal rises":
        rise = margin * hostile.lognormal(rng, sizes) / math.exp(0.5)
    else:
        rise = (20 * margin * (rng.random(clusters) < 0.05) + 0.1 * margin * rng.normal(size=clusters))[labels]
    before = rng.gamma(4.0, 0.5, labels.size)
    return stats.mean_difference(before, before + rise, labels, unit="nats", margin=margin)


def check_margin(kind: str, clusters: int, replicates: int) -> None:
    stream = ("margin", kind, clusters)
    wrong = np.mean(
        [at_the_margin(kind, numpy_stream(7, *stream, index), clusters).equivalent is True for index in range(replicates)]
    )
    assert wrong <= WRONG + error(WRONG, replicates), wrong


LOSSES = ("lognormal rises", "one cluster in 20", "templates lost")


@pytest.mark.parametrize("kind", LOSSES)
def test_unchanged_is_seldom_wrong_at_the_margin(kind: str) -> None:
    check_margin(kind, 60, 100)


@pytest.mark.slow
@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("clusters", [12, 24, 60, 80])
def test_unchanged_is_seldom_wrong_at_the_margin_in_the_full_grid(kind: str, clusters: int) -> None:
    check_margin(kind, clusters, 1_000)


def test_unchanged_is_said_where_nothing_changed() -> None:
    losses, answers = [], []
    for index in range(60):
        rng = numpy_stream(8, "unchanged", index)
        sizes = np.full(80, SIZE)
        labels = np.repeat(np.arange(80), sizes)
        before = rng.gamma(4.0, 0.5, labels.size)
        change = 0.05 * hostile.normal(rng, sizes) - 0.015
        losses.append(stats.mean_difference(before, before + change, labels, unit="nats", margin=0.05).equivalent)
        answers.append(stats.rate_difference(*hostile.moved(0.9, 0.9, 0.95)(rng, sizes), labels, margin=0.05).equivalent)
    assert np.mean(losses) >= DECIDED and np.mean(answers) >= DECIDED, (np.mean(losses), np.mean(answers))


class Leak(NamedTuple):
    """Templates of two poles: a share of the withheld ones leaks wholly, so that spill is ``spill`` x 60 points on average."""

    base: float
    """Rate of the behaviour before, on both poles."""
    whole: bool
    """Leaking templates show the behaviour always; else as often as where it is wanted."""
    redrawn: bool
    """Answers that were not moved are drawn anew after, and not the same."""

    def spill(self, rng: np.random.Generator, templates: int, spill: float) -> Estimate:
        labels = np.repeat(np.arange(templates), SIZE)

        def answers() -> np.ndarray:
            return (rng.random(labels.size) < self.base).astype(float)

        wanted, other = answers(), answers()
        moved = 0.6 / (1 - self.base)
        showing = np.where(rng.random(labels.size) < moved, 1.0, wanted)
        leaking = (rng.random(templates) < (spill * moved if self.whole else spill))[labels]
        leaking &= self.whole | (rng.random(labels.size) < moved)
        after = np.where(leaking, 1.0, answers() if self.redrawn else other)
        most = (float(other.mean()), 1 - float(other.mean()))
        return stats.ratio(after - other, showing - wanted, labels, labels + 1_000, most=most)


KNOWN_WITHIN = {Leak(0.3, False, True): 0.74}
"""How often no spill was measured to be surely within its limit, below ``DECIDED``: answers drawn anew of a base rate of .3
scatter, and 24 x 8 of them do not say more (known variances would give .79)."""
LEAKS = [Leak(0.0, True, False), Leak(0.1, False, False), Leak(0.1, True, True), Leak(0.3, False, True)]
LIMIT = 0.2


def check_spill(leak: Leak, templates: int, spill: float, replicates: int) -> None:
    stream = ("spill", str(leak), templates, str(spill))
    found = [leak.spill(numpy_stream(9, *stream, index), templates, spill).above(LIMIT) for index in range(replicates)]
    within = float(np.mean([one is False for one in found]))
    if spill >= LIMIT:
        assert within <= WRONG + error(WRONG, replicates), within
    else:
        least = KNOWN_WITHIN.get(leak, DECIDED)
        assert within >= least - error(least, replicates), within


@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.parametrize("spill", [0.0, LIMIT])
def test_spill_is_within_its_limit_where_it_is(leak: Leak, spill: float) -> None:
    check_spill(leak, 24, spill, 60)


@pytest.mark.parametrize("leak", LEAKS)
def test_a_spill_of_most_that_was_wanted_is_beyond_the_limit(leak: Leak) -> None:
    found = [leak.spill(numpy_stream(9, "most", str(leak), index), 24, 0.9).above(LIMIT) is True for index in range(60)]
    assert np.mean(found) >= DECIDED


@pytest.mark.slow
@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.parametrize(
    ("templates", "spill"), [(24, 0.0), *((count, spill) for count in (8, 12, 16, 24) for spill in (0.2, 0.25, 0.4))]
)
def test_spill_is_within_its_limit_where_it_is_in_the_full_grid(leak: Leak, templates: int, spill: float) -> None:
    check_spill(leak, templates, spill, 1_000)
