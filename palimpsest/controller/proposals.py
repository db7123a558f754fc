"""Proposals: what could be tried after these attempts, the best first?

The rules of the practical plan. Each gives settings with the reason in words; the first that lies inside the bounds and was not
tried before is taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from palimpsest.controller.attempts import Attempt, Purpose, points
from palimpsest.controller.settings import Bounds, Settings
from palimpsest.core.wording import number
from palimpsest.verdict import Thresholds

RESOLUTION = 1.25
"""Two doses whose ratio is at most this count as neighbours: nothing is tried between them."""
STEP = 50
"""So many more examples while there is no trend: the verdict's own advice."""
LARGEST_FACTOR = 4.0
BEYOND = 1.15
"""The trend is followed to so many times what counts as enough, so that its interval may lie above the line."""
MORE_WITHHELD = 1.5
USUAL_REHEARSAL = 0.4


class Proposal(NamedTuple):
    """Settings to try, by which rule and why."""

    rule: str
    why: str
    settings: Settings
    purpose: Purpose = "search"


@dataclass(frozen=True)
class Search:
    """The attempts so far, and what may still be tried."""

    attempts: Sequence[Attempt]
    bounds: Bounds
    thresholds: Thresholds

    @property
    def last(self) -> Attempt:
        return self.attempts[-1]

    @property
    def dose(self) -> int:
        return self.last.settings.dose

    def proposal(self) -> Proposal | None:
        """Return what is tried next, or ``None`` when nothing is left."""
        tried = [one.settings for one in self.attempts]
        found = (one for one in self._proposals() if self.bounds.holds(one.settings) and one.settings not in tried)
        return next(found, None)

    def _proposals(self) -> Iterator[Proposal]:
        """Yield what the verdict's steps come to, the best first. Two steps are taken together."""
        actions = [step.action for step in self.last.seen.steps]
        cure = self.rehearsing(self.last) if "rehearse" in actions else None
        if "more_examples" in actions:
            change = self._more() if "rehearse" not in actions or cure else iter(())
        elif "less_or_withhold" in actions:
            change = self._less()
        else:
            change = self._milder() if cure is None else iter((Proposal("rehearse", self._cure_in_words(), cure),))
            cure = None
        for one in change:
            if cure is not None:
                both = one.settings.but(rehearsal_share=cure.rehearsal_share, rehearsal_weights=cure.rehearsal_weights)
                yield Proposal(f"{one.rule}, rehearse", f"{one.why} {self._cure_in_words()}", both)
            yield one

    # ---------------------------------------------------------------- too little

    def _more(self) -> Iterator[Proposal]:
        saw = f"Too little: {points(self.last.seen.outcome)} points of the {self._reached} that count as enough."
        if self.withheld_in_vain():
            return
        upper = self._spoilt_above()
        if upper is not None:
            yield from self._between(self.last, upper, saw)
            if upper.seen.says("overshoot"):
                yield from self._withhold_more(saw, upper)
            return
        wanted, how = self._next_dose()
        dose = self.bounds.largest_dose(self.last.settings, wanted)
        if dose > self.dose:
            bound = f", bounded to {dose}" if dose < wanted else ""
            yield Proposal("more examples", f"{saw} {how}{bound}.", self.last.settings.but(dose=dose))
        rate = min(2 * self.last.settings.learning_rate, self.bounds.learning_rate[1])
        why = f"{saw} {self.dose} examples are all that the bounds and the data allow, so the learning rate is raised."
        yield Proposal("higher learning rate", why, self.last.settings.but(learning_rate=rate))

    def _next_dose(self) -> tuple[int, str]:
        """Return the next larger dose that is wanted, and how it was found."""
        trend = self._trend()
        if trend is None:
            factor = min(max((self.dose + STEP) / self.dose, RESOLUTION), LARGEST_FACTOR)
            how = f"There is no trend yet: {STEP} more examples, at most {LARGEST_FACTOR:g} times as many"
        else:
            (dose, rose), now = trend, self._outcome(self.last)
            slope = (now - rose) / math.log(self.dose / dose)
            if slope > 0:
                wanted = math.exp(min((BEYOND * self.thresholds.reached - now) / slope, 20.0))
                factor = min(max(wanted, RESOLUTION), LARGEST_FACTOR)
                how = (
                    f"From dose {dose} to {self.dose} it rose by {number(100 * slope * math.log(2), 0)} points a doubling; "
                    f"at that rate it takes {number(wanted, 1) if wanted < 100 else 'over 100'} times as many examples, and a "
                    f"step is {RESOLUTION:g} to {LARGEST_FACTOR:g} times as many"
                )
            else:
                factor, how = (
                    2.0,
                    f"From dose {dose} to {self.dose} it did not rise, so there is no trend to follow: twice as many",
                )
        return max(_tidy(factor * self.dose), self.dose + 1), how

    def _trend(self) -> tuple[int, float] | None:
        """Return (dose, outcome) of the largest smaller dose that was tried with settings that are otherwise the same."""
        alike = [one for one in self.attempts if one.settings.but(dose=self.dose) == self.last.settings]
        smaller = [one for one in alike if one.settings.dose < self.dose and one.seen.outcome is not None]
        best = max(smaller, key=lambda one: (one.settings.dose, one.number), default=None)
        return None if best is None else (best.settings.dose, self._outcome(best))

    # ---------------------------------------------------------------- overshoot

    def _less(self) -> Iterator[Proposal]:
        saw = f"Overshoot: {points(self.last.seen.withheld)} points where it should not appear{self._spill_in_words()}."
        before = self._spill_fell_since()
        if before is not None:
            said = f"{saw} The spill falls as the dose grows (it was {_percent(before)} at {before.settings.dose})"
            yield from self._withhold_more(f"{said}, so it is not yet learnt where to withhold it.", self.last)
        if self.withheld_in_vain():
            return
        lower = self._enough_above()
        if lower is not None:
            yield from self._between(lower, self.last, saw)
        else:
            yield from self._halved(saw)
        yield from self._withhold_more(saw, self.last)
        if lower is None:
            rate = max(self.last.settings.learning_rate / 2, self.bounds.learning_rate[0])
            why = f"{saw} Fewer examples are not allowed, so the learning rate is lowered."
            yield Proposal("lower learning rate", why, self.last.settings.but(learning_rate=rate))

    def _withhold_more(self, saw: str, at: Attempt) -> Iterator[Proposal]:
        """More examples of where it should not appear, beside the same number of where it should."""
        if self.withheld_in_vain():
            return
        counts = at.settings.counts
        withhold = math.ceil(MORE_WITHHELD * counts.withhold)
        share = max(round(counts.express / (counts.express + withhold), 3), self.bounds.min_express_share)
        if share > 0.97 * at.settings.express_share:
            return
        dose = round(counts.express / share)
        wanted = at.settings.but(dose=min(dose, self.bounds.max_dose), express_share=share)
        why = f"{saw} More examples of where it should not appear: {wanted.counts.withhold} instead of {counts.withhold}."
        yield Proposal("larger withheld share", why, wanted)

    def withheld_in_vain(self) -> bool:
        """Whether a larger withheld share did not lower the spill."""
        spill, share = self.last.seen.spill, self.last.settings.express_share
        before = [one for one in self.attempts if one.settings.express_share > share and one.seen.says("overshoot")]
        if not before or spill is None or spill.value is None:
            return False
        former = before[-1].seen.spill
        low = former.interval[0] if former is not None and former.interval else None
        return low is not None and spill.value >= low

    def _spill_fell_since(self) -> Attempt | None:
        """Return the next smaller dose at otherwise the same settings, if the spill was larger there beyond its interval."""
        now = self.last.seen.spill
        alike = [one for one in self.attempts if one.settings.but(dose=self.dose) == self.last.settings]
        smaller = [one for one in alike if one.settings.dose < self.dose and one.seen.spill is not None]
        before = max(smaller, key=lambda one: (one.settings.dose, one.number), default=None)
        if before is None or now is None or now.value is None:
            return None
        former = before.seen.spill
        return before if former is not None and former.interval and now.value < former.interval[0] else None

    # ---------------------------------------------------------------- forgetting

    def rehearsing(self, attempt: Attempt) -> Settings | None:
        """Return an attempt's settings with more rehearsal, and more of what fell; ``None`` where both are at their bound."""
        given, fell = attempt.settings, [one.name for one in attempt.seen.fell]
        next_share = USUAL_REHEARSAL if given.rehearsal_share < USUAL_REHEARSAL else self.bounds.max_rehearsal
        share = max(min(next_share, self.bounds.max_rehearsal), given.rehearsal_share)
        weights = self._heavier(given.rehearsal_weights, fell)
        for change in (
            {"rehearsal_share": share, "rehearsal_weights": weights},
            {"rehearsal_weights": weights},
            {"rehearsal_share": share},
        ):
            wanted = given.but(**change)
            if wanted != given and self.bounds.holds(wanted):
                return wanted
        return None

    def _heavier(self, old: Mapping[str, int], fell: Sequence[str]) -> dict[str, int]:
        """Return weights of rehearsal with twice as much of what fell, in smallest terms: all of it twice is no change."""
        weights = {name: old.get(name, 1) for name in self.bounds.rehearsed}
        weights |= {name: min(2 * weights[name], self.bounds.max_weight) for name in fell if name in weights}
        common = math.gcd(*weights.values()) or 1
        return {name: weight // common for name, weight in weights.items() if weight != common}

    def _cure_in_words(self) -> str:
        fell = ", ".join(one.name for one in self.last.seen.fell)
        strange = [one.name for one in self.last.seen.fell if one.name not in self.bounds.rehearsed]
        note = f" (there is nothing to rehearse for {', '.join(strange)})" if strange else ""
        return f"Forgetting: {fell} fell beyond the margin, so more is rehearsed, and more of what fell{note}."

    def _milder(self) -> Iterator[Proposal]:
        """Fewer examples, where rehearsal has no room left."""
        fell = ", ".join(one.name for one in self.last.seen.fell)
        saw = f"Forgetting: {fell} fell beyond the margin, and rehearsal is at its bound."
        lower = self._enough_above()
        if lower is not None:
            yield from self._between(lower, self.last, saw)
        else:
            yield from self._halved(saw)

    # ---------------------------------------------------------------- between two doses

    def _line(self) -> list[Attempt]:
        """The attempts from which the last one differs in dose and rehearsal only."""
        now = self.last.settings
        return [
            one
            for one in self.attempts
            if (one.settings.learning_rate, one.settings.express_share) == (now.learning_rate, now.express_share)
        ]

    def _spoilt_above(self) -> Attempt | None:
        """Return the smallest larger dose that did harm for which there is no other cure."""
        found = [one for one in self._line() if one.settings.dose > self.dose and self.spoilt(one)]
        return min(found, key=lambda one: one.settings.dose, default=None)

    def _enough_above(self) -> Attempt | None:
        """Return the largest smaller dose that was too little."""
        found = [one for one in self._line() if one.settings.dose < self.dose and one.seen.says("too_little")]
        return max(found, key=lambda one: one.settings.dose, default=None)

    def spoilt(self, attempt: Attempt) -> bool:
        """Whether an attempt did harm that more rehearsal does not cure."""
        return attempt.seen.says("overshoot") or (attempt.seen.says("forgetting") and self.rehearsing(attempt) is None)

    def _between(self, lower: Attempt, upper: Attempt, saw: str) -> Iterator[Proposal]:
        low, high = lower.settings.dose, upper.settings.dose
        if high / low <= RESOLUTION:
            return
        middle = _tidy(math.sqrt(low * high))
        middle = middle if low < middle < high else round(math.sqrt(low * high))
        if low < middle < high:
            why = f"{saw} {low} examples are too little and {high} do harm: between them, at their geometric mean."
            yield Proposal("between two doses", why, self.last.settings.but(dose=middle))

    def _halved(self, saw: str) -> Iterator[Proposal]:
        dose = max(self.dose // 2, self.bounds.min_dose)
        if dose < self.dose:
            yield Proposal("fewer examples", f"{saw} Half as many examples.", self.last.settings.but(dose=dose))

    # ---------------------------------------------------------------- nothing left

    def why_nothing_is_left(self) -> tuple[Literal["bounds", "not_found"], str, tuple[str, ...]]:
        """Return whether it never did harm (``bounds``), why nothing is proposed any more, and the numbers that say so."""
        spoilt = [one for one in self.attempts if one.seen.says("overshoot") or one.seen.says("forgetting")]
        if not spoilt:
            why = f"No more than {points(self.last.seen.outcome)} points at the largest settings that bounds and data allow."
            return "bounds", why, (_told(self.last),)
        overshot = any(one.seen.says("overshoot") for one in spoilt)
        harm = f"more than {100 * self.thresholds.spill:.0f}% of that where it should not" if overshot else self._losses(spoilt)
        why = f"No setting that was tried reaches {self._reached} points where it should appear without {harm}."
        clean = [one for one in self.attempts if one not in spoilt]
        most = max(clean, key=self._outcome, default=None)
        enough = [one for one in spoilt if not one.seen.says("too_little")] or spoilt
        least = min(enough, key=lambda one: (one.settings.dose, one.number))
        numbers = [_told(one) for one in (most, least) if one is not None]
        if self.withheld_in_vain():
            numbers.append(
                f"a larger share of examples of where it should not appear did not lower the spill: {_told(self.last)}"
            )
        numbers.append(f"between doses that differ by a factor of {RESOLUTION:g} or less nothing is tried")
        return "not_found", why, tuple(numbers)

    def _losses(self, spoilt: Sequence[Attempt]) -> str:
        names = dict.fromkeys(one.name for attempt in spoilt for one in attempt.seen.fell)
        return f"losing {' or '.join(names)}"

    @property
    def _reached(self) -> str:
        return f"{100 * self.thresholds.reached:.0f}"

    def _outcome(self, attempt: Attempt) -> float:
        found = attempt.seen.outcome
        return 0.0 if found is None or found.value is None else found.value

    def _spill_in_words(self) -> str:
        spill = self.last.seen.spill
        return f", {_percent(self.last)} of the wanted movement" if spill is not None and spill.value is not None else ""


def _told(attempt: Attempt) -> str:
    return f"attempt {attempt.number} (dose {attempt.settings.dose}): {attempt.seen.in_words}"


def _percent(attempt: Attempt) -> str:
    spill = attempt.seen.spill
    return "an unknown share" if spill is None or spill.value is None else f"{100 * spill.value:.0f}%"


def _tidy(value: float) -> int:
    """Return a whole number with two digits that count: 283 is 280."""
    digits = max(len(str(round(value))) - 2, 0)
    return round(value / 10**digits) * 10**digits
