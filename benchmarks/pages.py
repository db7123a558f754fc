"""Pages: how does a command put what it measured into a page, and leave the rest as it is?"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
VALIDITY, README = ROOT / "docs" / "validity.md", ROOT / "README.md"


def marks(name: str) -> tuple[str, str]:
    """Return the lines between which a section stands."""
    return f"<!-- {name}: made by a command, do not edit -->", f"<!-- end of {name} -->"


def section(text: str, name: str) -> str:
    """Return what stands between the marks, "" where there are none."""
    begin, end = marks(name)
    return text.partition(begin)[2].partition(end)[0].strip("\n")


def replace(page: Path, name: str, lines: Iterable[str]) -> None:
    """Put a section where the page has its marks, or at its end."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    begin, end = marks(name)
    if begin not in text:
        text = f"{text.rstrip()}\n\n{begin}\n{end}\n".lstrip()
    before, _, rest = text.partition(begin)
    page.write_text("\n".join([f"{before}{begin}", *lines, end]) + rest.partition(end)[2], encoding="utf-8")


def measured(replicates: int) -> str:
    """Return what was measured: the commit that last touched the statistics, and the worlds of each kind."""
    command = ["git", "log", "-1", "--format=%h", "--", "palimpsest/core"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip() or "unknown"
    return f"`palimpsest/core` of commit {commit}, {replicates} worlds of each kind"
