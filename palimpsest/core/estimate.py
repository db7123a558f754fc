"""Estimate: what do we know of one number, and how well?

A number without an interval is not a result. What can't be known is ``None``, never 0 or NaN.
"""

from __future__ import annotations

import math
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator


class Estimate(BaseModel):
    """One number with its interval.

    ``value`` is ``None`` when the number could not be had; ``interval`` is ``None`` when it is exact
    (``method="exact"``) or when its uncertainty could not be had (``method`` then says why).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    value: float | None
    unit: str
    """What the number counts: "points", "nats", "d'", "items" ..."""
    n: int
    """Number of independent units (clusters where items are clustered, seeds for a claim on a method)."""
    interval: tuple[float, float] | None
    method: str
    level: float = 0.95
    p_value: float | None = None
    """Two-sided test of "no change", where there is one. Holm is applied to these across audits."""
    minimum_detectable: float | None = None
    """Smallest true effect that this design finds with power 0.8 at this level: of a mean a rise of all clusters alike, of a
    rate the harder of a rise and a fall that are possible."""
    margin: float | None = None
    """Equivalence margin, where "unchanged" is a claim someone could want to make."""
    equivalent: bool | None = None
    """Whether two one-sided tests put the effect inside the margin, and there are clusters enough to have seen one that lost
    everything (``stats.needed_to_exclude``); ``None`` when there is no margin."""
    p_worse: float | None = None
    """One-sided test of "no more than the margin above 0", for the family of what may have got worse; ``None`` as above."""

    @model_validator(mode="after")
    def _is_ordered(self) -> Self:
        if self.interval is not None:
            low, high = self.interval
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise ValueError(f"interval must be finite and ordered, found {self.interval}")
        return self

    @property
    def known(self) -> bool:
        """Whether there is both a value and, unless it is exact, an interval."""
        return self.value is not None and (self.interval is not None or self.method == "exact")

    def scaled(self, factor: float, unit: str) -> Estimate:
        """Return the same in another unit, one of which is ``1 / factor`` (over 0) of this one's."""
        known = {name: getattr(self, name) for name in ("value", "minimum_detectable", "margin")}
        update: dict[str, Any] = {name: None if size is None else factor * size for name, size in known.items()}
        interval = None if self.interval is None else (factor * self.interval[0], factor * self.interval[1])
        return self.model_copy(update={**update, "interval": interval, "unit": unit})

    def above(self, threshold: float) -> bool | None:
        """Whether the whole interval is above (True) or below (False) a threshold; ``None`` when it straddles it."""
        if self.value is None or not self.known:
            return None
        low, high = self.interval or (self.value, self.value)
        if low > threshold:
            return True
        return False if high < threshold else None


def unknown(unit: str, n: int, why: str) -> Estimate:
    """Return the estimate of a number that could not be had, saying why."""
    return Estimate(value=None, unit=unit, n=n, interval=None, method=f"could not say: {why}")


def exact(value: float, unit: str, n: int = 1) -> Estimate:
    """Return a number that has no sampling error (a weight norm, a count)."""
    return Estimate(value=value, unit=unit, n=n, interval=None, method="exact")
