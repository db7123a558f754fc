"""Reach: what could so many templates show, before a run from an assumed or an earlier spread, and after it from its own?

Made from tagged findings; it names no audit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from palimpsest.audit import Audit, Case, Finding
from palimpsest.core import stats
from palimpsest.core.estimate import Estimate
from palimpsest.core.wording import COULD_NOT_SAY, amount, counted
from palimpsest.store.record import RunRecord
from palimpsest.store.runs import list_runs
from palimpsest.verdict import Thresholds

COLUMNS = ("", "templates", "finds", "could be called unchanged")
NOTE = (
    "The smallest true change that is found in four of five samples like this one (of abilities: a rise in loss, right answers "
    "lost). Unchanged can be said where that many templates would have shown a change beyond the margin, within the limit "
    "where they would have shown a spill beyond it."
)
ASSUMED_RATE, ASSUMED_UNREST, ASSUMED_WITHIN = 0.5, 0.5, 0.3
ASSUMED = (
    f"assumed: answers at {ASSUMED_RATE:.0%} that differ without cause half as often as independent ones, with correlation "
    f"{ASSUMED_WITHIN} within a template"
)
_NAMES = {"outcome": "where it should appear", "withheld": "where it should not appear"}
_SPILL = "spill"
_FALLS = {"points": "right answers"}
_EQUIVALENCE = 1.045
"""How much more it takes to show that nothing changed than to find a change: (1.64 + 1.28) of (1.96 + 0.84) errors."""
_ONE_SIDED = 0.887
"""The same for a bound from one side: (1.64 + 0.84) of (1.96 + 0.84) errors."""
_LOOKED_AT = 20
"""So many earlier runs are opened at most."""


@dataclass(frozen=True)
class Reach:
    """What can be found about one thing, and whether it could be called unchanged (of the spill: within the limit)."""

    what: str
    templates: int
    finds: str
    unchanged: str
    """Empty where nobody asks."""
    shown: bool | None = None
    """Whether it could be called unchanged; ``None`` where nobody asks."""
    source: str = ""
    """Where the spread is from, before a run."""

    @property
    def cells(self) -> tuple[str, ...]:
        return self.what, str(self.templates), self.finds, self.unchanged


def reach(findings: Sequence[Finding], thresholds: Thresholds) -> tuple[Reach, ...]:
    """Return what the findings of a comparison could have shown: the behaviour first, then each ability."""
    return tuple(_rows(_estimates(findings), thresholds.spill))


def sentence(rows: Sequence[Reach]) -> str:
    """Return the same in a sentence for a terminal; empty where there is nothing to say."""
    behaviour = [f"{one.what} {one.finds}" for one in rows if one.what in _NAMES.values()]
    behaviour += [f"{one.what} {one.finds}, {one.unchanged}" for one in rows if one.what == _SPILL]
    abilities = [one for one in rows if one.what not in _NAMES.values() and one.what != _SPILL]
    if abilities:
        shown = sum(one.shown is True for one in abilities)
        behaviour.append(f"{shown} of {len(abilities)} abilities and texts could be called unchanged")
    return f"what this could have shown (in four of five samples): {'; '.join(behaviour)}" if behaviour else ""


def foreseen(
    case: Case, audits: Mapping[str, Audit[Any]], thresholds: Thresholds, earlier: tuple[str, Sequence[Finding]] | None
) -> tuple[Reach, ...]:
    """Return what a run could show, before anything is measured.

    Args:
        case: whose items have templates.
        audits: that are asked for; the margins of abilities are theirs.
        thresholds: the spill's limit, and the movement that counts as enough, of which it is a share.
        earlier: the name and the findings of an earlier run of the same behaviour and base, whose spread is taken.
    """
    name, measured = earlier or ("", ())
    known = _estimates(measured)
    assumed = _assumed(case, audits, thresholds)
    found: list[Reach] = []
    for key, expected in assumed.items():
        taken = [_as_many(one, expected[0].n) for one in known.get(key, ()) if one.known]
        source = name if taken else "assumed" if expected[0].known or len(expected) > 1 else ""
        found += [replace(row, source=source) for row in _rows({key: taken or expected}, thresholds.spill)]
    return tuple(found)


def earlier_run(folder: Path, base: str, behaviour: str) -> tuple[str, Sequence[Finding]] | None:
    """Return the name and findings of the newest finished run in a folder that changed this behaviour of this base."""
    runs = [one.path for one in list_runs(folder) if one.finished]
    for path in sorted(runs, key=lambda one: (one / "record.json").stat().st_mtime, reverse=True)[:_LOOKED_AT]:
        try:
            record = RunRecord.model_validate_json((path / "record.json").read_bytes())
        except (OSError, ValueError):
            continue
        request = record.specification.get("request") or {}
        if record.seeds and request.get("base") == base and (request.get("behaviour") or {}).get("name") == behaviour:
            return path.name, record.seeds[0].findings
    return None


def _estimates(findings: Iterable[Finding]) -> dict[tuple[str, str], list[Estimate]]:
    found: dict[tuple[str, str], list[Estimate]] = {}
    for tag in (*_NAMES, _SPILL, "forgetting"):
        for one in findings:
            if one.tag == tag:
                found.setdefault((tag, one.subject), []).append(one.estimate)
    return found


def _rows(estimates: Mapping[tuple[str, str], Sequence[Estimate]], limit: float) -> Iterable[Reach]:
    for (tag, subject), told in estimates.items():
        if tag in _NAMES:
            yield Reach(_NAMES[tag], told[0].n, _smallest(told[0]), "")
        elif tag == _SPILL:
            yield _of_spill(told[0], limit)
        else:
            yield _of_ability(subject, told)


def _smallest(estimate: Estimate) -> str:
    if estimate.minimum_detectable is not None:
        return f"≥ {amount(estimate.minimum_detectable, estimate.unit)}"
    if estimate.interval == (0.0, 0.0):
        return "any: nothing differs"
    return COULD_NOT_SAY if not estimate.known else "none that is possible"


def _of_spill(estimate: Estimate, limit: float) -> Reach:
    """Return what a spill's interval can say of the limit."""
    within, beyond, times = stats.spill_power(estimate, limit) if limit else (None, None, None)
    if times is None:
        return Reach(_SPILL, estimate.n, COULD_NOT_SAY, "no: its spread is not known", shown=False)
    finds = f"beyond {limit:.0%} from {beyond:.0%} of the wanted movement" if beyond else f"nothing as beyond {limit:.0%}"
    if within is not None:
        return Reach(_SPILL, estimate.n, finds, f"within {limit:.0%} up to {within:.0%}", shown=True)
    needed = counted(math.ceil(estimate.n * times), "template")
    return Reach(_SPILL, estimate.n, finds, f"nothing as within {limit:.0%}: up to {needed} needed", shown=False)


