"""Vectors: known answers, and what noise must not do."""

from __future__ import annotations

import numpy as np
import pytest

from palimpsest.core.seeds import numpy_stream
from palimpsest.core.stats.vectors import Cloud, common_length, common_square, effective_rank, length_difference, mean_cosine

WIDTH = 40


def cloud(vectors: np.ndarray, clusters: np.ndarray | None = None) -> Cloud:
    return Cloud(vectors[None], np.arange(len(vectors)) if clusters is None else clusters)


def one(rng: np.random.Generator, length: float, noise: float, count: int = 40) -> np.ndarray:
    direction = np.eye(WIDTH)[0] * length
    return direction + noise * rng.standard_normal((count, WIDTH)) / np.sqrt(WIDTH)


def test_the_length_of_a_mean_is_not_blown_up_by_noise() -> None:
    """The naive length of the mean of 40 vectors of pure noise of length 1 is 0.16; this one is 0 on average."""
    squares = []
    for world in range(300):
        vectors = one(numpy_stream(world, "noise"), 0.0, 1.0)
        squares.append(common_square(cloud(vectors), np.ones((1, 40))).value)
    assert abs(np.mean(squares)) < 3 * np.std(squares) / np.sqrt(300)
    assert np.std(squares) > 0


def test_a_constant_vector_has_its_own_length_and_one_direction() -> None:
    vectors = np.tile(np.eye(WIDTH)[3] * 2.0, (40, 1)) * np.linspace(0.9, 1.1, 40)[:, None]
    square = common_square(cloud(vectors), np.full((1, 40), 4.0))
    assert common_length(square, unit="x").value == pytest.approx(0.5, rel=1e-3)
    assert effective_rank(cloud(vectors)).value == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("rank", [1, 4, 20])
def test_effective_rank_is_that_of_the_world_and_not_of_the_few_items(rank: int) -> None:
    found = []
    for world in range(60):
        rng = numpy_stream(world, "rank", rank)
        found.append(effective_rank(cloud(rng.standard_normal((24, rank)) @ np.eye(rank, WIDTH))))
    values = [estimate.value or 0.0 for estimate in found]
    assert np.median(values) == pytest.approx(rank, rel=0.08)
    held = [estimate.interval[0] <= rank <= estimate.interval[1] for estimate in found if estimate.interval]
    assert np.mean(held) >= (0.85 if rank > 1 else 1.0)
    naive = np.linalg.svd(rng.standard_normal((24, 20)), compute_uv=False) ** 2
    assert naive.sum() ** 2 / np.square(naive).sum() < 13  # what the same 24 items would say of 20 directions


def test_cosine_of_two_means_is_free_of_noise() -> None:
    """Directions at 60 degrees, so noisy that the naive cosine of the means falls to 0.4."""
    found, naive = [], []
    for world in range(200):
        rng = numpy_stream(world, "cosine")
        first, second = (0.6 * rng.standard_normal((40, WIDTH)) for _ in range(2))
        first[:, 0] += 1.0
        second[:, :2] += (0.5, np.sqrt(0.75))
        labels, others = np.arange(40), np.arange(100, 140)
        found.append(mean_cosine(Cloud(first[None], labels), Cloud(second[None], others), labels, others))
        a, b = first.mean(0), second.mean(0)
        naive.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    values = [estimate.value for estimate in found if estimate.value is not None]
    assert len(values) > 150
    assert np.mean(values) == pytest.approx(0.5, abs=0.03)
    assert np.mean(naive) < 0.4
    held = [estimate.interval[0] <= 0.5 <= estimate.interval[1] for estimate in found if estimate.interval]
    assert np.mean(held) > 0.9


def test_what_has_no_direction_has_no_cosine() -> None:
    labels = np.arange(40)
    first, second = (Cloud(one(numpy_stream(seed, "none"), 0.0, 1.0)[None], labels) for seed in (1, 2))
    found = mean_cosine(first, second, labels, labels)
    assert found.value is None
    assert "no direction" in found.method


def test_shared_clusters_do_not_make_a_cosine() -> None:
    """Items of one template move together in both groups; this must not look like a common direction of the groups."""
    values = []
    for world in range(100):
        rng = numpy_stream(world, "shared")
        own = 2.0 * rng.standard_normal((20, WIDTH)) / np.sqrt(WIDTH)
        first, second = own.copy(), own.copy()
        first[:, 0] += 1.0
        second[:, 1] += 1.0
        labels = np.arange(20)
        found = mean_cosine(Cloud(first[None], labels), Cloud(second[None], labels), labels, labels)
        values += [found.value] if found.value is not None else []
    assert len(values) > 60
    assert abs(np.mean(values)) < 0.04


@pytest.mark.parametrize(("length", "floor"), [(0.0, 0.0), (0.5, 0.5), (0.5, 0.0), (1.0, 0.4)])
def test_differences_of_lengths_hold_the_truth(length: float, floor: float) -> None:
    held, p_values = [], []
    for world in range(300):
        rng = numpy_stream(world, "difference", str(length), str(floor))
        parts = [common_square(cloud(one(rng, size, 1.0)), np.ones((1, 40))) for size in (length, floor)]
        found = length_difference(parts[0], parts[1], unit="x")
        assert found.interval is not None
        held.append(found.interval[0] <= length - floor <= found.interval[1])
        p_values.append(found.p_value)
    assert np.mean(held) >= 0.93
    if length == floor:
        assert np.mean(np.array(p_values, dtype=float) < 0.05) <= 0.08


def test_exactly_nothing_is_told_as_nothing() -> None:
    still = common_square(cloud(np.zeros((10, WIDTH))), np.ones((1, 10)))
    for found in (common_length(still, unit="x"), length_difference(still, still, unit="x")):
        assert found.value == 0.0
        assert found.interval == (0.0, 0.0)
    assert effective_rank(cloud(np.zeros((10, WIDTH)))).value is None


def test_few_clusters_have_no_interval() -> None:
    vectors = one(numpy_stream(1, "few"), 1.0, 0.3, 7)
    assert common_length(common_square(cloud(vectors), np.ones((1, 7))), unit="x").interval is None
    assert effective_rank(cloud(vectors)).value is None


def test_jackknife_is_that_of_a_plain_loop() -> None:
    rng = numpy_stream(2, "loop")
    vectors, lengths = rng.standard_normal((2, 30, 5)), rng.gamma(4.0, 1.0, (2, 30))
    clusters = rng.integers(0, 9, 30)

    def plain(kept: np.ndarray) -> float:
        layers = []
        for layer, length in zip(vectors[:, kept], lengths[:, kept], strict=True):
            pairs = [(i, j) for i in range(len(layer)) for j in range(len(layer)) if clusters[kept][i] != clusters[kept][j]]
            layers.append(np.mean([layer[i] @ layer[j] for i, j in pairs]) / np.mean(length**2))
        return float(np.mean(layers))

    found = common_square(Cloud(vectors, clusters), lengths)
    assert found.value == pytest.approx(plain(np.arange(30)))
    wanted = [plain(np.flatnonzero(clusters != label)) for label in np.unique(clusters)]
    assert np.allclose(found.without, wanted)
