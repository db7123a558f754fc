"""Controller worlds: how often does the controller end rightly, in how many attempts, and how much too good is its choice?

    python benchmarks/controller_worlds.py [--searches 400]

Simulated dose-response worlds (tests/controller/worlds.py), judged by the real verdict; no model. *Wrongly as intended* is a
final audit that says *as intended* where the chosen model's true numbers lie beyond a line. *Too good* is the mean of what is
read minus what is true, in points of the rise where the behaviour should appear: of the choosing audit, and of the final one.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "controller"))
from worlds import WORLDS, Simulation

from palimpsest.core import stats


def row(name: str, searches: int, noise: float) -> str:
    stops: Counter[str] = Counter()
    attempts, wrongly, chosen_gap, final_gap, rightly = [], [], [], [], []
    for seed in range(searches):
        one = Simulation(WORLDS[name], np.random.default_rng(seed), noise=noise).run()
        stops[one.stop] += 1
        attempts.append(len(one.attempts))
        if one.chosen is not None:
            truth, chosen = one.truths[one.chosen], one.attempts[one.chosen].seen
            final = one.audit(truth)
            wrong = final.as_intended and truth.label() != "as_intended"
            wrongly.append(float(wrong))
            rightly.append(float(final.as_intended))
            chosen_gap.append(chosen.outcome.value - truth.express)  # type: ignore[union-attr, operator]
            final_gap.append(final.outcome.value - truth.express)  # type: ignore[union-attr, operator]
    ends = ", ".join(f"{stop} {100 * count / searches:.0f}%" for stop, count in stops.most_common())
    cells = [name, ends, f"{np.mean(attempts):.1f} (at most {max(attempts)})"]
    cells += [_rate(rightly), _rate(wrongly), _mean(chosen_gap), _mean(final_gap)]
    return f"| {' | '.join(cells)} |"


def _rate(found: list[float]) -> str:
    if len(found) < 2:
        return "-"
    one = stats.rate(np.array(found), np.arange(len(found)))
    assert one.value is not None and one.interval is not None
    return f"{100 * one.value:.0f}% [{100 * one.interval[0]:.0f}, {100 * one.interval[1]:.0f}]"


def _mean(found: list[float]) -> str:
    if len(found) < 2:
        return "-"
    half = 1.96 * float(np.std(found, ddof=1)) / len(found) ** 0.5
    return f"{100 * np.mean(found):+.1f} [{100 * (np.mean(found) - half):+.1f}, {100 * (np.mean(found) + half):+.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", type=int, default=400)
    parser.add_argument("--noise", type=float, default=0.02, help="standard error of an audit, in shares of 1")
    given = parser.parse_args()
    print("| world | ends | attempts | final: as intended | wrongly as intended | choosing too good by | final too good by |")
    print("|---|---|---|---|---|---|---|")
    for name in WORLDS:
        print(row(name, given.searches, given.noise), flush=True)


if __name__ == "__main__":
    main()