def _of_ability(name: str, told: Sequence[Estimate]) -> Reach:
    """Return what is found of one ability's right answers and loss, and whether both could be called unchanged."""
    templates = min(one.n for one in told)
    needed = {_FALLS.get(one.unit, "loss"): _needed(one) for one in told if not one.equivalent}
    unknown = [kind for kind, count in needed.items() if count is None]
    open_ = {kind: count for kind, count in needed.items() if count is not None and count > templates}
    words = "yes"
    if any(one.margin and one.above(one.margin) for one in told):
        words = "no: it fell"
    elif open_:
        words = "no: " + ", ".join(f"{kind} about {counted(count, 'template')}" for kind, count in open_.items()) + " needed"
    elif unknown:
        words = f"{', '.join(unknown)}: could not say"
    each = [(_FALLS.get(one.unit, "loss"), _smallest(one)) for one in told]
    finds = ", ".join(f"{kind}: {least}" if least == COULD_NOT_SAY and len(told) > 1 else least for kind, least in each)
    return Reach(name, templates, finds, words, shown=words == "yes")


def _needed(estimate: Estimate) -> int | None:
    """Return of how many templates at least it takes a sample to call it unchanged; ``None`` where its spread must tell."""
    if estimate.margin is None:
        return None
    least = stats.needed_to_exclude(estimate.margin, estimate.unit)
    if estimate.minimum_detectable is None and estimate.interval != (0.0, 0.0):
        return least if least > estimate.n else None
    wide = _EQUIVALENCE * (estimate.minimum_detectable or 0.0) / estimate.margin
    return max(least, math.ceil(estimate.n * wide**2))


