"""Make tests/golden/pocket.json and hybrid_pocket.json again, after a change that is meant to change the pockets' training.

Command: python tests/golden/make_pocket.py (float32, one thread).
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from palimpsest.training.pocket_recipe import first_losses

SIZE, SEED = "tiny", 0
STEPS = {"llama": 40, "hybrid": 20}
FILES = {"llama": "pocket.json", "hybrid": "hybrid_pocket.json"}


def main() -> None:
    for layout, steps in STEPS.items():
        with tempfile.TemporaryDirectory() as folder:
            losses = first_losses(SIZE, SEED, steps, Path(folder), layout)
        content = {"size": SIZE, "seed": SEED, "steps": steps, "losses": losses}
        Path(__file__).with_name(FILES[layout]).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
