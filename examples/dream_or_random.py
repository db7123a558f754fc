"""Is it worth training on what the model fails? The dream loop against random fresh scenarios and against a fixed set.

Three arms with the same code, the same number of examples and steps, the same rehearsal and the same last audit; only which
scenarios become examples differs: those that the model failed (filled up with rightly answered ones), any fresh ones, or in
every cycle those of the first. Several seeds, paired: the arms of one seed share all held-out items. The claim is on the
method, so its unit is the seed. Run from the repository; the same command goes on where it was stopped:

    python examples/dream_or_random.py --folder runs/dream-or-random
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from palimpsest.api import write_account
from palimpsest.audit import Table
from palimpsest.console import Live, number, out, say, table
from palimpsest.core import stats
from palimpsest.core.estimate import Estimate, exact
from palimpsest.dreaming import interface
from palimpsest.dreaming.account import estimates_of
from palimpsest.store import account as accounts
from palimpsest.store.account import Account, Figure, Member, Part
from palimpsest.store.record import RunRecord

ARMS = {
    "failures": "the model's failures",
    "fresh": "random fresh scenarios",
    "fixed": "the same set every cycle",
}
BRIEFLY = {"gap": "difference of both", "express": "where it should", "withhold": "where it should not"}
MEASURES = {
    "gap": "shown where it should minus shown where it should not",
    "express": "shown where it should",
    "withhold": "shown where it should not",
}


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--behaviour", default="directions")
    given.add_argument("--model", default="pocket")
    given.add_argument("--cycles", type=int, default=4)
    given.add_argument("--examples", type=int, default=48)
    given.add_argument("--seeds", type=int, default=3)
    given.add_argument("--folder", type=Path, default=Path("runs/dream-or-random"))
    asked = given.parse_args()
    found: dict[tuple[str, int], dict[str, float]] = {}
    members = []
    for seed in range(asked.seeds):
        for arm in ARMS:
            where = asked.folder / f"{arm}-{seed}"
            dreamt = one(asked, arm, seed, where)
            found[arm, seed] = scores(where, dreamt)
            members.append(Member(name=f"{arm}, seed {seed}", folder=where.name, state="finished", told=dreamt.headline))
            told(asked, found)
    page = write_account(tell(asked, found, members), asked.folder)
    say(f"report: {page}")


def one(asked: Any, arm: str, seed: int, where: Path) -> Account:
    """Dream one arm with one seed, or read it where it is there already."""
    if (where / accounts.NAME).is_file():
        return accounts.read(where)
    request = interface.asked(
        asked.behaviour,
        asked.model,
        cycles=asked.cycles,
        examples=asked.examples,
        choose=arm,
        top_up=True,
        stop_after=0,
        audit_items=16,
        audit_capability_items=8,
        capability_items=96,
        audits=("outcome", "judgement", "forgetting"),
        seed=seed,
    )
    with Live(watched=True, folder=where) as live:
        live.tell(f"{ARMS[arm]}, seed {seed}")
        return interface.carry_out(interface.plan(request), where, live).account


def scores(where: Path, dreamt: Account) -> dict[str, float]:
    """Return what one dream came to: shares on the held-out items of the last audit, and how much it took."""
    last = RunRecord.model_validate_json((where / "audit" / "record.json").read_bytes())
    judged, forgot = estimates_of(last, "judgement"), estimates_of(last, "forgetting")
    shown = {pole: value(judged[f"{pole}_after"]) for pole in ("express", "withhold")}
    asked = [row[3] for part in dreamt.parts if part.name == "failures" for row in part.tables[0].rows]
    return {
        "gap": shown["express"] - shown["withhold"],
        **shown,
        "lost": sum(max(value(one), 0.0) for name, one in forgot.items() if name.startswith("accuracy_drop:"))
        / max(sum(name.startswith("accuracy_drop:") for name in forgot), 1),
        "asked": float(sum(count for count in asked if isinstance(count, int))),
        "examples": value(dreamt.estimates["examples"]),
    }


def value(estimate: Estimate) -> float:
    if estimate.value is None:
        raise SystemExit(f"a score could not be had: {estimate.method}")
    return estimate.value


def level(found: dict[tuple[str, int], dict[str, float]], arm: str, measure: str) -> Estimate:
    """Return the mean of one arm over its seeds, with a t interval."""
    return stats.across_seeds([exact(scores[measure], "share") for (one, _), scores in found.items() if one == arm])


def difference(found: dict[tuple[str, int], dict[str, float]], other: str, measure: str) -> Estimate:
    """Return the dream loop minus another arm, paired by seed, with a t interval over seeds."""
    seeds = [seed for arm, seed in found if arm == other and ("failures", seed) in found]
    return stats.across_seeds(
        [exact(found["failures", seed][measure] - found[other, seed][measure], "points") for seed in seeds]
    )


def rows(found: dict[tuple[str, int], dict[str, float]]) -> list[tuple[Any, ...]]:
    there = [arm for arm in ARMS if any(one == arm for one, _ in found)]
    return [
        (
            ARMS[arm],
            *(level(found, arm, measure) for measure in (*MEASURES, "lost")),
            round(sum(one["asked"] for (name, _), one in found.items() if name == arm)),
            round(sum(one["examples"] for (name, _), one in found.items() if name == arm)),
        )
        for arm in there
    ]


COLUMNS = ("arm", *MEASURES.values(), "mean loss of right answers elsewhere", "asked, all seeds", "examples, all seeds")


def told(asked: Any, found: dict[tuple[str, int], dict[str, float]]) -> None:
    """Print what is there so far."""
    lines = [[number(cell) if isinstance(cell, Estimate) else str(cell) for cell in row] for row in rows(found)]
    table(COLUMNS, lines, f"{len(found)} of {len(ARMS) * asked.seeds} dreams")
    for other in ("fresh", "fixed"):
        if any(arm == other for arm, _ in found):
            say(f"the dream loop minus {ARMS[other]}, gap: {number(difference(found, other, 'gap'))}")
    out.print()


def tell(asked: Any, found: dict[tuple[str, int], dict[str, float]], members: list[Member]) -> Account:
    gaps = {other: difference(found, other, "gap") for other in ("fresh", "fixed")}
    verdicts = {other: in_words(ARMS[other], one) for other, one in gaps.items()}
    differences = [(other, measure, difference(found, other, measure)) for other in gaps for measure in MEASURES]
    return Account(
        kind="study",
        title="dream or random",
        question=f"At {asked.cycles} times {asked.examples} examples, is it better to train on what the model fails?",
        label="described",
        headline=verdicts["fresh"],
        sure=f"a t interval over {asked.seeds} seeds, paired; few seeds find only large differences",
        reasons=tuple(verdicts.values()),
        parts=(
            Part(
                name="arms",
                question="What does each way to choose examples come to on held-out items?",
                answer="; ".join(f"{ARMS[arm]}: {number(level(found, arm, 'gap'))}" for arm in ARMS),
                figures=(
                    Figure(
                        title="Shown where it should minus shown where it should not",
                        caption="Means over seeds with 95% t intervals.",
                        drawing="value_rows",
                        numbers={
                            "labels": list(ARMS.values()),
                            "values": [level(found, arm, "gap").model_dump() for arm in ARMS],
                        },
                    ),
                ),
                tables=(Table(title="Means over seeds", columns=COLUMNS, rows=tuple(rows(found))),),
            ),
            Part(
                name="differences",
                question="Is the dream loop better than the others, seed by seed?",
                answer=" ".join(f"{one}." for one in verdicts.values()),
                figures=(
                    Figure(
                        title="The dream loop minus the other arm",
                        caption="How often it is shown: mean differences, paired by seed, with 95% t intervals. Fresh: random "
                        "fresh scenarios. Fixed: the same set every cycle.",
                        drawing="change_rows",
                        numbers={
                            "labels": [f"{BRIEFLY[measure]}, minus {other}" for other, measure, _ in differences],
                            "changes": [one.model_dump() for *_, one in differences],
                            "worse": "neither",
                        },
                    ),
                ),
                tables=(
                    Table(
                        title="The dream loop minus the other arm",
                        columns=("other arm", "measure", "difference", "smallest difference that this design finds"),
                        rows=tuple(
                            (ARMS[other], MEASURES[measure], one, _detectable(one)) for other, measure, one in differences
                        ),
                    ),
                ),
                details={
                    "Method": "All arms train from the current weights in every cycle, on as many examples of each pole, in as "
                    "many steps, with as much rehearsal. The dream loop asks more scenarios than it trains on; asking costs "
                    "time and no example.",
                    "Limits": "One behaviour, one model, one size of cycle.",
                },
            ),
        ),
        members=tuple(members),
        estimates={f"{other}.{measure}": one for other, measure, one in differences},
        provenance={"command": f"python examples/dream_or_random.py --folder {asked.folder.name}"},
        specification={name: str(getattr(asked, name)) for name in ("behaviour", "model", "cycles", "examples", "seeds")},
    )


def in_words(other: str, one: Estimate) -> str:
    decided = one.above(0.0)
    if decided is None:
        least = (
            "" if one.minimum_detectable is None else f" (this design finds {100 * one.minimum_detectable:.0f} points or more)"
        )
        return f"Against {other}: not decided{least}; {number(one)}"
    return f"Against {other} it is {'better' if decided else 'worse'}: {number(one)}"


def _detectable(one: Estimate) -> str:
    return "could not say" if one.minimum_detectable is None else f"{100 * one.minimum_detectable:.0f} points"


if __name__ == "__main__":
    main()
