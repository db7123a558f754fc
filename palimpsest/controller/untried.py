"""Untried: what did a search leave out, how small an effect could its tries show, and which try came nearest?

A search that ends without a model has shown that these settings did not do it, on these items, and not that none would.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from palimpsest.controller.attempts import Attempt, Seen
from palimpsest.controller.settings import Settings
from palimpsest.core.estimate import Estimate
from palimpsest.core.stats.spread import POWER, minimum_detectable, quantile
from palimpsest.core.wording import amount, counted
from palimpsest.training.settings import TrainingSettings
from palimpsest.verdict import Thresholds

_NO_TREATMENT = {
    *("logging_steps", "module_logging_steps", "save_steps", "save_total_limit", "report_to", "reason", "seed"),
    *(
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "gradient_checkpointing",
        "bf16",
        "allow_repeats",
        "max_steps",
    ),
}
"""Fields of the training settings that are no other way to train: what is logged and kept, how it fits into memory (the rows
of a step are told as one number), a leave to do what another field does,
and a limit of steps, which is a smaller dose."""
_NAMES = {
    "optim": "optimizer",
    "optim_args": "arguments of the optimizer",
    "lora": "low-rank adapter",
    "preference": "training by preference",
    "num_train_epochs": "number of passes",
    "lr_scheduler_type": "schedule",
    "express_share": "share that shows the behaviour",
    "rehearsal_weights": "weights of rehearsal",
}
_FORGOTTEN_AT_MOST = 0.5
"""What forgetting can add to a distance: more rehearsal cures it, so it counts less than a rise that is missing altogether."""


def tries(count: int) -> str:
    """Return "1 try" or "8 tries"."""
    return "1 try" if count == 1 else f"{count} tries"


# ---------------------------------------------------------------- what was not tried


def untried(attempts: Sequence[Attempt], training: TrainingSettings) -> tuple[str, ...]:
    """Return which settings stayed as they were, and which values of the others were tried; nothing beyond them was.

    Args:
        attempts: of the search.
        training: with what every attempt was trained where its own ``Settings`` say nothing.
    """
    varied = {name: _different([getattr(one.settings, name) for one in attempts]) for name in Settings.model_fields}
    fixed = {name: [getattr(training, name)] for name in TrainingSettings.model_fields if name not in {*varied, *_NO_TREATMENT}}
    told = sorted({**varied, **fixed, "rows of one step": [training.rows_per_step]}.items(), key=lambda one: _place(one[0]))
    return tuple(_others(name, values) for name, values in told)


def _place(name: str) -> int:
    """What a search varies comes first, then what is a choice between ways, then numbers."""
    if name in Settings.model_fields:
        return 0
    return 1 if name in TrainingSettings.model_fields and not _is_number(name) else 2


def _is_number(name: str) -> bool:
    return TrainingSettings.model_fields[name].annotation in (int, float)


def _different(values: Sequence[Any]) -> list[Any]:
    kept = [value for place, value in enumerate(values) if value not in values[:place]]
    return sorted(kept) if all(isinstance(one, (int, float)) for one in kept) else kept


def _others(name: str, values: Sequence[Any]) -> str:
    """Return "optimizer adamw or apollo_mini" where the other ways can be named, else "learning rate other than 0.0002"."""
    said = _NAMES.get(name, name.replace("_", " "))
    field = TrainingSettings.model_fields.get(name)
    if field is not None and get_origin(field.annotation) is Literal:
        return f"{said} {' or '.join(str(one) for one in get_args(field.annotation) if one not in values)}"
    if values == [None]:
        return f"any {said}"
    return f"{said} other than {', '.join(map(_value, values))}"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return " + ".join(f"{name} x{each}" for name, each in sorted(value.items())) or "the usual ones"
    return f"{value:.3g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


# ---------------------------------------------------------------- at which power


def power(attempts: Sequence[Attempt]) -> str:
    """Return the smallest change that each try would have found in either pole, and on how many independent items."""
    poles = {"where it should appear": "outcome", "where it should not": "withheld"}
    told = [_finds([getattr(one.seen, name) for one in attempts], where) for where, name in poles.items()]
    return f"power of one try: {'; '.join(told)}"


def _finds(estimates: Sequence[Estimate | None], where: str) -> str:
    known = [one for one in estimates if one is not None and one.value is not None]
    sizes = [size for one in known if (size := _smallest(one)) is not None]
    if len(sizes) < len(estimates) or not sizes:
        return f"{where}, the smallest change that can be seen could not be said in {len(estimates) - len(sizes)} of them"
    units, largest = min(one.n for one in known), max(sizes)
    size = amount(largest, "points") if largest <= 1 else "no change at all"
    return f"{where} it finds {size} in {100 * POWER:.0f}% ({counted(units, 'independent item')})"


def _smallest(estimate: Estimate) -> float | None:
    if estimate.minimum_detectable is not None or estimate.interval is None or estimate.n < 2:
        return estimate.minimum_detectable
    error = (estimate.interval[1] - estimate.interval[0]) / (2 * quantile(0.5 + estimate.level / 2, estimate.n - 1))
    return minimum_detectable(error, estimate.n - 1)


# ---------------------------------------------------------------- the nearest


def nearest(attempts: Sequence[Attempt], thresholds: Thresholds) -> Attempt:
    """Return the attempt that misses the fewest of the verdict's lines, and among those misses them by the least.

    The lines are: enough where it should appear, no spill where it should not, nothing fallen. By how much: the share of the
    wanted rise that is missing, plus the share of the rise that spills beyond what counts as conditional (1 at most), plus a
    half of one less margin / loss for what fell furthest (so more than half of it is never lost to what rehearsal may cure).
    """
    return min(attempts, key=lambda one: (len(missed := dict(_misses(one.seen, thresholds))), sum(missed.values()), one.number))


def misses(attempt: Attempt, thresholds: Thresholds) -> str:
    """Return which lines an attempt misses, in words."""
    return " and ".join(name for name, _ in _misses(attempt.seen, thresholds)) or "no line"


def _misses(seen: Seen, thresholds: Thresholds) -> Iterator[tuple[str, float]]:
    """Yield the lines that are missed, each with how far (shares of 1)."""
    rise = (seen.outcome and seen.outcome.value) or 0.0
    enough = rise >= thresholds.reached
    if not enough:
        yield "enough where it should appear", 1 - rise / thresholds.reached
    beyond = _spilled(seen, rise, thresholds) - thresholds.spill
    if seen.says("overshoot") or (not enough and beyond > 0):  # the verdict judges the spill only of what is enough
        yield "where it should not appear", min(max(beyond, 0.0), 1.0)
    if seen.fell:
        yield "what fell", max(map(_fallen, (one.estimate for one in seen.fell)))


def _spilled(seen: Seen, rise: float, thresholds: Thresholds) -> float:
    """Return the movement where it should not appear as a share of the wanted one; of what is enough, where there is none."""
    withheld = (seen.withheld and seen.withheld.value) or 0.0
    return withheld / (rise if rise > 0 else thresholds.reached)


def _fallen(estimate: Estimate) -> float:
    lost, margin = estimate.value or 0.0, estimate.margin or 0.0
    return _FORGOTTEN_AT_MOST * (1 - margin / lost) if lost > margin else 0.0
