"""Loop: the one place where model weights are trained, a thin subclass of the Hugging Face Trainer.

What is ours: the order of the batches, the loss and how it is divided, smaller passes when memory runs out, the step log,
and checkpoints without pickle. The Trainer sees one item an optimizer step; its forward passes are split off here, so that
the loss is divided by the weight of the whole step, and a step can be tried again in smaller passes.
"""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments, get_scheduler
from transformers.trainer_callback import PrinterCallback

from palimpsest import ranks
from palimpsest.core.errors import UserError
from palimpsest.core.seeds import seed_of
from palimpsest.data.mixture import SOURCES
from palimpsest.models.full_memory import is_full_memory
from palimpsest.store import seal
from palimpsest.store.atomic import remove_leftovers, whole_folder
from palimpsest.training import checkpoint as store
from palimpsest.training import step_log, trackers
from palimpsest.training.apollo import Apollo
from palimpsest.training.objectives import Objective, Prepared
from palimpsest.training.optimizers import OptimizerFactory
from palimpsest.training.passes import own_passes
from palimpsest.training.sampler import Batches, Row
from palimpsest.training.settings import TrainingSettings
from palimpsest.training.step_log import Pending, StepLog

_TOLD = 2
"""So many of a checkpoint's damaged files are named."""


class Progress(Protocol):
    """What a caller may give to hear how training goes."""

    def advance(self, step: int, total: int, loss: float) -> None:
        """``step`` of ``total`` optimizer steps are done; ``loss`` is the last one's, in nats a token."""
        ...

    def tell(self, message: str) -> None:
        """Something the user should know happened."""
        ...


class _Steps(Dataset[Any]):
    """Batches as the Trainer wants them: one item an optimizer step."""

    def __init__(self, batches: Batches, total: int) -> None:
        self.batches, self.total = batches, total

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, step: int) -> list[Row]:
        return list(self.batches[step])


class _Flow(TrainerCallback):
    """Flushes the step log and tells the caller; the Trainer's own callback decides when to save and stop."""

    def __init__(self, loop: Loop, progress: Progress | None) -> None:
        self.loop, self.progress = loop, progress

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        state.save_steps = self.loop.settings.save_steps  # a resumed run would keep the old one

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        optimizer, every = self.loop.bare_optimizer, self.loop.settings.module_logging_steps
        if every and isinstance(optimizer, Apollo):
            optimizer.watched = state.global_step % every == 0 or state.global_step + 1 == state.max_steps

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if isinstance(optimizer := self.loop.bare_optimizer, Apollo):
            self.loop.log_of_steps.moved(optimizer.limits, optimizer.moved)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self.loop.settings.logging_steps and state.global_step < state.max_steps:
            return
        self.loop.log_of_steps.flush()
        self.loop.tell_trackers()
        if self.progress is not None:
            self.progress.advance(state.global_step, state.max_steps, self.loop.log_of_steps.last["loss"])


