"""Trainer: how does a model become a tuned one?

``train`` takes a model and encoded rows and leaves an ordinary Hugging Face folder, a log of every step and a summary. It may
be killed at any moment; called again with the same arguments it goes on, and the result has the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from palimpsest.core.spec import digest
from palimpsest.training import guard, output
from palimpsest.training.loop import Loop, Progress
from palimpsest.training.objectives import MaskedLoss, Objective
from palimpsest.training.optimizers import OPTIMIZERS, OptimizerFactory
from palimpsest.training.output import TrainingSummary
from palimpsest.training.sampler import Batches, MixedBatches, Row, check_rows
from palimpsest.training.settings import TrainingSettings


def train(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Row],
    settings: TrainingSettings,
    folder: Path,
    progress: Progress | None = None,
    *,
    base: str = "",
    objective: Objective | None = None,
) -> TrainingSummary:
    """Train a model on rows, mixed so that every batch has the same shares.

    The tuned model is in ``folder/model``. The one in memory is changed in place, and is of no use when training stops with an
    error or the folder was finished already; all else is left as it was found.

    Args:
        model: a Hugging Face causal language model, on the device where it is to be trained.
        tokenizer: saved beside the tuned model (``None``: none is saved).
        rows: express, withhold and rehearsal rows; within a source their order is kept.
        settings: with which numbers.
        folder: gets ``model/`` (Hugging Face folder), ``steps.jsonl``, ``training.json`` (written last: the run is done)
            and, until then, ``checkpoints/``.
        progress: who is told of steps and of smaller batches.
        base: the base model's name, for the model card.
        objective: what is made smaller; by default the masked next-token loss.

    Raises:
        UserError: no rows, fewer than max_steps needs, or rows that can't be trained on (all at once); weights or a loss that
            are not finite; a folder that can't be written or holds another run; too little memory for a single row.
    """
    check_rows(rows, *guard.limits_of(model))
    batches, identity = MixedBatches(rows, settings), guard.digest_of_rows(rows)
    return train_batches(
        model, tokenizer, batches, settings, folder, progress, identity=identity, base=base, objective=objective
    )


def train_batches(
    model: Any,
    tokenizer: Any,
    batches: Batches,
    settings: TrainingSettings,
    folder: Path,
    progress: Progress | None = None,
    *,
    identity: str,
    base: str = "",
    objective: Objective | None = None,
    optimizer: OptimizerFactory | None = None,
) -> TrainingSummary:
    """Train a model on ready batches, as ``train`` does; ``batches[step]`` may compute its rows on access.

    Rows are not checked beforehand. ``identity`` must name the data (and the optimizer, where one is given), so that a run on
    other data is never continued. A step's rows go through the model ``per_device_train_batch_size`` at a time.
    """
    objective = objective or MaskedLoss()
    guard.check_steps(len(batches), settings)
    with guard.left_as_found(model):
        notes = guard.make_ready(model, settings)
        identity = digest([identity, objective.name, settings.fingerprint, guard.digest_of_weights(model)])
        if (done := output.finished(folder, identity)) is not None:
            return done
        guard.check_folder(model, folder, settings)
        loop = Loop(
            model,
            batches,
            settings,
            folder,
            identity=identity,
            objective=objective,
            optimizer=optimizer or OPTIMIZERS[settings.optim],
            progress=progress,
        )
        loop.run()
        guard.check_weights(model, f"after the last step ({loop.state.global_step})")
    summary = output.summarise(folder, settings, (*notes, *loop.notes), identity)
    with guard.left_as_found(model):
        output.write(model, tokenizer, folder, summary, base)
    return summary
