"""Make tests/golden/pocket.json again, after a change that is meant to change the pocket's training.

Command: python tests/golden/make_pocket.py (float32, one thread).
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from palimpsest.training.pocket_recipe import first_losses

SIZE, SEED, STEPS = "tiny", 0, 40


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        losses = first_losses(SIZE, SEED, STEPS, Path(folder))
    content = {"size": SIZE, "seed": SEED, "steps": STEPS, "losses": losses}
    Path(__file__).with_name("pocket.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
