"""Audit: what is one question about a change, and how is it answered?

An audit is one module in ``palimpsest/audits``. It says what to measure (``needs``), shapes stored arrays (``gather``), turns
them into estimates and findings (``analyse``), makes worlds whose answer is known (``simulate``) and draws a stored result
(``plot``). Only measures touch a model, so no audit imports torch, and audits do not know each other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

import numpy as np

from palimpsest.core import discover, roles
from palimpsest.core.estimate import Estimate
from palimpsest.core.measurement import Measurement, Need
from palimpsest.core.shapes import PLAIN, Shape
from palimpsest.core.spec import Spec
from palimpsest.data.chat import POLES, ItemSet
from palimpsest.data.checks import Check
from palimpsest.data.tasks import TaskSet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PACKAGE = "palimpsest.audits"
M = TypeVar("M")


@dataclass(frozen=True)
class Case:
    """What is being compared: the roles there are, the items they are measured on, and what is known of the recipe."""

    roles: tuple[str, ...]
    """Always ``base`` and ``tuned``; where there are any: ``rehearsal_only`` (and its further runs, see
    ``core.roles``), ``benign``, ``clean_twin``, ``never_trained``."""
    items: Mapping[str, ItemSet]
    """Item sets by name: ``express``, ``withhold``, ``capability:NAME``, ``text:NAME``."""
    tasks: Mapping[str, TaskSet] = field(default_factory=dict)
    """Tasks of lm-eval by their own names; a need calls them ``task:NAME``."""
    check: Check | None = None
    """How an answer is judged to show the behaviour, if there is one."""
    generation: Mapping[str, Any] = field(default_factory=dict)
    """Settings of graded generations (``max_new_tokens``, ``temperature``)."""
    notes: tuple[str, ...] = ()
    instruction: str = ""
    """What one would say in the context to get the behaviour, where it fits into it."""
    words: Mapping[str, str] = field(default_factory=dict)
    """What the behaviour's two misjudgements are called: ``false_alarm``, ``miss``."""
    beyond: Mapping[str, int] = field(default_factory=dict)
    """How many tokens of a set of texts lie beyond the models' context and are not read, by the set's full name."""
    parts: frozenset[str] = frozenset()
    """Kinds of parts that the base has (``attention``, ``recurrent``, ``other`` ...); empty where that is not known."""

    @property
    def everything(self) -> dict[str, ItemSet | TaskSet]:
        """All that a need may name."""
        return {**self.items, **{f"task:{name}": task for name, task in self.tasks.items()}}

    def with_controls(self, *controls: str) -> tuple[str, ...]:
        """Return base, tuned and those of the named controls that there are."""
        return ("base", "tuned", *(role for role in controls if role in self.roles))

    @property
    def poles(self) -> dict[str, ItemSet]:
        """The items of every pole that the behaviour has."""
        return {pole: self.items[pole] for pole in POLES if pole in self.items}

    def options(self) -> dict[tuple[str, str], Need]:
        """Return the needs for how likely the named options are, by pole and "before" or "after", where all items have some."""
        return {
            (pole, when): Need(measure="options", role=role, items=pole)
            for pole, items in self.poles.items()
            for role, when in (("base", "before"), ("tuned", "after"))
            if all(item.options for item in items.items)
        }

    @property
    def control_runs(self) -> tuple[str, ...]:
        """The roles of base, tuned and every run of the rehearsal-only control."""
        return ("base", "tuned", *roles.controls(self.roles))

    def answers(self, role: str, items: str) -> Need:
        """Return the need for answers as the behaviour says they are written: the same one for every audit that reads them."""
        return Need(measure="generations", role=role, items=items, parameters=dict(self.generation))

    def likeliest_answers(self, role: str, items: str) -> Need:
        """Return the need for answers written greedily, by which free abilities are graded: only the model differs then."""
        return Need(measure="generations", role=role, items=items, parameters={**self.generation, "temperature": 0.0})

    def sets(self, kind: str) -> dict[str, ItemSet]:
        """Return the item sets of one kind (``capability``, ``text``) by their own names."""
        return {name.split(":", 1)[1]: items for name, items in self.items.items() if name.startswith(f"{kind}:")}

    def names(self, *kinds: str) -> list[str]:
        """Return the full names (``text:stories``) of the item sets of some kinds, in the case's order."""
        return [name for name in self.items if name.split(":")[0] in kinds]


class Finding(Spec):
    """One thing an audit says, with the tag by which the verdict reads it."""

    tag: Literal[
        "outcome", "withheld", "spill", "forgetting", "divergence", "style", "inside", "depth", "identical", "rounding"
    ]
    statement: str
    estimate: Estimate
    subject: str = ""
    """What it is about, where a tag comes several times (the capability)."""
    topic: str = ""
    """The statement without the numbers of this one comparison, for a claim over several."""


