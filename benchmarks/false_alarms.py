"""False alarms: how often is something raised about models that were trained on rehearsal alone?

Trains several such models that differ in nothing but their seed, reads each once, and analyses all ordered pairs: one plays the
tuned model, another (with ``--runs`` several others) the control. No behaviour was trained, so whatever is raised is wrong.

    python benchmarks/false_alarms.py /tmp/pockets16 [--models 16] [--runs 1] [--audits divergence,attention_shift]
    python benchmarks/false_alarms.py /tmp/pockets16 --apart 20 --runs 3    # 20 comparisons of 80 further models, none shared

Pairs share models, so the error of a share is a jackknife over models; of comparisons that share none it is a binomial one.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from palimpsest import behaviour as behaviours
from palimpsest import pipeline
from palimpsest.audit import NotApplicable
from palimpsest.core import roles, stats
from palimpsest.core.measurement import Need
from palimpsest.core.progress import Silent
from palimpsest.core.seeds import numpy_stream
from palimpsest.measures._measure import Budget
from palimpsest.models import subject
from palimpsest.planning import prepare
from palimpsest.request import Request
from palimpsest.store.cache import Cache
from palimpsest.store.run_folder import RunFolder
from palimpsest.verdict import judge

WRONG = ("forgetting", "overshoot", "as_intended")
"""Labels that no model without the behaviour should have."""


def trained(folder: Path, seeds: Sequence[int], behaviour: str) -> list[Path]:
    """Return the folders of models trained on rehearsal alone with these seeds, trained where they are not there yet."""
    request = {"kind": "run", "base": "pocket", "behaviour": behaviours.load(behaviour), "device": "cpu"}
    plan = prepare(Request.read(request, "the benchmark"))
    models = [folder / "training" / f"{roles.CONTROL}-{seed}" / "model" for seed in seeds]
    missing = [seed for seed, model in zip(seeds, models, strict=True) if not model.is_dir()]
    if missing:
        with RunFolder(folder, plan.identity) as run:
            desk = pipeline.Desk(plan, run, Cache(folder / "cache"), Silent())
            for seed in missing:
                pipeline._train(desk, roles.CONTROL, seed)
                print(f"trained {seed}", flush=True)
    return models


def groups(count: int, runs: int) -> Iterator[tuple[int, ...]]:
    """Yield (tuned, controls...): every ordered pair, and with several controls those that follow in the circle of models."""
    for tuned in range(count):
        others = [other for other in range(count) if other != tuned]
        for first in range(len(others)):
            yield tuned, *(others[(first + step) % len(others)] for step in range(runs))


def apart(count: int, runs: int, first: int) -> Iterator[tuple[int, ...]]:
    """Yield so many (tuned, controls...) that have no model in common, the models counted from ``first``."""
    for place in range(count):
        yield tuple(first + place * (runs + 1) + step for step in range(runs + 1))


def raised(desk: pipeline.Desk, session: pipeline.Session, infos: dict[str, subject.SubjectInfo]) -> dict[str, bool]:
    """Return what one comparison raises: claims beyond the control, wrong labels, and what would be raised from intervals."""
    plan = desk.plan
    digests = {role: desk.digest(info) for role, info in infos.items()}
    needs = [need for audit in plan.audits.values() for need in pipeline._needs(audit, plan.case)]
    for run in roles.controls(infos):  # each is read as the first control run, so that a model is read once in that role
        who = {role: info for role, info in infos.items() if role not in roles.controls(infos)} | {roles.CONTROL: infos[run]}
        first = [need for need in needs if roles.kind(need.role) != roles.CONTROL or need.role == roles.CONTROL]
        known = {role: desk.digest(info) for role, info in who.items()}
        for role, ready in pipeline._in_turn(first, list(who)):
            session.take(partial(desk.open, who[role]), ready, known, desk.progress, who)
    found, p_values, findings, marks, claimed = {}, {}, [], [], False
    for name, audit in plan.audits.items():
        try:
            taken = {need.name: session.get(*as_first(need, digests)) for need in audit.needs(plan.case)}
            there = {key: one for key, one in taken.items() if one is not None}
            result = audit.analyse(audit.gather(plan.case, there), numpy_stream(0, "analyse", name))
        except NotApplicable:
            continue
        findings += result.findings
        if np.any(result.figure.get("marked", [])):
            marks.append(f"{name}.{result.figure['marked_after']}")
        claimed |= any(f"{word} than training on rehearsal alone" in result.summary for word in ("more", "less"))
        for key, estimate in result.estimates.items():
            primary = key.split(":")[0] in audit.primary
            if primary and estimate.p_value is not None:
                p_values[f"{name}.{key}"] = estimate.p_value
            if ("_over_floor" in key and key.split(":")[0] != "slope_over_floor" and ":" not in key) or "over_control" in key:
                found[f"interval without 0: {name}.{key}"] = estimate.above(0.0) is not None
                found[f"p < .05: {name}.{key}"] = estimate.p_value is not None and estimate.p_value < 0.05
    fallen = stats.holm(p_values, plan.thresholds.family_error)
    marked = any(fallen.get(whole) for whole in marks)
    labels = judge(findings, plan.thresholds, intended=True).labels
    beyond = any(
        fell and ("_over_floor" in key or "over_control" in key) and "slope" not in key for key, fell in fallen.items()
    )
    found |= {f"label: {label}": label in labels for label in WRONG}
    found |= {"beyond the control after Holm": beyond, "a head marked": marked, "a sentence claims it": claimed}
    found["ANYTHING"] = beyond or marked or claimed or any(label in labels for label in WRONG)
    return found


def as_first(need: Need, digests: dict[str, str]) -> tuple[Need, dict[str, str]]:
    """Return the need, and whose digest plays which role, under which a control run was read."""
    if roles.kind(need.role) != roles.CONTROL:
        return need, digests
    return need.model_copy(update={"role": roles.CONTROL}), {**digests, roles.CONTROL: digests[need.role]}


def jackknife(alarms: np.ndarray, members: Sequence[Sequence[int]], count: int) -> float:
    """Return the standard error of a share of comparisons, by leaving out one model with all comparisons that it is part of."""
    left = [alarms[[model not in each for each in members]] for model in range(count)]
    shares = np.array([part.mean() for part in left if len(part)])
    return float(np.sqrt((len(shares) - 1) / len(shares) * np.square(shares - shares.mean()).sum()))


def main() -> None:
    given = argparse.ArgumentParser(description="False alarms about models trained on rehearsal alone.")
    given.add_argument("folder", type=Path)
    given.add_argument("--models", type=int, default=16)
    given.add_argument("--runs", type=int, default=1)
    given.add_argument("--audits", default="")
    given.add_argument("--behaviour", default="directions")
    given.add_argument("--apart", type=int, default=0, help="So many comparisons that share no model, instead of all pairs.")
    given.add_argument("--every", type=int, default=1, help="Only every so many comparisons, for a first look.")
    chosen = given.parse_args()
    if chosen.apart:
        members = list(apart(chosen.apart, chosen.runs, first=chosen.models))
    else:
        members = list(groups(chosen.models, chosen.runs))[:: chosen.every]
    seeds = sorted({seed for each in members for seed in each})
    models = trained(chosen.folder, seeds, chosen.behaviour)
    infos = {seed: subject.inspect(model) for seed, model in zip(seeds, models, strict=True)}
    request = {
        "kind": "diff",
        "base": "pocket",
        "tuned": str(models[0]),
        "behaviour": behaviours.load(chosen.behaviour),
        "controls": roles.numbered((roles.CONTROL, str(model)) for model in models[1 : 1 + chosen.runs]),
        "audits": tuple(name for name in chosen.audits.split(",") if name),
        "device": "cpu",
    }
    plan = prepare(Request.read(request, "the benchmark"))
    told: dict[str, list[bool]] = {}
    with RunFolder(chosen.folder / f"pairs-{chosen.runs}-{chosen.apart}-{chosen.audits or 'all'}", plan.identity) as run:
        desk = pipeline.Desk(plan, run, Cache(chosen.folder / "cache"), Silent())
        session = desk.session(plan.case.everything, Budget.on(plan.device, plan.context))
        for place, (tuned, *controls) in enumerate(members):
            who = {"base": plan.models["base"], "tuned": infos[tuned]}
            who |= {roles.control(number): infos[one] for number, one in enumerate(controls)}
            for name, alarm in raised(desk, session, who).items():
                told.setdefault(name, [False] * place).append(alarm)
            print(f"\r{place + 1} of {len(members)}", end="", flush=True)
    print()
    for name, alarms in told.items():
        share = float(np.mean(alarms))
        by_chance = (share * (1 - share) / len(alarms)) ** 0.5
        error = by_chance if chosen.apart else jackknife(np.array(alarms), members, chosen.models)
        print(f"{100 * share:5.1f}% +- {100 * error:.1f}  {name}")


if __name__ == "__main__":
    main()
