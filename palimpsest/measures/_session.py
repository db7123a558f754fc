"""Session: how is everything that is asked of one model taken with the fewest passes, and never twice?

Needs over the same items whose rows are the same share one forward pass. Each measurement is committed to the cache as soon as
it is there, under a key that holds all that it depends on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from palimpsest.core.measurement import Measurement, Need
from palimpsest.core.progress import Progress
from palimpsest.data.chat import ItemSet
from palimpsest.measures import _measure
from palimpsest.measures._forward import ForwardMeasure, take_together
from palimpsest.measures._measure import Budget, Measure
from palimpsest.store.cache import Cache, Conditions, key_of
from palimpsest.store.provenance import deciding_packages, device_name, threads
from palimpsest.store.run_folder import RunFolder
from palimpsest.store.source import source_digest


class Session:
    """All measurements of one comparison.

    Args:
        cache: where measurements are committed and found again.
        items: item sets by name.
        budget: how much goes through a model at once.
        device: where models run; it is part of the key, like the type of their weights.
        dtype: the type that weights are loaded in.
        run: the run that keeps its measurements when the cache is cleaned.
    """

    def __init__(
        self, cache: Cache, items: Mapping[str, ItemSet], budget: Budget, device: str, dtype: str, run: RunFolder
    ) -> None:
        self.cache, self.items, self.budget = cache, items, budget
        self.device, self.dtype, self.run = device, dtype, run

    def key(self, need: Need, subjects: Mapping[str, str]) -> str:
        """Return the cache key of a need.

        Args:
            need: what is asked for.
            subjects: digest of the model of each role.
        """
        complete = _measure.load(need.measure, need.parameters).model_dump(mode="json")
        return key_of(
            need.model_copy(update={"parameters": complete}),
            subject=subjects[need.role],
            items=self.items[need.items].digest,
            after=self.key(need.after, subjects) if need.after else None,
            source=source_digest(
                f"{_measure.PACKAGE}.{need.measure}", "palimpsest.measures._forward", "palimpsest.models.subject"
            ),
            conditions=Conditions(
                packages=deciding_packages(),
                dtype=self.dtype,
                device=device_name(self.device),
                threads=threads(),
                batches=asdict(self.budget),
            ),
        )

    def get(self, need: Need, subjects: Mapping[str, str]) -> Measurement | None:
        """Return a committed measurement, from the run itself or from the cache."""
        key = self.key(need, subjects)
        return self.run.measurement(key) or self.cache.get(key)

    def missing(self, needs: Sequence[Need], subjects: Mapping[str, str]) -> list[Need]:
        """Return the needs that are not committed yet, each once."""
        missing = []
        for key, need in {self.key(need, subjects): need for need in needs}.items():
            if self.run.measurement(key) is None and (self.cache.get(key) is None or not self._kept(key)):
                missing.append(need)
        return missing

    def _kept(self, key: str) -> bool:
        """Take a measurement into the run; False where another process cleaned the cache meanwhile."""
        try:
            self.run.keep(self.cache, key)
        except FileNotFoundError:
            return False
        return True

    def take(
        self,
        open_subject: Callable[[], Any],
        needs: Sequence[Need],
        subjects: Mapping[str, str],
        progress: Progress,
    ) -> None:
        """Take and commit what is missing on one model; it is opened only if something is.

        Raises:
            torch.OutOfMemoryError: something did not fit; what was committed stays.
        """
        missing = self.missing(needs, subjects)
        if not missing:
            return
        groups = _grouped(missing)
        with open_subject() as subject:
            for group in groups:
                items = self.items[group[0].items]
                progress.begin(f"measuring {group[0].role}: {', '.join(need.measure for need in group)} on {group[0].items}")
                measures = [_measure.load(need.measure, need.parameters) for need in group]
                after = [self.get(need.after, subjects) if need.after else None for need in group]
                for need, found in zip(group, self._together(subject, items, measures, after, progress), strict=True):
                    key = self.key(need, subjects)
                    kept = False
                    while not kept:
                        self.cache.put(key, found, {"need": need.model_dump(mode="json")})
                        kept = self._kept(key)

    def _together(
        self,
        subject: Any,
        items: ItemSet,
        measures: Sequence[Measure],
        after: Sequence[Measurement | None],
        progress: Progress,
    ) -> list[Measurement]:
        forward = [measure for measure in measures if isinstance(measure, ForwardMeasure)]
        if len(forward) == len(measures):
            return take_together(subject, items, list(zip(forward, after, strict=True)), self.budget, progress.at)
        return [
            measure.take(subject, items, self.budget, one, progress.at) for measure, one in zip(measures, after, strict=True)
        ]


def _grouped(needs: Sequence[Need]) -> list[list[Need]]:
    """Return needs that can share a pass together: forward measures that read whole rows of the same items."""
    groups: dict[tuple[str, str], list[Need]] = {}
    for need in needs:
        measure = _measure.load(need.measure, need.parameters)
        kind = measure.row_kind if isinstance(measure, ForwardMeasure) else need.name
        groups.setdefault((need.items, kind), []).append(need)
    return list(groups.values())
