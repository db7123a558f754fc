"""Record: what does a finished run consist of, readable by a stranger without this program?

The report, a notebook and ``--json`` read this and nothing else.
"""

from __future__ import annotations

from typing import Any, Literal

from palimpsest.audit import Finding, Outcome, Result
from palimpsest.core.checkup import Answer
from palimpsest.core.estimate import Estimate
from palimpsest.core.spec import Spec
from palimpsest.verdict import Verdict


class StepLog(Spec):
    """One optimizer step (``training/<seed>/steps.jsonl`` holds one a line)."""

    step: int
    examples: int
    """Behaviour examples used so far (the dose up to here)."""
    learning_rate: float
    gradient_norm: float
    loss: float
    loss_express: float | None = None
    loss_withhold: float | None = None
    loss_rehearsal: float | None = None
    rows_express: int = 0
    rows_withhold: int = 0
    rows_rehearsal: int = 0
    tokens_express: float = 0.0
    """Loss weight of the rows of each source, in tokens: over their sum, its share of the loss."""
    tokens_withhold: float = 0.0
    tokens_rehearsal: float = 0.0
    limited: float | None = None
    """Share of the matrices whose update the norm-growth limiter held back; ``None`` without a limiter."""
    update_to_weight: float | None = None
    """Norm of the step over that of the weights, in the steps in which it was noted (each module's: ``modules.jsonl``)."""


class TrainingRecord(Spec):
    """What one training run did."""

    role: str
    seed: int
    dose: int
    rehearsal_share: float
    """Rehearsal rows over all rows, as delivered."""
    steps: tuple[StepLog, ...]
    settings: dict[str, Any]
    """The resolved training settings, under Hugging Face's names."""
    model_folder: str


class SubjectRecord(Spec):
    """One model of the comparison."""

    role: str
    name: str
    path: str
    digest: str
    parameters: int
    architecture: str
    dtype: str
    checks: tuple[Answer, ...] = ()
    """What could spoil its numbers, and whether it does; empty where the model itself was not loaded."""


class SeedRecord(Spec):
    """All audits of one trained checkpoint (a ``diff`` has exactly one)."""

    seed: int
    outcomes: tuple[Outcome, ...]

    @property
    def results(self) -> dict[str, Result]:
        """The result of every audit that has one."""
        return {one.audit: one.result for one in self.outcomes if one.result is not None}

    @property
    def findings(self) -> list[Finding]:
        """What all audits found, in their order."""
        return [finding for result in self.results.values() for finding in result.findings]


class RunRecord(Spec):
    """A finished run."""

    kind: Literal["run", "diff"]
    title: str
    """The behaviour's name, or "BASE against TUNED"."""
    question: str
    """The behaviour's description, or what a diff without one asks."""
    verdict: Verdict
    seeds: tuple[SeedRecord, ...]
    across_seeds: dict[str, Estimate] = {}
    """``audit.estimate`` to its mean over training seeds with a t interval, where there are two seeds or more."""
    holm: dict[str, bool] = {}
    """``audit.estimate`` (first seed) to whether it is significant after Holm over all primary estimates."""
    subjects: tuple[SubjectRecord, ...]
    training: tuple[TrainingRecord, ...] = ()
    notes: tuple[str, ...] = ()
    """What the user was told on the way (no chat template, smaller batches after out-of-memory ...)."""
    provenance: dict[str, Any]
    """Packages, hardware, seeds and digests; nothing that differs between a disturbed and an undisturbed run."""
    specification: dict[str, Any]
    """The resolved behaviour and settings, as they would have to be written to get this run again."""

    @property
    def models(self) -> dict[str, str]:
        """Folder of the model of each trained role (first seed), from the run's own folder."""
        return {one.role: one.model_folder for one in reversed(self.training)}
