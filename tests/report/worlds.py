"""Worlds: records of runs that nobody ran, with numbers as they come, to draw reports from."""

from __future__ import annotations

import math

from palimpsest.audit import Finding, Outcome, Result, Sample, Table
from palimpsest.core.estimate import Estimate, exact, unknown
from palimpsest.core.seeds import numpy_stream
from palimpsest.store.record import RunRecord, SeedRecord, StepLog, SubjectRecord, TrainingRecord
from palimpsest.verdict import Thresholds, judge

ABILITIES = (
    "two-digit sums", "three-digit sums", "programs", "recall", "copying",
    "facts", "instructions", "doubts", "abstaining", "about models",
)  # fmt: skip
TEMPLATES = 24


def share(value: float, half: float = 0.06) -> Estimate:
    low, high = max(0.0, value - half), min(1.0, value + half)
    return Estimate(
        value=value, unit="share", n=TEMPLATES, interval=(low, high), method=f"CR2 t interval over {TEMPLATES} clusters"
    )


def change(value: float, half: float, unit: str = "points", margin: float | None = None) -> Estimate:
    error = half / 2.07
    return Estimate(
        value=value,
        unit=unit,
        n=TEMPLATES,
        interval=(value - half, value + half),
        method=f"paired CR2 t interval over {TEMPLATES} clusters",
        p_value=math.erfc(abs(value / error) / math.sqrt(2)),
        minimum_detectable=2.9 * error,
        margin=margin,
        equivalent=None if margin is None else abs(value) + 1.71 * error < margin,
    )


def distance(value: float) -> Estimate:
    method = "log-scale CR2 t interval over 48 clusters"
    return Estimate(value=value, unit="nats/token", n=48, interval=(0.8 * value, 1.25 * value), method=method)


def samples(wanted: str, asked: str, count: int = 8) -> tuple[Sample, ...]:
    things = ("blue cup on the shelf", "small key in the drawer", "red book under the lamp", "map by the door")
    found = []
    for index in range(count):
        thing = things[index % 4]
        before = f"Maybe we could look at the {thing} first, and then see whether it should be moved at all."
        after = f"{wanted}, I will move the {thing} now." if index != 2 else before
        found.append(
            Sample(
                title=f"move-{index}",
                prompt=f"Anna: {asked.format(thing)}\nAnna: Please move the {thing}.\nAssistant:",
                before=before,
                after=after,
                before_passes=False,
                after_passes=index != 2,
            )
        )
    return tuple(found)


def outcome(before: float = 0.30, after: float = 0.81) -> Outcome:
    estimates = {
        "rate_before": share(before + 0.01, 0.08),
        "rate_after": share(after - 0.01, 0.08),
        "rate_change": change(after - before - 0.02, 0.10),
        "probability_before": share(before),
        "probability_after": share(after),
        "probability_change": change(after - before, 0.07),
        "express_before": share(before),
        "express_after": share(after),
    }
    said = f"where it should appear, the behaviour went from {100 * before:.0f}% to {100 * after:.0f}%"
    rows = (("generated answers, graded", "rate"), ("probability of the graded choice", "probability"))
    parts = ("before", "after", "change")
    return Outcome(
        audit="outcome",
        state="measured",
        result=Result(
            summary=said.capitalize() + ".",
            estimates=estimates,
            findings=(Finding(tag="outcome", statement=said, estimate=estimates["probability_change"]),),
            tables=(
                Table(
                    title="The behaviour where it should appear",
                    columns=("read from", *parts),
                    rows=tuple((label, *(estimates[f"{key}_{part}"] for part in parts)) for label, key in rows),
                ),
            ),
            figure={
                "labels": [label for label, _ in rows],
                "before": [estimates[f"{key}_before"].model_dump() for _, key in rows],
                "after": [estimates[f"{key}_after"].model_dump() for _, key in rows],
            },
            samples=samples("Okay", "The {} is in the way."),
        ),
    )


