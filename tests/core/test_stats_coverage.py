"""Do the intervals hold the truth as often as they say?"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special
from stats_worlds import CLUSTERS, LABELS, coverage, noise, outcomes

from palimpsest.core import stats
from palimpsest.core.estimate import Estimate


def shifted(effect, rng):
    before = rng.normal(size=LABELS.size)
    return stats.mean_difference(before, before + effect + noise(rng), LABELS, unit="nats")


def uneven(effect, rng):
    labels = np.repeat(np.arange(CLUSTERS), rng.integers(2, 25, CLUSTERS))
    return stats.mean(effect + noise(rng, labels), labels, unit="nats")


def rates(before, after, rng):
    return stats.rate_difference(*outcomes(rng, before, after), LABELS)


def told_apart(hit, alarm, rng):
    (one, two), (three, four) = outcomes(rng, 0.3, hit), outcomes(rng, 0.3, alarm)
    return stats.d_prime_change(one, two, three, four, LABELS, LABELS)


def graded(hit, alarm, rng):
    """Probabilities, not outcomes, with both poles moved by the same template effects."""
    shared = 0.05 * rng.normal(size=CLUSTERS)[LABELS]

    def pole(mean):
        return np.clip(mean + shared + 0.05 * rng.normal(size=LABELS.size), 0, 1)

    return stats.d_prime(pole(hit), pole(alarm), LABELS, LABELS)[0]


def graded_change(hit, alarm, rng):
    def pair(after):
        shared = 0.05 * rng.normal(size=CLUSTERS)[LABELS]
        return [np.clip(mean + shared + 0.05 * rng.normal(size=LABELS.size), 0, 1) for mean in (0.3, after)]

    return stats.d_prime_change(*pair(hit), *pair(alarm), LABELS, LABELS)


def proportion(top, bottom, rng):
    shared = 0.3 * rng.normal(size=CLUSTERS)[LABELS]
    numerator = top + shared / 2 + 0.2 * rng.normal(size=CLUSTERS)[LABELS] + 0.3 * rng.normal(size=LABELS.size)
    return stats.ratio(numerator, bottom + shared + 0.3 * rng.normal(size=LABELS.size), LABELS, LABELS)


def over_floor(effect, rng):
    floor, moved = (np.exp(0.5 * rng.normal(size=60) - 0.125) for _ in range(2))
    return stats.against_noise_floor((0.05 + effect) * moved, 0.05 * floor, np.arange(60), unit="nats/token")


def distance(mean, rng):
    return stats.positive_mean(mean * np.exp(0.5 * rng.normal(size=60) - 0.125), np.arange(60), unit="nats/token")


def seeds(effect, rng):
    values = effect + rng.normal(size=3)
    return stats.across_seeds([Estimate(value=value, unit="points", n=8, interval=None, method="") for value in values])


def z(rate):
    return float(special.ndtri(rate))


NOMINAL = {
    "no shift": (lambda rng: shifted(0.0, rng), 0.0),
    "a shift": (lambda rng: shifted(0.3, rng), 0.3),
    "clusters of unequal size": (lambda rng: uneven(0.3, rng), 0.3),
    "rates, none": (lambda rng: rates(0.3, 0.3, rng), 0.0),
    "rates, planted": (lambda rng: rates(0.3, 0.6, rng), 0.3),
    "rates, to 0.97": (lambda rng: rates(0.3, 0.97, rng), 0.67),
    "one rate": (lambda rng: stats.rate(outcomes(rng, 0.3)[0], LABELS), 0.3),
    "d', none": (lambda rng: told_apart(0.3, 0.3, rng), 0.0),
    "d', planted": (lambda rng: told_apart(0.7, 0.4, rng), z(0.7) - z(0.4)),
    "d', high": (lambda rng: told_apart(0.97, 0.05, rng), z(0.97) - z(0.05)),
    "d' of probabilities": (lambda rng: graded(0.7, 0.3, rng), z(0.7) - z(0.3)),
    "d' change of probabilities": (lambda rng: graded_change(0.6, 0.45, rng), z(0.6) - z(0.45)),
    "ratio, none": (lambda rng: proportion(0.0, 0.75, rng), 0.0),
    "ratio, planted": (lambda rng: proportion(0.6, 0.75, rng), 0.8),
    "over the floor, none": (lambda rng: over_floor(0.0, rng), 0.0),
    "over the floor, planted": (lambda rng: over_floor(0.1, rng), 0.1),
    "distance": (lambda rng: distance(0.1, rng), 0.1),
    "seeds": (lambda rng: seeds(0.4, rng), 0.4),
}
"""Worlds in which the interval is to hold the truth in 95% of cases."""

RARE = {
    "rates at 0.02": (lambda rng: rates(0.02, 0.02, rng), 0.0),
    "rates at 0.97": (lambda rng: rates(0.97, 0.97, rng), 0.0),
    "rates from 0.02": (lambda rng: rates(0.02, 0.1, rng), 0.08),
    "rates from 0.02 to 0.97": (lambda rng: rates(0.02, 0.97, rng), 0.95),
    "one rate at 0.02": (lambda rng: stats.rate(outcomes(rng, 0.02)[0], LABELS), 0.02),
    "one rate at 0.97": (lambda rng: stats.rate(outcomes(rng, 0.97)[0], LABELS), 0.97),
    "d' at 0.02": (lambda rng: told_apart(0.02, 0.02, rng), 0.0),
}
"""Worlds where a handful of items differ: counts are coarse, so the interval may hold the truth too often, not too rarely."""


@pytest.mark.parametrize("name", [*NOMINAL, *RARE])
def test_the_interval_holds_the_truth(name):
    held, _ = coverage(*(NOMINAL | RARE)[name], worlds=200)
    assert held >= 0.88


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NOMINAL, *RARE])
def test_the_interval_holds_the_truth_as_often_as_it_says(name):
    held, _ = coverage(*(NOMINAL | RARE)[name], worlds=2000)
    # Adjusted intervals of counts, and the wider of two intervals, hold the truth a little more often than they say
    least = 0.91 if name.startswith("ratio") else 0.935  # the ends of a ratio hold at 97.5% and at 95%
    assert least <= held <= (1.0 if name in RARE else 0.975)


@pytest.mark.parametrize("name", [name for name in NOMINAL if name.endswith("none") and not name.startswith("ratio")])
def test_false_alarms_are_rare_where_nothing_changed(name):
    assert coverage(*NOMINAL[name], worlds=400)[1] <= 0.08


def test_taking_items_as_independent_gives_false_alarms_in_the_same_world():
    """Why clusters: with correlation 0.3 and 8 items a cluster the design effect is 3.1, and 26% of null worlds "differ"."""

    def naive(rng):
        return stats.mean(noise(rng), np.arange(LABELS.size), unit="nats")

    def honest(rng):
        return stats.mean(noise(rng), LABELS, unit="nats")

    assert coverage(naive, 0.0, worlds=400)[1] > 0.2
    assert coverage(honest, 0.0, worlds=400)[1] < 0.08


def test_an_effect_of_the_minimum_detectable_size_is_found_in_four_of_five_worlds():
    typical = float(np.median([shifted(0.0, np.random.default_rng(index)).minimum_detectable or 0 for index in range(50)]))
    _, found = coverage(lambda rng: shifted(typical, rng), typical, worlds=400)
    assert found == pytest.approx(0.8, abs=0.06)


def test_equivalence_is_claimed_in_at_most_one_of_twenty_worlds_at_the_margin():
    margin = 0.25
    claimed = 0
    for index in range(400):
        rng = np.random.default_rng([3, index])
        claimed += bool(stats.mean(margin + noise(rng), LABELS, unit="nats", margin=margin).equivalent)
    assert claimed / 400 <= 0.08
