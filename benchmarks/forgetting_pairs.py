"""Forgetting of pairs: how often is something said to have fallen between two models that were trained on rehearsal alone?

Each of the models that ``benchmarks/false_alarms.py`` trains is read once beside the embedded model; every ordered pair of them
then plays base and tuned. They differ in nothing but their seed, so what "fell" beyond its margin is a false alarm, but
for what a seed really loses. Pairs share models, so the error of a share is a jackknife over models.

    python benchmarks/forgetting_pairs.py /tmp/pockets16 [--models 16]
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from itertools import permutations
from pathlib import Path

import numpy as np
from false_alarms import jackknife, trained

import palimpsest
from palimpsest.audits.forgetting import Data, Forgetting, Paired
from palimpsest.core.seeds import numpy_stream
from palimpsest.item_scores import FOLDER
from palimpsest.verdict import Thresholds, judge

Scores = dict[str, dict[str, np.ndarray]]


def scores(folder: Path, model: Path) -> Scores:
    """Return what each set's items scored under one model: ``loss``, ``right`` where there is one, and ``template``."""
    run = palimpsest.diff("pocket", model, behaviour="directions", audits=("forgetting",), folder=folder, device="cpu")
    lines = [json.loads(line) for line in (run.folder / FOLDER / "0.jsonl").read_text().splitlines()]
    found: Scores = {}
    for name in dict.fromkeys(line["set"] for line in lines if line["set"].startswith(("capability:", "text:"))):
        own = [line for line in lines if line["set"] == name]
        found[name] = {key: np.array([line["scores"]["tuned"][key] for line in own]) for key in own[0]["scores"]["tuned"]}
        found[name]["template"] = np.array([line["template"] for line in own])
    return found


def paired(base: Scores, tuned: Scores) -> Data:
    """Return what the audit would have gathered of two models."""
    pairs = {
        name: Paired(one["loss"], tuned[name]["loss"], one.get("right"), tuned[name].get("right"), one["template"])
        for name, one in base.items()
    }
    return Data(
        {name: pair for name, pair in pairs.items() if pair.right_before is not None},
        {name: pair for name, pair in pairs.items() if pair.right_before is None},
    )


def main() -> None:
    given = argparse.ArgumentParser(description="What is said to have fallen between models trained on rehearsal alone.")
    given.add_argument("folder", type=Path)
    given.add_argument("--models", type=int, default=16)
    chosen = given.parse_args()
    models = trained(chosen.folder, range(chosen.models), "directions")
    read = [scores(chosen.folder / "forgetting" / str(place), model) for place, model in enumerate(models)]
    members = list(permutations(range(chosen.models), 2))
    alarms, alone, named = [], [], Counter[str]()
    for one, other in members:
        result = Forgetting().analyse(paired(read[one], read[other]), numpy_stream(0, "pairs"))
        verdict = judge(result.findings, Thresholds(), intended=False)
        fell = {finding.subject for finding in result.findings if "fell" in finding.statement}
        named.update(fell)
        alarms.append("worse on" in verdict.headline)
        alone.append(any(finding.estimate.above(finding.estimate.margin or 0.0) for finding in result.findings))
    for said, share in (("a verdict says that something fell", alarms), ("by each interval alone", alone)):
        error = jackknife(np.array(share), members, chosen.models)
        print(f"{100 * np.mean(share):5.1f}% +- {100 * error:.1f} of {len(members)} pairs: {said}")
    print("what fell:", dict(named))


if __name__ == "__main__":
    main()