class Loop(Trainer):
    """Trains a model on given batches; see the module's docstring for what differs from its parent.

    Args:
        model: a causal language model with float32 weights, on the device where it is to be trained.
        batches: the rows of every optimizer step.
        settings: with which numbers.
        folder: where checkpoints and steps.jsonl go.
        identity: hash of everything that decides the weights; a checkpoint of another run is refused.
        objective: what is made smaller.
        optimizer: makes the optimizer.
        progress: who is told.
    """

    def __init__(
        self,
        model: Any,
        batches: Batches,
        settings: TrainingSettings,
        folder: Path,
        *,
        identity: str,
        objective: Objective,
        optimizer: OptimizerFactory,
        progress: Progress | None = None,
    ) -> None:
        total = len(batches) if settings.max_steps == -1 else settings.max_steps
        self.settings, self.folder, self.identity = settings, folder, identity
        self.objective, self.optimizer_factory, self.progress = objective, optimizer, progress
        self.rows_at_once = settings.per_device_train_batch_size
        self.checkpoints = folder / "checkpoints"
        self.notes: list[str] = []
        objective.prepare(model)
        if ranks.is_sharded(model):
            os.environ.pop("ACCELERATE_USE_FSDP", None)  # a second time nothing is sharded
        super().__init__(
            model=model,
            args=_arguments(settings, folder, total, next(model.parameters()).device, sharded=ranks.is_sharded(model)),
            train_dataset=_Steps(batches, total),
            callbacks=[_Flow(self, progress)],
        )
        self.remove_callback(PrinterCallback)

    def run(self) -> None:
        """Train to the end, from the last checkpoint where there is one.

        Raises:
            UserError: the folder holds another run, a loss is not finite, or memory runs out with one row at a time.
        """
        if ranks.own() == 0:
            remove_leftovers(self.folder)
            remove_leftovers(self.checkpoints)
        ranks.wait()
        step = ranks.decided(self._last_whole)
        last = store.path_of(self.checkpoints, step) if step else None
        if last is not None:
            self._go_on_from(last)
        self.log_of_steps = StepLog(self.folder / "steps.jsonl", step)
        ranks.wait()
        self._bare_model.train()
        try:
            self.train(resume_from_checkpoint=str(last) if last else None)
        except (RuntimeError, MemoryError) as error:
            if not is_full_memory(error):
                raise
            raise UserError("memory ran out outside of the forward pass; the optimizer's state may not fit") from error
        self.log_of_steps.settle()

    def _last_whole(self) -> int:
        """Return the step of the newest checkpoint that is what was written, as is the log up to it; 0 where there is none."""
        for path in reversed(store.checkpoints(self.checkpoints)):
            wrong = seal.damage(path) or step_log.altered(
                self.folder / "steps.jsonl", store.step_of(path), store.read_json(path / "run.json")["log"]
            )
            if not wrong:
                return store.step_of(path)
            self._tell(f"{path} is damaged and not used: {'; '.join(wrong[:_TOLD])}. Training goes on from an earlier step.")
        return 0

    def _tell(self, message: str) -> None:
        if self.progress is not None:
            self.progress.tell(message)

    def _go_on_from(self, last: Path) -> None:
        state = store.read_json(last / "run.json")
        if state["identity"] != self.identity:
            raise UserError(
                f"{self.checkpoints} must hold this very run, found one with another base model, other data or other "
                f"settings; choose another folder, or remove {self.folder} to train again"
            )
        self.rows_at_once, self.notes = state["rows_at_once"], state["notes"]

    # Batches and loss

    def get_train_dataloader(self) -> DataLoader[Any]:
        assert isinstance(self.train_dataset, Dataset)
        return DataLoader(self.train_dataset, batch_size=1, shuffle=False, collate_fn=_only)

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Gather the gradient of one optimizer step; on full memory start the step again in smaller passes."""
        while True:
            try:
                return self._gather_gradient(model, inputs)
            except (RuntimeError, MemoryError) as error:
                if not is_full_memory(error):
                    raise
                if ranks.count() > 1:
                    raise self._full_among_many(inputs) from error
                self._use_less_memory(model, min(self.rows_at_once, len(inputs)), error)

    def _gather_gradient(self, model: nn.Module, rows: list[Row]) -> torch.Tensor:
        # In the order that they come in, in which every pass has its share of rehearsal.
        at_once = math.ceil(self.rows_at_once / ranks.count())
        chunks = [rows[start : start + at_once] for start in range(0, len(rows), at_once)]
        passes, weight = own_passes(self.objective, chunks)
        weights: list[float] = weight.tolist()
        total = sum(weights)
        sums = torch.zeros(len(SOURCES), device=self.args.device)
        for index, part in enumerate(passes):
            more = index + 1 < len(passes)
            # A sharded gradient is summed over ranks after every pass: kept whole until the last it would not fit.
            with self.accelerator.no_sync(model) if more and not ranks.is_sharded(model) else contextlib.nullcontext():
                part_sums = self.compute_loss(model, part.to(self.args.device))
                # Gradients are averaged over ranks, and the loss is a sum over all of them.
                self.accelerator.backward(part_sums.sum() * (ranks.count() / total))
                sums += part_sums.detach()
        limit = self.settings.max_grad_norm or math.inf
        norm = ranks.whole(nn.utils.clip_grad_norm_(model.parameters(), limit))
        sums = ranks.summed(sums)
        self.log_of_steps.add(
            Pending(
                step=self.state.global_step + 1,
                learning_rate=float(self.lr_scheduler.get_last_lr()[0]),  # pyright: ignore[reportOptionalMemberAccess]
                numbers=torch.cat([sums, norm.detach().reshape(1)]),
                weights=weights,
                rows=[sum(row.source == source for row in rows) for source in SOURCES],
            )
        )
        return sums.sum() / total

    def compute_loss(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, model: nn.Module, inputs: Prepared, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Return the summed loss of each source, not yet divided."""
        return self.objective(model, inputs)

    def _full_among_many(self, rows: list[Row]) -> UserError:
        """Return what to do where memory ran out on one rank, which alone can't start the step over."""
        most, together = min(self.rows_at_once, len(rows)), self.settings.rows_per_step
        fewer = max(most // 2, 1)
        return UserError(
            f"memory ran out in process {ranks.own()} of {ranks.count()} at training step {self.state.global_step + 1}, with "
            f"{math.ceil(most / ranks.count())} rows at a time in each; say per_device_train_batch_size: {fewer} and "
            f"gradient_accumulation_steps: {math.ceil(together / fewer)}, use shorter examples, or more processes"
        )

    def _use_less_memory(self, model: nn.Module, rows: int, error: Exception) -> None:
        if rows <= 1:
            raise UserError(
                f"memory ran out at step {self.state.global_step + 1} with a single row at a time; "
                "use shorter examples, a smaller model or a machine with more memory"
            ) from error
        self.rows_at_once = math.ceil(rows / 2)
        model.zero_grad(set_to_none=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.notes.append(
            f"Memory ran out at training step {self.state.global_step + 1}: going on with {self.rows_at_once} rows at a time, "
            "in more passes; each optimizer step sees the same rows as before."
        )
        self._tell(self.notes[-1])

    # The Trainer's parts that are replaced

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            self.optimizer = self.optimizer_factory(self._bare_model if model is None else model, self.settings)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            self.lr_scheduler = get_scheduler(
                self.settings.lr_scheduler_type,
                optimizer=self.optimizer if optimizer is None else optimizer,
                num_warmup_steps=math.ceil(self.settings.warmup_ratio * num_training_steps),
                num_training_steps=num_training_steps,
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> None:
        """The norm is known already: the gradient was clipped as it was gathered."""

    def floating_point_ops(self, inputs: Any) -> int:
        return 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The step log has it all; trackers get their copy when it is flushed."""

    def tell_trackers(self) -> None:
        """Give the trackers the last line of the step log."""
        if self.settings.report_to:
            numbers = {name: value for name, value in self.log_of_steps.last.items() if value is not None and name != "step"}
            self.callback_handler.on_log(self.args, self.state, self.control, numbers)

    # Checkpoints

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        step = self.state.global_step
        if step == self.state.max_steps:
            return  # the finished model is written next
        self.log_of_steps.settle()
        first = ranks.own() == 0
        with whole_folder(store.path_of(self.checkpoints, step)) if first else contextlib.nullcontext(Path()) as folder:
            store.save_model(self._bare_model, folder / "model.safetensors")
            store.save_optimizer(self.bare_optimizer, folder)
            if first:
                self._save_the_rest(folder)
        if first:
            store.rotate(self.checkpoints, self.settings.save_total_limit)
        ranks.wait()

    def _save_the_rest(self, folder: Path) -> None:
        assert self.lr_scheduler is not None
        store.save_random_state(folder)
        store.write_json(folder / "schedule.json", self.lr_scheduler.state_dict())
        run = {"identity": self.identity, "rows_at_once": self.rows_at_once, "notes": self.notes}
        store.write_json(folder / "run.json", {**run, "log": self.log_of_steps.hashes()})
        self.state.save_to_json(str(folder / "trainer_state.json"))
        seal.close(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        store.load_model(self._bare_model, Path(resume_from_checkpoint) / "model.safetensors")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            store.load_optimizer(self.bare_optimizer, Path(checkpoint))
            schedule = store.read_json(Path(checkpoint) / "schedule.json")
            self.lr_scheduler.load_state_dict(schedule)  # pyright: ignore[reportOptionalMemberAccess]

    def _load_scaler(self, checkpoint: str | None) -> None:
        """There is none: no float16."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            store.load_random_state(Path(checkpoint))

    @property
    def _bare_model(self) -> nn.Module:
        assert self.model is not None
        return self.model

    @property
    def bare_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer without accelerate's wrapper."""
        assert self.optimizer is not None
        return getattr(self.optimizer, "optimizer", self.optimizer)


def _arguments(
    settings: TrainingSettings, folder: Path, total: int, device: torch.device, *, sharded: bool
) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=total,
        per_device_train_batch_size=1,  # one item an optimizer step
        learning_rate=settings.learning_rate,
        max_grad_norm=0.0,  # clipped where the gradient is gathered
        seed=seed_of(settings.seed, "training") % 2**31,
        bf16=settings.bf16,
        use_cpu=device.type == "cpu",
        save_strategy="steps",
        save_steps=settings.save_steps,
        save_only_model=sharded,  # the checkpoints are ours; the Trainer's could not hold a sharded optimizer
        logging_strategy="no",
        logging_nan_inf_filter=False,
        report_to=list(settings.report_to),
        project=trackers.PROJECT,
        run_name=f"{folder.absolute().parent.name}/{folder.name}",
        disable_tqdm=True,
        log_level="error",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # never the Trainer's implicit DataParallel
    return arguments


def _only(steps: list[list[Row]]) -> list[Row]:
    return steps[0]
