"""What the store's tests share: a file system that is really full."""

import os
import subprocess

import pytest


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB, or a skip where this process may not mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"needs a small file system, which only root may mount: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        os.sync()
        subprocess.run(["umount", "-l", str(place)], check=True)
