"""Check: what could spoil a model's numbers, and does it here?

A check is one module in ``palimpsest/measures/_checks``; its fields are its parameters. It looks at one loaded model and gives
one answer or several. It reads a few hundred tokens at most, changes nothing, and draws no random numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from palimpsest.core import discover
from palimpsest.core.checkup import Answer, State
from palimpsest.core.errors import first_line
from palimpsest.core.spec import Spec
from palimpsest.measures._checks._patient import Patient
from palimpsest.models.full_memory import is_full_memory
from palimpsest.models.quiet import quiet
from palimpsest.store.source import source_digest

PACKAGE = "palimpsest.measures._checks"


class Check(Spec, ABC):
    """One question about a loaded model."""

    repeatable: ClassVar[bool] = True
    """Whether it answers the same the second time; what does not (a speed) is kept in no record."""

    @abstractmethod
    def look(self, patient: Patient) -> Iterator[Answer]:
        """Yield what was found; nothing where the question makes no sense for this model."""

    @classmethod
    def named(cls) -> str:
        return cls.__module__.rpartition(".")[2]

    def answer(self, state: State, about: str, found: str, follows: str = "", **number: Any) -> Answer:
        """Return an answer of this check."""
        return Answer(check=self.named(), about=about, state=state, found=found, follows=follows, **number)

    def difference(self, about: str, value: float, tolerance: float, follows: str, *, beyond: State = "failed") -> Answer:
        """Return what a largest difference of log-probabilities (in nats) comes to.

        Args:
            about: what was looked at.
            value: the difference; may be NaN.
            tolerance: what rounding alone explains.
            follows: what it means to be beyond that.
            beyond: the state that it is then.
        """
        if value == 0.0:
            return self.answer("ok", about, "the same to the last bit", value=0.0, tolerance=tolerance, unit="nats")
        if not value < float("inf"):  # NaN is beyond as well
            return self.answer(beyond, about, "log-probabilities that are not numbers", follows)
        well = value <= tolerance
        return self.answer(
            "ok" if well else beyond,
            about,
            f"log-probabilities differ by up to {value:.2g} nats ({'of' if well else 'beyond the'} {tolerance:.2g} that "
            f"{'may be rounding' if well else 'rounding explains'})",
            "" if well else follows,
            value=value,
            tolerance=tolerance,
            unit="nats",
        )


def names() -> tuple[str, ...]:
    """Return the names of all checks."""
    return discover.names(PACKAGE)


def source() -> str:
    """Return the digest of the source of all checks."""
    return source_digest(*(f"{PACKAGE}.{name}" for name in names()))


def check_up(patient: Patient, parameters: Mapping[str, Any] | None = None, *, timed: bool = False) -> tuple[Answer, ...]:
    """Return what every check says of a model. One that fails by itself is told in its place and takes nothing else down.

    Args:
        patient: the model.
        parameters: of checks, by name.
        timed: whether to ask also what a repetition would answer differently.
    """
    found: list[Answer] = []
    for name in names():
        kind = discover.find(PACKAGE, name, Check)
        if not (kind.repeatable or timed):
            continue
        try:
            with quiet():
                found += kind.read((parameters or {}).get(name, {}), f"the parameters of check '{name}'").look(patient)
        except Exception as error:
            if is_full_memory(error):
                raise
            why = f"{type(error).__name__}: {first_line(error)}"
            found.append(Answer(check=name, about=name.replace("_", " "), state="could not say", found=why))
    return tuple(found)
