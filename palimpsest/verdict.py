"""Verdict: what does all of this mean, and what is the next step?

A pure function of tagged findings and thresholds that a user can set. It names no audit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from palimpsest.audit import Finding
from palimpsest.core import stats
from palimpsest.core.estimate import Estimate
from palimpsest.core.spec import Spec
from palimpsest.core.wording import number

Label = Literal["too_little", "as_intended", "overshoot", "forgetting", "identical", "could_not_say", "described"]
"""``described`` is a comparison without a behaviour: there is nothing that was intended."""

Sureness = Literal["clear", "likely", "not decided"]

_TRIGGER = "nothing here rules out a change behind a trigger that these texts and prompts do not hold"
_MORE_ITEMS = "Give at least 8 held-out templates a pole (20 or more is better), and run the outcome audit."


class Thresholds(Spec):
    """Where the verdict draws its lines."""

    reached: float = Field(default=0.40, gt=0, le=1)
    """Rise of the behaviour where it should appear, in shares of 1, that counts as enough."""
    spill: float = Field(default=0.20, ge=0, le=1)
    """Movement where it should not appear, as a share of the movement where it should, that is still conditional."""
    family_error: float = Field(default=0.05, gt=0, lt=1)
    """Family-wise error rate that Holm's correction holds over all primary estimates."""


class Step(Spec):
    """One thing to do next: what the controller acts on, and the sentence that a person reads."""

    action: Literal["more_examples", "less_or_withhold", "rehearse", "give_withhold_pole", "more_items", "ship"]
    about: tuple[str, ...] = ()
    """What it is about: the abilities that fell, for ``rehearse``."""
    said: str


class Verdict(Spec):
    """The first thing in a report."""

    labels: tuple[Label, ...]
    """The main one first; several can hold at once (overshoot and forgetting)."""
    headline: str
    sure: Sureness
    reasons: tuple[str, ...]
    next_steps: tuple[str, ...]
    steps: tuple[Step, ...] = ()
    """The same for a program, where there is a behaviour that was meant to change."""

    @property
    def as_intended(self) -> bool:
        return self.labels[0] in ("as_intended", "described")


Pair = Literal["equal", "adapter", ""]
"""What is known of two models from their files: equal weights, or that the tuned one is an adapter on the base."""


def judge(
    findings: Sequence[Finding], thresholds: Thresholds, *, intended: bool, same: bool = False, pair: Pair = ""
) -> Verdict:
    """Return the verdict on one change.

    Args:
        findings: of all audits; only tags and estimates are read.
        thresholds: where the lines are.
        intended: whether there is a behaviour that was meant to change.
        same: whether both models are one and the same by their digests, whatever was measured.
        pair: what else is known of the two; only what is said of identical ones rests on it.
    """
    forgotten = _forgotten(findings)
    if same or _first(findings, "identical"):
        return _identical(intended, "same" if same else pair)
    if not intended:
        return _described(findings, forgotten)
    outcome = _first(findings, "outcome")
    if outcome is None or not outcome.estimate.known:
        return _unknown(outcome)
    enough, enough_sure = _side(outcome.estimate, thresholds.reached)
    spilled, spill_sure, spill_reason = _spill(findings, thresholds.spill)
    labels: list[Label] = []
    if not enough:
        labels.append("too_little")
    if enough and spilled:
        labels.append("overshoot")
    if forgotten:
        labels.append("forgetting")
    sure: Sureness = "not decided"
    if enough_sure or outcome.estimate.above(0.0) is not None:
        sure = "clear" if enough_sure and (spill_sure or not enough) and not _in_doubt(findings) else "likely"
    if enough and sure == "not decided":  # nothing is claimed of a behaviour that may not have changed at all
        labels = ["could_not_say", *(label for label in labels if label == "forgetting")]
    elif enough and spilled is None:
        labels.append("could_not_say")
    labels = labels or ["as_intended"]
    decided = sure != "not decided"
    reached = "at least" if enough else "less than"
    reasons = [
        f"{outcome.statement}; {reached} the {100 * thresholds.reached:.0f} points that count as enough "
        f"({_interval(outcome.estimate, 100, 'points')})"
    ]
    reasons.append(spill_reason)
    reasons += _forgetting_reasons(findings, forgotten)
    if labels[0] == "too_little" and not forgotten:
        reasons.append(_TRIGGER)
    steps = _next(labels, forgotten, decided=decided)
    return Verdict(
        labels=tuple(labels),
        headline=_headline(labels, _named(findings, forgotten), decided=decided),
        sure=sure,
        reasons=tuple(reasons),
        next_steps=tuple(step.said for step in steps),
        steps=tuple(steps),
    )


