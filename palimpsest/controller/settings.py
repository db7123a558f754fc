"""Settings: what may the controller change, how far, and at what cost?

All of it is plain and frozen. What a user sets as a bound is never crossed, because nothing is proposed that ``Bounds.holds``
refuses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, model_validator

from palimpsest.core.errors import UserError
from palimpsest.core.spec import Spec
from palimpsest.data.mixture import Counts, counts_for

START_DOSE = 20
START_REHEARSAL = 0.2
"""20 examples and 5 rows of rehearsal beside them: 20% of all rows."""


class Settings(Spec):
    """With what one attempt is trained; everything else comes from the behaviour."""

    dose: int = Field(ge=1)
    """Behaviour examples, both poles, rehearsal not counted."""
    express_share: float = Field(gt=0, lt=1)
    """Share of the dose that shows the behaviour; the rest withholds it."""
    learning_rate: float = Field(gt=0)
    rehearsal_share: float = Field(ge=0, lt=1)
    """Rehearsal rows over all rows."""
    rehearsal_weights: dict[str, int] = {}
    """How often a source stands in the round of rehearsal, where that is not once."""

    @property
    def counts(self) -> Counts:
        return counts_for(self.dose, self.rehearsal_share, self.express_share)

    def but(self, **changes: Any) -> Settings:
        """Return these settings with some of them changed, and checked again."""
        return Settings.model_validate({**self.model_dump(), **changes})

    @property
    def in_words(self) -> str:
        """Return "dose 20 (10 + 10) + 5 rehearsal, learning rate 2e-04" with what is rehearsed more than once a round."""
        counts = self.counts
        more = ", ".join(f"{name} x{weight}" for name, weight in sorted(self.rehearsal_weights.items()))
        return (
            f"dose {self.dose} ({counts.express} where it should, {counts.withhold} where it should not) + {counts.rehearsal} "
            f"rehearsal{f' ({more})' if more else ''}, learning rate {self.learning_rate:.2g}"
        )


class Bounds(Spec):
    """How far each of the settings may go. No attempt is ever outside."""

    min_dose: int = Field(default=4, ge=2)
    max_dose: int = Field(default=1000, ge=2, le=1_000_000)
    learning_rate: tuple[float, float]
    """Lowest and highest."""
    min_express_share: float = Field(default=0.2, gt=0, lt=1)
    """How small the share that shows the behaviour may become when more examples of where it should not are wanted."""
    max_rehearsal: float = Field(default=0.5, ge=0, lt=1)
    max_weight: int = Field(default=8, ge=1, le=1000)
    """How often one source may stand in the round of rehearsal."""
    most_rows: dict[str, int] = {}
    """How many different rows the data have: ``express``, ``withhold`` and, as ``rehearsal NAME``, each source of rehearsal.
    What is missing here has no end."""
    control: bool = False
    """Whether the final audit trains a rehearsal-only control, which rehearses in every row."""
    rehearsed: tuple[str, ...] = ()
    """What can be rehearsed, in its order; empty where the base model has yet to write it."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        low, high = self.learning_rate
        if not 0 < low <= high <= 1:
            raise ValueError(f"learning_rate must be LOW:HIGH with 0 < LOW <= HIGH <= 1, found {low:g}:{high:g}")
        if self.min_dose > self.max_dose:
            raise ValueError(f"max_dose must be at least min_dose ({self.min_dose}), found {self.max_dose}")
        return self

    def holds(self, settings: Settings) -> bool:
        """Whether settings lie inside, and the data have the rows for them."""
        low, high = self.learning_rate
        return (
            self.min_dose <= settings.dose <= self.max_dose
            and low <= settings.learning_rate <= high
            and settings.express_share >= self.min_express_share
            and settings.rehearsal_share <= self.max_rehearsal
            and all(weight <= self.max_weight for weight in settings.rehearsal_weights.values())
            and all(wanted <= self.most_rows.get(name, wanted) for name, wanted in self._rows(settings).items())
        )

    def largest_dose(self, settings: Settings, most: int) -> int:
        """Return the largest dose up to ``most`` that settings can have inside the bounds; their own where none is larger."""
        low, high = settings.dose, max(most, settings.dose)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.holds(settings.but(dose=middle)) else (low, middle - 1)
        return low

    def _rows(self, settings: Settings) -> dict[str, int]:
        counts, weights = settings.counts, settings.rehearsal_weights
        total = sum(weights.get(name, 1) for name in self.rehearsed)
        rows = {"express": counts.express, "withhold": counts.withhold}
        practised = (counts.as_rehearsal_only() if self.control and counts.rehearsal else counts).rehearsal
        for name in self.rehearsed:  # at most one round more than its share
            laps = -(-practised // total)
            rows[f"rehearsal {name}"] = min(laps * weights.get(name, 1), practised)
        return rows

    @property
    def in_words(self) -> Mapping[str, str]:
        """Return the bounds as they are shown to a user."""
        low, high = self.learning_rate
        told = {
            "examples (both poles)": f"{self.min_dose} to {self.max_dose}",
            "learning rate": f"{low:.2g} to {high:.2g}",
            "share that shows the behaviour": f"at least {100 * self.min_express_share:.0f}%",
            "rehearsal": f"at most {100 * self.max_rehearsal:.0f}% of all rows",
            "weight of one source of rehearsal": f"at most {self.max_weight}",
        }
        if self.most_rows:
            told["rows that the data have"] = ", ".join(f"{name}: {count}" for name, count in self.most_rows.items())
        return told


_PARTS = {"attempt": "attempts", "example": "examples", "minute": "minutes"}


class Budget(Spec):
    """What the search may cost. The final audit comes on top."""

    attempts: int = Field(default=12, ge=1, le=1000)
    """Training runs, those that confirm counted too."""
    examples: int | None = Field(default=None, ge=1)
    """Behaviour examples trained on, summed over the attempts."""
    minutes: float | None = Field(default=None, gt=0)
    """No attempt begins when the longest one so far would not fit into what is left."""

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Return what "10 attempts, 2000 examples, 30 minutes" says; any of the three may be left out.

        Raises:
            UserError: it says something else.
        """
        found: dict[str, Any] = {}
        for part in text.split(","):
            match = re.fullmatch(r"\s*([0-9][0-9_.]*)\s*(attempt|example|minute)s?\s*", part)
            if match is None or _PARTS[match[2]] in found:
                raise UserError(
                    f"--budget must be like '10 attempts, 2000 examples, 30 minutes' (each at most once), found '{text}'"
                )
            found[_PARTS[match[2]]] = match[1].replace("_", "")
        return cls.read(found, "--budget")

    @property
    def in_words(self) -> str:
        parts = [f"{self.attempts} attempts"]
        parts += [f"{self.examples:,} examples"] if self.examples is not None else []
        parts += [f"{self.minutes:g} minutes"] if self.minutes is not None else []
        return ", ".join(parts)
