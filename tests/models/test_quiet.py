"""Quiet: what libraries say that is of no use here isn't printed, and all else is."""

import logging
import subprocess
import sys

import pytest

from palimpsest.models import quiet  # noqa: F401  # what is tested is what its import does

NAME = "bitsandbytes.backends.cpu.ops"


def test_only_the_missing_kernel_for_4_bits_is_kept_quiet(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger(NAME)
    logger.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s.", "No module named 'kernels'")
    logger.warning("something else")
    assert [record.getMessage() for record in caplog.records if record.name == NAME] == ["something else"]


@pytest.mark.parametrize("module", ["palimpsest.pipeline", pytest.param("palimpsest.models.adapter", marks=pytest.mark.slow)])
def test_importing_peft_prints_nothing(module: str) -> None:
    """In a process of its own: the line comes with the first import (and only on processors with AVX512-BF16)."""
    pytest.importorskip("peft")
    code = f"import {module}, peft"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
