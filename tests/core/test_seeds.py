"""Does a stream depend on its name, and on nothing else?"""

from __future__ import annotations

import numpy as np

from palimpsest.core.seeds import numpy_stream, python_stream, seed_of


def test_a_stream_is_the_same_on_every_machine():
    # from another program: printf '0\x1fdata\x1f3' | b2sum -l 64, read as a little-endian number
    assert seed_of(0, "data", 3) == 15404827213636687795
    assert numpy_stream(0, "data").integers(1000, size=3).tolist() == numpy_stream(0, "data").integers(1000, size=3).tolist()
    assert python_stream(0, "data").random() == python_stream(0, "data").random()


def test_names_and_their_borders_make_different_streams():
    seeds = [
        seed_of(0),
        seed_of(1),
        seed_of(0, "a"),
        seed_of(0, "a", "b"),
        seed_of(0, "ab"),
        seed_of(0, "b", "a"),
        seed_of(10, "a"),
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**64 for seed in seeds)


def test_streams_are_independent_and_leave_the_global_one_alone():
    before = np.random.get_state()[1]
    draws = np.array([numpy_stream(0, "item", index).normal(size=50) for index in range(100)])
    assert np.array_equal(before, np.random.get_state()[1])
    correlation = np.corrcoef(draws)[np.triu_indices(100, 1)]
    assert abs(correlation.mean()) < 0.01 and abs(correlation.std() - 1 / np.sqrt(49)) < 0.01
