"""Quiet: how does a library that prints, and asks a network, keep to itself while it works for us?

What matters in its warnings is checked by us and told as an error or a note. What it would fetch is what nobody asked for: a
model is fetched by ``folder.locate`` alone, where a hub id was given for it.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


class _NoKernels(logging.Filter):
    """Drops the lines that say which kernels of recurrent layers are not installed."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "falling back to its reference" not in record.getMessage()


_NO_KERNELS = _NoKernels()


class _No4Bit(logging.Filter):
    """Drops the line that says that a kernel for weights of 4 bits is not installed: no model is read in 4 bits here."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "gemm_4bit_forward" not in record.getMessage()


# bitsandbytes says it while it is imported, as peft and transformers' Trainer do unasked: only a filter from before reaches it
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_No4Bit())


def hush_kernels() -> None:
    """Keep transformers from naming kernels that need an accelerator where there is none; with one, its hint is of use."""
    import torch

    if not torch.accelerator.is_available():
        logging.getLogger("transformers.integrations.hub_kernels").addFilter(_NO_KERNELS)


_LOCK = threading.Lock()
_inside, _before = 0, False


@contextmanager
def offline() -> Iterator[None]:
    """Keep the Hugging Face libraries off the network inside the block, in this process; blocks may overlap in threads."""
    global _inside, _before
    from huggingface_hub import constants

    with _LOCK:
        if not _inside:
            _before = bool(constants.HF_HUB_OFFLINE)
            constants.HF_HUB_OFFLINE = True
        _inside += 1
    try:
        yield
    finally:
        with _LOCK:
            _inside -= 1
            if not _inside:
                constants.HF_HUB_OFFLINE = _before


@contextmanager
def at_home() -> Iterator[None]:
    """Let a library read what lies in a folder: silent, and off the network."""
    with offline(), quiet():
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' log, its progress bars and Python warnings inside the block, and restore them after it."""
    from transformers.utils import logging as theirs

    verbosity, bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity(logging.CRITICAL)
    theirs.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        theirs.set_verbosity(verbosity)
        if bars:
            theirs.enable_progress_bar()
