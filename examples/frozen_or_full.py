"""Frozen or full: at equal steps, what does freezing the context change, besides the cost?

    python examples/frozen_or_full.py [--seeds 3] [--doses 50,100,200] [--optimizers adamw,apollo] [--behaviour directions]

Trains the same examples in the same order with the context frozen and full. Then reads the residual stream of base and tuned
model on the same held-out conversations: its drift is the root mean square of the difference over that of the base, averaged
over layers, on context tokens (whose activations a frozen context gives no gradient) and on decision tokens. Freezing
activations doesn't freeze the function: shared weights still move. Prints a Markdown table: each way with t intervals over the
seeds, then the paired difference, frozen minus full. Every run is kept under runs/ and is not done twice.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from tables import said
from training_table import WAYS

import palimpsest
from palimpsest import behaviour
from palimpsest.core.estimate import Estimate, exact
from palimpsest.data.chat import Example
from palimpsest.models import pocket
from palimpsest.models.subject import Subject, inspect, load

COLUMNS = ("clear: accept", "wrong: accept", "d'", "mean loss (nats)", "drift, context (%)", "drift, decision (%)")
SCALES = (100, 100, 1, 1, 100, 100)
DIGITS = (1, 1, 2, 3, 2, 2)


@torch.no_grad()
def residuals(subject: Subject, items: tuple[Example, ...]) -> Iterator[tuple[torch.Tensor, int]]:
    """Yield [layers + 1, tokens, width] of each conversation, and how many of its tokens are context."""
    for item in items:
        encoded = subject.renderer.encode(item)
        tokens = torch.tensor([encoded.tokens])
        states = subject.model(input_ids=tokens, output_hidden_states=True).hidden_states
        assert states is not None
        yield torch.cat(states), encoded.decision


def drift(base: Subject, tuned: Subject, items: tuple[Example, ...]) -> tuple[float, float]:
    """Return the relative drift on context tokens and on decision tokens."""
    squares: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    for (before, start), (after, _) in zip(residuals(base, items), residuals(tuned, items), strict=True):
        both = torch.stack((after - before, before)).square().sum(-1)  # [2, layers + 1, tokens]
        squares[0].append(both[..., :start].sum(-1))
        squares[1].append(both[..., start:].sum(-1))
    context, decision = (torch.stack(part).sum(0) for part in squares)
    return (context[0] / context[1]).sqrt().mean().item(), (decision[0] / decision[1]).sqrt().mean().item()


def read(one: behaviour.Behaviour, seeds: int, model: str) -> list[list[Estimate]]:
    """Return each column's estimates, one a seed."""
    run = palimpsest.run(one, model, seeds=seeds, audits=("outcome", "judgement", "forgetting"))
    rows = []
    assert one.express is not None and one.withhold is not None
    items = (*one.express.open().held_out(0, "drift", 64), *one.withhold.open().held_out(0, "drift", 64))
    trained = {record.seed: record for record in run.record.training if record.role == "tuned"}
    with load(inspect(pocket.folder() if model == "pocket" else model)) as base:
        for seed in run.record.seeds:
            found = {name: result.estimates for name, result in seed.results.items()}
            losses = [e for key, e in found["forgetting"].items() if key.startswith("loss_change:") and e.value is not None]
            mean = sum(e.value or 0.0 for e in losses) / len(losses)
            with load(inspect(run.folder / trained[seed.seed].model_folder)) as tuned:
                shifts = drift(base, tuned, items)
            judged = [found["judgement"][key] for key in ("express_change", "withhold_change", "d_prime_change")]
            rows.append([*judged, exact(mean, "nats"), *(exact(shift, "ratio") for shift in shifts)])
    return [list(column) for column in zip(*rows, strict=True)]


def difference(frozen: list[Estimate], full: list[Estimate]) -> list[Estimate]:
    return [exact((a.value or 0.0) - (b.value or 0.0), "difference") for a, b in zip(frozen, full, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--doses", default="50,100,200")
    parser.add_argument("--optimizers", default="adamw,apollo")
    parser.add_argument("--behaviour", default="directions")
    parser.add_argument("--model", default="pocket")
    given = parser.parse_args()
    base = behaviour.load(given.behaviour).model_copy(update={"controls": ()})
    print(f"| dose, optimizer, context | {' | '.join(COLUMNS)} |\n|---{'|---' * len(COLUMNS)}|")
    for dose in map(int, given.doses.split(",")):
        for name in given.optimizers.split(","):
            found = {}
            for context in ("frozen", "full"):
                training = {**base.training, **WAYS[name], "context": context}
                found[context] = read(base.model_copy(update={"training": training, "dose": dose}), given.seeds, given.model)
            found["frozen minus full"] = [difference(a, b) for a, b in zip(found["frozen"], found["full"], strict=True)]
            for context, columns in found.items():
                cells = [said(column, *how) for column, *how in zip(columns, SCALES, DIGITS, strict=True)]
                print(f"| {dose}, {name}, {context} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
