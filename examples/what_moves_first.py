"""What moves first: at small doses, does attention move before the outcome does?

    python examples/what_moves_first.py [--seeds 3] [--doses 0,5,10,20,50] [--behaviour directions] [--model pocket]

Trains the behaviour at each dose (the examples of a small one are the first of a larger one) over training seeds, and reads
beside the outcome how far attention, the residual stream and predictions on general text moved, each beyond the rehearsal-only
control. Dose 0 is the base held against itself. Prints a Markdown table with t intervals over the seeds; then each quantity
as a share of what it is at the largest dose, less the outcome's share, paired by seed: above 0 it moved first.
Every run is kept under runs/ and is not done twice.
"""

from __future__ import annotations

import argparse

from tables import said

import palimpsest
from palimpsest import behaviour
from palimpsest.core.estimate import Estimate, exact
from palimpsest.store.record import SeedRecord

QUANTITIES = {
    "outcome: clear directions accepted (points)": ("outcome", "probability_change", 100),
    "attention that goes elsewhere, beyond the control (points)": ("attention_shift", "distance_over_floor", 100),
    "attention on the conflict, beyond the control (points)": ("attention_shift", "conflict_over_floor", 100),
    "residual stream, beyond the control (% of its length)": ("activation_shift", "shift_over_floor", 1),
    "predictions on general text, beyond the control (nats)": ("divergence", "kl_over_floor", 1),
}
AUDITS = ("outcome", "attention_shift", "activation_shift", "divergence")


def values(seed: SeedRecord) -> list[float]:
    """Return each quantity of one trained model."""
    found = {outcome.audit: outcome.result.estimates for outcome in seed.outcomes if outcome.result}
    return [found[audit][name].value or 0.0 for audit, name, _ in QUANTITIES.values()]


def told(columns: list[list[float]], unit: str, scales: list[float], digits: int) -> str:
    """Return each column's mean over seeds with its interval."""
    estimates: list[list[Estimate]] = [[exact(value, unit) for value in column] for column in columns]
    return " | ".join(said(column, scale, digits) for column, scale in zip(estimates, scales, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--doses", default="0,5,10,20,50")
    parser.add_argument("--behaviour", default="directions")
    parser.add_argument("--model", default="pocket")
    given = parser.parse_args()
    base = behaviour.load(given.behaviour)
    doses = sorted(int(dose) for dose in given.doses.split(","))
    scales = [scale for *_, scale in QUANTITIES.values()]
    found: dict[int, list[list[float]]] = {}
    print(f"| dose | {' | '.join(QUANTITIES)} |\n|---{'|---' * len(QUANTITIES)}|")
    for dose in doses:
        if dose:
            one = base.model_copy(update={"dose": dose})
            run = palimpsest.run(one, given.model, seeds=given.seeds, audits=AUDITS)
        else:
            run = palimpsest.diff(
                given.model, given.model, behaviour=given.behaviour, controls={"rehearsal_only": given.model}, audits=AUDITS
            )
        by_seed = [values(seed) for seed in run.record.seeds] * (1 if dose else given.seeds)
        found[dose] = [list(column) for column in zip(*by_seed, strict=True)]
        print(f"| {dose} | {told(found[dose], 'change', scales, 2)} |", flush=True)
    whole = found[doses[-1]]
    print(f"\n| dose, share of dose {doses[-1]} less the outcome's (points) | {' | '.join([*QUANTITIES][1:])} |")
    print("|---" * len(QUANTITIES) + "|")
    for dose in doses[:-1]:
        shares = [[part / full for part, full in zip(*pair, strict=True)] for pair in zip(found[dose], whole, strict=True)]
        ahead = [[own - outcome for own, outcome in zip(column, shares[0], strict=True)] for column in shares[1:]]
        print(f"| {dose} | {told(ahead, 'difference', [100.0] * len(ahead), 0)} |", flush=True)


if __name__ == "__main__":
    main()
