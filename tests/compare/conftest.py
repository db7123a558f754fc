"""The logs that inspect and lm-eval wrote (``make_logs.py``), unpacked."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    with tarfile.open(Path(__file__).with_name("logs.tar.xz")) as packed:
        packed.extractall(folder, filter="data")
    return folder
