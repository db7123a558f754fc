"""Training step: what does a short decision after a long context cost, beside TRL's SFTTrainer?

All through their own trainers (ours and TRL's both are the Hugging Face Trainer), on the same model, rows and optimizer (AdamW,
fused). ``seconds`` is the median CPU time of a step after the first, from its beginning to the optimizer's end. Memory is the
peak of training above the loaded model, gradients and optimizer's state, which any of them needs: activations, that is.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import side_by_side

SHAPES = ((64, 8), (256, 16), (1024, 16))
ROWS, STEPS = 2, 3
VOCABULARY = 4096
MODELS = {
    "30M Llama": {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8, "num_attention_heads": 8},
    "8M Llama": {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 8, "num_attention_heads": 4},
    "2M Llama": {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 8, "num_attention_heads": 2},
}
GOALS = {(64, 8): 1.0, (256, 16): 2.0, (1024, 16): 3.0}
"""How many times faster than TRL a frozen step is meant to be."""
MEMORY_GOAL = 5.0


def measure(who: str, model: str, before: int, decision: int) -> dict[str, float]:
    import torch

    torch.set_num_threads(1)
    subject, tokenizer = loaded(model)
    known = subject.config.vocab_size
    rows = torch.randint(8, known, (ROWS * STEPS, before + decision), generator=torch.Generator().manual_seed(0)).tolist()
    clock = Clock(subject)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(None):
        if who == "TRL":
            run_trl(subject, tokenizer, rows, before, Path(folder), clock)
        else:
            run_ours(who, subject, rows, before, Path(folder), clock)
    return {"seconds": median(clock.seconds[1:]), "mebibytes": clock.activations(), "loss": clock.loss}


def loaded(name: str) -> tuple[Any, Any]:
    """Return a model with random weights (or the pocket) and a tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from palimpsest.models import pocket

    tokenizer = AutoTokenizer.from_pretrained(pocket.folder())
    if name == "pocket":
        return AutoModelForCausalLM.from_pretrained(pocket.folder()), tokenizer
    torch.manual_seed(0)
    sizes: dict[str, Any] = MODELS[name]
    config = LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=4096, tie_word_embeddings=True, **sizes)
    return LlamaForCausalLM(config), tokenizer


class Clock:
    """Times steps, and memory above what was held when training began."""

    def __init__(self, model: Any) -> None:
        self.seconds: list[float] = []
        self.loss = float("nan")
        self.kept = 3 * sum(4 * parameter.numel() for parameter in model.parameters()) / 2**20  # gradients, two moments

    def begin(self) -> None:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak counts from here on
        self.held = side_by_side.peak_mebibytes()

    def activations(self) -> float:
        return side_by_side.peak_mebibytes() - self.held - self.kept

    def start(self) -> None:
        self.began = time.process_time()

    def stop(self) -> None:
        self.seconds.append(time.process_time() - self.began)


