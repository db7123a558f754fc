"""Verdict: what does all of this mean, and what is the next step?

A pure function of tagged findings and thresholds that a user can set. It names no audit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from palimpsest.audit import Finding
from palimpsest.core import stats
from palimpsest.core.estimate import Estimate
from palimpsest.core.spec import Spec
from palimpsest.core.wording import number, why_unknown

Label = Literal["too_little", "as_intended", "overshoot", "reversed", "forgetting", "identical", "could_not_say", "described"]
"""``described`` is a comparison without a behaviour: there is nothing that was intended. ``reversed``: it fell where it should
appear."""

Sureness = Literal["clear", "likely", "not decided"]

Side = Literal["under", "likely under", "not decided", "likely over", "over"]
"""On which side of a line a number lies: surely (its whole interval), likely (by half the interval's reach, about a standard
error), or not said."""

_TRIGGER = "nothing here rules out a change behind a trigger that these texts and prompts do not hold"
_MORE_ITEMS = "Give more held-out templates a pole (8 at least, 20 or more is better), and run the outcome audit."


class Thresholds(Spec):
    """Where the verdict draws its lines."""

    reached: float = Field(default=0.40, gt=0, le=1)
    """Rise of the behaviour where it should appear, in shares of 1, that counts as enough."""
    spill: float = Field(default=0.20, ge=0, le=1)
    """Movement where it should not appear, as a share of the movement where it should, that is still conditional."""
    family_error: float = Field(default=stats.FAMILY_ERROR, gt=0, lt=1)
    """Chance of one false alarm among all that a verdict says (what fell, and what appears where it should not), and among all
    primary estimates."""


class Step(Spec):
    """One thing to do next: what the controller acts on, and the sentence that a person reads."""

    action: Literal["more_examples", "less_or_withhold", "rehearse", "give_withhold_pole", "more_items", "check_poles", "ship"]
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
    leaning: tuple[Label, ...] = ()
    """Where it is not decided, or spills before it is enough: what the estimates alone come to, for a search that goes on
    (poles that rise together at first often part later). It is claimed nowhere."""

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
    forgotten = _forgotten(findings, thresholds.family_error)
    if same or _first(findings, "identical"):
        return _identical(intended, "same" if same else pair)
    if not intended:
        return _described(findings, forgotten)
    outcome = _first(findings, "outcome")
    if outcome is None or not outcome.estimate.known:
        return _unknown(outcome)
    reached = _side(outcome.estimate, thresholds.reached)
    spill = _spill(findings, outcome, thresholds.spill)
    labels = _labels(outcome.estimate, reached, spill, forgotten)
    open_ = _open(findings, forgotten)
    told = any(finding.tag == "forgetting" for finding in findings)
    sure = _sureness(outcome.estimate, reached, spill, settled=told and not open_)
    decided = sure != "not decided"
    line = f"{100 * thresholds.reached:.0f} points that count as enough ({_interval(outcome.estimate, 100, 'points')})"
    reasons = [f"{outcome.statement}; {_REACHED[reached]} the {line}", spill.reason]
    reasons += _forgetting_reasons(findings, forgotten, open_)
    if labels[0] == "too_little" and not forgotten:
        reasons.append(_TRIGGER)
    steps = steps_for(labels, forgotten, decided=decided, conditional=spill.side is not None, measured=told, settled=not open_)
    return Verdict(
        labels=tuple(labels),
        headline=_headline(labels, _named(findings, forgotten), decided=decided, fell=spill.fell),
        sure=sure,
        reasons=tuple(reasons),
        next_steps=tuple(step.said for step in steps),
        steps=tuple(steps),
        leaning=tuple(_leaning(findings, outcome.estimate, thresholds, forgotten))
        if labels[0] == "could_not_say" or (labels[0] == "overshoot" and reached != "over")
        else (),
    )


def _leaning(findings: Sequence[Finding], outcome: Estimate, thresholds: Thresholds, forgotten: Sequence[str]) -> list[Label]:
    withheld, spill = _first(findings, "withheld"), _first(findings, "spill")
    if withheld is None or withheld.estimate.value is None:
        return []
    wanted = outcome.value or 0.0
    share = spill.estimate.value if spill is not None else None
    leaks = withheld.estimate.value > thresholds.spill * wanted if share is None else share > thresholds.spill
    first: Label = "too_little" if wanted < thresholds.reached else "overshoot" if leaks else "as_intended"
    labels: list[Label] = [first, "forgetting"] if forgotten else [first]
    return [label for label in labels if label != "as_intended"] if forgotten else labels


_REACHED: dict[Side, str] = {
    "under": "less than",
    "likely under": "likely less than",
    "not decided": "not decided whether at least",
    "likely over": "likely at least",
    "over": "at least",
}


@dataclass(frozen=True)
class Spill:
    """What is known of the behaviour where it should not appear."""

    side: Side | None
    """Of the limit; ``None`` where nothing was measured there."""
    rose: bool | None
    """Whether it surely rose at all (``False``: surely fell)."""
    reason: str

    @property
    def fell(self) -> bool:
        return self.rose is False

    @property
    def over(self) -> bool:
        """Whether it appears where it should not: beyond the limit, and more than before."""
        return self.side in ("over", "likely over") and self.rose is True


def _labels(outcome: Estimate, reached: Side, spill: Spill, forgotten: Sequence[str]) -> list[Label]:
    labels: list[Label] = []
    enough = (outcome.value or 0.0) >= 0 and reached in ("over", "likely over")
    if outcome.above(0.0) is False:
        labels.append("reversed")
    if spill.over:
        labels.append("overshoot")
    elif not labels and not enough:
        labels.append("could_not_say" if reached == "not decided" and outcome.above(0.0) is not False else "too_little")
    elif enough and spill.side not in ("under", "likely under"):
        labels.append("could_not_say")
    if forgotten:
        labels.append("forgetting")
    return labels or ["as_intended"]


def _sureness(outcome: Estimate, reached: Side, spill: Spill, *, settled: bool) -> Sureness:
    """Return how sure a verdict is; what it says of abilities is settled where each is shown to have fallen or not."""
    if reached == "not decided" and not spill.over and outcome.above(0.0) is not False:
        return "not decided"
    if reached in ("likely under", "likely over") and outcome.above(0.0) is None:
        return "not decided"
    sides = [reached] if reached == "under" and not spill.over else [reached, spill.side]
    return "clear" if settled and all(side in ("under", "over") for side in sides) else "likely"


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
    alone = thresholds.model_copy(update={"family_error": thresholds.family_error / len(by_seed)})
    each = [judge(findings, alone, intended=intended) for findings in by_seed]
    missing: Counter[Label] = Counter()
    for one in each:
        missing.update(label for label in one.labels if label not in (*joint.labels, "as_intended"))
    if not missing:
        return joint
    forgot = Counter(name for findings in by_seed for name in _forgotten(findings, alone.family_error))
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
        steps += steps_for([label], list(forgot))
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
    estimate = stats.across_seeds([one.estimate for one in same])
    statement = f"{same[0].topic or same[0].statement}, over {len(same)} seeds"
    return same[0].model_copy(update={"estimate": estimate, "statement": statement})


def _first(findings: Sequence[Finding], tag: str) -> Finding | None:
    return next((finding for finding in findings if finding.tag == tag), None)


def _side(estimate: Estimate, line: float) -> Side:
    """Return on which side of a line an estimate that has an interval (or is exact) lies."""
    assert estimate.value is not None
    low, high = estimate.interval or (estimate.value, estimate.value)
    if low > line or high < line:
        return "over" if low > line else "under"
    if (estimate.value + low) / 2 >= line:
        return "likely over"
    return "likely under" if (estimate.value + high) / 2 <= line else "not decided"


def _spill(findings: Sequence[Finding], outcome: Finding, line: float) -> Spill:
    """Return what is known of the behaviour where it should not appear, held against a share of its wanted movement."""
    withheld, spill = _first(findings, "withheld"), _first(findings, "spill")
    if withheld is None or not withheld.estimate.known:
        why = "there is no pole where it should not appear" if withheld is None else why_unknown(withheld.estimate)
        return Spill(None, None, f"whether it is conditional could not be said: {why}")
    rose = withheld.estimate.above(0.0)
    text = f"{withheld.statement} ({_interval(withheld.estimate, 100, 'points')})"
    if outcome.estimate.above(0.0) is not True:  # there is no wanted movement of which it could be a share
        side: Side = "not decided" if rose is None else "over" if rose else "under"
        return Spill(side, rose, text)
    if _bound(withheld.estimate, outcome.estimate, 1.0) == "over":
        side, share = "over", "more than where it should, "
    elif spill is not None and spill.estimate.known:
        side, share = _side(spill.estimate, line), f"{_share(spill.estimate)} of the wanted movement, "
    else:
        side, share = _bound(withheld.estimate, outcome.estimate, line), ""
    return Spill(side, rose, f"{text}: {share}{_WITHIN[side]} the {100 * line:.0f}% that still counts as conditional")


_WITHIN: dict[Side, str] = {
    "under": "within",
    "likely under": "likely within",
    "not decided": "not decided whether within",
    "likely over": "likely over",
    "over": "over",
}


def _bound(withheld: Estimate, outcome: Estimate, line: float) -> Side:
    """Return the side of the limit by the ends of both intervals, where no ratio was estimated."""
    low, high = withheld.interval or (withheld.value or 0.0, withheld.value or 0.0)
    least, most = outcome.interval or (outcome.value or 0.0, outcome.value or 0.0)
    if high < line * least or low > line * most:
        return "under" if high < line * least else "over"
    return "not decided"


def beyond(findings: Sequence[Finding], family_error: float = stats.FAMILY_ERROR) -> list[Finding]:
    """Return the findings of forgetting that lie beyond their margin, with one error for all of them."""
    told = [finding for finding in findings if finding.tag == "forgetting"]
    return [one for one, fell in zip(told, stats.fallen([one.estimate for one in told], family_error), strict=True) if fell]


def _lost(finding: Finding) -> float:
    """Return the share of right answers that was lost; 0 where the finding is on a loss in nats."""
    return finding.estimate.value or 0.0 if finding.estimate.unit == "points" else 0.0


def _forgotten(findings: Sequence[Finding], family_error: float) -> list[str]:
    """Return what fell beyond its margin, the largest loss of right answers first, then what lost in probability only."""
    fell = beyond(findings, family_error)
    return list(dict.fromkeys(finding.subject for finding in sorted(fell, key=lambda one: -_lost(one))))


def _named(findings: Sequence[Finding], forgotten: Sequence[str]) -> str:
    """Return what was forgotten with how many right answers it lost, where that is beyond the margin."""
    fell = [one for one in findings if one.tag == "forgetting" and one.estimate.above(one.estimate.margin or 0.0)]
    lost = {name: max((_lost(one) for one in fell if one.subject == name), default=0.0) for name in forgotten}
    said = {name: f"{number(-100 * share, 0, signed=True)} points" if share else "loss only" for name, share in lost.items()}
    return ", ".join(f"{name} ({said[name]})" for name in forgotten)


def _forgetting_reasons(findings: Sequence[Finding], forgotten: list[str], open_: list[str]) -> list[str]:
    told = [finding for finding in findings if finding.tag == "forgetting"]
    if not told:
        return ["forgetting could not be said: nothing was measured besides the behaviour"]
    subjects = dict.fromkeys(finding.subject for finding in told)
    better = [
        one for one in dict.fromkeys(each.subject for each in told if _is_better(each)) if one not in (*open_, *forgotten)
    ]
    few = [one for one in open_ if all(stats.unseen_only(each.estimate) for each in told if each.subject == one)]
    wide = [one for one in open_ if one not in few]
    unchanged = len(subjects) - len(open_) - len(better) - len(forgotten)
    text = f"fell beyond their margin: {', '.join(forgotten)}" if forgotten else "nothing fell beyond its margin"
    text += f"; {unchanged} of {len(subjects)} shown to be unchanged"
    text += f", better: {', '.join(better)}" if better else ""
    text += f", not decided: {', '.join(wide)}" if wide else ""
    return [text, *([_too_few(few, told)] if few else [])]


def _too_few(few: Sequence[str], told: Sequence[Finding]) -> str:
    """Say of which abilities no loss was seen, on too few templates to call them unchanged."""
    asked = [one.estimate for one in told if one.subject in few and not one.estimate.equivalent]
    least, most = min(one.n for one in asked), max(one.n for one in asked)
    needed = max(stats.needed_to_exclude(one.margin or 1.0, one.unit) for one in asked)
    read = f"{least}" if least == most else f"{least} to {most}"
    return (
        f"no loss seen, but on {read} templates, where it takes {needed} to call one unchanged (none of {least} lost still "
        f"leaves {100 * stats.unseen_share(least):.1f}%): {', '.join(few)}"
    )


def _open(findings: Sequence[Finding], forgotten: Sequence[str]) -> list[str]:
    """Return what is shown to be neither fallen, nor unchanged, nor better, of all that could have been forgotten."""
    told = [finding for finding in findings if finding.tag == "forgetting" and finding.subject not in forgotten]
    return list(dict.fromkeys(one.subject for one in told if not one.estimate.equivalent and not _is_better(one)))


def _is_better(finding: Finding) -> bool:
    """Whether what could have been forgotten lies beyond its margin on the better side."""
    margin = finding.estimate.margin
    return margin is not None and finding.estimate.above(-margin) is False


def _headline(labels: Sequence[Label], forgotten: str, *, decided: bool = True, fell: bool = False) -> str:
    """Return what the labels say; what is not decided is not claimed, and forgetting is only told where it is sure."""
    elsewhere = "where it should not appear it fell" if fell else "not where it should not"
    said = {
        "as_intended": f"As intended: it changed where it should, and {elsewhere}",
        "too_little": "Too little change where the behaviour should appear",
        "overshoot": "Overshoot: the behaviour now also appears where it should not",
        "reversed": "Reversed: the behaviour now appears less where it should",
        "forgetting": f"Forgetting: {forgotten}",
        "could_not_say": "It changed, but whether it is conditional could not be said",
    }
    told = [said[label] for label in labels if decided or label == "forgetting"]
    first, *rest = told if decided else ["Not decided whether the behaviour changed enough where it should appear", *told]
    return "; ".join([first, *(text[0].lower() + text[1:] for text in rest)])


_SAID: dict[str, str] = {
    "more_examples": "Train on 50 more examples; if that is not enough, raise the learning rate, up to 1e-4 for real models.",
    "less_or_withhold": (
        "Use fewer examples or a lower learning rate. If the share that spills falls as the dose grows, it is not yet "
        "learnt where to withhold it: then give more examples of that pole instead."
    ),
    "check_poles": "Look at the training examples: do both poles say what you mean, and does the check pass what you want?",
    "give_withhold_pole": "Give the behaviour a 'withhold' pole: situations where it should not appear.",
    "more_items": _MORE_ITEMS,
    "ship": "Check it on your own prompts, then ship it; keep this report with the weights.",
}
_UNMEASURED = "Give what should stay (rehearsal with checks, --text FILE or --tasks NAME) before it is shipped."
_OPEN = "Check it on your own prompts, and what is not shown to be unchanged on your own tasks, before it is shipped."


def steps_for(
    labels: Sequence[Label],
    forgotten: list[str],
    *,
    decided: bool = True,
    conditional: bool = True,
    measured: bool = True,
    settled: bool = True,
) -> list[Step]:
    def step(action: Any) -> Step:
        return Step(action=action, said=_SAID[action])

    steps = [step("check_poles")] if "reversed" in labels else []
    steps += [step("more_examples")] if "too_little" in labels else []
    steps += [step("less_or_withhold")] if "overshoot" in labels else []
    if "forgetting" in labels:
        said = f"Raise rehearsal to 40% of all rows and add examples of {', '.join(forgotten)} to it."
        steps.append(Step(action="rehearse", about=tuple(forgotten), said=said))
    if "could_not_say" in labels:
        steps.append(step("give_withhold_pole" if decided and not conditional else "more_items"))
    if not steps and not measured:
        return [Step(action="more_items", said=_UNMEASURED)]
    return steps or [step("ship") if settled else Step(action="ship", said=_OPEN)]


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
    told, open_ = any(finding.tag == "forgetting" for finding in findings), _open(findings, forgotten)
    reasons = [f"{moved.statement} ({_interval(moved.estimate, 1, moved.estimate.unit)})"] if moved else []
    reasons += _forgetting_reasons(findings, forgotten, open_)
    if not forgotten:
        reasons.append(_TRIGGER)
    rounded = _first(findings, "rounding")
    if rounded is not None and not forgotten:
        headline = "The two models make the same predictions, to rounding; their weights or files differ"
        reasons[0] = rounded.statement
    elif forgotten:
        headline = f"The models differ; worse on {_named(findings, forgotten)}"
    elif differ and told:
        shown = "is shown to have got worse" if open_ else "got worse"
        headline = f"The models differ; nothing that was measured {shown} beyond its margin"
    elif differ:
        headline = "The models differ; whether anything got worse could not be said"
    elif told and not open_:
        headline = "Nothing that was measured got worse beyond its margin; by how much the models differ was not measured"
    else:
        headline = "Could not say how the models differ"
    measured = differ or bool(forgotten) or (told and not open_)
    return Verdict(
        labels=("described",),
        headline=headline,
        sure="not decided" if not measured else "clear" if told and not open_ else "likely",
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
