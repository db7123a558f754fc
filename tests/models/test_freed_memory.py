"""Freed memory is kept only where nobody has said otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_PAGES = """
import resource
import torch
from palimpsest.models import freed_memory
if {kept}:
    freed_memory.keep()
def work():
    for _ in range(5):
        layers = [torch.ones(2**23 - 64) for _ in range(3)]
        del layers
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, freed_memory.keep())
freed_memory.give_back()
"""


def faults(kept: bool, **variables: str) -> tuple[int, bool]:
    told = subprocess.run(
        [sys.executable, "-c", _PAGES.format(kept=kept)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
    ).stdout.split()
    return int(told[0]), told[1] == "True"


@pytest.mark.skipif(sys.platform != "linux", reason="only the C library of Linux is asked")
def test_what_is_freed_is_used_again() -> None:
    kept, able = faults(True)
    if not able:
        pytest.skip("this C library can't be told, or the environment has told it")
    assert kept < faults(False)[0] / 10


def test_what_a_user_has_set_stands() -> None:
    assert faults(True, MALLOC_TRIM_THRESHOLD_="131072")[1] is False
