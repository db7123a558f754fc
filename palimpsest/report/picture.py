"""Picture: what moved, at one glance? The behaviour in both poles beside everything that was not to change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from palimpsest.audit import Finding, Result
from palimpsest.core import drawing
from palimpsest.core.estimate import Estimate
from palimpsest.core.wording import COULD_NOT_SAY, amount, shown
from palimpsest.report.look import draw
from palimpsest.report.summary import POLES, before_after, change_of, worse_by


@dataclass(frozen=True)
class Panel:
    """One part of the picture."""

    title: str
    caption: str
    svg: Markup


def panels(results: Mapping[str, Result]) -> tuple[Panel, ...]:
    """Return the parts of the one picture; none where there is nothing to draw. It reads tags and names no audit."""
    everything = [finding for result in results.values() for finding in result.findings]
    findings = [finding for finding in everything if finding.tag == "forgetting"]
    by_unit: dict[str, list[Finding]] = {}
    for finding in findings:
        by_unit.setdefault(finding.estimate.unit, []).append(finding)
    behaviour = _behaviour(dict(results), everything)
    return (*((behaviour,) if behaviour else ()), *(_kept(unit, told) for unit, told in by_unit.items()))


def _behaviour(results: dict[str, Result], findings: list[Finding]) -> Panel | None:
    rates = {name: found for pole, name in POLES.items() if (found := before_after(pole, results))}
    changes = [change_of(pole, findings) for pole, name in POLES.items() if name in rates]
    if not rates:
        return None
    figure = {
        "labels": [_capital(name) for name in rates],
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
    )


def _kept(unit: str, told: list[Finding]) -> Panel:
    margins = {finding.estimate.margin for finding in told}
    margin = margins.pop() if len(margins) == 1 else None
    what = worse_by(unit)
    figure = {
        "labels": [finding.subject for finding in told],
        "changes": [finding.estimate.model_dump() for finding in told],
        "margin": margin,
        "unit": f"{what} ({unit}); right is worse",
    }
    words = "; ".join(f"{finding.subject}: {_words(finding.estimate)}" for finding in told)
    slug = "".join(char if char.isalnum() else "-" for char in unit)
    caption = f"Shaded: within ±{amount(margin, unit)}, which counts as unchanged." if margin else "95% intervals."
    return Panel(
        f"What should stay: {what}",
        caption,
        draw(lambda axes: drawing.change_rows(axes, figure), f"picture-{slug}", f"What should stay: {what}", words),
    )


def _words(estimate: Estimate) -> str:
    return shown(estimate).sentence if estimate.value is not None else COULD_NOT_SAY


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