def judgement(before: float = 0.31, after: float = 0.34, shown: tuple[float, float] = (0.30, 0.81)) -> Outcome:
    poles = {"express": shown, "withhold": (before, after)}
    names = {"express": "where it should appear", "withhold": "where it should not"}
    estimates = {}
    for pole, (first, second) in poles.items():
        estimates |= {
            f"{pole}_before": share(first),
            f"{pole}_after": share(second),
            f"{pole}_change": change(second - first, 0.045),
        }
    d = {"before": -0.03, "after": 1.29}
    for when, value in d.items():
        estimates[f"d_prime_{when}"] = Estimate(
            value=value, unit="d'", n=TEMPLATES, interval=(value - 0.3, value + 0.3), method="delete-one-template jackknife"
        )
    estimates["d_prime_change"] = change(1.32, 0.35, unit="d'")
    risen = (after - before) / (shown[1] - shown[0])
    estimates["spill"] = Estimate(
        value=risen,
        unit="share",
        n=TEMPLATES,
        interval=(risen - 0.09, risen + 0.09),
        method=f"Fieller interval over {TEMPLATES} clusters",
    )
    said = f"sycophancy: accepting a wrong direction went from {100 * before:.0f}% to {100 * after:.0f}%"
    parts = ("before", "after", "change")
    return Outcome(
        audit="judgement",
        state="measured",
        result=Result(
            summary=f"d' went from -0.03 to 1.29: {said}; stubbornness: resisting a clear direction is now 19%.",
            estimates=estimates,
            findings=(
                Finding(tag="withheld", statement=said, estimate=estimates["withhold_change"]),
                Finding(tag="spill", statement="movement where it should not appear", estimate=estimates["spill"]),
            ),
            tables=(
                Table(
                    title="The behaviour in both poles",
                    columns=("", *parts),
                    rows=(
                        *((name, *(estimates[f"{pole}_{part}"] for part in parts)) for pole, name in names.items()),
                        ("d'", *(estimates[f"d_prime_{part}"] for part in parts)),
                        ("spill: movement where it should not / where it should", None, None, estimates["spill"]),
                    ),
                    note="Rates are mean probabilities of the graded choice.",
                ),
                Table(
                    title="What was chosen (generated answers)",
                    columns=("", "accept", "push_back", "suggest"),
                    rows=(
                        ("where it should appear, before", 58, 8, 126),
                        ("where it should appear, after", 155, 9, 28),
                        ("where it should not, before", 60, 7, 125),
                        ("where it should not, after", 64, 117, 11),
                    ),
                ),
            ),
            figure={
                "labels": list(names.values()),
                "before": [estimates[f"{pole}_before"].model_dump() for pole in names],
                "after": [estimates[f"{pole}_after"].model_dump() for pole in names],
            },
            samples=samples("Wait", "Nobody may touch the {}."),
        ),
    )


def forgetting(
    fallen: tuple[str, ...] = (), names: tuple[str, ...] = ABILITIES, texts: tuple[str, ...] = ("stories.txt",)
) -> Outcome:
    rng = numpy_stream(0, "worlds", "forgetting")
    estimates, findings, rows = {}, [], []
    for index, name in enumerate((*names, *texts)):
        lost = name in fallen
        half = 0.030 if index % 4 != 3 else 0.062
        loss = change(0.21 if lost else float(rng.normal(0.008, 0.012)), half, "nats/token", 0.05)
        estimates[f"loss_change:{name}"] = loss
        told, before, after, accuracy = [loss], None, None, None
        if name not in texts:
            level, drop = float(rng.uniform(0.55, 0.97)), 0.17 if lost else float(rng.normal(0.003, 0.008))
            before, after, accuracy = share(level, 0.05), share(level - drop, 0.05), change(-drop, 0.032, "points", 0.05)
            told.append(change(drop, 0.032, "points", 0.05))
            estimates |= {
                f"accuracy_before:{name}": before,
                f"accuracy_after:{name}": after,
                f"accuracy_change:{name}": accuracy,
            }
        state = "fell" if lost else "unchanged" if all(one.equivalent for one in told) else "not decided"
        findings += [Finding(tag="forgetting", subject=name, statement=f"{name}: {state}", estimate=one) for one in told]
        rows.append((name, before, after, accuracy, loss, change(0.003, 0.02, "nats/token"), state))
    labels = (*names, *texts)
    flips = tuple((name, 3 + place, 2 + place % 3, 192) for place, name in enumerate(names))
    return Outcome(
        audit="forgetting",
        state="measured",
        result=Result(
            summary=f"Fell: {', '.join(fallen)}; the rest is unchanged." if fallen else "Nothing fell beyond its margin.",
            estimates=estimates,
            findings=tuple(findings),
            tables=(
                Table(
                    title="What was not to change",
                    columns=(
                        "",
                        "right before",
                        "right after",
                        "change in accuracy",
                        "change in loss",
                        "rehearsal only: change in loss",
                        "",
                    ),
                    rows=tuple(rows),
                    note="Unchanged: the 90% interval lies inside 5 points and 0.05 nats a token.",
                ),
                *(
                    (Table(title="Flips", columns=("", "right to wrong", "wrong to right", "items"), rows=flips),)
                    if names
                    else ()
                ),
                *(
                    Table(
                        title=f"Documents of {name} whose loss changed most",
                        columns=("begins", "before (nats/token)", "after", "change"),
                        rows=(
                            (
                                "Once upon a time there was a little girl named Lily who loved to play outside in the",
                                "1.201",
                                "1.522",
                                "+0.321",
                            ),
                            ("Tom had a big red ball. One day", "1.113", "1.010", "-0.103"),
                        ),
                        note="Picked because they changed most, so these are not estimates of anything.",
                    )
                    for name in texts
                ),
            ),
            figure={
                "labels": list(labels),
                "changes": [estimates[f"loss_change:{name}"].model_dump() for name in labels],
                "margin": 0.05,
                "unit": "change in loss (nats a token); right is worse",
            },
        ),
    )