def _as_many(estimate: Estimate, templates: int) -> Estimate:
    """Return an estimate with the error that it would have of so many templates."""
    factor = math.sqrt(estimate.n / templates)
    least, value, ends = estimate.minimum_detectable, estimate.value or 0.0, estimate.interval
    return estimate.model_copy(
        update={
            "n": templates,
            "minimum_detectable": None if least is None else factor * least,
            "interval": None if ends is None else (value - factor * (value - ends[0]), value + factor * (ends[1] - value)),
            "equivalent": None,
        }
    )


def _assumed(case: Case, audits: Mapping[str, Audit[Any]], thresholds: Thresholds) -> dict[tuple[str, str], list[Estimate]]:
    """Return estimates of no change with the spread that is assumed, by tag and subject."""
    found: dict[tuple[str, str], list[Estimate]] = {}
    for tag, pole in (("outcome", "express"), ("withheld", "withhold")):
        if pole in case.items and case.check is not None:
            found[tag, ""] = [_of_rate(_sizes(case.items[pole].items, "template"), 1, None)]
    if ("withheld", "") in found and "express" in case.items:
        found[_SPILL, ""] = [_no_spill(found["withheld", ""][0], thresholds.reached)]
    share, loss = (_margin(audits, name) for name in ("accuracy_margin", "loss_margin"))
    if share is None or loss is None:
        return found
    abilities = {name: _sizes(items.items, "template") for name, items in case.sets("capability").items()}
    abilities |= {name: _sizes(task.items, "cluster") for name, task in case.tasks.items()}
    texts = {name: _sizes(items.items, "template") for name, items in case.sets("text").items()}
    for name, sizes in (abilities | texts).items():
        unmeasured = Estimate(value=None, unit="nats/token", n=len(sizes), interval=None, method="assumed", margin=loss)
        found["forgetting", name] = [unmeasured, *([] if name in texts else [_of_rate(sizes, -1, share)])]
    return found


def _sizes(items: Iterable[Any], cluster: str) -> np.ndarray:
    return np.unique([str(getattr(one, cluster)) for one in items], return_counts=True)[1]


def _margin(audits: Mapping[str, Audit[Any]], name: str) -> float | None:
    return next((getattr(one, name) for one in audits.values() if hasattr(one, name)), None)


def _of_rate(sizes: np.ndarray, side: Any, margin: float | None) -> Estimate:
    least = stats.smallest_rate_change(sizes, ASSUMED_RATE, side=side, within=ASSUMED_WITHIN, unrest=ASSUMED_UNREST)
    ends = None if len(sizes) < stats.FEWEST_CLUSTERS else (-(least or 1.0), least or 1.0)
    return Estimate(
        value=0.0, unit="points", n=len(sizes), interval=ends, method="assumed", minimum_detectable=least, margin=margin
    )


def _no_spill(withheld: Estimate, wanted: float) -> Estimate:
    """Return the interval of no spill beside a wanted movement that just counts as enough."""
    if withheld.minimum_detectable is None:
        return Estimate(value=None, unit="share", n=withheld.n, interval=None, method="assumed")
    half = withheld.minimum_detectable * _ONE_SIDED * 1.6449 / (1.6449 + 0.8416) / wanted
    most = max(half, stats.unseen_spill(withheld.n, ASSUMED_RATE, wanted))
    return Estimate(value=0.0, unit="share", n=withheld.n, interval=(-half, most), level=0.9, method="assumed")
