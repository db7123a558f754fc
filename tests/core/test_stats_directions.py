"""Directions: planted ones are found by every method, and pairs with nothing in common are told as such."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from palimpsest.core.estimate import Estimate
from palimpsest.core.seeds import numpy_stream
from palimpsest.core.stats.directions import (
    METHODS,
    PENALTY,
    Method,
    agreement,
    half_of_clusters,
    inside_cosines,
    jackknifed,
    naive,
    outside_cosines,
    products,
    weights,
)

WIDTH = 64


def planted(strength: float, count: int, world: int = 0, width: int = WIDTH) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both sides of pairs whose differences are ``strength`` times a direction, of equal strength, and noise of length 1."""
    rng = numpy_stream(world, "planted", count)
    vector = rng.standard_normal(width)
    vector /= np.linalg.norm(vector)
    middle = 3 * rng.standard_normal((count, width))
    difference = strength * vector + rng.standard_normal((count, width)) / np.sqrt(width)
    return middle + difference / 2, middle - difference / 2, vector


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


@pytest.mark.parametrize("method", METHODS)
def test_a_planted_direction_is_found(method: Method) -> None:
    shown, withheld, vector = planted(2.0, 40)
    pairs = products(shown, withheld, np.arange(40))
    found = weights(pairs.gram, np.ones(40), method) @ (shown - withheld)
    assert cosine(found, vector) > 0.98
    assert method == "mean" or np.linalg.norm(found) == pytest.approx(1.0)


def test_pca_does_not_take_the_mean_away() -> None:
    shown, withheld, vector = planted(2.0, 40)
    difference = shown - withheld
    centred = np.linalg.svd(difference - difference.mean(0))[2][0]
    assert abs(cosine(centred, vector)) < 0.5  # what a centring PCA makes of pairs of equal strength
    found = weights(difference @ difference.T, np.ones(40), "pca") @ difference
    assert cosine(found, np.linalg.svd(difference)[2][0]) ** 2 == pytest.approx(1.0)
    assert cosine(found, vector) > 0.98  # and with the sign of the pairs


def test_logistic_is_what_an_optimiser_finds() -> None:
    shown, withheld, _ = planted(0.5, 20, width=6)
    difference = shown - withheld
    scaled = difference / np.sqrt(np.square(difference).sum(1).mean())
    best = minimize(lambda w: np.logaddexp(0, -scaled @ w).sum() + PENALTY * (w @ w) / 2, np.zeros(6)).x
    found = weights(difference @ difference.T, np.ones(20), "logistic") @ difference
    assert cosine(found, best) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_exchanged_labels_turn_the_direction(method: Method) -> None:
    shown, withheld, _ = planted(1.0, 12)
    gram = products(shown, withheld, np.arange(12)).gram
    signs = numpy_stream(1, "signs").choice((-1.0, 1.0), 12)
    assert np.allclose(weights(gram, -signs, method), -weights(gram, signs, method))
    kept = np.arange(12) % 3 > 0
    without = weights(gram, kept.astype(float), method)
    assert not without[~kept].any()
    assert np.allclose(without[kept], weights(gram[np.ix_(kept, kept)], np.ones(8), method)) or method == "logistic"


def test_pairs_with_nothing_in_common_agree_in_sample_and_not_left_out() -> None:
    inside, outside, halves, between = [], [], [], []
    for world in range(60):
        shown, withheld, _ = planted(0.0, 5, world, width=400)
        pairs = products(shown, withheld, np.arange(5))
        found = agreement(pairs, np.ones((1, 5)), half_of_clusters(pairs, 4, numpy_stream(world, "halves")))
        inside.append(found.in_sample[0])
        outside.append(found.left_out[0])
        halves.append(found.split_half[0])
        between.append(found.pairwise[0])
    assert np.mean(inside) == pytest.approx(1 / np.sqrt(5), abs=0.01)
    for values in (outside, halves, between):
        assert abs(np.mean(values)) < 0.02


