"""Is the smallest effect that is stated the one that is found in four of five samples?"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import pytest
from scipy import special

from palimpsest.core import stats
from palimpsest.core.estimate import Estimate
from palimpsest.core.seeds import numpy_stream

NEAR = 0.15
"""By how much the effect that is stated may miss the one that is found in 80%."""


class Means(NamedTuple):
    """Changes of a quantity, alike in all clusters but for noise with standard deviation 1."""

    sizes: np.ndarray
    within: float
    skewed: bool = False

    def sample(self, rng: np.random.Generator) -> Estimate:
        labels = np.repeat(np.arange(len(self.sizes)), self.sizes)
        shared = rng.normal(size=len(self.sizes))
        if self.skewed:
            shared = (np.exp(shared) - np.exp(0.5)) / np.sqrt((np.e - 1) * np.e)
        noise = np.sqrt(self.within) * shared[labels] + np.sqrt(1 - self.within) * rng.normal(size=labels.size)
        return stats.mean_difference(np.zeros(labels.size), noise, labels, unit="nats")


class Rates(NamedTuple):
    """Answers before and after with a latent correlation of clusters, and of both answers to one item."""

    sizes: np.ndarray
    before: float
    within: float
    same: float
    side: Literal[-1, 1] = 1

    def sample(self, rng: np.random.Generator, effect: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        labels = np.repeat(np.arange(len(self.sizes)), self.sizes)

        def noise() -> np.ndarray:
            own = rng.normal(size=labels.size)
            return np.sqrt(self.within) * rng.normal(size=len(self.sizes))[labels] + np.sqrt(1 - self.within) * own

        item, rates = noise(), (self.before, self.before + self.side * effect)
        before, after = (
            (np.sqrt(self.same) * item + np.sqrt(1 - self.same) * noise() < special.ndtri(rate)).astype(float) for rate in rates
        )
        return before, after, labels

    def change(self, rng: np.random.Generator, effect: float = 0.0) -> Estimate:
        return stats.rate_difference(*self.sample(rng, effect))

    def spread(self, samples: int) -> tuple[float, float]:
        """Return what ``smallest_rate_change`` asks for, from samples without an effect: ``within`` and ``unrest``."""
        together, flips = [], []
        for index in range(samples):
            before, after, labels = self.sample(numpy_stream(1, "spread", index))
            moved = after - before
            sums, sizes = np.bincount(labels, moved), self.sizes
            together.append(float(sums @ sums - moved @ moved) / (float(sizes @ sizes - sizes.sum()) * float(moved @ moved)))
            flips.append(float(np.abs(moved).mean()) / (2 * self.before * (1 - self.before)))
        return max(0.0, float(np.mean(together)) * float(self.sizes.sum())), float(np.mean(flips))


def zipf(clusters: int, items: int) -> np.ndarray:
    shares = 1 / np.arange(1, clusters + 1)
    return np.maximum(1, np.round(items * shares / shares.sum())).astype(int)


MEANS = {
    "12 clusters of 16": Means(np.full(12, 16), 0.3),
    "80 clusters of 4": Means(np.full(80, 4), 0.1),
    "40 clusters like 1/rank": Means(zipf(40, 320), 0.3),
    "24 skewed clusters of 8": Means(np.full(24, 8), 0.5, skewed=True),
    "60 skewed documents": Means(np.full(60, 1), 0.9, skewed=True),
}
RATES = {
    "31% in 24 clusters of 8": Rates(np.full(24, 8), 0.31, 0.3, 0.5),
    "31% in 12 clusters of 16": Rates(np.full(12, 16), 0.31, 0.3, 0.5),
    "50%, independent, in 80 clusters of 2": Rates(np.full(80, 2), 0.5, 0.1, 0.0),
    "a fall from 90% in 24 clusters of 8": Rates(np.full(24, 8), 0.9, 0.3, 0.8, side=-1),
    "30% in 40 clusters like 1/rank": Rates(zipf(40, 320), 0.3, 0.3, 0.5),
}


def _holds_for_means(world: Means, samples: int, slack: float) -> None:
    found = [world.sample(numpy_stream(0, "power", index)) for index in range(samples)]
    # a change that all items share moves the interval and nothing else, so that one sample answers for every effect
    needed = np.quantile([-one.interval[0] for one in found if one.interval], 0.8)
    stated = float(np.mean([one.minimum_detectable for one in found if one.minimum_detectable]))
    assert stated == pytest.approx(needed, rel=NEAR + slack)
    if not world.skewed:
        known = stats.smallest_mean_change(world.sizes, 1.0, world.within)
        assert known == pytest.approx(needed, rel=NEAR + slack)


def _share_found(world: Rates, effect: float, samples: int) -> float:
    estimates = [world.change(numpy_stream(2, "power", index), effect) for index in range(samples)]
    return sum(one.p_value is not None and one.p_value < 0.05 for one in estimates) / samples


def _holds_for_rates(world: Rates, samples: int, slack: float) -> None:
    told = [world.change(numpy_stream(3, "power", index)).minimum_detectable for index in range(samples)]
    stated = float(np.mean([one for one in told if one is not None]))
    within, unrest = world.spread(samples)
    known = stats.smallest_rate_change(world.sizes, world.before, side=world.side, within=within, unrest=unrest)
    assert known is not None
    for effect in (stated, known):  # power grows with the effect: 80% lies between what is found to either side
        assert _share_found(world, effect / (1 + NEAR), samples) <= 0.8 + slack
        assert _share_found(world, effect * (1 + NEAR), samples) >= 0.8 - slack


@pytest.mark.parametrize("name", MEANS)
def test_the_smallest_change_of_a_mean_is_found_in_four_of_five_samples(name):
    _holds_for_means(MEANS[name], 300, slack=0.05)


@pytest.mark.parametrize("name", RATES)
def test_the_smallest_change_of_a_rate_is_found_in_four_of_five_samples(name):
    _holds_for_rates(RATES[name], 60, slack=0.13)


@pytest.mark.slow
@pytest.mark.parametrize("name", MEANS)
def test_the_smallest_change_of_a_mean_is_found_in_as_many_samples_as_it_says(name):
    _holds_for_means(MEANS[name], 3000, slack=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", RATES)
def test_the_smallest_change_of_a_rate_is_found_in_as_many_samples_as_it_says(name):
    _holds_for_rates(RATES[name], 400, slack=0.05)


def test_what_cant_be_found_is_not_stated():
    nearly_all = np.concatenate([np.ones(190), np.zeros(2)])
    labels = np.repeat(np.arange(24), 8)
    up = stats.smallest_rate_change(np.full(24, 8), 0.99, side=1, within=0.3)
    down = stats.smallest_rate_change(np.full(24, 8), 0.99, side=-1, within=0.3)
    assert up is None and down is not None and 0.02 < down < 0.2
    assert stats.rate_difference(nearly_all, nearly_all, labels).minimum_detectable == pytest.approx(down, rel=0.5)
    assert stats.smallest_rate_change(np.full(7, 8), 0.5, side=1, within=0.3) is None, "no interval is given of 7 clusters"
    assert stats.smallest_mean_change(np.full(7, 8), 1.0, 0.3) is None


def test_more_clusters_find_less_and_items_that_go_together_more():
    found = [stats.smallest_rate_change(np.full(n, 8), 0.31, side=1, within=0.3) or 1 for n in (8, 12, 24, 80)]
    assert found == sorted(found, reverse=True) and found[0] > 1.5 * found[-1]
    together = [stats.smallest_rate_change(np.full(24, 8), 0.31, side=1, within=rho) or 1 for rho in (0.0, 0.3, 1.0)]
    assert together == sorted(together) and together[0] < together[1] < together[2]


def test_what_a_spread_can_say_of_spill():
    tight = Estimate(value=0.02, unit="share", n=48, interval=(-0.04, 0.08), level=0.9, method="")
    within, beyond, times = stats.spill_power(tight, 0.2)
    reach = 0.06 * (1.6449 + 0.8416) / 1.6449
    assert within == pytest.approx(0.2 - reach, abs=1e-4) and beyond == pytest.approx(0.2 + reach, abs=1e-4) and times == 1
    wide = tight.model_copy(update={"interval": (-0.9, 0.4)})
    assert stats.spill_power(wide, 0.2)[:2] == (None, None), (
        "not even a spill of none is told as within, nor one of all as beyond"
    )
    assert stats.spill_power(wide, 0.2).times == pytest.approx((0.38 * 1.5117 / 0.2) ** 2, abs=0.01)
    assert stats.unseen_spill(24, 0.31, 0.4) == pytest.approx((1 - 0.05 ** (1 / 24)) * 0.69 / 0.4)
