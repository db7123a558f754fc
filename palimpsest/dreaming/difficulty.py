"""Difficulty: where should the next scenarios come from, when the model fails often and when it fails seldom?

There is no schedule. A pole that fails often is asked broadly: everything its sources give. One that fails seldom gets half of
its scenarios from the templates with the highest upper bound on their failure rate (95%, Wilson), so that a template that was
hardly tried counts as one that may fail. The other half stays broad, and only that half says how often the model fails.
A difficulty that a behaviour leaves open (how many things to recall, how many digits) is part of the template's name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from palimpsest.core.seeds import seed_of
from palimpsest.data.chat import POLES, Pole
from palimpsest.dreaming.records import Answers, Proposal, Scenarios

_Z = 1.959964
_EDGE = 1 / 3
"""Share of the templates that count as an edge."""
FIRST_GUESS = 0.5
"""Failure rate that the first cycle is sized by."""
LEAST_GUESS = 0.05


@dataclass
class Tally:
    """How often the scenarios of each template failed so far, and of each pole in the last cycle."""

    tried: dict[tuple[Pole, str], list[bool]] = field(default_factory=dict)
    last: dict[Pole, float] = field(default_factory=dict)

    def add(self, asked: Scenarios, answers: Answers) -> None:
        """Note a cycle."""
        pairs = list(zip(asked.proposals, answers.failed, strict=True))
        for proposal, failed in pairs:
            self.tried.setdefault((proposal.pole, proposal.example.template), []).append(failed)
        for pole in POLES:
            if failed := broad(pairs, pole):
                self.last[pole] = rate(failed)

    def edge(self, pole: Pole, broad_above: float, seed: int) -> tuple[str, ...]:
        """Return the templates to look for edge cases in; none where the pole fails often or its templates never return."""
        tried = {template: failed for (one, template), failed in self.tried.items() if one == pole}
        scenarios = sum(map(len, tried.values()))
        if pole not in self.last or self.last[pole] >= broad_above or len(tried) < 2 or 2 * len(tried) > scenarios:
            return ()
        order = sorted(tried, key=lambda name: (-upper_bound(tried[name]), seed_of(seed, "edge", name)))
        return tuple(sorted(order[: max(1, round(_EDGE * len(order)))]))

    def wanted(self, pole: Pole, examples: int, most: int) -> int:
        """Return how many scenarios to ask so that about so many of them fail, a quarter more to be safe."""
        guess = max(self.last.get(pole, FIRST_GUESS), LEAST_GUESS)
        return min(max(math.ceil(1.25 * examples / guess), examples), most * examples)


def broad(pairs: Iterable[tuple[Proposal, bool]], pole: Pole) -> list[bool]:
    """Return which broadly drawn scenarios of a pole failed."""
    return [failed for proposal, failed in pairs if proposal.pole == pole and proposal.area == "broad"]


def rate(failed: list[bool]) -> float:
    """Return the share of failures, 1 where nothing was tried."""
    return sum(failed) / len(failed) if failed else 1.0


def bounds(failed: list[bool]) -> tuple[float, float]:
    """Return Wilson's 95% interval for a failure rate, its scenarios taken as independent (Wilson 1927)."""
    n, share = len(failed), rate(failed)
    if not n:
        return 0.0, 1.0
    centre, half = share + _Z**2 / (2 * n), _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return max((centre - half) / (1 + _Z**2 / n), 0.0), min((centre + half) / (1 + _Z**2 / n), 1.0)


def upper_bound(failed: list[bool]) -> float:
    """Return the upper end of the interval, 1 where nothing was tried."""
    return bounds(failed)[1]


def shares(total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Return whole numbers in these proportions that add up to the total."""
    found, before, sofar = {}, 0, 0.0
    for name, weight in weights.items():
        sofar += weight
        after = round(total * sofar / sum(weights.values()))
        found[name], before = after - before, after
    return found
