"""Machine: how much memory and disk is free for this process?"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def free_memory(memory_info: Path = Path("/proc/meminfo"), groups: Path = Path("/proc/self/cgroup")) -> int | None:
    """Return bytes that this process may still take: what the machine has, or less where a container sets a limit."""
    found = [*_from_limits(groups)]
    machine = _available(memory_info)
    if machine is not None:
        found.append(machine)
    return min(found, default=None)


def free_disk(path: Path) -> int | None:
    """Return free bytes where a path lies or would be made; ``None`` where that can't be told."""
    try:
        place = path.expanduser().absolute()
        while not place.exists() and place != place.parent:
            place = place.parent
        return shutil.disk_usage(place).free
    except (OSError, RuntimeError):  # RuntimeError: ~ where there is no home
        return None


def in_words(count: int) -> str:
    """Return bytes as a person reads them."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{max(count, 0) / 2**20:.0f} MiB"


def _available(memory_info: Path) -> int | None:
    try:
        lines = dict(line.split(":", 1) for line in memory_info.read_text().splitlines() if ":" in line)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        pass
    try:  # not Linux: all there is, because what is free of it is not told
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


def _from_limits(groups: Path) -> Iterator[int]:
    """Yield what each control group around this process leaves it (both versions of control groups)."""
    try:
        lines = [line.split(":", 2) for line in groups.read_text().splitlines()]
    except OSError:
        return
    for number, names, path in (line for line in lines if len(line) == 3):
        if number == "0" and not names:
            yield from _walk(_CGROUPS, path, "memory.max", "memory.current", "inactive_file")
        elif "memory" in names.split(","):
            yield from _walk(_CGROUPS / "memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def _walk(root: Path, path: str, limit: str, usage: str, reclaimable: str) -> Iterator[int]:
    place = root / path.lstrip("/")
    for folder in (place, *place.parents):
        if not folder.is_relative_to(root):
            return
        try:
            most, used = int((folder / limit).read_text()), int((folder / usage).read_text())
            # Pages of files count as used, but the kernel gives them back when they are wanted.
            back = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines()).get(reclaimable, "0")
            yield max(most - used + int(back), 0)
        except (OSError, ValueError):  # no limit ("max"), or no such file in this container
            continue
