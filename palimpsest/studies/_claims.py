"""Claims: do 10 find it, 50 smooth it, 200 verify it, and does 1000 reshape?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import Protocol

from palimpsest.audit import Table
from palimpsest.core.estimate import Estimate, unknown
from palimpsest.core.wording import shown
from palimpsest.store.account import Part
from palimpsest.studies._family import Family, opposite
from palimpsest.studies._readings import EXPRESS, WITHHOLD, Runs


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
        """Return what must lie above 0 for the claim to hold at a dose (for *reshape*: for it to fail), over seeds."""
        at = self.setting(dose)
        if claim.says == "reshape":
            room = self.runs.lost(at, self.lines.margin).beyond.asked.values()
            return [opposite(one) for one in room]
        level = {"find": self.lines.found, "smooth": self.lines.found, "verify": self.lines.least}[claim.says]
        found = [self.runs.beyond(at, EXPRESS, level)]
        return found if claim.says == "find" else [*found, self.runs.conditional(at, self.lines.spill)]

    def deciding(self, claim: Claim, dose: int) -> Estimate:
        """Return the one test on which a claim hangs at a dose: above 0 it holds, below it fails.

        That all lie above 0 hangs on the weakest; that one lies below, on the clearest of several, whose p-value is times
        their number: the worst of many abilities is not picked first and tested after.
        """
        tests = self.tests(claim, dose)
        if not tests:
            return unknown("nats/token", 0, "no forgetting was measured")
        below = [one for one in tests if one.p_value is not None and (one.value or 0.0) < 0]
        open_ = [one for one in tests if one.p_value is None]
        if below:
            clearest = min(below, key=lambda one: one.p_value or 0.0)
            found = clearest.model_copy(update={"p_value": min(1.0, (clearest.p_value or 0.0) * len(tests))})
        else:
            found = open_[0] if open_ else max(tests, key=lambda one: one.p_value or 0.0)
        return opposite(found) if claim.says == "reshape" else found

    @cached_property
    def family(self) -> Family:
        """The claims at the doses that they name."""
        return Family({one.says: self.deciding(one, one.dose) for one in CLAIMS if one.dose in self.doses})

    def state(self, claim: Claim, dose: int) -> bool | None:
        """Return whether a claim holds at a dose (True), fails (False), or is not decided."""
        own = self.family if dose == claim.dose else Family({claim.says: self.deciding(claim, dose)})
        return own.side(claim.says)

    def smallest(self, claim: Claim) -> int | None:
        """Return the smallest dose from which on a claim holds up to its own or, where it does not hold there, the largest.

        They are tested in this order, from there down, each only where the one before holds: no dose is picked.
        """
        top = claim.dose if claim.dose in self.doses and self.state(claim, claim.dose) else self.doses[-1]
        down = [dose for dose in reversed(self.doses) if dose <= top]
        return min(takewhile(lambda dose: self.state(claim, dose), down), default=None)

    def verdict(self, claim: Claim) -> str:
        """Return what a claim comes to."""
        if claim.dose not in self.doses:
            return "not asked"
        state, first = self.state(claim, claim.dose), self.smallest(claim)
        if state is None:
            return "not decided"
        if state is False:
            return "fails"
        held = "holds" if first == claim.dose else f"holds, but {first} do so already"
        return held + self._elsewhere(claim)

    def _elsewhere(self, claim: Claim) -> str:
        """Return what a claim that asks for a rise alone leaves out: whether the other pole rises with it."""
        at = self.setting(claim.dose)
        conditional = self.runs.conditional(at, self.lines.spill)
        if claim.says != "find" or not conditional.n or conditional.above(0.0):
            return ""
        if conditional.above(0.0) is None:
            return ", whether only where it should is not decided"
        found = (shown(self.runs.over(at, one), change=True).sentence for one in (EXPRESS, WITHHOLD))
        return ", but it rises where it should not as well ({}; {})".format(*found)

    @property
    def reasons(self) -> list[str]:
        return [f"{claim.dose} {claim.says}: {self.verdict(claim)}{self._where(claim)}" for claim in CLAIMS]

    def _where(self, claim: Claim) -> str:
        first = self.smallest(claim)
        if self.verdict(claim).startswith("holds"):
            return ""
        return f"; it surely holds from {first} on" if first else f"; at {self.doses[-1]} it does not surely hold"

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
            cells = self._cells(claim) if claim.dose in self.doses else (None, None)
            estimates |= {
                f"claim:{claim.says}{end}": one for one, end in zip(cells, ("", ":conditional"), strict=True) if one is not None
            }
            first = self.smallest(claim)
            rows.append(
                (f"{claim.dose} {claim.says}", claim.means.format(**words), *cells, self.verdict(claim), str(first or "none"))
            )
        said = {f"{claim.dose} {claim.says}": self.verdict(claim) for claim in CLAIMS}
        held = [name for name, verdict in said.items() if verdict == "holds"]
        return Part(
            name="four claims",
            question="10 find it, 50 smooth it, 200 verify it, 1000 reshape: is that so here?",
            answer=f"Holds as said: {', '.join(held) or 'none'}. "
            + "; ".join(f"{name}: {verdict}" for name, verdict in said.items() if verdict != "holds")
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
                        "holds from this dose on",
                    ),
                    rows=tuple(rows),
                    note=f"Holds where every number lies above 0, fails where one lies below ({self.family.told}).",
                ),
            ),
        )

    def _cells(self, claim: Claim) -> tuple[Estimate, Estimate | None]:
        """Return by how much a claim is beyond its line at its dose, and by how much the rise stays conditional."""
        if claim.says == "reshape":
            return self.deciding(claim, claim.dose), None
        return self.tests(claim, claim.dose)[0], self.runs.conditional(self.setting(claim.dose), self.lines.spill)
