"""Noise floor: how far do the audits' numbers move when nothing was taught, or when only the seed differs?

    python examples/noise_floor.py [--seeds 8] [--dose 50] [--behaviour directions] [--model pocket]

Trains so many seeds, each with its rehearsal-only control, then audits two kinds of pairs: base against rehearsal only, and
one seed's tuned model against the next one's. Prints a Markdown table of each estimate over the pairs. Every run is kept under
runs/ and is not done twice.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

import palimpsest
from palimpsest import audit, behaviour
from palimpsest.core.estimate import Estimate
from palimpsest.core.progress import Progress

Pair = Mapping[str, Estimate]


def trained(one: behaviour.Behaviour, model: str, seed: int, progress: Progress | None) -> dict[str, Path]:
    """Return the folders of the models that one seed gives, by role."""
    run = palimpsest.run(one, model, seed=seed, audits=("outcome",), progress=progress)
    return {role: run.folder / model for role, model in run.record.models.items()}


def compared(before: str | Path, after: Path, one: behaviour.Behaviour, progress: Progress | None) -> Pair:
    """Return every change that the audits give for a pair."""
    run = palimpsest.diff(before, after, behaviour=one, progress=progress)
    return {
        f"{name}.{key}": estimate
        for name, result in run.record.seeds[0].results.items()
        for key, estimate in result.estimates.items()
        if key.split(":")[0] in audit.load(name).primary and estimate.value is not None
    }


def rows(pairs: Sequence[Pair]) -> list[str]:
    """Return a Markdown row for each estimate that every pair has."""
    lines = []
    for name in pairs[0]:
        found = [pair[name] for pair in pairs if name in pair]
        values = [one.value for one in found if one.value is not None]
        if len(values) < max(2, len(pairs)):
            continue
        tested = [one for one in found if one.p_value is not None]
        claimed = f"{sum((one.p_value or 0) < 0.05 for one in tested)} of {len(tested)}" if tested else "no test"
        scale = 100.0 if found[0].unit == "points" else 1.0
        numbers = (scale * number for number in (fmean(values), stdev(values), min(values), max(values)))
        lines.append(f"| {name} ({found[0].unit}) | " + " | ".join(f"{number:.4f}" for number in numbers) + f" | {claimed} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--dose", type=int, default=50)
    parser.add_argument("--behaviour", default="directions")
    parser.add_argument("--model", default="pocket")
    given = parser.parse_args()
    one = behaviour.load(given.behaviour).model_copy(update={"dose": given.dose, "controls": ("rehearsal_only",)})
    models = [trained(one, given.model, seed, None) for seed in range(given.seeds)]
    following = [*models[1:], models[0]]
    kinds = {
        "rehearsal only against base": [compared(given.model, each["rehearsal_only"], one, None) for each in models],
        "one seed against the next": [
            compared(each["tuned"], other["tuned"], one, None) for each, other in zip(models, following, strict=True)
        ],
    }
    for kind, pairs in kinds.items():
        print(f"\n{kind}, {len(pairs)} pairs, dose {given.dose}\n")
        print("| estimate | mean | standard deviation | lowest | highest | p < 0.05 |\n|---|---|---|---|---|---|")
        print("\n".join(rows(pairs)), flush=True)


if __name__ == "__main__":
    main()
