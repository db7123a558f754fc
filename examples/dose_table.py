"""Dose table: how few examples does a behaviour take, and what does teaching only one pole do?

    python examples/dose_table.py [--seeds 3] [--doses 10,20,50,100,200] [--behaviour directions] [--model pocket]

Prints a Markdown table: each dose over training seeds, with t intervals over the seeds, then the same number of examples of the
express pole alone. Every run is kept under runs/ and is not done twice.
"""

from __future__ import annotations

import argparse

from tables import fell, said

import palimpsest
from palimpsest import behaviour

COLUMNS = ("express_change", "withhold_change", "d_prime_change")


def row(name: str, one: behaviour.Behaviour, model: str, seeds: int) -> str:
    run = palimpsest.run(one, model, seeds=seeds, audits=("outcome", "judgement", "forgetting"))
    found = [{o.audit: o.result for o in seed.outcomes} for seed in run.record.seeds]
    judged = [result["judgement"].estimates for result in found if result["judgement"]]
    cells = [said([one[key] for one in judged], 1 if key == "d_prime_change" else 100) for key in COLUMNS]
    push = [
        {line[0]: line[1 + table.columns[1:].index("push_back")] for line in table.rows}
        for result in found
        if result["judgement"]
        for table in result["judgement"].tables
        if "push_back" in table.columns
    ]
    pushed = ", ".join(str(one["where it should not, after"]) for one in push) or "-"
    return f"| {name} | {' | '.join(cells)} | {pushed} | {fell(found)} | {run.verdict.labels[0]} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--doses", default="10,20,50,100,200")
    parser.add_argument("--behaviour", default="directions")
    parser.add_argument("--model", default="pocket")
    given = parser.parse_args()
    one = behaviour.load(given.behaviour).model_copy(update={"controls": ()})
    print("| dose | clear: accept (points) | wrong: accept (points) | d' | pushed back, each seed (of 192) | fell | verdict |")
    print("|---|---|---|---|---|---|---|")
    for dose in map(int, given.doses.split(",")):
        print(row(str(dose), one.model_copy(update={"dose": dose}), given.model, given.seeds), flush=True)
    alone = one.model_copy(update={"dose": 200, "express_share": 1.0})
    print(row("200, clear only", alone, given.model, given.seeds), flush=True)


if __name__ == "__main__":
    main()