class Table(Spec):
    """Numbers with their names. A cell is text, a whole number, an estimate, or ``None`` (could not say)."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | Estimate | None, ...], ...]
    note: str = ""


class Sample(Spec):
    """One prompt with what both models wrote. Model text is untrusted: whoever draws it escapes it."""

    title: str
    prompt: str
    before: str
    after: str
    before_passes: bool | None = None
    after_passes: bool | None = None
    sides: tuple[str, str] = ("before", "after")
    """What the two texts are called."""
    marks: tuple[str, str] = ("", "")
    """How the two were graded, in words, where that is more than pass or fail."""


class Place(Spec):
    """How far one part of the network moved, for the report's picture of the whole network."""

    layer: int | None
    """Counted from 0; ``None`` for what lies outside the layers (embeddings, head)."""
    part: str
    """What kind of part: ``attention``, ``recurrent``, ``mlp``, ``norm``, ``residual``, ``embeddings``, ``head``."""
    quantity: str
    """What was measured, with its unit in words; all places of one quantity share one colour scale."""
    estimate: Estimate
    floor: Estimate | None = None
    """The same for the rehearsal-only control, where there is one; with several runs, where one more would lie."""


class Result(Spec):
    """Everything the report reads of one audit: frozen, plain, and the same bytes for the same arrays."""

    summary: str
    """The answer in one sentence."""
    estimates: dict[str, Estimate]
    findings: tuple[Finding, ...] = ()
    tables: tuple[Table, ...] = ()
    figure: dict[str, Any] = {}
    """The numbers that ``plot`` draws; lists and strings only."""
    samples: tuple[Sample, ...] = ()
    network: tuple[Place, ...] = ()
    """Where in the network it moved, of audits that look inside."""
    cannot_say: tuple[str, ...] = ()


class Outcome(Spec):
    """Three cases of one type: measured, not applicable, failed."""

    audit: str
    state: Literal["measured", "not_applicable", "failed"]
    result: Result | None = None
    why: str = ""
    mendable: bool = True
    """Whether something could be given that would let a silent audit answer; if not, only its own part of the page tells it."""


class NotApplicable(Exception):
    """Raised by ``needs`` or ``gather``: this audit can't answer for this case, and what would let it."""


class NoSuchPart(NotApplicable):
    """The models have no part that the audit asks about, and nothing that could be given would change that."""


class Audit(Spec, ABC, Generic[M]):
    """One question about a change; frozen, its fields are its parameters.

    The docstring's sections Question, Method, Reads, Null, Limits and Reference are printed by the report.
    """

    cost: ClassVar[Literal["forward", "generate", "train"]]
    primary: ClassVar[tuple[str, ...]]
    """Names of the estimates whose coverage is tested and over which Holm is applied."""
    contrasts: ClassVar[bool] = False
    """Whether it reads contrastive pairs and the behaviour's instruction, which no case holds otherwise."""
    reads_tasks: ClassVar[bool] = False
    """Whether it reads tasks of lm-eval."""
    planted: ClassVar[float]
    """The effect that the common suite plants in ``simulate`` to see that it is found."""
    hostile: ClassVar[tuple[str, ...]]
    """The two of ``shapes.HOSTILE`` nearest to what it may meet; none where all its numbers are exact."""

    @abstractmethod
    def needs(self, case: Case) -> tuple[Need, ...]:
        """Say what to measure; touches no model.

        Raises:
            NotApplicable: a role or an item set is missing; the message says what to give.
        """

    @abstractmethod
    def gather(self, case: Case, measured: Mapping[str, Measurement]) -> M:
        """Shape stored measurements (by ``Need.name``) into this audit's own arrays; pure."""

    @abstractmethod
    def analyse(self, data: M, rng: np.random.Generator) -> Result:
        """Turn arrays into estimates and tagged findings; pure: same arrays and stream, same bytes."""

    @abstractmethod
    def simulate(self, effect: float, rng: np.random.Generator, shape: Shape = PLAIN) -> M:
        """Make arrays from a world whose true answer is ``effect``, whatever the shape of its clusters."""

    @abstractmethod
    def truth(self, effect: float) -> dict[str, float]:
        """Return the true value of each ``primary`` estimate in the world that ``simulate(effect)`` draws from."""

    @staticmethod
    @abstractmethod
    def plot(result: Result, axes: Axes) -> None:
        """Draw a stored result; computes nothing."""


def load(name: str, parameters: dict[str, object] | None = None) -> Audit[Any]:
    """Return the audit of that name with these parameters."""
    return discover.find(PACKAGE, name, Audit).read(parameters or {}, f"the parameters of audit '{name}'")


def names() -> tuple[str, ...]:
    """Return the names of all audits."""
    return discover.names(PACKAGE)
