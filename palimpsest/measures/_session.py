"""Session: how is everything that is asked of one model taken with the fewest passes, and never twice?

Needs over the same items whose rows are the same share one forward pass. Each measurement is committed to the cache as soon as
it is there, under a key that holds all that it depends on.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from palimpsest import ranks
from palimpsest.core.measurement import Measurement, Need
from palimpsest.core.progress import Progress
from palimpsest.data.chat import ItemSet
from palimpsest.data.tasks import TaskSet
from palimpsest.measures import _measure
from palimpsest.measures._forward import ForwardMeasure, take_together
from palimpsest.measures._measure import Budget, Measure, WeightMeasure
from palimpsest.models.inspection import SubjectInfo
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
        self, cache: Cache, items: Mapping[str, ItemSet | TaskSet], budget: Budget, device: str, dtype: str, run: RunFolder
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
            items=self.items[need.items].digest if need.items else "",
            after=self.key(need.after, subjects) if need.after else None,
            against=subjects[need.against] if need.against else None,
            source=source_digest(
                f"{_measure.PACKAGE}.{need.measure}", "palimpsest.measures._forward", "palimpsest.models.subject"
            ),
            conditions=Conditions(
                packages=deciding_packages(),
                dtype=self.dtype if need.items else "as stored",
                device=device_name(self.device),
                threads=threads(),
                processes=ranks.count() if need.items else 1,
                batches=asdict(self.budget) if need.items else {},
            ),
        )

    def get(self, need: Need, subjects: Mapping[str, str]) -> Measurement | None:
        """Return a committed measurement, from the run itself or from the cache."""
        key = self.key(need, subjects)
        return self.run.measurement(key) or self.cache.get(key)

    def missing(self, needs: Sequence[Need], subjects: Mapping[str, str]) -> list[Need]:
        """Return the needs that are not committed yet, each once."""
        known = {self.key(need, subjects): need for need in needs}
        return [known[key] for key in ranks.decided(lambda: [key for key in known if self._lacks(key)])]

    def _lacks(self, key: str) -> bool:
        return self.run.measurement(key) is None and (self.cache.get(key) is None or not self._kept(key))

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
        infos: Mapping[str, SubjectInfo] | None = None,
    ) -> None:
        """Take and commit what is missing on one model; it is opened only if something reads more than its weights.

        Args:
            open_subject: loads the model.
            needs: what is asked for.
            subjects: digest of the model of each role.
            progress: who is told.
            infos: the model of each role, for needs that read weights.

        Raises:
            torch.OutOfMemoryError: something did not fit; what was committed stays.
        """
        missing = self.missing(needs, subjects)
        for need in (one for one in missing if not one.items):
            ranks.decided(lambda need=need: self._put(need, subjects, self._weights(need, infos or {}, progress)))
        groups = _grouped([one for one in missing if one.items])
        if not groups:
            return
        with open_subject() as subject:
            for group in groups:
                items = self.items[group[0].items]
                progress.begin(f"measuring {group[0].role}: {', '.join(need.measure for need in group)} on {group[0].items}")
                measures = [_measure.load(need.measure, need.parameters) for need in group]
                after = [self.get(need.after, subjects) if need.after else None for need in group]
                for need, found in zip(group, self._together(subject, items, measures, after, progress), strict=True):
                    self._commit(need, subjects, found)

    def _commit(self, need: Need, subjects: Mapping[str, str], found: Measurement) -> None:
        """Let the process that writes commit what all of them have."""
        ranks.decided(lambda: self._put(need, subjects, found))

    def _put(self, need: Need, subjects: Mapping[str, str], found: Measurement) -> None:
        key, kept = self.key(need, subjects), False
        while not kept:
            self.cache.put(key, found, {"need": need.model_dump(mode="json")})
            kept = self._kept(key)

    def _weights(self, need: Need, infos: Mapping[str, SubjectInfo], progress: Progress) -> Measurement:
        """Read weights from files, in one process; what has to be spooled lies in the run's folder, which no other run uses."""
        measure = _measure.load(need.measure, need.parameters)
        assert isinstance(measure, WeightMeasure), f"{need.measure} reads a loaded model, so it needs items"
        progress.begin(f"measuring {need.role}: {need.measure} against {need.against}")
        work = self.run.path / "weights"
        try:
            return measure.compare(infos[need.role], infos[need.against], self.device, work, progress.at)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _together(
        self,
        subject: Any,
        items: Any,
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
    """Return needs that can share a pass together: forward measures that read whole rows of the same items.

    What starts from a need of these themselves comes in a later group than that one.
    """
    names = {need.name for need in needs}
    groups: dict[tuple[str, str, int], list[Need]] = {}
    for need in needs:
        measure = _measure.load(need.measure, need.parameters)
        kind = measure.row_kind if isinstance(measure, ForwardMeasure) else need.name
        groups.setdefault((need.items, kind, _depth(need, names)), []).append(need)
    return sorted(groups.values(), key=lambda group: _depth(group[0], names))


def _depth(need: Need, names: Collection[str]) -> int:
    """Return how many of these needs have to be there before this one."""
    return 0 if need.after is None else (need.after.name in names) + _depth(need.after, names)
