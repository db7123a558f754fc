"""Trainer: how does a model become a tuned one?

``train`` takes a model and encoded rows and leaves an ordinary Hugging Face folder, a log of every step and a summary. It may
be killed at any moment; called again with the same arguments it goes on, and the result has the same bytes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from palimpsest import ranks
from palimpsest.core.errors import Problems, UserError
from palimpsest.core.seeds import seed_of
from palimpsest.core.spec import digest
from palimpsest.models import sharded
from palimpsest.training import guard, output, trackers
from palimpsest.training.frozen_context import FrozenContext
from palimpsest.training.loop import Loop, Progress
from palimpsest.training.objectives import MaskedLoss, Objective
from palimpsest.training.optimizers import OPTIMIZERS, OptimizerFactory
from palimpsest.training.output import TrainingSummary
from palimpsest.training.preference import Preference
from palimpsest.training.sampler import Batches, MixedBatches, Row, check_rows
from palimpsest.training.settings import LoraSettings, TrainingSettings


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
        folder: gets ``model/`` (Hugging Face folder), ``steps.jsonl``, ``modules.jsonl`` (how far each module moved),
            ``training.json`` (written last: the run is done), ``examples.jsonl`` (what each step saw, and where it comes
            from) and, until then, ``checkpoints/``.
        progress: who is told of steps and of smaller batches.
        base: the base model's name, for the model card.
        objective: what is made smaller; by default the masked next-token loss.

    Raises:
        UserError: no rows, fewer than max_steps needs, or rows that can't be trained on (all at once); weights or a loss that
            are not finite; a folder that can't be written or holds another run; too little memory for a single row.
    """
    check_rows(rows, *guard.limits_of(model))
    objective = objective or objective_of(settings)
    if isinstance(objective, Preference):
        with guard.left_as_found(model):
            objective.prepare(model.eval())
            rows = objective.with_reference(model, rows)
    batches, identity = MixedBatches(rows, settings), guard.digest_of_rows(rows)
    summary = train_batches(
        model, tokenizer, batches, settings, folder, progress, identity=identity, base=base, objective=objective
    )
    output.write_examples(folder, batches, summary.steps)
    return summary


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
    ranks.connect(next(model.parameters()).device.type)
    objective = objective or objective_of(settings)
    guard.check_steps(len(batches), settings)
    problems = Problems("This can't be trained:")
    problems.extend(trackers.tracker_problems(settings.report_to))
    problems.raise_if_any()
    with guard.left_as_found(model), trackers.at_home(settings.report_to):
        notes = guard.make_ready(model, settings)
        wrapped = with_adapter(model, settings.lora, settings.seed) if settings.lora else model
        if settings.lora and ranks.is_sharded(model) and (problem := sharded.unmergeable(wrapped)):
            raise UserError(f"{ranks.count()} processes can't train this adapter together: {problem}")
        called = model if ranks.is_sharded(model) else wrapped  # peft calls past the hooks that gather a sharded model
        identity = digest([identity, len(batches), objective.name, settings.fingerprint, guard.digest_of_weights(model)])
        if (done := output.finished(folder, identity)) is not None:
            return done
        ranks.decided(lambda: guard.check_folder(model, folder, settings))
        loop = Loop(
            called,
            batches,
            settings,
            folder,
            identity=identity,
            objective=objective,
            optimizer=optimizer or OPTIMIZERS[settings.optim],
            progress=progress,
        )
        if settings.gradient_checkpointing:
            wrapped.gradient_checkpointing_enable()
        loop.run()
        if settings.gradient_checkpointing:
            wrapped.gradient_checkpointing_disable()
        guard.check_weights(model, f"after the last step ({loop.state.global_step})")
    summary = output.summarise(folder, settings, (*notes, *loop.notes), identity, loop.log_of_steps.hashes())
    with guard.left_as_found(model):
        if settings.lora:
            output.write_adapter(wrapped, folder, base)
            model = sharded.merged(wrapped) if ranks.is_sharded(model) else wrapped.merge_and_unload()
        return output.write(model, tokenizer, folder, summary, base)


def objective_of(settings: TrainingSettings, *, anchors: bool = False) -> Objective:
    """Return what these settings make smaller (``anchors``: see ``preference.Preference``)."""
    whole = frozenset({"rehearsal"} if settings.rehearsal_context == "full" else ())
    tokens = MaskedLoss() if settings.context == "full" else FrozenContext(whole)
    return Preference(tokens, settings.preference.beta, anchors) if settings.preference else tokens


def with_adapter(model: Any, lora: LoraSettings, seed: int) -> Any:
    """Return a model wrapped with a fresh PEFT adapter, drawn from the seed; only the adapter is trained.

    Raises:
        UserError: the adapter doesn't fit (no module of that name, say).
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise UserError("'lora' needs the peft package: pip install 'palimpsest-lm[lora]'") from error
    targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    config = LoraConfig(
        r=lora.r, lora_alpha=lora.lora_alpha, target_modules=targets, use_dora=lora.use_dora, task_type="CAUSAL_LM"
    )
    try:
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft's, about names of transformers
            torch.manual_seed(seed_of(seed, "adapter") % 2**63)
            return get_peft_model(model, config)
    except ValueError as error:
        raise UserError(f"the adapter must fit the model, and does not: {error}") from error
