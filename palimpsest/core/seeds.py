"""Seeds: which random stream belongs to which use?

There is no global seed. Each use names its stream, so adding one never shifts another.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np

Name = str | int


def seed_of(seed: int, *names: Name) -> int:
    """Return a 64-bit integer that depends on the run's seed and the stream's name only."""
    text = "\x1f".join(str(name) for name in (seed, *names))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def numpy_stream(seed: int, *names: Name) -> np.random.Generator:
    """Return numpy's generator for a named stream (for arrays)."""
    return np.random.Generator(np.random.Philox(seed_of(seed, *names)))


def python_stream(seed: int, *names: Name) -> random.Random:
    """Return Python's generator for a named stream (for choices among lists, where it is ten times faster)."""
    return random.Random(seed_of(seed, *names))
