"""Frozen context: what does it save beside the ordinary masked loss?

Run with ``python benchmarks/frozen_context.py [--repeats 3]``. Each measurement is a process of its own (peak memory can only
be read so), both losses in turns on the same rows and the same random Llama. Prints CPU seconds a step, the peak above the
loaded model and gradients in MiB, and their ratios with the range over repeats.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from statistics import median
from typing import Any

SHAPES = ((64, 8), (256, 16), (1024, 16))
ROWS, STEPS = 2, 3


def measure(context: str, before: int, decision: int) -> dict[str, float]:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from palimpsest.training.frozen_context import FrozenContext
    from palimpsest.training.objectives import MaskedLoss, mean_loss
    from palimpsest.training.sampler import Row

    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8, "num_attention_heads": 8}
    model: Any = LlamaForCausalLM(LlamaConfig(vocab_size=4096, max_position_embeddings=2048, **sizes)).train()
    tokens = torch.randint(1, 4096, (ROWS, before + decision)).tolist()
    rows = [Row(line, [0.0] * before + [1.0] * decision, "express") for line in tokens]
    objective = FrozenContext() if context == "frozen" else MaskedLoss()
    objective.prepare(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)  # there in any training, so not part of what is compared
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    for _ in range(STEPS):
        mean_loss(objective, model, rows).backward()
    seconds = (time.process_time() - began) / STEPS
    return {"seconds": seconds, "mebibytes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - loaded) / 1024}


def apart(*arguments: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, __file__, "--one", *arguments], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", nargs=3, metavar=("CONTEXT", "BEFORE", "DECISION"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one[0], int(given.one[1]), int(given.one[2]))))
        return
    print("| context + decision | full: s a step, MiB | frozen: s a step, MiB | time, full / frozen | memory, full / frozen |")
    print("|---|---|---|---|---|")
    for before, decision in SHAPES:
        pairs = [[apart(way, str(before), str(decision)) for way in ("full", "frozen")] for _ in range(given.repeats)]
        cells = []
        for place in (0, 1):
            seconds, mebibytes = (median(pair[place][key] for pair in pairs) for key in ("seconds", "mebibytes"))
            cells.append(f"{seconds:.2f}, {mebibytes:.0f}")
        for key in ("seconds", "mebibytes"):
            ratios = [full[key] / max(frozen[key], 1e-9) for full, frozen in pairs]
            cells.append(f"{median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})")
        print(f"| {before} + {decision} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
