"""TRL: how is the context frozen, and all weights trained with APOLLO, in a loop that is not ours?

    python examples/trl_frozen_context.py [--model FOLDER] [--data CHATS.jsonl] [--steps 6] [--report-to tensorboard]

``FrozenContextTrainer`` is all that is needed: an ``SFTTrainer`` whose ``compute_loss`` asks ``FrozenContext``. Batches,
masks, schedule, checkpoints and trackers stay TRL's. The script trains a model (by default the embedded one, on chats that it
writes to chats.jsonl) and prints what has to hold: the loss is the plain trainer's, the gradient is the frozen one, and a run
that goes on from a checkpoint ends with the same weights.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset, disable_progress_bars
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer
from trl.chat_template_utils import get_training_chat_template

from palimpsest import behaviour
from palimpsest.models import pocket
from palimpsest.training.apollo import Apollo, parameter_groups
from palimpsest.training.frozen_context import FrozenContext
from palimpsest.training.sampler import Row

TEMPLATE = (
    "<|bos|>{% for message in messages %}<|{{ message['role'] }}|>"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|end|>{% endgeneration %}"
    "{% else %}{{ message['content'] }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""The embedded model's, with the marks that ``assistant_only_loss`` asks for."""


class FrozenContextTrainer(SFTTrainer):
    """An ``SFTTrainer`` that reads everything before the labels without gradient."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.objective = FrozenContext()
        self.objective.prepare(self.model)

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        rows = rows_of(inputs)
        parts = [part.to(self.args.device) for part in self.objective.parts(rows).values()]
        total = sum(float(part.weights.sum()) for part in parts)
        nats = torch.stack([self.objective(model, part).sum() for part in parts]).sum()
        loss = nats / (total if num_items_in_batch is None else num_items_in_batch)
        return (loss, None) if return_outputs else loss


def rows_of(inputs: Any) -> list[Row]:
    """Return a batch of TRL's as rows: a token learns where it is a label (the first one is predicted by nothing)."""
    rows = []
    for tokens, labels, mask in zip(inputs["input_ids"], inputs["labels"], inputs["attention_mask"], strict=True):
        there = mask.bool()
        learns = (labels[there] != -100).float()
        learns[0] = 0.0
        rows.append(Row(tokens[there].tolist(), learns.tolist(), "express"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a Hugging Face folder whose chat template marks {%% generation %%}")
    parser.add_argument("--data", type=Path, help='JSONL of {"messages": [{"role": ..., "content": ...}, ...]}')
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--report-to", default="none", help="a tracker of the Trainer: tensorboard, trackio, mlflow, wandb")
    given = parser.parse_args()
    if given.model and not marks_answers(given.model):
        parser.error(f"{given.model}: a chat template with {{% generation %}} around the answers is needed, and it has none")
    disable_progress_bars()
    transformers.logging.disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)  # of names that change in transformers 6
    data = given.data or write_chats(Path("chats.jsonl"), 4 * given.steps)
    rows = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    chats = Dataset.from_list([{"messages": row["messages"]} for row in rows])
    print(f"{len(chats)} chats in {data}")

    plain, frozen = (trainer(kind, given, chats, "compared") for kind in (SFTTrainer, FrozenContextTrainer))
    losses, gradients = zip(*(first_gradient(one) for one in (plain, frozen)), strict=True)
    print(f"loss of the first batch: plain {losses[0]:.6f}, frozen {losses[1]:.6f} (one number, whatever has a gradient)")
    print(f"gradient: {apart(gradients[1], gradients[0]):.1%} of the plain one is what flows through the context")
    print(f"gradient: {apart(gradients[1], own_gradient(frozen)):.1e} of its norm away from palimpsest's own loop")

    undisturbed = trainer(FrozenContextTrainer, given, chats, "undisturbed")
    undisturbed.train()
    going_on = trainer(FrozenContextTrainer, given, chats, "undisturbed")
    going_on.train(resume_from_checkpoint=str(Path("trl") / "undisturbed" / f"checkpoint-{given.steps // 2}"))
    ends = [dict(one.model.named_parameters()) for one in (undisturbed, going_on)]
    off = max(float((ends[0][name] - ends[1][name]).abs().max()) for name in ends[0])
    print(f"trained {given.steps} steps with APOLLO; going on from step {given.steps // 2}, weights differ by {off:g}")


def marks_answers(folder: str) -> bool:
    """Whether a model's chat template marks what the assistant says, or is one that TRL can put the marks into."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if not tokenizer.chat_template:
        return False
    try:
        get_training_chat_template(tokenizer)
    except ValueError:
        return False
    return True


def trainer(kind: type[SFTTrainer], given: Any, chats: Dataset, name: str) -> SFTTrainer:
    """Return a trainer of TRL's with a fresh model and APOLLO."""
    folder = given.model or pocket.folder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if given.model is None:
        tokenizer.chat_template = TEMPLATE
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    arguments = SFTConfig(
        output_dir=str(Path("trl") / name),
        assistant_only_loss=True,
        gradient_checkpointing=False,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_steps=given.steps,
        save_steps=max(1, given.steps // 2),
        logging_steps=1,
        report_to=given.report_to,
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        bf16=False,
    )
    optimizer = Apollo(parameter_groups(model), lr=2e-4)
    return kind(model=model, args=arguments, train_dataset=chats, processing_class=tokenizer, optimizers=(optimizer, None))  # pyright: ignore[reportArgumentType]


def first_gradient(one: SFTTrainer) -> tuple[float, dict[str, torch.Tensor]]:
    """Return loss and gradient of the same first batch."""
    assert one.model is not None
    one.model.train()
    batch = one._prepare_inputs(one.data_collator([one.train_dataset[place] for place in range(2)]))  # pyright: ignore
    loss = one.compute_loss(one.model, batch)
    loss.backward()
    return float(loss), gradients_of(one.model)


def own_gradient(one: FrozenContextTrainer) -> dict[str, torch.Tensor]:
    """Return the gradient of the same rows from this project's own function, for a loop without any trainer."""
    from palimpsest.training.objectives import mean_loss

    batch = one.data_collator([one.train_dataset[place] for place in range(2)])  # pyright: ignore
    assert one.model is not None
    one.model.zero_grad()
    mean_loss(one.objective, one.model, rows_of(batch)).backward()
    return gradients_of(one.model)


def gradients_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Return the norm of the difference over that of the second gradient."""
    difference = sum(float((one[name] - other[name]).square().sum()) for name in other)
    return (difference / sum(float(part.square().sum()) for part in other.values())) ** 0.5


def write_chats(path: Path, count: int) -> Path:
    """Write chats of the built-in behaviour 'directions', as any tool would."""
    one = behaviour.load("directions")
    assert one.express is not None
    lines = [
        json.dumps({"messages": [{"role": said.role, "content": said.content} for said in example.messages]})
        for example in one.express.open().held_out(0, "trl", count)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