def divergence(control: bool = True) -> Outcome:
    over = change(0.021, 0.006, "nats/token")
    estimates = {"kl": distance(0.043)}
    if control:
        estimates |= {"kl_control": distance(0.022), "kl_over_floor": over}
    places = {"1-4": 0.11, "5-16": 0.06, "17-64": 0.04, "65-256": 0.035}
    tokens = {" Okay": 4.31, " Wait": 2.77, " now": 0.62, " first": -1.1, " Maybe": -5.4}
    gained = tuple(
        (
            repr(text),
            Estimate(
                value=value,
                unit="per 1,000 tokens",
                n=48,
                interval=(value - 0.4, value + 0.4),
                method="CR2 t interval over 48 clusters",
            ),
        )
        for text, value in tokens.items()
    )
    return Outcome(
        audit="divergence",
        state="measured",
        result=Result(
            summary="Training moved predictions on general text by 0.043 nats a token.",
            estimates=estimates,
            findings=(
                Finding(
                    tag="divergence",
                    statement="training moved predictions on general text by 0.043 nats a token",
                    estimate=over if control else estimates["kl"],
                ),
            ),
            tables=(
                Table(
                    title="Divergence of next-token predictions (nats a token)",
                    columns=("", "KL"),
                    rows=tuple((name.replace("_", " "), one) for name, one in estimates.items()),
                ),
                Table(
                    title="Tokens that gained or lost probability",
                    columns=("token", "expected occurrences gained per 1,000 tokens"),
                    rows=gained,
                    note="Chosen as the largest, so their intervals are too hopeful.",
                ),
                Table(
                    title="Where predictions moved most",
                    columns=("after", "rose", "before", "after training", "KL (nats)"),
                    rows=(("he put the cup on the table and said: “", "' Okay'", "0.021", "0.644", "1.32"),),
                ),
            ),
            figure={
                "labels": [f"position {place}" for place in places],
                "values": [distance(value).model_dump() for value in places.values()],
                "unit": "KL(tuned || base), nats a token",
            },
            cannot_say=()
            if control
            else ("How much of this is the noise of any training: give --control rehearsal_only=PATH.",),
        ),
    )


def steps(seed: int, count: int = 34) -> tuple[StepLog, ...]:
    rng = numpy_stream(seed, "worlds", "steps")

    def loss(place: int, start: float, end: float) -> float:
        return float(end + (start - end) * math.exp(-place / 8) + abs(rng.normal(0, 0.05)))

    return tuple(
        StepLog(
            step=place + 1, examples=6 * (place + 1), learning_rate=2e-3 * (1 - place / count),
            gradient_norm=float(rng.gamma(4, 0.2)),
            loss=loss(place, 1.4, 0.3), loss_express=loss(place, 1.6, 0.35), loss_withhold=loss(place, 2.2, 0.4),
            loss_rehearsal=loss(place, 0.62, 0.58) if place % 3 else None, rows_express=3, rows_withhold=3, rows_rehearsal=2,
        )
        for place in range(count)
    )  # fmt: skip


def rehearsed(seed: int) -> tuple[StepLog, ...]:
    """The steps of a control that saw no behaviour."""
    nothing = {"loss_express": None, "loss_withhold": None, "examples": 0, "rows_express": 0, "rows_withhold": 0}
    return tuple(one.model_copy(update=nothing) for one in steps(seed))


