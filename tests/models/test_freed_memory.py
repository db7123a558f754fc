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
kept = freed_memory.keep()
inner, outer, head = torch.randn(128, 512), torch.randn(512, 128), torch.randn(128, 2000)
def work():
    for _ in range(5):
        stream = torch.randn(2048, 128)
        for _ in range(4):
            stream = stream + torch.nn.functional.silu(stream @ inner) @ outer
        (stream @ head).float().logsumexp(-1)
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, kept)
freed_memory.give_back()
"""
_AS_EVER = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=7"}
"""The library's own default, said aloud."""


def faults(**variables: str) -> tuple[int, bool]:
    told = subprocess.run(
        [sys.executable, "-c", _PAGES],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
    ).stdout.split()
    return int(told[0]), told[1] == "True"


@pytest.mark.skipif(sys.platform != "linux", reason="only the C library of Linux is asked")
def test_what_is_freed_is_used_again() -> None:
    kept, able = faults()
    if not able:
        pytest.skip("this C library can't be told, or the environment has told it")
    assert kept < faults(**_AS_EVER)[0] / 10


def test_what_a_user_has_set_stands() -> None:
    assert faults(MALLOC_TRIM_THRESHOLD_="131072")[1] is False