def callback(clock: Clock) -> Any:
    from transformers import TrainerCallback

    class Steps(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            clock.begin()

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            clock.start()

        def on_optimizer_step(self, *_: Any, **__: Any) -> None:
            clock.stop()

    return Steps()


def run_trl(model: Any, tokenizer: Any, rows: list[list[int]], before: int, folder: Path, clock: Clock) -> None:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    masks = [[0] * before + [1] * (len(row) - before) for row in rows]
    arguments = SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=ROWS,
        max_steps=STEPS,
        learning_rate=1e-5,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        gradient_checkpointing=False,
        packing=False,
        train_sampling_strategy="sequential",
        max_length=None,
        bf16=False,
        use_cpu=True,
        save_strategy="no",
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    data = Dataset.from_dict({"input_ids": rows, "assistant_masks": masks})
    trainer = SFTTrainer(
        model=model, args=arguments, train_dataset=data, processing_class=tokenizer, callbacks=[callback(clock)]
    )
    trainer.train()
    clock.loss = trainer.state.log_history[0]["loss"]


def run_ours(who: str, model: Any, rows: list[list[int]], before: int, folder: Path, clock: Clock) -> None:
    from palimpsest.training import loop, optimizers, trainer
    from palimpsest.training.sampler import Row
    from palimpsest.training.settings import TrainingSettings

    settings = TrainingSettings(
        learning_rate=1e-5,
        lr_scheduler_type="constant",
        per_device_train_batch_size=ROWS,
        optim="adamw",
        context=who,  # pyright: ignore[reportArgumentType]
        module_logging_steps=0,
        save_steps=10**6,
    )
    batches = [
        [Row(row, [0.0] * before + [1.0] * (len(row) - before), "express") for row in rows[start : start + ROWS]]
        for start in range(0, len(rows), ROWS)
    ]
    training = loop.Loop(
        model,
        batches,
        settings,
        folder,
        identity="benchmark",
        objective=trainer.objective_of(settings),
        optimizer=optimizers.adamw,
    )
    training.add_callback(callback(clock))
    training.run()
    clock.loss = json.loads((folder / "steps.jsonl").read_text().splitlines()[0])["loss"]


def floors(sizes: dict[str, int], before: int, decision: int, rate: float) -> dict[str, float]:
    """Return the least seconds of a step: operations of its products at this machine's measured rate.

    Forward a weight takes 2 operations a token, with gradient 6; attention 4 for each pair of tokens and hidden unit, with
    gradient 14. What the last layer makes of the context beyond keys and values is asked for by nobody.
    """
    hidden, layers = sizes["hidden_size"], sizes["num_hidden_layers"]
    layer = 4 * hidden**2 + 3 * hidden * sizes["intermediate_size"]
    tokens = before + decision - 1
    read = 2 * before * ((layers - 1) * layer + 2 * hidden**2) + 2 * before**2 * hidden * (layers - 1)
    learnt = decision * layers * (6 * layer + 14 * before * hidden)
    whole = tokens * layers * (6 * layer + 7 * tokens * hidden)
    head = 6 * decision * hidden * VOCABULARY
    return {"frozen": ROWS * (read + learnt + head) / rate, "full": ROWS * (whole + head) / rate}


def plan(bench: side_by_side.Bench) -> None:
    bench.remark(
        f"{ROWS} rows a step. TRL's SFTTrainer at its best here: gradient checkpointing off (it is on by default), no packing, "
        "no padding (rows of one length), its fused head that skips tokens without loss, tokens and assistant masks made "
        "beforehand (the labels that assistant_only_loss makes). Random Llamas, float32. The floor is the operations of the "
        "products at the rate measured on matrices of these sizes."
    )
    by_context: dict[str, list[tuple[float, float]]] = {}
    for name, shapes in (("30M Llama", SHAPES), ("pocket", SHAPES[:1])):
        for shape in shapes:
            found = race(bench, name, shape)
            for who in found if name != "pocket" else ():
                by_context.setdefault(who, []).append((shape[0], median(turn["seconds"] for turn in found[who])))
    bench.growth("A step of two rows, 30M Llama", "tokens of context", by_context)
    by_size: dict[str, list[tuple[float, float]]] = {}
    for name, sizes in MODELS.items():
        weights = sizes["num_hidden_layers"] * (
            4 * sizes["hidden_size"] ** 2 + 3 * sizes["hidden_size"] * sizes["intermediate_size"]
        )
        for who in ("frozen", "full", "TRL"):
            turn = bench.apart(arguments(who, name, (256, 16)))
            by_size.setdefault(who, []).append((weights, turn["seconds"]))
    bench.growth("A step of two rows, 256 + 16 tokens", "weights in the layers", by_size)


def race(bench: side_by_side.Bench, name: str, shape: tuple[int, int]) -> dict[str, list[dict[str, float]]]:
    label = f"{name}, {shape[0]} + {shape[1]}"
    least: dict[str, float] = {}
    if sizes := MODELS.get(name):
        rate = side_by_side.matrix_rate(ROWS * sum(shape), sizes["hidden_size"], sizes["intermediate_size"])
        least = floors(sizes, *shape, rate)
    turns = bench.race(
        "A step",
        label,
        {who: arguments(who, name, shape) for who in ("frozen", "full", "TRL")},
        goals={"seconds": ("TRL", GOALS[shape]), "mebibytes": ("TRL", MEMORY_GOAL)},
        floor=least.get("frozen"),
    )
    ratios = [trl["seconds"] / full["seconds"] for full, trl in zip(turns["full"], turns["TRL"], strict=True)]
    row = {"": label, "TRL / full": f"{median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"}
    for who in ("full", "TRL") if least else ():
        row[f"{who} / its floor"] = f"{median(turn['seconds'] for turn in turns[who]) / least['full']:.2f}x"
    for who in ("frozen", "full", "TRL"):
        row[f"first loss, {who}"] = f"{turns[who][0]['loss']:.5f}"
    bench.row("The ordinary gradient: ours beside TRL", row)
    return turns


def arguments(who: str, name: str, shape: tuple[int, int]) -> dict[str, Any]:
    return {"who": who, "model": name, "before": shape[0], "decision": shape[1]}


if __name__ == "__main__":
    side_by_side.main(__doc__, measure, plan)
