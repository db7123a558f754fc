"""Request: what dream did the user ask for, in full, before any work starts?

Frozen and plain: its digest names the folder, so the same command finds its own dream again and goes on with it.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from palimpsest.behaviour import Behaviour
from palimpsest.core.errors import UserError
from palimpsest.core.spec import Spec
from palimpsest.request import Request

GENERATORS = "generators"
CYCLE_AUDITS = ("outcome", "judgement", "forgetting")
"""What is looked at after every cycle; the rest waits for the end."""
_SHARE = re.compile(r"^(?P<name>.+?)=(?P<share>\d*\.?\d+)$")


class SourceShare(Spec):
    """One source of scenarios, and how much of each cycle it gives."""

    name: str
    argument: str = ""
    """What stands after the colon: a file, a folder, an address."""
    share: float = Field(default=1.0, gt=0)
    """Against the shares of the other sources."""

    @classmethod
    def parse(cls, text: str) -> SourceShare:
        """Return what ``NAME[:ARGUMENT][=SHARE]`` says.

        Raises:
            UserError: it says nothing of the kind.
        """
        found = _SHARE.match(text)
        named, share = (found["name"], float(found["share"])) if found else (text, 1.0)
        name, _, argument = named.partition(":")
        if not name or not share:
            raise UserError(f"--source must be NAME, NAME:ARGUMENT or NAME:ARGUMENT=SHARE with a share above 0, found '{text}'")
        return cls(name=name, argument=argument, share=share)

    @property
    def written(self) -> str:
        """The shortest way to say this on a command line."""
        return self.name + (f":{self.argument}" if self.argument else "") + ("" if self.share == 1 else f"={self.share:g}")


class DreamRequest(Spec):
    """One dream: cycles of failures that become examples."""

    base: str
    """Model folder, hub id, or ``pocket``."""
    behaviour: Behaviour
    sources: tuple[SourceShare, ...] = Field(default=(SourceShare(name=GENERATORS),), min_length=1)
    cycles: int = Field(default=6, ge=1, le=1_000)
    """At most so many."""
    examples: int = Field(default=64, ge=2, le=100_000)
    """At most so many a cycle, both poles, rehearsal not counted."""
    asked_at_most: int = Field(default=4, ge=1, le=100)
    """Scenarios asked in a cycle for each example wanted, at most."""
    choose: Literal["failures", "fresh", "fixed"] = "failures"
    """Which scenarios become examples: those that the model failed, any fresh ones, or in every cycle those of the first.
    The last two are what the first is held against (examples/dream_or_random.py)."""
    top_up: bool = False
    """Fill every cycle up to the full number with scenarios that were answered rightly."""
    answers: Literal["reference", "distil"] = "reference"
    """Where good answers come from: the scenario's own, or the model's own with the behaviour's instruction in its context."""
    tries: int = Field(default=4, ge=1, le=100)
    """So often the model may try to answer well with the instruction."""
    preference: bool = False
    """Prefer the good answer to what the model really said, in place of imitating it."""
    broad_above: float = Field(default=0.2, ge=0, le=1)
    """A pole that fails more often than this is asked broadly; below it half of its scenarios are edge cases."""
    alike: float = Field(default=0.7, gt=0, le=1)
    """Two prompts that share this much of their runs of three words are one scenario."""
    stop_after: int = Field(default=2, ge=0, le=1_000)
    """Stop when so many audits running say *as intended*, each on items of its own; 0: never."""
    audit_items: int = Field(default=32, ge=8, le=100_000)
    """Held-out items a pole in the audit of one cycle; the last audit has the behaviour's own number."""
    audit_capability_items: int = Field(default=24, ge=8)
    audit_documents: int = Field(default=8, ge=8)
    text: tuple[Path, ...] = ()
    """General text besides the behaviour's own."""
    audits: tuple[str, ...] = ()
    """Names of audits at the end; empty means all that cost no training."""
    device: str = "auto"
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    seed: int = Field(default=0, ge=0, lt=2**31)
    documents: int = Field(default=64, ge=8)
    capability_items: int = Field(default=192, ge=8)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.answers == "distil" and not self.behaviour.instruction:
            raise ValueError(
                "answers: distil needs the behaviour's 'instruction' (what, said in the context, makes the model do it); add "
                "it to the behaviour's file, or use the reference answers"
            )
        return self

    @property
    def title(self) -> str:
        return f"dream-{self.behaviour.name}"

    def planned(self) -> Request:
        """Return one cycle as an ordinary run, by which everything in it is checked before work starts."""
        return self._audit(
            kind="run",
            behaviour={"dose": self.examples, "held_out": self.audit_items, "controls": ()},
            audits=CYCLE_AUDITS,
            capability_items=self.audit_capability_items,
            documents=self.audit_documents,
        )

    def audit_of(self, cycle: int, tuned: str) -> Request:
        """Return the audit of one cycle (from 1), on held-out items that no other audit of this dream has."""
        return self.planned().model_copy(update={"kind": "diff", "tuned": tuned, "block": cycle - 1})

    def last_audit(self, tuned: str) -> Request:
        """Return the audit of the end, on held-out items that come after those of every cycle."""
        sizes = (
            (self.audit_items, self.behaviour.held_out),
            (self.audit_capability_items, self.capability_items),
            (self.audit_documents, self.documents),
        )
        return self._audit(
            kind="diff",
            tuned=tuned,
            behaviour={},
            audits=self.audits,
            capability_items=self.capability_items,
            documents=self.documents,
            block=max(math.ceil(self.cycles * small / large) for small, large in sizes),
        )

    def _audit(self, behaviour: dict[str, Any], **rest: Any) -> Request:
        return Request(
            base=self.base,
            behaviour=self.behaviour.model_copy(update=behaviour),
            text=self.text,
            device=self.device,
            dtype=self.dtype,
            seed=self.seed,
            **rest,
        )

    @property
    def command(self) -> tuple[str, ...]:
        """The command line that asks for this, in its shortest form."""
        words = ["palimpsest", "dream", self.behaviour.written, "--model", self.base]
        usual = type(self).model_fields
        if self.sources != usual["sources"].default:
            words += [word for one in self.sources for word in ("--source", one.written)]
        for path in self.text:
            words += ["--text", str(path)]
        words += ["--audits", ",".join(self.audits)] if self.audits else []
        for name in ("cycles", "examples", "answers", "stop_after", "audit_items", "device", "dtype", "seed"):
            if getattr(self, name) != usual[name].default:
                words += [f"--{name.replace('_', '-')}", str(getattr(self, name))]
        return (*words, *(["--preference"] if self.preference else []))