def test_they_are_those_of_a_plain_loop() -> None:
    shown, withheld, _ = planted(1.0, 9, width=7)
    codes = np.arange(9) % 4
    pairs, difference = products(shown, withheld, codes), shown - withheld
    half = np.isin(codes, (0, 1))[None]
    found = agreement(pairs, np.ones((1, 9)), half)
    mean = difference.mean(0)
    left = [difference[codes != codes[i]].mean(0) for i in range(9)]
    outside = [cosine(one, other) for one, other in zip(difference, left, strict=True)]
    assert found.in_sample[0] == pytest.approx(np.mean([cosine(one, mean) for one in difference]))
    assert found.left_out[0] == pytest.approx(np.mean(outside))
    assert found.wrong_way[0] == pytest.approx(np.mean(np.array(outside) < 0))
    assert found.split_half[0] == pytest.approx(cosine(difference[half[0]].mean(0), difference[~half[0]].mean(0)))
    apart = [cosine(difference[i], difference[j]) for i in range(9) for j in range(9) if codes[i] != codes[j]]
    assert found.pairwise[0] == pytest.approx(np.mean(apart))
    places = [
        (one @ v / np.linalg.norm(v), two @ v / np.linalg.norm(v)) for one, two, v in zip(shown, withheld, left, strict=True)
    ]
    one, two = np.array(places).T
    assert found.d_prime[0] == pytest.approx((one.mean() - two.mean()) / np.sqrt((one.var(ddof=1) + two.var(ddof=1)) / 2))


@pytest.mark.parametrize("method", METHODS)
def test_a_pair_has_no_part_in_the_direction_it_is_left_out_of(method: Method) -> None:
    shown, withheld, _ = planted(1.0, 8)
    pairs = products(shown, withheld, np.arange(8))
    turned = products(np.concatenate([withheld[:1], shown[1:]]), np.concatenate([shown[:1], withheld[1:]]), np.arange(8))
    one, other = (outside_cosines(each, np.ones((1, 8)), method)[0, 0] for each in (pairs, turned))
    if method == "logistic":  # its penalty is scaled by all pairs, whose lengths are the same here
        assert one == pytest.approx(-other, abs=1e-9)
    else:
        assert one == pytest.approx(-other)
    assert inside_cosines(pairs, np.ones((1, 8)), method)[0, 0] > one


def test_a_naive_cosine_of_five_pairs_is_little() -> None:
    def of(rho: float) -> float:
        estimate = Estimate(value=rho, unit="cosine", n=20, interval=(rho, rho), method="x")
        return naive(estimate, 5).value or 0.0

    assert of(0.0) == pytest.approx(0.447, abs=1e-3)
    assert of(0.215) == pytest.approx(0.61, abs=1e-3)
    assert of(1.0) == 1.0


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_the_pairwise_cosine_covers_the_truth(strength: float) -> None:
    """Unit differences whose mean has a known squared length."""
    held, truth = [], 0.3 * strength
    for world in range(300):
        rng = numpy_stream(world, "rho", str(strength))
        vector = np.eye(12)[0]
        noise = rng.standard_normal((48, 12))
        noise[:, 0] = 0.0
        noise /= np.linalg.norm(noise, axis=1, keepdims=True)
        difference = np.sqrt(truth) * vector + np.sqrt(1 - truth) * noise
        pairs = products(difference / 2, -difference / 2, np.repeat(np.arange(24), 2))
        rows = np.concatenate([np.ones((1, 48)), pairs.without_each])
        found = jackknifed(agreement(pairs, rows, half_of_clusters(pairs, 1, rng)).pairwise, "cosine")
        assert found.interval is not None
        held.append(found.interval[0] <= truth <= found.interval[1])
    assert np.mean(held) >= 0.91


def test_few_clusters_and_no_spread_have_no_interval() -> None:
    assert jackknifed(np.ones(5), "cosine").interval is None
    assert "spread" in jackknifed(np.ones(12), "cosine").method
