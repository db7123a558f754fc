"""Memory of diff: how much does `palimpsest diff` hold as its text grows?

    python benchmarks/memory_of_diff.py [MEGABYTES ...]

Compares two tiny random models on text files of these sizes (by default 1, 4, 16, 64 and 200 MB), each in a process of its own,
and prints the most memory that it held and the time that it took: for paragraphs, for documents with a separator, and for the
largest text in eight documents that are far too long.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

WORDS = ("the", "cat", "dog", "red", "old", "sees", "finds", "hides", "under", "box", "tree", "river", "house", "then", "again")


def write(path: Path, megabytes: float, separator: str) -> None:
    """Write different documents of about 1,000 characters."""
    rng, left = random.Random(0), megabytes * 1e6
    with path.open("w") as file:
        while left > 0:
            left -= file.write(" ".join(rng.choices(WORDS, k=220)) + separator)


def measure(base: Path, tuned: Path, text: Path, folder: Path) -> tuple[float, float]:
    """Return peak MiB and seconds of one diff."""
    command = [sys.executable, "-m", "palimpsest", "diff", base, tuned, "--text", text, "--folder", folder, "--device", "cpu"]
    environment = {**os.environ, "PALIMPSEST_CACHE": f"{folder} cache", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    begun = time.monotonic()
    process = subprocess.Popen(list(map(str, command)), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    told = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, 2):
        sys.exit(f"diff ended with {code}:\n{told.decode()}")
    return used.ru_maxrss / 1024, time.monotonic() - begun


def main() -> None:
    import tiny

    sizes = [float(size) for size in sys.argv[1:]] or [1, 4, 16, 64, 200]
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        base, tuned = (tiny.folder(place / f"model {seed}", seed=seed, max_position_embeddings=128) for seed in (0, 1))
        print(f"{'text':>28} {'peak':>10} {'time':>8}")
        for separator, kind in (("\n\n", "paragraphs"), ("<|endoftext|>", "documents"), (" ", "8 long documents")):
            for size in sizes if kind != "8 long documents" else sizes[-1:]:
                text = place / "text.txt"
                write(text, size, separator)
                if separator == " ":
                    content = text.read_text()
                    text.write_text("<|endoftext|>".join(content[start::8] for start in range(8)))
                peak, seconds = measure(base, tuned, text, place / f"{kind} {size:g}")
                print(f"{size:>6g} MB, {kind:<16} {peak:>6.0f} MiB {seconds:>6.1f} s", flush=True)
                text.unlink()


if __name__ == "__main__":
    main()
