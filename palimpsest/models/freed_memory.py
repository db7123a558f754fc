"""Freed memory: what does the next pass get its room from?

The C library of Linux gives freed memory back to the system and asks for it anew, and the system hands it out page by page,
each cleared. A small model spends a quarter of its time so: a pass frees megabytes that the next layer wants again. Here they
are kept instead, until a model is closed.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Numbers of two settings of ``mallopt`` (glibc, malloc.h)."""
_KEPT = 2**28
"""So many free bytes at the end of the heap are kept."""
_FROM_HEAP = 2**25
"""Blocks up to this size come from the heap; glibc allows no more."""
_SET_BY_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")


@cache
def keep() -> bool:
    """Keep freed memory for what comes next; return whether this C library can, and nobody has set it otherwise."""
    if any(os.environ.get(name) for name in _SET_BY_USER):
        return False
    try:
        library = ctypes.CDLL(None)
        return bool(library.mallopt(_MMAP_THRESHOLD, _FROM_HEAP) and library.mallopt(_TRIM_THRESHOLD, _KEPT))
    except (AttributeError, OSError, TypeError):
        return False


def give_back() -> None:
    """Give freed memory back to the system."""
    if keep():
        ctypes.CDLL(None).malloc_trim(0)