def judge_seeds(
    by_seed: Sequence[Sequence[Finding]], thresholds: Thresholds, *, intended: bool, same: bool = False, pair: Pair = ""
) -> Verdict:
    """Return the verdict on one recipe that was trained with several seeds.

    It is judged by the estimates over the seeds. But somebody ships one of these checkpoints, so what any seed's own verdict
    warns of is told with the number of seeds, and *as intended* is said only where it holds for each of them.

    Args:
        by_seed: the findings of each seed's comparison; with a single one this is ``judge``.
        thresholds: as in ``judge``.
        intended: as in ``judge``.
        same: as in ``judge``, for every seed.
        pair: as in ``judge``.
    """
    joint = judge(_over_seeds(by_seed), thresholds, intended=intended, same=same, pair=pair)
    if len(by_seed) == 1 or same:
        return joint
    each = [judge(findings, thresholds, intended=intended) for findings in by_seed]
    missing: Counter[Label] = Counter()
    for one in each:
        missing.update(label for label in one.labels if label not in (*joint.labels, "as_intended"))
    if not missing:
        return joint
    forgot = Counter(name for findings in by_seed for name in _forgotten(findings))
    labels: list[Label] = [label for label in joint.labels if label != "as_intended"]
    said, steps = ([joint.headline], list(joint.steps)) if labels else ([], [])
    reasons = [f"over the seeds: {reason}" for reason in joint.reasons]
    for label, count in missing.most_common():
        often = f"in {count} of {len(each)} seeds"
        if label == "forgetting":
            told = f"Forgetting {often}: {', '.join(f'{name} ({times})' for name, times in forgot.most_common())}"
        else:
            told = f"{_headline([label], '')} {often}"
        said.append(told if not said else told[0].lower() + told[1:])
        reasons.append(f"seed by seed, each judged by its own items: {told[0].lower()}{told[1:]}")
        labels.append(label)
        steps += _next([label], list(forgot))
    return Verdict(
        labels=tuple(labels),
        headline="; ".join(said),
        sure="likely" if joint.sure != "not decided" else joint.sure,
        reasons=tuple(reasons),
        next_steps=tuple(step.said for step in steps),
        steps=tuple(steps),
    )


def _over_seeds(by_seed: Sequence[Sequence[Finding]]) -> Sequence[Finding]:
    """Return each finding with its estimate over the seeds; those of the first seed where the seeds' findings do not match."""
    if len(by_seed) == 1 or len({tuple((one.tag, one.subject) for one in findings) for findings in by_seed}) > 1:
        return by_seed[0]
    return [_joined(same) for same in zip(*by_seed, strict=True)]


def _joined(same: Sequence[Finding]) -> Finding:
    margin = same[0].estimate.margin
    estimate = stats.across_seeds([one.estimate for one in same])
    if margin is not None:
        low, high = estimate.interval or (-margin, margin)
        estimate = estimate.model_copy(update={"margin": margin, "equivalent": -margin < low and high < margin})
    statement = f"{same[0].topic or same[0].statement}, over {len(same)} seeds"
    return same[0].model_copy(update={"estimate": estimate, "statement": statement})


def _first(findings: Sequence[Finding], tag: str) -> Finding | None:
    return next((finding for finding in findings if finding.tag == tag), None)


def _side(estimate: Estimate, line: float) -> tuple[bool, bool]:
    """Return on which side of a line an estimate lies, and whether its whole interval does."""
    decided = estimate.above(line)
    assert estimate.value is not None
    return (estimate.value >= line, False) if decided is None else (decided, True)


def _spill(findings: Sequence[Finding], line: float) -> tuple[bool | None, bool, str]:
    """Return whether the behaviour leaks where it should not (``None``: could not say), whether that is sure, and why."""
    withheld, spill = _first(findings, "withheld"), _first(findings, "spill")
    if withheld is None or not withheld.estimate.known:
        return None, False, "whether it is conditional could not be said: there is no pole where it should not appear"
    moved = _interval(withheld.estimate, 100, "points")
    rose = withheld.estimate.above(0.0)
    if rose is not True:
        return False, True, f"{withheld.statement} ({moved})"
    if spill is None or not spill.estimate.known:
        return None, False, f"{withheld.statement} ({moved}); its share of the wanted movement could not be said"
    over, sure = _side(spill.estimate, line)
    word = "over" if over else "within"
    return (
        over,
        sure,
        (
            f"{withheld.statement} ({moved}): {_share(spill.estimate)} of the wanted movement, {word} the "
            f"{100 * line:.0f}% that still counts as conditional"
        ),
    )


