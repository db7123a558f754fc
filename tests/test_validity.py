"""Validity: the commands that measure coverage run, and what the README says of it is what they wrote."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
METHODS = (
    "mean",
    "mean: what is found",
    "mean_difference",
    "positive_mean",
    "rate",
    "rate_difference",
    "d_prime",
    "d_prime_change",
    "ratio",
    "ratio: surely within",
    "two_level",
    "change_point: false alarms",
    "change_point: place",
    "half_dose",
    "unchanged: wrong claims",
    "unchanged: right claims",
    "fallen",
)


def carried_out(script: str, *arguments: str) -> None:
    """Run a benchmark in a process of its own: its folder holds a module whose name others have too."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def tables(page: Path) -> dict[str, list[list[str]]]:
    """Return the cells of each table's rows by the heading over it."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in page.read_text(encoding="utf-8").splitlines():
        heading = line.lstrip("# *").rstrip("*") if line.startswith(("#", "**")) else heading
        if line.startswith("| ") and not line.startswith(("|  |", "| ---")):
            found.setdefault(heading, []).append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def is_share(cell: str) -> bool:
    return "±" in cell or cell == "none decided"


def test_every_method_has_its_table_with_an_error_in_each_cell(tmp_path: Path) -> None:
    page = tmp_path / "validity.md"
    page.write_text("# Validity\n\nWords of somebody.\n", encoding="utf-8")
    carried_out("validity.py", "--replicates", "5", "--page", str(page))
    found = tables(page)
    assert [name for name in METHODS if name not in found] == []
    for name in METHODS:
        for _, *cells in found[name]:
            assert cells and all(is_share(cell) for cell in cells), name
    text = page.read_text(encoding="utf-8")
    assert "Words of somebody." in text and "29% of samples of 24" in text and "5 worlds of each kind" in text
    assert float(found["Degrees of freedom"][-1][1]) == pytest.approx(14.4)


def test_ours_and_the_installed_peers_stand_side_by_side(tmp_path: Path) -> None:
    page, readme = tmp_path / "validity.md", tmp_path / "README.md"
    carried_out("coverage.py", "--replicates", "2", "--page", str(page), "--readme", str(readme))
    text = page.read_text(encoding="utf-8")
    rows = tables(page)["Coverage of the 95% interval"]
    assert len(rows) > 10 and all(len(row) == len(rows[0]) and is_share(row[1]) for row in rows)
    for package in ("modeldiffr", "dlm-sway", "lm_eval", "inspect_ai"):
        assert f"{package} is left out: " in text or f": {package} " in text
    assert "| 100 items in 20 clusters, no change" in readme.read_text(encoding="utf-8")


def test_the_readme_copies_the_page() -> None:
    readme, page = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/validity.md"))
    copied = [
        line for line in readme.partition("<!-- coverage")[2].partition("<!-- end of coverage")[0].splitlines() if "±" in line
    ]
    assert len(copied) >= 5
    assert [line for line in copied if line not in page.splitlines()] == []
