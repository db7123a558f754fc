"""Behaviour: what should change, where should it not, and how is that judged?

This is what a user writes: a YAML file with typed keys. It holds data only, never code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from palimpsest.core import yaml_files
from palimpsest.core.errors import UserError, nearest
from palimpsest.core.spec import Spec
from palimpsest.data.chat import Example
from palimpsest.data.checks import Check, Choice
from palimpsest.data.material import Source

LIBRARY = Path(__file__).parent / "behaviours"


class Generation(Spec):
    """How graded answers are written."""

    max_new_tokens: int | None = Field(default=None, gt=0, le=4096)
    """By default the longest reference decision and a little more."""
    temperature: float = Field(default=1.0, ge=0, le=5)


class Words(Spec):
    """What the two ways to misjudge are called in the report."""

    false_alarm: str = "showing it where it should be withheld"
    miss: str = "withholding it where it should be shown"


class Behaviour(Spec):
    """One behaviour to change and to audit."""

    name: str = Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_-]*$", max_length=100)
    question: str
    """What should happen and what should not, in one sentence; printed in the report."""
    express: Source
    """Where the behaviour should appear."""
    withhold: Source | None = None
    """Where it should not."""
    check: Check
    """What counts as showing the behaviour, in both poles."""
    options: dict[str, str] = {}
    """Texts that may begin the answer and whose probability is told beside the rate of written answers; the first one shows
    the behaviour. A ``choice`` check brings its own."""
    words: Words = Words()
    instruction: str | None = Field(default=None, min_length=1, max_length=10_000)
    """What one would say in a system message to get the behaviour without training; held against training and steering."""
    dose: int = Field(default=200, ge=0, le=1_000_000)
    """Number of behaviour examples, both poles, rehearsal not counted."""
    express_share: float = Field(default=0.5, ge=0, le=1)
    rehearsal: tuple[Source, ...] = ()
    """What is practised so that it isn't forgotten; the embedded model's world by default."""
    rehearsal_weights: dict[str, int] = {}
    """How often each source of rehearsal stands in the round from which its rows are taken, by the name that the report gives
    it; 1 by default, 0 for what is measured but left out of training."""
    text: tuple[Path, ...] = ()
    """General text on which forgetting and divergence are measured."""
    tasks: tuple[str, ...] = ()
    """Tasks of lm-eval that are not to get worse: names, or YAML files."""
    held_out: int = Field(default=192, ge=8, le=100_000)
    """Held-out items a pole."""
    separator: str = Field(default="", max_length=100)
    """What is put between messages where the model has no chat template; by default they are joined as they are written."""
    generation: Generation = Generation()
    training: dict[str, Any] = {}
    """Training settings under Hugging Face's names; see ``palimpsest.training.settings``."""
    audits: dict[str, dict[str, Any]] = {}
    """Parameters of audits by name."""
    thresholds: dict[str, Any] = {}
    """Where the verdict draws its lines; see ``palimpsest.verdict.Thresholds``."""
    controls: tuple[Literal["rehearsal_only"], ...] = ("rehearsal_only",)
    """Cheap controls that a run makes for itself."""
    control_seeds: int | None = Field(default=None, ge=1, le=20)
    """How many runs of the control, each with a training seed of its own. One run is a sample of one: nothing is tested against
    it. By default three where one trains in under a minute, else one."""

    @model_validator(mode="after")
    def _poles_agree(self) -> Self:
        if self.withhold is None and self.express_share < 1:
            object.__setattr__(self, "express_share", 1.0)
        if small := [name for name, weight in self.rehearsal_weights.items() if weight < 0]:
            raise ValueError(f"rehearsal_weights must be 0 or more, found {self.rehearsal_weights[small[0]]} for {small[0]}")
        return self

    @property
    def written(self) -> str:
        """How it is named on a command line: one that is not in the library, as a file."""
        return self.name if self.name in names() else f"{self.name}.yaml"

    def within(self, folder: Path) -> Behaviour:
        """Return the behaviour with all files looked up from a folder."""
        return self.model_copy(
            update={
                "express": self.express.within(folder),
                "withhold": self.withhold.within(folder) if self.withhold else None,
                "rehearsal": tuple(source.within(folder) for source in self.rehearsal),
                "text": tuple(folder / path for path in self.text),
                "tasks": tuple(str(folder / task) if Path(task).suffix in (".yaml", ".yml") else task for task in self.tasks),
            }
        )

    def complete(self, example: Example, pole: Literal["express", "withhold"]) -> Example:
        """Return an example of one pole with the options by which it is graded, and with its own check where it brings one.

        A scenario's check says which answer is right, which need not be the one that shows the behaviour; a line of a file has
        its check for nothing else.
        """
        own = dict(self.check.options) if isinstance(self.check, Choice) else self.options
        update: dict[str, Any] = {"pole": pole, "options": example.options or own}
        source = self.express if pole == "express" else self.withhold
        if source is not None and source.data is not None and example.check is not None:
            update |= {"shows": example.check, "check": None}
        return example.model_copy(update=update)

    def shown(self, example: Example, answer: str) -> bool:
        """Return whether an answer to an example (as ``complete`` returns it) shows the behaviour."""
        return (example.shows or self.check).passes(answer)

    def check_problems(self, express: list[Example], withhold: list[Example]) -> list[str]:
        """Return what is wrong with the check, held against the reference answers of both poles."""
        shown, wrongly = (sum(self.shown(example, example.decision) for example in pole) for pole in (express, withhold))
        if express and not shown:
            return [
                f"the check fires on none of {len(express)} reference answers where the behaviour should appear"
                + (f" (on {wrongly} of {len(withhold)} where it should not)" if withhold else "")
                + f"; the first is {express[0].decision[:80]!r}"
            ]
        if withhold and wrongly == len(withhold):
            return [f"the check fires on all {len(withhold)} reference answers where the behaviour should NOT appear"]
        return []


def load(name: str | Path | Behaviour) -> Behaviour:
    """Return a behaviour by its name in the library or the path of its YAML file; one that is loaded already as it is.

    Raises:
        UserError: no such behaviour, not YAML, unknown keys or wrong types (all at once).
    """
    if isinstance(name, Behaviour):
        return name
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        if str(name) not in names():
            raise UserError(
                f"there is no behaviour '{name}' in the library and it is not a .yaml file.{nearest(str(name), names())}"
            )
        path = LIBRARY / f"{name}.yaml"
    data = yaml_files.read(path)
    try:
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{path} can't be used: it holds half of a character (\\ud800 to \\udfff)") from error
    return Behaviour.read(data, str(path)).within(path.parent)


def names() -> tuple[str, ...]:
    """Return the names of the behaviours that come with the package."""
    return tuple(sorted(path.stem for path in LIBRARY.glob("*.yaml")))
