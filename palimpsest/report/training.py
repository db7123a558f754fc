"""Training: what was the model trained on, and how did it learn?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from palimpsest.audit import Table
from palimpsest.core.curves import curves as lines
from palimpsest.core.estimate import Estimate
from palimpsest.core.wording import number
from palimpsest.report.look import draw
from palimpsest.report.sections import Grid, grid
from palimpsest.store.record import RunRecord, StepLog, TrainingRecord

_LOSSES = {"loss_express": "express", "loss_withhold": "withhold", "loss_rehearsal": "rehearsal"}


def curves(record: TrainingRecord, place: int) -> Markup | None:
    """Return the losses of one training run over its steps; ``None`` where no step has one."""
    series = [one for key, label in _LOSSES.items() if (one := _series(record.steps, key, label, window(record)))]
    if not series:
        return None
    figure = {"series": series, "x_label": "optimizer step", "unit": "loss, nats a trained token"}
    said = "; ".join(f"{one['label']} from {one['y'][0]:.3f} to {one['y'][-1]:.3f} nats" for one in series)
    return draw(lambda axes: lines(axes, figure), f"training-{place}", f"Loss of {record.role}, seed {record.seed}", said)


def window(record: TrainingRecord) -> int:
    """Return over how many steps losses are averaged, in the curves and at the end: a tenth of all."""
    return max(1, len(record.steps) // 10)


def runs(records: Sequence[TrainingRecord]) -> Grid:
    """Return what each training run was given and where it ended."""
    rows = tuple(
        (
            record.role.replace("_", " "),
            record.seed,
            record.dose,
            f"{100 * record.rehearsal_share:.1f}%",
            len(record.steps),
            _scientific(record.settings.get("learning_rate")),
            *(_end(record, key) for key in ("loss", *_LOSSES)),
        )
        for record in records
    )
    columns = (
        "model", "seed", "dose (examples)", "rehearsal share", "steps", "learning rate",
        *(f"loss at the end, {label}" for label in ("all rows", *_LOSSES.values())),
    )  # fmt: skip
    note = "Loss at the end: mean over the last tenth of the steps, in nats a token, on training rows. Counts are exact."
    return grid(Table(title="Training runs", columns=columns, rows=rows, note=note))


def across_seeds(record: RunRecord) -> tuple[Grid, Grid] | None:
    """Return the primary estimates and the others, each by seed with its mean; ``None`` with a single seed."""
    if not record.across_seeds:
        return None
    columns = ("", *(f"seed {one.seed}" for one in record.seeds), "mean over seeds")
    first = [name for name in record.across_seeds if name in record.holm and ":" not in name]  # not one for each ability
    primary = tuple(_seed_row(record, name) for name in first)
    others = tuple(_seed_row(record, name) for name in record.across_seeds if name not in first)
    note = "The unit of the last column is the training seed: it speaks for the method, the others for one checkpoint each."
    return (
        grid(Table(title="Across training seeds", columns=columns, rows=primary or others, note=note)),
        grid(Table(title="Further estimates across seeds", columns=columns, rows=others if primary else ())),
    )


def _seed_row(record: RunRecord, name: str) -> tuple[Any, ...]:
    audit, _, key = name.partition(".")
    by_seed: list[Estimate | None] = []
    for seed in record.seeds:
        result = seed.results.get(audit)
        by_seed.append(result.estimates.get(key) if result else None)
    return (f"{audit}: {key.replace('_', ' ').replace(':', ', ')}", *by_seed, record.across_seeds[name])


def _series(steps: Sequence[StepLog], key: str, label: str, width: int) -> dict[str, Any] | None:
    ends = [end for end, step in enumerate(steps) if getattr(step, key) is not None]
    if not ends:
        return None
    values = [getattr(steps[end], key) for end in ends]
    smooth = [_mean(steps[max(0, end + 1 - width) : end + 1], key) for end in ends]
    return {"label": label, "x": [steps[end].step for end in ends], "y": smooth, "faint": values if width > 1 else []}


def _mean(steps: Sequence[StepLog], key: str) -> float | None:
    """Return the mean of a loss over those of some steps that have it, every step alike."""
    values = [value for step in steps if (value := getattr(step, key)) is not None]
    return sum(values) / len(values) if values else None


def _end(record: TrainingRecord, key: str) -> str | None:
    """Return a loss at the end as it is written: over the same steps as ``TrainingSummary.final_loss``."""
    value = _mean(record.steps[-window(record) :], key)
    return None if value is None else number(value, 3)


def _scientific(value: Any) -> str | None:
    return f"{value:g}" if isinstance(value, int | float) else None
