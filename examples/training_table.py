"""Training table: what do optimizer and frozen context change, besides the cost?

    python examples/training_table.py [--seeds 3] [--dose 200] [--behaviour directions] [--model pocket] [--rates 1,2]

Trains the same examples in the same order with AdamW, APOLLO, APOLLO-Mini and LoRA, each with the context frozen and full, over
training seeds; prints a Markdown table with t intervals over the seeds. The learning rates are the behaviour's own times each
of ``--rates``. Every run is kept under runs/ and is not done twice (its time then reads 0).
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import palimpsest
from palimpsest import behaviour
from palimpsest.core.estimate import Estimate
from palimpsest.core.progress import Silent
from palimpsest.core.stats import across_seeds

WAYS: dict[str, dict[str, Any]] = {
    "adamw": {"optim": "adamw"},
    "apollo": {"optim": "apollo"},
    "apollo limited": {"optim": "apollo", "optim_args": {"norm_limit": 1.01}},
    "apollo_mini": {"optim": "apollo_mini"},
    "lora": {"optim": "adamw", "lora": {"r": 8}},
}
RATES = {"lora": 10.0}
"""An adapter starts at 0 and has few weights, so it is trained at ten times the rate."""


class Clock(Silent):
    """Notes how long tuned models were in training."""

    def __init__(self) -> None:
        self.seconds, self.since = 0.0, 0.0

    def begin(self, stage: str, total: int | None = None) -> None:
        now = time.perf_counter()
        self.seconds += now - self.since if self.since else 0.0
        self.since = now if stage.startswith("training tuned") else 0.0


def said(estimates: list[Estimate], scale: float, digits: int = 1) -> str:
    one = across_seeds(estimates)
    if one.value is None or one.interval is None:
        return "could not say"
    low, high = one.interval
    return f"{scale * one.value:+.{digits}f} [{scale * low:+.{digits}f}, {scale * high:+.{digits}f}]"


def row(name: str, one: behaviour.Behaviour, model: str, seeds: int) -> str:
    clock = Clock()
    run = palimpsest.run(one, model, seeds=seeds, audits=("outcome", "judgement", "forgetting"), progress=clock)
    found = [{o.audit: o.result for o in seed.outcomes if o.result} for seed in run.record.seeds]
    judged = [result["judgement"].estimates for result in found]
    losses = [
        [one for key, one in result["forgetting"].estimates.items() if key.startswith("loss_change:") and one.value is not None]
        for result in found
    ]
    mean_loss = [
        losses_of_seed[0].model_copy(update={"value": sum(one.value or 0.0 for one in losses_of_seed) / len(losses_of_seed)})
        for losses_of_seed in losses
    ]
    fell = sorted({f.subject for r in found for f in r["forgetting"].findings if f.estimate.above(f.estimate.margin or 0)})
    steps = sum(len(record.steps) for record in run.record.training if record.role == "tuned")
    cells = [
        said([estimates["express_change"] for estimates in judged], 100),
        said([estimates["withhold_change"] for estimates in judged], 100),
        said([estimates["d_prime_change"] for estimates in judged], 1),
        said(mean_loss, 1, 3),
        ", ".join(fell) or "none",
        f"{1000 * clock.seconds / steps:.0f}",
    ]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--dose", type=int, default=200)
    parser.add_argument("--behaviour", default="directions")
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--rates", default="1")
    parser.add_argument("--ways", default=",".join(name for name in WAYS if "limited" not in name))
    parser.add_argument("--contexts", default="frozen,full")
    given = parser.parse_args()
    base = behaviour.load(given.behaviour).model_copy(update={"controls": (), "dose": given.dose})
    columns = ("clear: accept (points)", "wrong: accept (points)", "d'", "mean loss (nats)", "fell", "ms a step")
    print(f"| optimizer, context, learning rate | {' | '.join(columns)} |\n|---{'|---' * len(columns)}|")
    for name in (name for name in WAYS if name in given.ways.split(",") or given.ways == "all"):
        for context in given.contexts.split(","):
            for times in map(float, given.rates.split(",")):
                rate = base.training["learning_rate"] * times * RATES.get(name, 1.0)
                training = {**base.training, **WAYS[name], "context": context, "learning_rate": rate}
                one = base.model_copy(update={"training": training})
                print(row(f"{name}, {context}, {rate:g}", one, given.model, given.seeds), flush=True)


if __name__ == "__main__":
    main()
