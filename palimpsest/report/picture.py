"""Picture: what moved, at one glance? The behaviour in both poles beside everything that was not to change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from palimpsest.audit import Finding, Result
from palimpsest.core import drawing
from palimpsest.core.estimate import Estimate
from palimpsest.core.wording import COULD_NOT_SAY, amount, capital, shown
from palimpsest.report.look import draw
from palimpsest.report.summary import POLES, before_after, change_of, worse_by

MOST = 6
"""Changes in a panel, those for the worse first; the others are in their audit's own part of the page."""


@dataclass(frozen=True)
class Panel:
    """One part of the picture."""

    title: str
    caption: str
    svg: Markup
    drawn: tuple[Estimate, ...]
    """What is to be seen in it, so that no other figure of the page has to show it again."""


def panels(results: Mapping[str, Result]) -> tuple[Panel, ...]:
    """Return the parts of the one picture; none where there is nothing to draw. It reads tags and names no audit."""
    everything = [finding for result in results.values() for finding in result.findings]
    by_unit: dict[str, dict[str, list[Finding]]] = {}
    for audit, result in results.items():
        for finding in result.findings:
            if finding.tag == "forgetting":
                by_unit.setdefault(finding.estimate.unit, {}).setdefault(audit, []).append(finding)
    behaviour = _behaviour(dict(results), everything)
    return (*((behaviour,) if behaviour else ()), *(_kept(unit, told) for unit, told in by_unit.items()))


def seen(result: Result, drawn: Sequence[Panel]) -> bool:
    """Return whether the panels show already all that a result's own figure would show."""
    own = [one for name in ("before", "after", "changes", "values") for one in result.figure.get(name, ())]
    there = [estimate.model_dump(mode="json") for panel in drawn for estimate in panel.drawn]
    return bool(own) and all(_plain(one) in there for one in own)


def _plain(dumped: object) -> object:
    """Return a dumped estimate as it is in a stored record, where an interval is a list."""
    if not isinstance(dumped, dict):
        return dumped
    return {key: list(value) if isinstance(value, tuple) else value for key, value in dumped.items()}


def _behaviour(results: dict[str, Result], findings: list[Finding]) -> Panel | None:
    rates = {name: found for pole, name in POLES.items() if (found := before_after(pole, results))}
    changes = [change_of(pole, findings) for pole, name in POLES.items() if name in rates]
    if not rates:
        return None
    figure = {
        "labels": [capital(name) for name in rates],
        "before": [before.model_dump() for before, _ in rates.values()],
        "after": [after.model_dump() for _, after in rates.values()],
        **({} if None in changes else {"changes": changes}),
    }
    words = "; ".join(f"{name}: {_words(before)} before, {_words(after)} after" for name, (before, after) in rates.items())
    return Panel(
        "The behaviour",
        "Before and after, each with its 95% interval.",
        draw(
            lambda axes: drawing.before_after_rows(axes, figure), "picture-behaviour", "The behaviour before and after", words
        ),
        tuple(estimate for pair in rates.values() for estimate in pair),
    )


def _kept(unit: str, by_audit: Mapping[str, list[Finding]]) -> Panel:
    told = [finding for findings in by_audit.values() for finding in findings]
    most = sorted(told, key=_place)[: max(MOST, sum(_place(one)[0] == 0 for one in told))]
    margins = {finding.estimate.margin for finding in told}
    margin = margins.pop() if len(margins) == 1 else None
    what = worse_by(unit)
    figure = {
        "labels": [finding.subject for finding in most],
        "changes": [finding.estimate.model_dump() for finding in most],
        "margin": margin,
        "unit": f"{what} ({unit}); right is worse",
    }
    words = "; ".join(f"{finding.subject}: {_words(finding.estimate)}" for finding in most)
    slug = "".join(char if char.isalnum() else "-" for char in unit)
    caption = f"Shaded: within ±{amount(margin, unit)}, which counts as unchanged." if margin else "95% intervals."
    if len(most) < len(told):
        caption += f" The {len(most)} of {len(told)} that tell most, the worst first; all under {' and '.join(by_audit)}."
    return Panel(
        f"What should stay: {what}",
        caption,
        draw(lambda axes: drawing.change_rows(axes, figure), f"picture-{slug}", f"What should stay: {what}", words),
        tuple(finding.estimate for finding in most),
    )


def _place(finding: Finding) -> tuple[int, float]:
    """Return where a change stands: worse, not decided, better, unchanged, could not say; then by its size."""
    one = finding.estimate
    if one.value is None:
        return 4, 0.0
    margin = one.margin or 0.0
    if one.above(margin) is True:
        return 0, -one.value
    if one.equivalent:
        return 3, -one.value
    return (2, one.value) if one.above(-margin) is False else (1, -one.value)


def _words(estimate: Estimate) -> str:
    return shown(estimate).sentence if estimate.value is not None else COULD_NOT_SAY
