"""Launch: how many processes do this together, and which of them is this one?

Read from what ``accelerate launch`` and ``torchrun`` set, and only where one of them set it: a ``WORLD_SIZE`` that a batch
system or Ray leaves in the environment makes no process part of a run that it knows nothing of.
"""

from __future__ import annotations

import os

_SIGN = "TORCHELASTIC_RUN_ID"


def count() -> int:
    """Return the number of processes of this launch."""
    return int(os.environ.get("WORLD_SIZE", "1")) if _SIGN in os.environ else 1


def own() -> int:
    """Return this process's number among them, from 0; number 0 writes and speaks for all."""
    return int(os.environ.get("RANK", "0")) if count() > 1 else 0


def on_this_machine() -> tuple[int, int]:
    """Return this process's number among those of its machine, and how many these are."""
    if count() == 1:
        return 0, 1
    return int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", str(count())))
