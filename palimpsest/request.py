"""Request: what did the user ask for, in full, before any work starts?

Frozen and plain: its digest names the run folder, so the same command finds its own run again and goes on with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from palimpsest.behaviour import Behaviour
from palimpsest.core import roles
from palimpsest.core.errors import nearest
from palimpsest.core.spec import Spec

CONTROLS = (roles.CONTROL, "benign", "clean_twin", "never_trained")


def _known(role: str) -> str:
    if roles.kind(role) not in CONTROLS:
        raise ValueError(f"the role of a control must be one of {', '.join(CONTROLS)}.{nearest(role, CONTROLS)}")
    return role


Control = Annotated[str, AfterValidator(_known)]
"""The role of a control; further runs of the rehearsal-only one are ``rehearsal_only_2`` and so on."""


class Request(Spec):
    """One run (change and audit) or one diff (audit two checkpoints)."""

    kind: Literal["run", "diff"]
    base: str
    """Model folder, hub id, ``pocket`` or ``hybrid-pocket``."""
    tuned: str | None = None
    behaviour: Behaviour | None = None
    text: tuple[Path, ...] = ()
    """General text besides the behaviour's own."""
    controls: dict[Control, str] = {}
    audits: tuple[str, ...] = ()
    """Names of audits; empty means all that cost no training."""
    deep: bool = False
    """Also audits that train something."""
    device: str = "auto"
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    seed: int = Field(default=0, ge=0, lt=2**31)
    seeds: int = Field(default=1, ge=1, le=100)
    """Training runs with different seeds; the audit items stay the same."""
    training_seed: int | None = Field(default=None, ge=0, lt=2**31)
    """Where the seeds of the training runs start, where that is not ``seed``: the audit items then stay those of ``seed``."""
    documents: int = Field(default=64, ge=8)
    """Documents of each general text."""
    capability_items: int = Field(default=192, ge=8)
    """Held-out items of each capability."""
    tasks: tuple[str, ...] = ()
    """Tasks of lm-eval by name, or YAML files of one's own: each is a capability, asked and scored by that task's own rules."""
    limit: int = Field(default=192, ge=0)
    """Documents of each task, the first ones, as lm-eval's own ``--limit``; 0 for all."""
    fewshot: int | None = Field(default=None, ge=0, le=100)
    """Examples before each question of a task; by default the task's own number."""
    block: int = Field(default=0, ge=0, le=10_000)
    """Which held-out items: two blocks have none of a pole in common, so that a choice made on one can be reported on another.
    A capability or a text that is too small for that is read from its beginning again, and told so."""
    blocks: int = Field(default=0, ge=0, le=10_000)
    """Into how many blocks the held-out items are divided evenly where there are not enough for so many whole ones; 0 where
    nobody says how many there will be."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.kind == "run" and self.behaviour is None:
            raise ValueError("a run needs a behaviour")
        if self.kind == "diff" and self.tuned is None:
            raise ValueError("a diff needs two models")
        if (given := roles.controls(self.controls)) != [roles.control(place) for place in range(len(given))]:
            raise ValueError(f"control runs must be numbered from {roles.control(0)}, {roles.control(1)} on, found {given}")
        if unreadable := [path for path in self.text if str(path) != str(path).encode("utf-8", "replace").decode()]:
            raise ValueError(f"a file's name must be UTF-8, found {unreadable[0]}; give the file another name")
        if self.kind == "diff" and self.seeds != 1:
            raise ValueError("a diff trains nothing, so it has no seeds")
        if self.blocks and self.block >= self.blocks:
            raise ValueError(f"block must be below blocks ({self.blocks}), found {self.block}")
        if self.kind == "diff" and self.training_seed is not None:
            raise ValueError("a diff trains nothing, so it has no training_seed")
        return self

    @property
    def first_seed(self) -> int:
        """The seed of the first training run."""
        return self.seed if self.training_seed is None else self.training_seed

    @property
    def title(self) -> str:
        if self.kind == "run" and self.behaviour:
            return self.behaviour.name
        return f"{Path(self.base).name} against {Path(self.tuned or '').name}"

    @property
    def command(self) -> tuple[str, ...]:
        """The command line that asks for this, in its shortest form; a behaviour not in the library is named as a file."""
        named = self.behaviour and self.behaviour.written
        words = ["palimpsest", self.kind]
        if self.kind == "run":
            words += [str(named), "--model", self.base]
        else:
            words += [self.base, str(self.tuned), *(["--behaviour", named] if named else [])]
        for path in self.text:
            words += ["--text", str(path)]
        for role, path in self.controls.items():
            words += ["--control", f"{roles.kind(role)}={path}"]
        if self.tasks:
            words += ["--tasks", ",".join(self.tasks)]
        if self.audits:
            words += ["--audits", ",".join(self.audits)]
        words += ["--deep"] if self.deep else []
        for name in ("device", "dtype", "seed", "seeds", "training_seed", "block", "limit", "fewshot"):
            if getattr(self, name) != type(self).model_fields[name].default:
                words += [f"--{name.replace('_', '-')}", str(getattr(self, name))]
        return tuple(words)
