"""Training settings: with which numbers is a model trained?

The names are those of Hugging Face's ``TrainingArguments``, so that they can be read and moved without a table.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from palimpsest.core.spec import Spec, digest

Schedule = Literal["linear", "cosine", "constant", "constant_with_warmup"]

_CADENCE = {"logging_steps", "module_logging_steps", "save_steps", "save_total_limit", "reason", "report_to"}
"""What changes no weight, so a run may go on with other values."""


class AdamwArguments(Spec):
    """``optim_args`` of ``optim: adamw``."""

    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    adam_beta2: float = Field(default=0.999, ge=0, lt=1)
    adam_epsilon: float = Field(default=1e-8, gt=0)


class MiniArguments(AdamwArguments):
    """``optim_args`` of ``optim: apollo_mini``."""

    scale: float | None = Field(default=None, gt=0)
    """The update is multiplied by its square root; by default what makes up for the projection (shorter side / rank), so that
    a learning rate means what it means for AdamW."""
    update_proj_gap: int = Field(default=200, ge=1)
    """Steps between two random projections."""
    norm_limit: float | None = Field(default=None, ge=1)
    """By how much the update's norm may grow from step to step (1.01 in the paper); none by default, because in runs of a few
    dozen steps the first step's gradient would decide the length of all (docs/design/05)."""


class ApolloArguments(MiniArguments):
    """``optim_args`` of ``optim: apollo``."""

    rank: int | None = Field(default=None, ge=1)
    """Rows of the projection; by default a quarter of each matrix's shorter side."""


OPTIM_ARGUMENTS: dict[str, type[Spec]] = {"adamw": AdamwArguments, "apollo": ApolloArguments, "apollo_mini": MiniArguments}
"""The arguments of each optimizer that ``optim`` can name."""


class LoraSettings(Spec):
    """A low-rank adapter, trained in place of the weights and merged into them at the end (PEFT's names and defaults)."""

    r: int = Field(default=8, ge=1)
    lora_alpha: int = Field(default=16, ge=1)
    target_modules: str | tuple[str, ...] = "all-linear"
    use_dora: bool = False


class PreferenceSettings(Spec):
    """Prefer each example's answer to a worse one (direct preference optimisation), in place of imitating it."""

    beta: float = Field(default=0.1, gt=0)
    """How strongly the preference is held to that of the model before training."""


class TrainingSettings(Spec):
    """How a model is trained: one pass, all weights with APOLLO, the context frozen."""

    learning_rate: float = Field(default=1e-5, gt=0, le=1)
    reason: str = ""
    """Why this learning rate, in the user's words; printed in the report."""
    per_device_train_batch_size: int = Field(default=8, ge=1)
    """Rows in one forward pass. Halved (and the accumulation doubled) when memory runs out."""
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    """Forward passes in one optimizer step; shares hold in each pass."""
    num_train_epochs: int = Field(default=1, ge=1)
    allow_repeats: bool = False
    """Says that rows may be seen more than once, which a second epoch does."""
    max_steps: int = -1
    """Stop after so many optimizer steps (-1: when the rows are used up)."""
    warmup_ratio: float = Field(default=0.0, ge=0, lt=1)
    lr_scheduler_type: Schedule = "linear"
    weight_decay: float = Field(default=0.0, ge=0, lt=1)
    max_grad_norm: float = Field(default=1.0, ge=0)
    """Gradients are scaled down to this norm; 0 leaves them as they are."""
    logging_steps: int = Field(default=1, ge=1)
    """Numbers are fetched from the device, checked and written this often; every step has its line whatever this is."""
    save_steps: int = Field(default=100, ge=1)
    save_total_limit: int = Field(default=1, ge=1)
    """Checkpoints kept during training; a finished run keeps only the model."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    bf16: bool = False
    """Compute in bfloat16; the weights stay in float32."""
    optim: Literal["apollo", "apollo_mini", "adamw"] = "apollo"
    optim_args: dict[str, Any] = {}
    lora: LoraSettings | None = None
    """Train a low-rank adapter and not the weights themselves."""
    context: Literal["frozen", "full"] = "frozen"
    """Whether what stands before the tokens that learn is read without gradient, or the gradient runs back through it."""
    rehearsal_context: Literal["frozen", "full"] = "frozen"
    """The same for rehearsal rows, where ``context`` is frozen."""
    preference: PreferenceSettings | None = None
    """For examples that bring a worse answer (``rejected``); rehearsal keeps the ordinary loss."""
    gradient_checkpointing: bool = False
    """Saves memory at the cost of time; only with ``context: full``."""
    module_logging_steps: int = Field(default=10, ge=0)
    """How often it is noted how far each module moved (0: never)."""
    report_to: tuple[str, ...] = ()
    """Trackers that get the step log too, under the Trainer's names: tensorboard, wandb, mlflow, trackio ... Weights & Biases
    is offline unless WANDB_MODE says otherwise."""
    rehearsal_share: float = Field(default=0.25, ge=0, lt=1)
    """Rehearsal rows over all rows."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.num_train_epochs > 1 and not self.allow_repeats:
            raise ValueError(
                f"num_train_epochs is {self.num_train_epochs}, but every row is meant to be seen once; "
                "give more examples, or say allow_repeats: true"
            )
        if self.max_steps != -1 and self.max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, or -1 for no limit; found {self.max_steps}")
        if self.warmup_ratio > 0 and self.lr_scheduler_type == "constant":
            raise ValueError("lr_scheduler_type 'constant' has no warm-up; say constant_with_warmup, or drop warmup_ratio")
        if self.gradient_checkpointing and self.context == "frozen":
            raise ValueError(
                "gradient_checkpointing drops the cache that a frozen context needs; leave it out (few decision tokens need "
                "little memory), or say context: full"
            )
        OPTIM_ARGUMENTS[self.optim].read(self.optim_args, f"optim_args of optim '{self.optim}'")
        return self

    @property
    def rows_per_step(self) -> int:
        """Rows of one optimizer step (the effective batch)."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    @property
    def fingerprint(self) -> str:
        """Hash of what decides the weights; a checkpoint is only continued under the same one."""
        return digest(self.model_dump(mode="json", exclude=_CADENCE))
