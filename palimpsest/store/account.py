"""Account: what do several runs say together, readable by a stranger without this program?

A study, the controller and the dream loop leave one each (``account.json``), and the report reads nothing else. All of it is
plain: a figure is numbers with the name of the drawing that shows them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from palimpsest.audit import Sample, Table
from palimpsest.core.errors import UserError
from palimpsest.core.estimate import Estimate
from palimpsest.core.spec import Spec

NAME = "account.json"


class Figure(Spec):
    """One figure: what is drawn, and by which helper of ``core.drawing`` or ``core.curves``."""

    title: str
    caption: str
    """What the marks and bands are, with the kind of interval."""
    drawing: Literal["curves", "value_rows", "change_rows", "before_after_rows"]
    numbers: dict[str, Any]
    """The helper's ``figure`` argument; lists, strings, numbers and dumped estimates only."""
    words: str = ""
    """The same in words, for who can't see it."""


class Part(Spec):
    """One part of the account: a question with its answer, and what shows it."""

    name: str
    question: str
    answer: str
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    samples: tuple[Sample, ...] = ()
    cannot_say: tuple[str, ...] = ()
    details: dict[str, str] = {}
    """How it was measured and its limits: text by heading."""


class Member(Spec):
    """One run that the account is made of."""

    name: str
    folder: str
    """From the account's own folder; empty where nothing was written."""
    state: Literal["finished", "failed", "not done"]
    told: str
    """Its headline, or why it failed."""


class Account(Spec):
    """Several runs, told together."""

    kind: Literal["study", "tune", "dream", "memory", "compare"]
    title: str
    question: str
    label: Literal[
        "as_intended",
        "too_little",
        "overshoot",
        "reversed",
        "forgetting",
        "identical",
        "could_not_say",
        "described",
        "regression",
        "unchanged",
    ]
    """Which of the verdict's labels it comes to; a study describes, and a comparison may find a regression or no change."""
    headline: str
    """The answer in one sentence."""
    sure: str
    """How sure that is, and what it means."""
    reasons: tuple[str, ...]
    next_steps: tuple[str, ...] = ()
    parts: tuple[Part, ...]
    members: tuple[Member, ...]
    estimates: dict[str, Estimate] = {}
    """The numbers by name, for ``--json`` and for notebooks."""
    notes: tuple[str, ...] = ()
    provenance: dict[str, Any]
    specification: dict[str, Any]


def read(folder: Path) -> Account:
    """Return the account in a folder.

    Raises:
        UserError: there is none, or it can't be read.
    """
    path = folder / NAME
    try:
        return Account.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} holds no account of several runs: {error}") from error