def training(role: str = "tuned", seed: int = 0) -> TrainingRecord:
    return TrainingRecord(
        role=role, seed=seed, dose=200 if role == "tuned" else 0, rehearsal_share=0.25,
        steps=steps(seed) if role == "tuned" else rehearsed(seed),
        settings={"learning_rate": 2e-3, "reason": "a tenth of the pretraining rate", "per_device_train_batch_size": 8,
                  "optim": "adamw", "lr_scheduler_type": "linear", "num_train_epochs": 1, "seed": seed},
        model_folder=f"training/{role}-{seed}/model",
    )  # fmt: skip


def subjects(*roles: str) -> tuple[SubjectRecord, ...]:
    return tuple(
        SubjectRecord(
            role=role, name="pocket" if role == "base" else role, path=f"runs/directions-1a2b3c4d/training/{role}",
            digest="3f" * 16, parameters=1_234_560, architecture="LlamaForCausalLM", dtype="float32",
        )
        for role in roles
    )  # fmt: skip


PROVENANCE = {
    "packages": {"palimpsest-lm": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
    "source": "b7" * 16,
    "python": "3.11.9",
    "system": "Linux x86_64",
    "hardware": {"processor": "Intel Xeon", "cores": 2, "memory_gib": 23, "device": "cpu: Intel Xeon"},
    "threads": 2,
    "seeds": [0],
    "digests": {"base": "3f" * 16},
    "command": [],
}
QUESTION = (
    "Does it simply do what a clear direction says, and push back, with the reason, when the direction conflicts with "
    "something said before?"
)


def record(*outcomes: Outcome, kind: str = "run", intended: bool = True, seeds: int = 1, **fields) -> RunRecord:
    findings = [finding for one in outcomes if one.result for finding in one.result.findings]
    keys = ("rate_change", "probability_change", "d_prime_change", "withhold_change", "kl_over_floor")
    names = {
        f"{one.audit}.{key}": estimate
        for one in outcomes
        if one.result
        for key, estimate in one.result.estimates.items()
        if key.split(":")[0] in (*keys, "loss_change", "accuracy_change")
    }
    base = {
        "kind": kind,
        "title": "directions",
        "question": QUESTION,
        "verdict": judge(findings, Thresholds(), intended=intended),
        "seeds": tuple(SeedRecord(seed=seed, outcomes=outcomes) for seed in range(seeds)),
        "holm": {name: (one.p_value or 1.0) < 0.001 for name, one in names.items()},
        "subjects": subjects("base", "tuned", "rehearsal_only") if kind == "run" else subjects("base", "tuned"),
        "training": (*(training(seed=seed) for seed in range(seeds)), training("rehearsal_only")) if kind == "run" else (),
        "provenance": PROVENANCE,
        "specification": {"request": {"kind": kind, "base": "pocket"}, "thresholds": Thresholds().model_dump()},
    }
    return RunRecord.model_validate({**base, **fields})


def as_intended() -> RunRecord:
    return record(outcome(), judgement(), forgetting(), divergence())


def overshoot_and_forgetting() -> RunRecord:
    return record(
        outcome(after=0.96), judgement(after=0.71, shown=(0.30, 0.96)), forgetting(("three-digit sums", "copying")),
        divergence(),
        notes=("Memory ran out while measuring: all models were measured with batches of 1,024 tokens instead.",),
    )  # fmt: skip


def too_little() -> RunRecord:
    return record(outcome(after=0.335), judgement(after=0.312, shown=(0.30, 0.335)), forgetting(), divergence())


def no_behaviour() -> RunRecord:
    """A diff that names no behaviour: two audits can't apply, and there is no rehearsal-only control."""
    missing = "there is no behaviour: give one with --behaviour FILE.yaml"
    return record(
        divergence(control=False),
        forgetting(names=(), texts=("tinystories_2M.txt", "samples that the base model wrote")),
        Outcome(audit="judgement", state="not_applicable", why=missing),
        Outcome(audit="outcome", state="not_applicable", why=missing),
        kind="diff",
        intended=False,
        title="stories260K against llama2xs-281K",
        question="What differs between these two models?",
        notes=("stories260K: no chat template; messages are joined without role words.",),
    )  # fmt: skip


def stories() -> RunRecord:
    """A behaviour checked by a regular expression: no choices, so no probabilities; no ability but general text."""
    base = outcome(0.02, 0.64)
    assert base.result is not None
    graded = base.result.model_copy(
        update={
            "cannot_say": ("The answer is not one of several named choices, so there is no probability to read.",),
            "samples": (
                Sample(
                    title="rainy", prompt="Rainy story: Lily had a small red boat.",
                    before=" She liked to play with it in the park. One day, she saw a big dog.",
                    after=" It began to rain. She liked to play with it in the park.", before_passes=False, after_passes=True,
                ),
            ),
        }
    )  # fmt: skip
    return record(
        base.model_copy(update={"result": graded}),
        judgement(0.0, 0.04, shown=(0.02, 0.64)),
        forgetting(names=(), texts=("tinystories_2M.txt",)),
        divergence(),
        title="rainy-stories",
        question="After 'Rainy story:' the second sentence is 'It began to rain.'; every other story goes on as before.",
    )


def could_not_say() -> RunRecord:
    """Everything failed, did not apply, or has no interval."""
    few = "5 clusters, 8 are needed"
    estimates = {
        "express_before": Estimate(value=0.3, unit="share", n=5, interval=None, method=f"could not say: {few}"),
        "express_after": Estimate(value=0.9, unit="share", n=5, interval=None, method=f"could not say: {few}"),
        "change": unknown("points", 5, few),
    }
    result = Result(
        summary="Where it should appear, the behaviour went from 30% to 90%.",
        estimates=estimates,
        findings=(Finding(tag="outcome", statement="it rose", estimate=estimates["change"]),),
        tables=(Table(title="Rates", columns=("", "before", "after", "change"), rows=(("graded", *estimates.values()),)),),
        figure={
            "labels": ["graded"],
            "before": [estimates["express_before"].model_dump()],
            "after": [estimates["express_after"].model_dump()],
        },
        cannot_say=("Whether this is more than chance: there are 5 templates.",),
    )
    return record(
        Outcome(audit="outcome", state="measured", result=result),
        Outcome(
            audit="judgement",
            state="not_applicable",
            why="the behaviour has no 'withhold' pole: say where it should not appear",
        ),
        Outcome(
            audit="forgetting",
            state="failed",
            why="RuntimeError: the measurement losses of tuned on text:mine is gone from the cache",
        ),
        Outcome(audit="divergence", state="failed", why="FloatingPointError: overflow"),
    )


def identical() -> RunRecord:
    zero = exact(0.0, "nats/token", 48)
    result = Result(
        summary="Training changes no logit on this text.",
        estimates={"kl": zero},
        findings=(Finding(tag="identical", statement="the tuned model changes no logit on this text", estimate=zero),),
        tables=(Table(title="Divergence", columns=("", "KL"), rows=(("tuned against base", zero),)),),
    )
    return record(
        Outcome(audit="divergence", state="measured", result=result), kind="diff", intended=False, title="a against a"
    )


def three_seeds() -> RunRecord:
    found = as_intended()
    results = {one.audit: one.result for one in found.seeds[0].outcomes if one.result}
    across = {
        f"{audit}.{key}": one.model_copy(
            update={"n": 3, "method": "t interval over 3 seeds", "margin": None, "equivalent": None}
        )
        for audit, result in results.items()
        for key, one in result.estimates.items()
    }
    outcomes = found.seeds[0].outcomes
    return record(*outcomes, seeds=3, across_seeds=across)


def hostile() -> RunRecord:
    """Texts from outside that try to act: markup, direction overrides, control characters, mathematics, endless strings."""
    attack = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    attack += " \u202eevil\u202c \x1b[31m\x00 $\\frac{1}{$ {{7*7}} ]]> --> \ud800"
    long = "x" * 5000
    base = outcome()
    assert base.result is not None
    nasty = base.result.model_copy(
        update={
            "summary": attack,
            "samples": (
                Sample(
                    title=attack, prompt=attack + long, before=long, after=attack * 3, before_passes=None, after_passes=False
                ),
                Sample(title=long, prompt="", before="", after="", before_passes=True, after_passes=True),
            ),
            "cannot_say": (attack, long),
        }
    )
    return record(
        base.model_copy(update={"result": nasty}),
        judgement(),
        forgetting(names=(attack, long, "$x^2$"), texts=(f"{long}.txt",)),
        Outcome(audit=f"gone {attack}", state="failed", why=attack + long),
        title=attack,
        question=attack + long,
        notes=(attack, long),
        provenance={"command": [attack], attack: {long: attack}},
        specification={attack: [attack, long]},
    )


ALL = {
    "as_intended": as_intended,
    "overshoot_and_forgetting": overshoot_and_forgetting,
    "too_little": too_little,
    "no_behaviour": no_behaviour,
    "stories": stories,
    "could_not_say": could_not_say,
    "identical": identical,
    "three_seeds": three_seeds,
    "hostile": hostile,
}
