"""All benchmarks, one after the other, and their page: ``make bench``.

    python benchmarks/all.py [--only NAME ...] [--page]

Every module here that races with a peer through ``side_by_side`` is one; ``--page`` draws docs/benchmarks.md from stored
results without running anything.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
from side_by_side import RESULTS, markdown, surroundings

matplotlib.use("svg")
from matplotlib import pyplot

PAGE = RESULTS.with_suffix(".md")
_INTRODUCTION = """# Benchmarks

Each table is one run in which we and a peer took turns on the same model and data, each turn in a process of its own.
`make bench` runs them all, `python benchmarks/NAME.py` one. Numbers are the median and, in brackets, the smallest and the
largest of the turns; a ratio is taken within one turn of each, and above 1 we are faster or smaller. Seconds are CPU seconds
of one thread unless said, memory is the peak above the loaded model. The floor is what the operations alone would take at the
machine's own measured rate.
"""


def benchmarks() -> list[Path]:
    """Return the scripts that are benchmarks."""
    here = Path(__file__).parent
    return [file for file in sorted(here.glob("*.py")) if "\n    side_by_side.main(" in file.read_text(encoding="utf-8")]


def page() -> str:
    """Return the page of all stored results."""
    parts = [_INTRODUCTION]
    for file in sorted(RESULTS.glob("*.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        parts.append(f"## {found['title']}\n\n`python benchmarks/{found['name']}.py`, {found['date']}. {found['machine']}.\n")
        parts += [f"**{table['title']}**\n\n" + "\n".join(markdown(table["rows"])) + "\n" for table in found["tables"]]
        if found["remarks"]:
            parts.append("\n".join(f"- {remark}" for remark in found["remarks"]) + "\n")
        if found["growth"]:
            parts.append(f"![How cost grows: {found['title']}](benchmarks/{_draw(found)})\n")
    return "\n".join(parts)


def _draw(found: dict[str, Any]) -> str:
    """Draw how cost grows, on log axes, and return the file's name."""
    count = len(found["growth"])
    matplotlib.rcParams.update({"svg.hashsalt": found["name"], "font.size": 9})
    figure, axes = pyplot.subplots(1, count, figsize=(4.6 * count, 3.4), squeeze=False, layout="constrained")
    for axis, one in zip(axes[0], found["growth"], strict=True):
        for name, points in one["series"].items():
            axis.loglog(*zip(*points, strict=True), marker="o", label=name)
        axis.set(title=one["title"], xlabel=one["axis"], ylabel=one["unit"])
        axis.grid(True, which="both", alpha=0.25)
        axis.legend(frameon=False)
    name = f"{found['name']}.svg"
    figure.savefig(RESULTS / name, metadata={"Date": None})
    pyplot.close(figure)
    return name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="names of benchmarks")
    parser.add_argument("--page", action="store_true", help="only draw the page again")
    given = parser.parse_args()
    failed = []
    for script in [] if given.page else benchmarks():
        if not given.only or script.stem in given.only:
            print(f"\n=== {script.stem}", flush=True)
            failed += [script.stem] if subprocess.run([sys.executable, str(script)], env=surroundings()).returncode else []
    PAGE.write_text(page(), encoding="utf-8")
    print(f"\nthe page: {PAGE}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
