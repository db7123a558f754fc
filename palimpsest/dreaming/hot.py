"""Hot: which model is in memory, and does it stay there from step to step?

The model that answers is the one that is then trained in place, and audited without being loaded again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from palimpsest.core.progress import Progress
from palimpsest.cost import free_on
from palimpsest.data.chat import Example, ItemSet
from palimpsest.measures._measure import Budget
from palimpsest.measures.generations import Generations
from palimpsest.models import subject
from palimpsest.models.full_memory import is_full_memory
from palimpsest.models.subject import Subject, SubjectInfo
from palimpsest.planning import Plan
from palimpsest.training.output import TrainingSummary, trained

_ROOM = 2.0
"""An audit loads the base model too, and needs as much again to work."""


class Lent(Subject):
    """A subject that stays with who lent it."""

    def close(self) -> None:
        """Leave it open."""


class Hot:
    """The one model of a dream that is in memory."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.current: Lent | None = None

    def at(self, info: SubjectInfo) -> Lent:
        """Return this model, loading it only where it is not the one that is there."""
        if self.current is None or self.current.info.digest != info.digest:
            self.close()
            plan = self.plan
            found = subject.load(
                info,
                plan.device,
                plan.request.dtype,
                chat_template=plan.template,
                day=plan.day,
                separator=plan.renderer.separator,
            )
            self.current = _lent(found, info, plan)
        return self.current

    def train(self, info: SubjectInfo, folder: Path, how: Callable[[Lent], TrainingSummary]) -> SubjectInfo:
        """Train a model into a folder and return what came of it, which is then the one in memory."""
        before = self.at(info)
        kept = not (folder / "training.json").exists() and self.plan.settings.lora is None
        how(before)
        after = trained(folder)
        if kept:
            before.model.eval().requires_grad_(False)
            self.current = _lent(before, after, self.plan)
        else:  # it was finished already, or an adapter was merged: what is in memory is not what was written
            self.close()
        return after

    def held(self) -> dict[str, Subject]:
        """Return what is in memory by its digest, for an audit to read."""
        return {} if self.current is None else {self.current.digest: self.current}

    def make_room(self) -> None:
        """Give the memory back where another model may not fit beside the one that is there."""
        if self.current is None:
            return
        free, needed = free_on(self.plan.device), self.current.info.bytes_loaded(self.plan.request.dtype)
        if free is not None and free < _ROOM * needed:
            self.close()

    def close(self) -> None:
        """Give the memory back."""
        if self.current is not None:
            Subject.close(self.current)
            self.current = None


def _lent(one: Subject, info: SubjectInfo, plan: Plan) -> Lent:
    digest = subject.digest_with_template(info, plan.template, plan.day, plan.renderer.separator)
    return Lent(one.model, one.tokenizer, info, one.device, one.dtype, digest, plan.day)


def answers(
    one: Subject, examples: Sequence[Example], plan: Plan, seed: int, progress: Progress, *, temperature: float | None = None
) -> tuple[list[str], list[bool]]:
    """Return what a model says to each example's prompt, and whether it ended by itself.

    Where memory runs out it goes on in smaller batches.
    """
    usual = plan.case.generation
    how = Generations(
        max_new_tokens=usual["max_new_tokens"],
        temperature=usual["temperature"] if temperature is None else temperature,
        seed=seed,
    )
    budget = Budget.on(plan.device, plan.context)
    while True:
        try:
            found = how.take(one, ItemSet(name="asked", items=tuple(examples)), budget, None, progress.at)
            return [text.strip() for text in found.texts["answer"]], found.arrays["stopped"].tolist()
        except (RuntimeError, MemoryError) as error:
            if not is_full_memory(error) or budget.smallest:
                raise
            budget = budget.halved()
            progress.tell(f"Memory ran out while asking: going on in batches of {budget.tokens} tokens.")
