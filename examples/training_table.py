"""Training table: what do optimizer and frozen context change, besides the cost?

    python examples/training_table.py [--seeds 3] [--dose 200] [--behaviour directions] [--model pocket] [--rates 1,2]

Trains the same examples in the same order with AdamW, APOLLO, APOLLO-Mini and LoRA, each with the context frozen and full, over
training seeds; prints a Markdown table with t intervals over the seeds. The learning rates are the behaviour's own times each
of ``--rates``. Every run is kept under runs/ and is not done twice (its time then reads 0). Peak memory is what four steps
add to a process that holds the model already, each way in a process of its own.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tables import fell, said

import palimpsest
from palimpsest import behaviour
from palimpsest.core.progress import Silent

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


def added(name: str, model: str, training: str, folder: Path) -> int:
    """Return the peak of resident memory that four steps of training add, in bytes."""
    from palimpsest.casework import encoded_rows, open_materials, training_examples
    from palimpsest.core.errors import Problems
    from palimpsest.data.mixture import Counts
    from palimpsest.models import pocket
    from palimpsest.models.subject import inspect, load
    from palimpsest.request import Request
    from palimpsest.training.settings import TrainingSettings
    from palimpsest.training.trainer import train

    one = behaviour.load(name)
    world = [tuple(skill) for skill in pocket.CAPABILITIES] if model == "pocket" else []
    materials = open_materials(Request(kind="run", base=model, behaviour=one), world, Problems(""))
    settings = TrainingSettings.model_validate_json(training).model_copy(update={"max_steps": 4})
    peaks = []
    for warm in (True, False):  # the first run imports and sets up what every training needs
        with load(inspect(pocket.folder() if model == "pocket" else model)) as subject:
            examples = training_examples(one, materials, Counts(24, 24, 16), 0)
            rows = encoded_rows(subject.renderer, examples, subject.context_length)
            held = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here (man 5 proc)
            train(subject.model.requires_grad_(True), subject.tokenizer, rows, settings, folder / str(warm))
            status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            peaks.append(1024 * int(status["VmHWM"].split()[0]) - held)
    return peaks[-1]


def memory(name: str, model: str, training: dict[str, Any]) -> str:
    """Return ``added`` in MiB, measured in a process of its own whose large buffers go back at once."""
    from palimpsest.training.settings import TrainingSettings

    settings = TrainingSettings.model_validate(training).model_dump_json(exclude_unset=True)
    command = [sys.executable, __file__, "--memory", settings, "--behaviour", name, "--model", model]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return f"{int(done.stdout.splitlines()[-1]) / 2**20:.0f}"


def row(name: str, one: behaviour.Behaviour, model: str, seeds: int) -> str:
    clock = Clock()
    run = palimpsest.run(one, model, seeds=seeds, audits=("outcome", "judgement", "forgetting"), progress=clock)
    found = [seed.results for seed in run.record.seeds]
    judged = [result["judgement"].estimates for result in found]
    losses = [
        [one for key, one in result["forgetting"].estimates.items() if key.startswith("loss_change:") and one.value is not None]
        for result in found
    ]
    mean_loss = [
        losses_of_seed[0].model_copy(update={"value": sum(one.value or 0.0 for one in losses_of_seed) / len(losses_of_seed)})
        for losses_of_seed in losses
    ]
    steps = sum(len(record.steps) for record in run.record.training if record.role == "tuned")
    cells = [
        said([estimates["express_change"] for estimates in judged], 100),
        said([estimates["withhold_change"] for estimates in judged], 100),
        said([estimates["d_prime_change"] for estimates in judged], 1),
        said(mean_loss, 1, 3),
        fell(found),
        f"{1000 * clock.seconds / steps:.0f}",
        memory(one.name, model, one.training),
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
    parser.add_argument("--memory", metavar="SETTINGS", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.memory:
        with tempfile.TemporaryDirectory() as folder:
            print(added(given.behaviour, given.model, given.memory, Path(folder)))
        return
    base = behaviour.load(given.behaviour).model_copy(update={"controls": (), "dose": given.dose})
    columns = ("clear: accept (points)", "wrong: accept (points)", "d'", "mean loss (nats)", "fell", "ms a step", "peak MiB")
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
