"""Foresight: which runs would a study make, and how long would they take?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palimpsest import api
from palimpsest.cost import foresee
from palimpsest.foresight import Foreseen
from palimpsest.study_runner.executors import jobs_by_default
from palimpsest.study_runner.runner import POINTS, Checked, one_of_each


@dataclass(frozen=True)
class StudyForeseen:
    """What a study would do and take, setting by setting."""

    settings: Mapping[str, Foreseen]
    """What one run of each setting would do."""
    runs: Mapping[str, int]
    """How many runs (training seeds) each setting has."""
    done: int
    """Runs that are done already; ``seconds`` counts them too, what is said in words does not."""
    jobs: int

    @property
    def seconds(self) -> float:
        """Seconds of all runs, as if each had the machine's measured speed to itself."""
        return sum(self.runs[name] * one.seconds for name, one in self.settings.items())

    def plain(self) -> dict[str, Any]:
        """Return everything as data for JSON."""
        return {
            "runs": dict(self.runs),
            "done": self.done,
            "jobs": self.jobs,
            "seconds_of_runs": self.seconds,
            "settings": {name: one.plain() for name, one in self.settings.items()},
        }

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Return name, runs, rows and steps of each setting."""
        found = []
        for name, one in self.settings.items():
            tuned = next((work for work in one.training if work.role == "tuned"), None)
            rows, steps = (f"{tuned.rows:,}", f"{tuned.steps:,}") if tuned else ("-", "-")
            found.append((name, str(self.runs[name]), rows, steps))
        return found

    def sentences(self) -> Iterator[str]:
        """Yield what it comes to in words."""
        total = sum(self.runs.values())
        left = self.seconds * (total - self.done) / max(total, 1)
        minutes = f"{math.ceil(left / 60)} minutes" if left > 60 else "a minute"
        yield f"{total} runs of {len(self.settings)} settings, {self.done} of them done; {self.jobs} at once"
        yield (
            f"time: roughly {minutes} for one run after the other, at most: the base model is measured only once; "
            "when the first run is done, the time left is told"
            if self.done < total
            else "time: nothing is left to do but to tell what they say"
        )
        largest = max((one.memory.needed for one in self.settings.values()), default=0)
        yield f"memory: about {largest * self.jobs / 2**20:,.0f} MiB for {self.jobs} at once"


def foresee_study(checked: Checked, folder: Path, jobs: int | None) -> StudyForeseen:
    """Return what a study would do, without doing any of it."""
    done = sum((folder / POINTS / point.name / "record.json").is_file() for point in checked.points)
    return StudyForeseen(
        {
            point.setting: foresee(api.plan(checked.study.request(point)), folder / POINTS / point.name)
            for point in one_of_each(checked.points)
        },
        Counter(point.setting for point in checked.points),
        done,
        jobs or jobs_by_default(),
    )
