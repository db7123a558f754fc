"""Doctor: can the numbers of this model be trusted on this machine, and does its tuned version differ from it?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from palimpsest.core.checkup import Answer, State, worst
from palimpsest.core.errors import Problems
from palimpsest.data import chat_template
from palimpsest.measures._checks._check import check_up
from palimpsest.measures._checks._patient import Patient
from palimpsest.measures._checks.change import remember
from palimpsest.models import pocket, subject
from palimpsest.models.subject import Dtype, SubjectInfo
from palimpsest.models.vocabulary import cut_alike


@dataclass(frozen=True)
class Examined:
    """One model with what every check says of it."""

    role: str
    info: SubjectInfo
    device: str
    dtype: str
    answers: tuple[Answer, ...]

    def plain(self) -> dict[str, Any]:
        """Return everything as data for JSON."""
        return {
            "role": self.role,
            "model": self.info.name,
            "digest": self.info.digest,
            "architecture": self.info.architecture,
            "parameters": self.info.parameters,
            "device": self.device,
            "dtype": self.dtype,
            "state": self.state,
            "answers": [answer.model_dump(mode="json") for answer in self.answers],
        }

    @property
    def state(self) -> State:
        return worst(self.answers)


def examine(model: str, tuned: str | None, device: str, dtype: str, *, adapter: bool = False) -> tuple[Examined, ...]:
    """Look at a model, and at what was made of it, one at a time in memory.

    Args:
        model: a Hugging Face folder, a hub id, or an embedded model.
        tuned: the same; also a PEFT adapter.
        device: where to run; "auto" takes a GPU where there is one.
        dtype: type of the weights in memory.
        adapter: whether ``tuned`` is an adapter that is read on ``model``, whatever base it names.

    Raises:
        UserError: one of them can't be loaded.
    """
    place, infos, problems = subject.resolved_device(device), dict[str, SubjectInfo](), Problems("The doctor can't look:")
    infos["base"] = subject.inspect(pocket.resolve(model))
    if tuned is not None:
        infos["tuned"] = subject.inspect(pocket.resolve(tuned), infos["base"].path if adapter else None, check_base=False)
        problems.extend(subject.comparison_problems(infos["base"], infos["tuned"]))
    problems.raise_if_any()
    infos = cut_alike(infos)
    found, before, day = [], None, chat_template.today()
    for role, info in infos.items():
        with subject.load(info, place, cast(Dtype, dtype), day=day) as one:
            patient = Patient(one, before)
            found.append(Examined(role, info, one.device, one.dtype, check_up(patient, timed=True)))
            before = remember(patient) if len(infos) > len(found) else None
    return tuple(found)
