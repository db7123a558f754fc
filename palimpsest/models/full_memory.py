"""Full memory: is this error of torch one that smaller batches would mend?"""

from __future__ import annotations

import torch

_SIGNS_OF_FULL_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")


def is_full_memory(error: BaseException) -> bool:
    """Whether memory ran out; torch says so with several kinds of errors."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return any(sign in str(error).lower() for sign in _SIGNS_OF_FULL_MEMORY)
