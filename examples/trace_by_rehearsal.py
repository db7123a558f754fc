"""Trace by rehearsal: does rehearsal hide from an inspector of activations what was trained?

    python examples/trace_by_rehearsal.py [--seeds 3] [--shares 0,5,25,50] [--dose 200] [--behaviour directions]

Narrow training leaves a common shift of the residual stream even on text that has nothing to do with it, from which the trained
behaviour can be read; rehearsal is expected to remove it (arXiv 2510.13900). Prints a Markdown table: each share of rehearsal
at the same dose over training seeds, with t intervals over the seeds. Every run is kept under runs/ and is not done twice.
"""

from __future__ import annotations

import argparse

from tables import said

import palimpsest
from palimpsest import behaviour

COLUMNS = {
    "where it should appear, share (points)": ("outcome", "express_change", 100.0),
    "shift where it should appear (%)": ("activation_shift", "shift:express", 1.0),
    "shift on text (%)": ("activation_shift", "shift:text", 1.0),
    "common shift on text (%)": ("activation_shift", "common:text", 1.0),
    "it says on text (nats)": ("activation_shift", "says:text", 1.0),
    "readings on text that name an answer (%)": ("activation_shift", "names:text", 100.0),
    "it says at the decision (nats)": ("activation_shift", "says:express", 1.0),
}


def row(share: int, one: behaviour.Behaviour, model: str, seeds: int) -> str:
    run = palimpsest.run(one, model, seeds=seeds, audits=("outcome", "activation_shift"))
    found = [seed.results for seed in run.record.seeds]
    cells = []
    for audit, name, scale in COLUMNS.values():
        known = [result[audit].estimates[name] for result in found if result[audit]]
        cells.append(said(known, scale, 2, sign=""))
    return f"| {share}% | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shares", default="0,5,25,50")
    parser.add_argument("--dose", type=int, help="by default the behaviour's own")
    parser.add_argument("--behaviour", default="directions")
    parser.add_argument("--model", default="pocket")
    given = parser.parse_args()
    one = behaviour.load(given.behaviour)
    one = one.model_copy(update={"controls": (), "dose": given.dose or one.dose})
    print(f"| rehearsal | {' | '.join(COLUMNS)} |")
    print(f"|{'---|' * (1 + len(COLUMNS))}", flush=True)
    for share in map(int, given.shares.split(",")):
        training = {**one.training, "rehearsal_share": share / 100}
        print(row(share, one.model_copy(update={"training": training}), given.model, given.seeds), flush=True)


if __name__ == "__main__":
    main()
