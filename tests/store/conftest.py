"""What the store's tests share: a file system that is really full."""

import os

import pytest
from disks import mounted


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB, or a skip where this process may not mount one."""
    with mounted(tmp_path / "disk", "size=256k") as place:
        yield place
        os.sync()
