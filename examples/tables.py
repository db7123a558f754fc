"""Tables: how do the scripts beside this one write numbers over training seeds?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from palimpsest.audit import Result
from palimpsest.core.estimate import Estimate
from palimpsest.core.stats import across_seeds


def said(estimates: Sequence[Estimate], scale: float = 1.0, digits: int = 1, sign: str = "+") -> str:
    """Return the mean over seeds, times ``scale``, with its t interval; ``sign`` "" writes no plus."""
    one = across_seeds(estimates) if estimates else None
    if one is None or one.value is None or one.interval is None:
        return "could not say"
    value, low, high = (f"{scale * number:{sign}.{digits}f}" for number in (one.value, *one.interval))
    return f"{value} [{low}, {high}]"


def fell(results: Sequence[Mapping[str, Result | None]]) -> str:
    """Return what fell beyond its margin with any seed (``results``: of each seed, by audit)."""
    told = [finding for one in results if (result := one["forgetting"]) for finding in result.findings]
    return ", ".join(sorted({one.subject for one in told if one.estimate.above(one.estimate.margin or 0)})) or "none"
