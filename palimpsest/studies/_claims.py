"""Claims: do 10 find it, 50 smooth it, 200 verify it, and does 1000 reshape?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from palimpsest.audit import Table
from palimpsest.core.estimate import Estimate, unknown
from palimpsest.store.account import Part
from palimpsest.studies._readings import EXPRESS, Runs


class Lines(Protocol):
    """Where the lines are drawn; see the fields of ``dose_response``."""

    @property
    def found(self) -> float: ...
    @property
    def least(self) -> float: ...
    @property
    def spill(self) -> float: ...
    @property
    def margin(self) -> float: ...


@dataclass(frozen=True)
class Claim:
    """One claim, and how it is held against a dose: estimates that must lie above 0 with their whole interval."""

    dose: int
    says: str
    means: str


CLAIMS = (
    Claim(10, "find", "the rise where it should appear is beyond {found:.0f} points"),
    Claim(50, "smooth", "it has risen, and where it should not the rise is below {spill:.0f}% of that"),
    Claim(200, "verify", "it has risen by {least:.0f} points or more, and where it should not by below {spill:.0f}% of that"),
    Claim(1000, "reshape", "something loses more than {margin:g} nats a token"),
)


@dataclass(frozen=True)
class Claims:
    """The four claims held against one setting's doses."""

    runs: Runs
    doses: Sequence[int]
    setting: Callable[[int], str]
    lines: Lines

    def tests(self, claim: Claim, dose: int) -> list[Estimate]:
        """Return what must lie above 0 for the claim to hold at a dose, each with its interval over seeds."""
        at = self.setting(dose)
        if claim.says == "reshape":
            losses = self.runs.losses(at)
            if not losses:
                return [unknown("nats/token", 0, "no forgetting was measured")]
            worst = max(losses.values(), key=lambda one: (one.above(self.lines.margin) is True, one.value or 0.0))
            return [_less(worst, self.lines.margin)]
        level = {"find": self.lines.found, "smooth": self.lines.found, "verify": self.lines.least}[claim.says]
        found = [_less(self.runs.over(at, EXPRESS), level)]
        return found if claim.says == "find" else [*found, self.runs.conditional(at, self.lines.spill)]

    def state(self, claim: Claim, dose: int) -> bool | None:
        """Return whether a claim holds at a dose (True), fails (False), or is not decided."""
        sides = [one.above(0.0) for one in self.tests(claim, dose)]
        if any(side is False for side in sides):
            return False
        return True if all(sides) else None

    def smallest(self, claim: Claim) -> int | None:
        """Return the smallest dose of the grid at which a claim holds."""
        return next((dose for dose in self.doses if self.state(claim, dose)), None)

    def verdict(self, claim: Claim) -> str:
        """Return what a claim comes to."""
        first = self.smallest(claim)
        if claim.dose not in self.doses:
            return "not asked"
        state = self.state(claim, claim.dose)
        if state is None:
            return "not decided"
        if state is False:
            return "fails"
        return "holds" if first == claim.dose else f"holds, but {first} do so already"

    @property
    def reasons(self) -> list[str]:
        return [f"{claim.dose} {claim.says}: {self.verdict(claim)}{self._where(claim)}" for claim in CLAIMS]

    def _where(self, claim: Claim) -> str:
        first = self.smallest(claim)
        if self.verdict(claim).startswith("holds"):
            return ""
        return (
            f"; the smallest dose here at which it surely holds is {first}"
            if first
            else "; at none of these doses does it surely hold"
        )

    def part(self, estimates: dict[str, Estimate]) -> Part:
        """Return the part of the account that holds the claims against the runs."""
        words = {
            "found": 100 * self.lines.found,
            "least": 100 * self.lines.least,
            "spill": 100 * self.lines.spill,
            "margin": self.lines.margin,
        }
        rows = []
        for claim in CLAIMS:
            tested = self.tests(claim, claim.dose) if claim.dose in self.doses else []
            for place, one in enumerate(tested):
                estimates[f"claim:{claim.says}{':conditional' if place else ''}"] = one
            first = self.smallest(claim)
            cells = (*tested, None, None)[:2]
            rows.append(
                (f"{claim.dose} {claim.says}", claim.means.format(**words), *cells, self.verdict(claim), str(first or "none"))
            )
        held = [f"{claim.dose} {claim.says}" for claim in CLAIMS if self.verdict(claim) == "holds"]
        return Part(
            name="four claims",
            question="10 find it, 50 smooth it, 200 verify it, 1000 reshape: is that so here?",
            answer=f"Holds as said: {', '.join(held) or 'none'}. "
            + "; ".join(
                f"{claim.dose} {claim.says}: {self.verdict(claim)}" for claim in CLAIMS if self.verdict(claim) != "holds"
            )
            + ".",
            tables=(
                Table(
                    title="The claims at their doses",
                    columns=(
                        "claim",
                        "it holds where",
                        "beyond its line by",
                        "conditional by",
                        "here",
                        "smallest dose where it holds",
                    ),
                    rows=tuple(rows),
                    note="Holds where every number lies above 0 with its whole interval, fails where one lies below.",
                ),
            ),
        )


def _less(one: Estimate, level: float) -> Estimate:
    """Return an estimate less a fixed level, for a test against 0."""
    if one.value is None:
        return one
    interval = None if one.interval is None else (one.interval[0] - level, one.interval[1] - level)
    return one.model_copy(
        update={"value": one.value - level, "interval": interval, "p_value": None, "minimum_detectable": None}
    )
