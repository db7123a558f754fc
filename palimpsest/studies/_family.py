"""Family: which of the comparisons that are told together are sure, when one false alarm among all may come in 5%?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from palimpsest.core import stats
from palimpsest.core.estimate import Estimate

_NAMED = 4
"""Up to so many abilities are named one by one."""


@dataclass(frozen=True)
class Family:
    """Comparisons with 0 that are corrected together (Holm); how many are told is how many these are.

    One that could not be tested counts too: whether it can be may hang on what came out. One of which nothing was measured
    is no comparison.
    """

    asked: Mapping[str, Estimate]

    @cached_property
    def members(self) -> dict[str, Estimate]:
        return {name: one for name, one in self.asked.items() if one.n}

    @cached_property
    def _decided(self) -> dict[str, bool]:
        return stats.holm({name: 1.0 if one.p_value is None else one.p_value for name, one in self.members.items()})

    @property
    def told(self) -> str:
        count = len(self.members)
        return f"Holm over {count} comparison{'' if count == 1 else 's'}"

    def side(self, name: str) -> bool | None:
        """Whether a comparison is surely above (True) or surely below (False) 0; ``None`` when it is not decided."""
        return (self.members[name].value or 0.0) > 0 if self._decided.get(name) else None

    def above(self, beginning: str = "") -> list[str]:
        """Return the names of those surely above 0, without their beginning."""
        return [name.removeprefix(beginning) for name in self.members if name.startswith(beginning) and self.side(name)]

    def word(self, name: str, more: str = "more", less: str = "less") -> str:
        """Return what a comparison comes to: *could be chance* where its own interval excludes 0, but not after Holm."""
        one = self.asked[name]
        if one.value is None or not one.known:
            return "could not say"
        if (side := self.side(name)) is not None:
            return (more if side else less) + (", within the margin" if one.equivalent else "")
        if one.equivalent:
            return "unchanged"
        own = one.above(0.0)
        return "not decided" if own is None else f"{more if own else less}, could be chance"

    def nothing(self, beginning: str = "", says: str = "No difference is decided") -> str:
        """Return what to say where nothing is sure: inconclusive, with what would be needed, where nothing could be tested."""
        own = [one for name, one in self.asked.items() if name.startswith(beginning)]
        lost = dict.fromkeys(one.method.removeprefix("could not say: ") for one in own if not one.known)
        return says if any(one.known for one in own) or not own else f"Inconclusive: {'; '.join(lost)}"


def opposite(one: Estimate) -> Estimate:
    """Return the negative of an estimate, with its test."""
    interval = None if one.interval is None else (-one.interval[1], -one.interval[0])
    return one.model_copy(update={"value": None if one.value is None else -one.value, "interval": interval})


def family(estimates: Mapping[str, Estimate], beginnings: str | tuple[str, ...] = "") -> Family:
    """Return the family of all estimates whose names begin so."""
    return Family({name: one for name, one in estimates.items() if name.startswith(beginnings)})


@dataclass(frozen=True)
class Losses:
    """What the abilities and texts of one setting lose beyond a margin, the worst of them tested as one of all."""

    beyond: Family
    """Each one's loss less the margin."""

    @property
    def lost(self) -> list[str]:
        return self.beyond.above()

    @property
    def undecided(self) -> list[str]:
        """Those neither surely lost nor, by their own interval, surely not."""
        return [name for name, one in self.beyond.asked.items() if name not in self.lost and one.above(0.0) is not False]

    @property
    def cell(self) -> str:
        return ", ".join(self.lost) or ("not decided" if self.undecided else "none")


def losses_told(by: Mapping[str, Losses], margin: float) -> str:
    """Return in one sentence what is surely lost in which setting, and what is not decided."""
    beyond = f"beyond {margin:g} nats a token"
    if not any(one.beyond.members for one in by.values()):
        return "What is lost was not measured"
    lost = [f"{', '.join(one.lost)} at {where}" for where, one in by.items() if one.lost]
    last, at_last = list(by.items())[-1]
    if lost:
        return f"Surely lost {beyond}: {'; '.join(lost)}" + ("" if at_last.lost else f"; at {last} {at_last.cell}")
    tests = {f"{where}:{name}": one for where, each in by.items() for name, one in each.beyond.asked.items()}
    if (nothing := Family(tests).nothing(says="")) != "":
        return nothing
    every = dict.fromkeys(name for one in by.values() for name in one.beyond.asked)
    open_ = [name for name in every if any(name in one.undecided for one in by.values())]
    said = ", ".join(open_) if len(open_) <= _NAMED else f"{len(open_)} of {len(every)}"
    return f"Surely lost {beyond}: none" + (f"; not decided: {said}" if open_ else "")