def beyond(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings of forgetting whose whole interval is beyond their margin."""
    told = [finding for finding in findings if finding.tag == "forgetting" and finding.estimate.margin is not None]
    return [finding for finding in told if finding.estimate.above(finding.estimate.margin or 0.0)]


def _in_doubt(findings: Sequence[Finding]) -> bool:
    """Whether something seems to have fallen beyond its margin, but its interval does not say so."""
    told = [one.estimate for one in findings if one.tag == "forgetting" and one not in beyond(findings)]
    return any(one.value is not None and one.margin is not None and one.value > one.margin for one in told)


def _lost(finding: Finding) -> float:
    """Return the share of right answers that was lost; 0 where the finding is on a loss in nats."""
    return finding.estimate.value or 0.0 if finding.estimate.unit == "points" else 0.0


def _forgotten(findings: Sequence[Finding]) -> list[str]:
    """Return what fell beyond its margin, the largest loss of right answers first, then what lost in probability only."""
    return list(dict.fromkeys(finding.subject for finding in sorted(beyond(findings), key=lambda one: -_lost(one))))


def _named(findings: Sequence[Finding], forgotten: Sequence[str]) -> str:
    """Return what was forgotten with how many right answers it lost, where that is beyond the margin."""
    lost = {name: max(_lost(one) for one in beyond(findings) if one.subject == name) for name in forgotten}
    said = {name: f"{number(-100 * share, 0, signed=True)} points" if share else "loss only" for name, share in lost.items()}
    return ", ".join(f"{name} ({said[name]})" for name in forgotten)


def _forgetting_reasons(findings: Sequence[Finding], forgotten: list[str]) -> list[str]:
    told = [finding for finding in findings if finding.tag == "forgetting"]
    if not told:
        return ["forgetting could not be said: nothing was measured besides the behaviour"]
    if forgotten:
        return [f"fell beyond their margin: {', '.join(forgotten)}"]
    subjects, open_ = dict.fromkeys(finding.subject for finding in told), _open(findings)
    better = list(dict.fromkeys(one.subject for one in told if _is_better(one) and one.subject not in open_))
    unchanged = len(subjects) - len(open_) - len(better)
    text = f"nothing fell beyond its margin; {unchanged} of {len(subjects)} shown to be unchanged"
    text += f", better: {', '.join(better)}" if better else ""
    return [text + (f", not decided: {', '.join(open_)}" if open_ else "")]


def _open(findings: Sequence[Finding]) -> list[str]:
    """Return what is shown to be neither unchanged nor better, of all that could have been forgotten."""
    told = [finding for finding in findings if finding.tag == "forgetting"]
    return list(dict.fromkeys(one.subject for one in told if not one.estimate.equivalent and not _is_better(one)))


def _is_better(finding: Finding) -> bool:
    """Whether what could have been forgotten lies beyond its margin on the better side."""
    margin = finding.estimate.margin
    return margin is not None and finding.estimate.above(-margin) is False


def _headline(labels: Sequence[Label], forgotten: str, *, decided: bool = True) -> str:
    """Return what the labels say; what is not decided is not claimed, and forgetting is only told where it is sure."""
    said = {
        "as_intended": "As intended: it changed where it should, and not where it should not",
        "too_little": "Too little change where the behaviour should appear",
        "overshoot": "Overshoot: the behaviour now also appears where it should not",
        "forgetting": f"Forgetting: {forgotten}",
        "could_not_say": "It changed, but whether it is conditional could not be said",
    }
    told = [said[label] for label in labels if decided or label == "forgetting"]
    first, *rest = told if decided else ["Not decided whether the behaviour changed enough where it should appear", *told]
    return "; ".join([first, *(text[0].lower() + text[1:] for text in rest)])


def _next(labels: Sequence[Label], forgotten: list[str], *, decided: bool = True) -> list[Step]:
    steps = []
    if "too_little" in labels:
        said = "Train on 50 more examples; if that is not enough, raise the learning rate, up to 1e-4 for real models."
        steps.append(Step(action="more_examples", said=said))
    if "overshoot" in labels:
        said = (
            "Use fewer examples or a lower learning rate. If the share that spills falls as the dose grows, it is not yet "
            "learnt where to withhold it: then give more examples of that pole instead."
        )
        steps.append(Step(action="less_or_withhold", said=said))
    if "forgetting" in labels:
        said = f"Raise rehearsal to 40% of all rows and add examples of {', '.join(forgotten)} to it."
        steps.append(Step(action="rehearse", about=tuple(forgotten), said=said))
    if "could_not_say" in labels and not decided:
        steps.append(Step(action="more_items", said=_MORE_ITEMS))
    elif "could_not_say" in labels:
        said = "Give the behaviour a 'withhold' pole: situations where it should not appear."
        steps.append(Step(action="give_withhold_pole", said=said))
    said = "Check it on your own prompts, then ship it; keep this report with the weights."
    return steps or [Step(action="ship", said=said)]


_ALIKE = {
    "same": ("both are the same model", "both have the same weights, configuration, tokenizer and chat template"),
    "equal": (
        "the two models are equal",
        "both have the same weights, and on every position that was read they give exactly the same numbers",
    ),
}


def _identical(intended: bool, pair: Pair | Literal["same"]) -> Verdict:
    otherwise = "the tuned model changes no logit", "on every position that was read, both models give exactly the same numbers"
    said, why = _ALIKE.get(pair, otherwise)
    reasons = (why,) if pair in _ALIKE else (why, _TRIGGER)
    if pair == "adapter":
        step = "Check that the right adapter was given, that it was trained before it was saved, and that its scale is not 0."
    elif intended:
        step = "Check that training really ran: its step log, the learning rate, and that rows have trained tokens."
    else:
        step = "If they should differ, check that the right two models were given, and that training saved its weights there."
    return Verdict(
        labels=("identical",), headline=f"Nothing changed: {said}", sure="clear", reasons=reasons, next_steps=(step,)
    )


def _described(findings: Sequence[Finding], forgotten: list[str]) -> Verdict:
    moved = _first(findings, "divergence")
    differ = moved is not None and moved.estimate.known
    told = any(finding.tag == "forgetting" for finding in findings)
    reasons = [f"{moved.statement} ({_interval(moved.estimate, 1, moved.estimate.unit)})"] if moved else []
    reasons += _forgetting_reasons(findings, forgotten)
    if not forgotten:
        reasons.append(_TRIGGER)
    rounded = _first(findings, "rounding")
    if rounded is not None and not forgotten:
        headline = "The two models make the same predictions, to rounding; their weights or files differ"
        reasons[0] = rounded.statement
    elif forgotten:
        headline = f"The models differ; worse on {_named(findings, forgotten)}"
    elif differ and told:
        shown = "is shown to have got worse" if _open(findings) else "got worse"
        headline = f"The models differ; nothing that was measured {shown} beyond its margin"
    elif differ:
        headline = "The models differ; whether anything got worse could not be said"
    elif told and not _open(findings):
        headline = "Nothing that was measured got worse beyond its margin; by how much the models differ was not measured"
    else:
        headline = "Could not say how the models differ"
    measured = differ or bool(forgotten) or (told and not _open(findings))
    return Verdict(
        labels=("described",) if moved or measured else ("could_not_say",),
        headline=headline,
        sure="clear" if measured else "not decided",
        reasons=tuple(reasons),
        next_steps=("Name what was meant to change with --behaviour FILE.yaml to have it judged.",),
    )


def _unknown(outcome: Finding | None) -> Verdict:
    why = "no audit measured the behaviour" if outcome is None else f"its change has no interval ({outcome.estimate.method})"
    return Verdict(
        labels=("could_not_say",),
        headline="Could not say whether the behaviour changed",
        sure="not decided",
        reasons=(why,),
        next_steps=(_MORE_ITEMS,),
    )


def _share(estimate: Estimate) -> str:
    text = f"{number(100 * (estimate.value or 0.0), 0)}%"
    if estimate.interval is not None:
        text += " [{}, {}]".format(*(number(100 * bound, 0) for bound in estimate.interval))
    return text


def _interval(estimate: Estimate, scale: float, unit: str) -> str:
    if estimate.value is None:
        return "could not say"
    digits = 3 if scale == 1 else 0
    text = number(scale * estimate.value, digits, signed=True)
    if estimate.interval is not None:
        text += " [{}, {}]".format(*(number(scale * bound, digits, signed=True) for bound in estimate.interval))
    return f"{text} {unit}"
