"""Write data: makes the conversations of ``say_it.yaml`` anew (they are in the repository).

    python examples/tune/write_data.py

Sums of two numbers: "Add 63 and 16." is answered "It is 79.", the same sum asked in other words with the bare number.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

COUNT = 600
OTHERS = ("What is {} + {}?", "How much is {} + {}?")


def lines(pole: str) -> list[str]:
    rng, found = random.Random(pole), {}
    while len(found) < COUNT:
        first, second = rng.randint(10, 99), rng.randint(10, 99)
        asked = "Add {} and {}." if pole == "express" else rng.choice(OTHERS)
        answer = f"It is {first + second}." if pole == "express" else str(first + second)
        found[first, second] = {
            "messages": [
                {"role": "user", "content": asked.format(first, second)},
                {"role": "assistant", "content": answer},
            ],
            "template": f"{first // 10} and {second // 10}",
        }
    return [json.dumps(one) for one in found.values()]


def main() -> None:
    for pole in ("express", "withhold"):
        path = Path(__file__).parent / f"say_it_{pole}.jsonl"
        path.write_text("\n".join(lines(pole)) + "\n", encoding="utf-8")
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
