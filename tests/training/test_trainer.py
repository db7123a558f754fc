"""Trainer: does it train as written down, leave the process alone, and go on after a kill as if there had been none?"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from training_kit import Listener, bytes_of, settings_of, small_model, some_rows

from palimpsest.core.errors import UserError
from palimpsest.store.atomic import TEMPORARY
from palimpsest.training.objectives import MaskedLoss, collate
from palimpsest.training.optimizers import adamw
from palimpsest.training.sampler import MixedBatches, Row
from palimpsest.training.trainer import train, train_batches


def steps_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]


def test_the_run_is_the_one_that_is_written_down(tmp_path: Path) -> None:
    """A bare loop without the Trainer: linear schedule with warm-up, clipping, AdamW, sum(w * ce) / sum(w) a step."""
    settings = settings_of(warmup_ratio=0.2, weight_decay=0.05, max_grad_norm=0.5)
    rows, model, bare = some_rows(), small_model(), small_model()
    train(model, None, rows, settings, tmp_path)

    batches, objective, optimizer, norms, losses = MixedBatches(rows, settings), MaskedLoss(), adamw(bare, settings), [], []
    objective.prepare(bare)
    for step in range(len(batches)):
        rate = min(step / 2, (10 - step) / 8) * settings.learning_rate
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = collate(batches[step])
        loss = objective(bare, batch).sum() / batch.weights.sum()
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(bare.parameters(), 0.5)))
        losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    for one, other in zip(model.parameters(), bare.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    log = steps_of(tmp_path)
    np.testing.assert_allclose([line["loss"] for line in log], losses, rtol=1e-5)
    np.testing.assert_allclose([line["gradient_norm"] for line in log], norms, rtol=1e-5)
    np.testing.assert_allclose(log[1]["learning_rate"], settings.learning_rate / 2)


def test_the_log_has_a_line_a_step_with_losses_by_source(tmp_path: Path) -> None:
    from palimpsest.store.record import StepLog

    model, rows, settings = small_model(), some_rows(), settings_of(logging_steps=4)
    objective = MaskedLoss()
    objective.prepare(model)
    first = collate(MixedBatches(rows, settings)[0])
    with torch.no_grad():
        by_source = (objective(model, first) / first.weights.sum(dim=1)).tolist()
    summary = train(model, None, rows, settings, tmp_path)
    log = [StepLog.read(line, "steps.jsonl") for line in steps_of(tmp_path)]
    assert [line.step for line in log] == list(range(1, 11))
    np.testing.assert_allclose([log[0].loss_express, log[0].loss_withhold, log[0].loss_rehearsal], by_source, rtol=1e-5)
    assert all((line.rows_express, line.rows_withhold, line.rows_rehearsal) == (3, 3, 2) for line in log)
    assert [line.examples for line in log] == list(range(6, 66, 6))
    assert (summary.steps, summary.dose, summary.rehearsal_share) == (10, 60, 0.25)
    assert summary.rows == {"express": 30, "withhold": 30, "rehearsal": 20}
    assert log[-1].loss < log[0].loss


def test_rehearsal_only_leaves_the_poles_unknown(tmp_path: Path) -> None:
    train(small_model(), None, some_rows(0, 0, 16), settings_of(), tmp_path)
    assert [(line["loss_express"], line["rows_express"], line["examples"]) for line in steps_of(tmp_path)] == [(None, 0, 0)] * 2


def test_accumulation_changes_the_passes_and_not_the_steps(tmp_path: Path) -> None:
    whole, parts = small_model(), small_model()
    train(whole, None, some_rows(), settings_of(), tmp_path / "whole")
    train(parts, None, some_rows(), settings_of(per_device_train_batch_size=3, gradient_accumulation_steps=2), tmp_path / "six")
    assert len(steps_of(tmp_path / "six")) == 14  # 80 rows by six
    parts = small_model()
    train(
        parts, None, some_rows(), settings_of(per_device_train_batch_size=2, gradient_accumulation_steps=4), tmp_path / "eight"
    )
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_same_seed_same_bytes_and_an_ordinary_folder(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a")))
    for name in ("one", "two"):
        small_model().save_pretrained(tmp_path / f"base-{name}")
        model = AutoModelForCausalLM.from_pretrained(tmp_path / f"base-{name}")
        train(model, tokenizer, some_rows(), settings_of(), tmp_path / name, base="tiny")
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")
    left = ["examples.jsonl", "model", "modules.jsonl", "steps.jsonl", "training.json"]
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == left
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "one" / "model")
    tokens = torch.tensor([[1, 2, 3]])
    assert torch.equal(loaded(tokens).logits, model(tokens).logits)
    assert loaded.config.use_cache
    assert AutoTokenizer.from_pretrained(tmp_path / "one" / "model").vocab_size == 2
    card = (tmp_path / "one" / "model" / "README.md").read_text()
    assert 'base_model: "tiny"' in card
    assert "| rehearsal (25.0% of all) | 20 |" in card
    assert "| learning_rate | 0.003 |" in card


def test_another_seed_gives_the_same_steps_in_another_order(tmp_path: Path) -> None:
    models = [small_model(), small_model()]
    for seed, model in enumerate(models):
        train(model, None, some_rows(), settings_of(seed=seed, per_device_train_batch_size=2), tmp_path / str(seed))
    assert steps_of(tmp_path / "0") != steps_of(tmp_path / "1")


def test_the_process_is_left_as_it_was_found(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import transformers

    model = small_model(attention_dropout=0.1)
    random.random(), np.random.random(), torch.rand(1)  # not where an earlier run left them
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    verbosity, forward, environment = transformers.logging.get_verbosity(), model.forward, dict(os.environ)
    train(model, None, some_rows(), settings_of(bf16=True), tmp_path)
    assert random.getstate() == python
    assert all(np.array_equal(one, other) for one, other in zip(np.random.get_state(), numpy, strict=True))
    assert torch.equal(torch.get_rng_state(), cpu)
    assert transformers.logging.get_verbosity() == verbosity
    assert model.forward == forward
    assert dict(os.environ) == environment
    assert model.training is False
    assert model.config.use_cache is True
    assert all(parameter.grad is None for parameter in model.parameters())
    assert capfd.readouterr() == ("", "")


# Going on after an interruption


def sgd(model: nn.Module, settings: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=settings.learning_rate, momentum=0.9)


@pytest.mark.parametrize(
    ("stop_at", "changes", "optimizer"),
    [
        (2, {}, None),  # before the first checkpoint
        (3, {}, None),  # after the log, before the checkpoint of this very step
        (5, {"lr_scheduler_type": "cosine", "warmup_ratio": 0.3, "weight_decay": 0.1}, None),
        (8, {"lr_scheduler_type": "constant", "logging_steps": 4, "save_total_limit": 2}, None),
        (10, {"lr_scheduler_type": "constant_with_warmup", "warmup_ratio": 0.1, "gradient_accumulation_steps": 2}, sgd),
        (15, {"num_train_epochs": 2, "allow_repeats": True, "max_steps": 17}, None),
        (
            5,
            {"optim": "apollo", "optim_args": {"rank": 2, "norm_limit": 1.01, "update_proj_gap": 4}, "context": "frozen"},
            None,
        ),
        (5, {"optim": "apollo_mini", "weight_decay": 0.1, "module_logging_steps": 2}, None),
        (5, {"lora": {"r": 2}, "context": "frozen"}, None),
    ],
)
def test_an_interrupted_run_goes_on_exactly(tmp_path: Path, stop_at: int, changes: dict, optimizer: Any) -> None:
    settings = settings_of(**{"per_device_train_batch_size": 8 // changes.get("gradient_accumulation_steps", 1)} | changes)

    def run(folder: Path, progress: Listener) -> None:
        train_batches(
            small_model(attention_dropout=0.2),
            None,
            MixedBatches(some_rows(), settings),
            settings,
            folder,
            progress,
            identity="rows",
            optimizer=optimizer,
        )

    run(tmp_path / "undisturbed", Listener())
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "disturbed", Listener(stop_at))
    (tmp_path / "disturbed" / "checkpoints" / ".unfinished-checkpoint-99").mkdir()
    assert not (tmp_path / "disturbed" / "model").exists()
    torch.rand(7)
    resumed = Listener()
    run(tmp_path / "disturbed", resumed)
    assert bytes_of(tmp_path / "disturbed") == bytes_of(tmp_path / "undisturbed")
    assert resumed.steps[0] > (stop_at - 1) // 3 * 3


_CHILD = """
import sys; sys.path.insert(0, {kit!r})
import time; from pathlib import Path
from training_kit import *
from palimpsest.training.trainer import train
class Slow(Listener):
    def advance(self, step, total, loss):
        time.sleep(0.02)
train(small_model(attention_dropout=0.2), None, some_rows(120, 120, 80), settings_of(save_steps=1), Path({folder!r}), Slow())
"""


def run_child(folder: Path, kill_after: float | None) -> int:
    code = _CHILD.format(kit=str(Path(__file__).parent), folder=str(folder))
    child = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "1"})
    if kill_after is not None:
        while child.poll() is None and not list((folder / "checkpoints").glob("checkpoint-*")):
            time.sleep(0.005)
        time.sleep(kill_after)
        child.send_signal(signal.SIGKILL)
    return child.wait()


@pytest.mark.slow
def test_kill_9_at_a_random_moment_loses_nothing(tmp_path: Path) -> None:
    for _ in range(5):
        assert run_child(tmp_path / "killed", random.uniform(0.0, 0.35)) == -signal.SIGKILL
    assert run_child(tmp_path / "killed", None) == 0
    train(small_model(attention_dropout=0.2), None, some_rows(120, 120, 80), settings_of(save_steps=1), tmp_path / "whole")
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "whole")


def test_a_kill_while_the_examples_are_written_leaves_nothing_behind(tmp_path: Path) -> None:
    train(small_model(), None, some_rows(), settings_of(), tmp_path)
    before = bytes_of(tmp_path)
    (tmp_path / "examples.jsonl").rename(tmp_path / f"{TEMPORARY}7-ab-examples.jsonl")
    train(small_model(), None, some_rows(), settings_of(), tmp_path)
    assert bytes_of(tmp_path) == before and not list(tmp_path.glob(f"{TEMPORARY}*"))


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first = train(small_model(), None, some_rows(), settings_of(), tmp_path)
    progress, before = Listener(), bytes_of(tmp_path)
    (tmp_path / "checkpoints" / "checkpoint-3").mkdir(parents=True)  # killed while it cleaned up
    assert train(small_model(), None, some_rows(), settings_of(save_steps=9), tmp_path, progress) == first
    assert progress.steps == []
    assert bytes_of(tmp_path) == before
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("other", ["model", "rows", "settings"])
def test_another_run_is_never_continued(tmp_path: Path, finished: bool, other: str) -> None:
    if finished:
        train(small_model(), None, some_rows(), settings_of(), tmp_path)
    else:
        with pytest.raises(KeyboardInterrupt):
            train(small_model(), None, some_rows(), settings_of(), tmp_path, Listener(5))
    before = bytes_of(tmp_path)
    with pytest.raises(UserError, match="this very run"):
        train(
            small_model(seed=1 if other == "model" else 0),
            None,
            some_rows(seed=1 if other == "rows" else 0),
            settings_of(learning_rate=1e-4) if other == "settings" else settings_of(),
            tmp_path,
        )
    assert bytes_of(tmp_path) == before


def test_a_lost_log_is_told(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(small_model(), None, some_rows(), settings_of(), tmp_path, Listener(5))
    (tmp_path / "steps.jsonl").unlink()
    with pytest.raises(UserError, match="must hold the 3 steps of the checkpoint beside it, found 0"):
        train(small_model(), None, some_rows(), settings_of(), tmp_path)


def test_checkpoints_are_limited_and_hold_no_pickle(tmp_path: Path) -> None:
    kept, names = [], set()

    class Looking(Listener):
        def advance(self, step: int, total: int, loss: float) -> None:
            kept.append(len(list((tmp_path / "checkpoints").iterdir())))
            names.update(path.name for path in tmp_path.rglob("*") if path.is_file())

    train(small_model(), None, some_rows(), settings_of(save_steps=1, save_total_limit=2), tmp_path, Looking())
    assert kept == [0, 1, 2, 2, 2, 2, 2, 2, 2, 2]
    assert {Path(name).suffix for name in names} <= {".safetensors", ".json", ".jsonl"}


# What is not what was written


def stopped(folder: Path, at: int = 8) -> list[Path]:
    """Stop a run in the middle, and return its checkpoints, the oldest first."""
    with pytest.raises(KeyboardInterrupt):
        train(small_model(), None, some_rows(), settings_of(save_total_limit=2), folder, Listener(at))
    return sorted((folder / "checkpoints").glob("checkpoint-*"))


def flip(file: Path, place: int = -2) -> None:
    raw = bytearray(file.read_bytes())
    raw[place] ^= 1
    file.write_bytes(raw)


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "optimizer.safetensors", "optimizer.json", "schedule.json", "random.json", "run.json", "seal.json"],
)
def test_a_flipped_bit_in_a_checkpoint_is_told_and_the_last_whole_one_taken(tmp_path: Path, name: str) -> None:
    train(small_model(), None, some_rows(), settings_of(save_total_limit=2), tmp_path / "whole")
    _, newest = stopped(tmp_path / "hurt")
    flip(newest / name)
    progress = Listener()
    train(small_model(), None, some_rows(), settings_of(save_total_limit=2), tmp_path / "hurt", progress)
    assert progress.steps[0] == 4
    assert f"{newest} is damaged and not used: {name if name != 'seal.json' else ''}" in progress.told[0]
    assert bytes_of(tmp_path / "hurt") == bytes_of(tmp_path / "whole")


@pytest.mark.parametrize("line", [5, 1])
def test_a_flipped_bit_in_the_log_takes_the_run_back_to_where_it_was_whole(tmp_path: Path, line: int) -> None:
    train(small_model(), None, some_rows(), settings_of(save_total_limit=2), tmp_path / "whole")
    stopped(tmp_path / "hurt")
    lines = (tmp_path / "hurt" / "steps.jsonl").read_text().splitlines(keepends=True)
    log = lines[line - 1]
    place = log.index('"loss": ') + 10
    lines[line - 1] = log[:place] + chr(ord(log[place]) ^ 1) + log[place + 1 :]
    (tmp_path / "hurt" / "steps.jsonl").write_text("".join(lines))
    progress = Listener()
    train(small_model(), None, some_rows(), settings_of(save_total_limit=2), tmp_path / "hurt", progress)
    assert progress.steps[0] == (4 if line == 5 else 1)
    assert len(progress.told) == (1 if line == 5 else 2) and "steps.jsonl is not what was written" in progress.told[0]
    assert bytes_of(tmp_path / "hurt") == bytes_of(tmp_path / "whole")


def test_when_no_checkpoint_is_whole_training_begins_again(tmp_path: Path) -> None:
    train(small_model(), None, some_rows(), settings_of(save_total_limit=2), tmp_path / "whole")
    for path in stopped(tmp_path / "hurt"):
        flip(path / "model.safetensors")
    progress = Listener()
    train(small_model(), None, some_rows(), settings_of(save_total_limit=2), tmp_path / "hurt", progress)
    assert progress.steps[0] == 1 and len(progress.told) == 2
    assert bytes_of(tmp_path / "hurt") == bytes_of(tmp_path / "whole")


@pytest.mark.parametrize("name", ["steps.jsonl", "modules.jsonl", "training.json"])
def test_a_finished_run_that_was_altered_is_told(tmp_path: Path, name: str) -> None:
    train(small_model(), None, some_rows(), settings_of(optim="apollo_mini", module_logging_steps=2), tmp_path)
    whole = (tmp_path / name).read_bytes()
    for place in range(3, len(whole), 97):
        flip(tmp_path / name, place)
        with pytest.raises(UserError, match=f"was trained, but .*{name}|'.*' is missing|can't be used"):
            train(small_model(), None, some_rows(), settings_of(optim="apollo_mini", module_logging_steps=2), tmp_path)
        (tmp_path / name).write_bytes(whole)
    train(small_model(), None, some_rows(), settings_of(optim="apollo_mini", module_logging_steps=2), tmp_path)


def test_a_log_that_changes_while_it_is_written_is_told(tmp_path: Path) -> None:
    """The seal is of what was written, and not of what the disk holds at the end."""

    class Meddling(Listener):
        def advance(self, step: int, total: int, loss: float) -> None:
            if step == 5:
                flip(tmp_path / "steps.jsonl", 20)

    with pytest.raises(UserError, match=r"steps\.jsonl is not what was written"):
        train(small_model(), None, some_rows(), settings_of(), tmp_path, Meddling())
    assert not (tmp_path / "training.json").exists()


def test_the_trained_model_is_held_against_its_digest(tmp_path: Path) -> None:
    from palimpsest.models.subject import inspect
    from palimpsest.training.output import trained
    from tests import tiny

    kept = tiny.tokenizer()
    model = small_model(vocab_size=len(kept))
    train(model, kept, some_rows(), settings_of(), tmp_path)
    info = trained(tmp_path)
    assert info == inspect(tmp_path / "model")
    flip(tmp_path / "model" / "model.safetensors", -7)
    with pytest.raises(UserError, match="model is not what was written"):
        trained(tmp_path)


# What goes wrong


def test_a_nan_in_the_weights_is_refused_by_name(tmp_path: Path) -> None:
    model = small_model()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, :3] = float("nan")
        model.model.norm.weight[2] = float("inf")
    with pytest.raises(UserError) as refusal:
        train(model, None, some_rows(), settings_of(), tmp_path)
    assert "model.layers.1.mlp.up_proj.weight holds 3 of 512" in str(refusal.value)
    assert "model.norm.weight holds 1 of 16" in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


class Breaking(MaskedLoss):
    """The masked loss, until a call at which it breaks."""

    def __init__(self, at: int, how: Any) -> None:
        self.at, self.how, self.calls = at, how, 0

    def __call__(self, model: Any, batch: Any) -> torch.Tensor:
        self.calls += 1
        sums = super().__call__(model, batch)
        return self.how(sums, batch) if self.calls == self.at else sums


@pytest.mark.parametrize("logging_steps", [1, 10])
@pytest.mark.parametrize("wrong", ["loss", "gradient norm"])
def test_a_nan_stops_the_run_at_its_step_and_keeps_the_last_checkpoint(tmp_path: Path, logging_steps: int, wrong: str) -> None:
    def spoil(sums: torch.Tensor, batch: Any) -> torch.Tensor:
        return sums * float("nan") if wrong == "loss" else (sums - sums.detach()).abs().sqrt() + sums.detach()

    with pytest.raises(UserError, match=f"training stopped at step 5: .*the {wrong}|training stopped at step 5: the {wrong}"):
        train(
            small_model(), None, some_rows(), settings_of(logging_steps=logging_steps), tmp_path, objective=Breaking(5, spoil)
        )
    assert [line["step"] for line in steps_of(tmp_path)] == [1, 2, 3, 4]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["checkpoint-3"]
    train(small_model(), None, some_rows(), settings_of(), tmp_path)
    train(small_model(), None, some_rows(), settings_of(), tmp_path.parent / "whole")
    assert bytes_of(tmp_path) == bytes_of(tmp_path.parent / "whole")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("can't allocate memory"),
        MemoryError(),
    ],
)
def test_less_memory_means_smaller_passes_and_the_same_steps(tmp_path: Path, error: Exception) -> None:
    def full(sums: torch.Tensor, batch: Any) -> torch.Tensor:
        raise error

    model, whole, progress, sizes = small_model(), small_model(), Listener(), []

    class Counting(Breaking):
        def __call__(self, model: Any, batch: Any) -> torch.Tensor:
            sizes.append(len(batch.tokens))
            return super().__call__(model, batch)

    summary = train(model, None, some_rows(), settings_of(), tmp_path / "small", progress, objective=Counting(4, full))
    train(whole, None, some_rows(), settings_of(), tmp_path / "whole")
    assert sizes == [8] * 4 + [4] * 14
    assert len(progress.told) == 1
    assert "Memory ran out at training step 4: going on with 4 rows at a time" in progress.told[0]
    assert summary.notes == tuple(progress.told)
    for one, other in zip(model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_what_was_gathered_before_memory_ran_out_is_dropped(tmp_path: Path) -> None:
    def full(sums: torch.Tensor, batch: Any) -> torch.Tensor:
        raise MemoryError

    model, whole = small_model(), small_model()
    settings = settings_of(per_device_train_batch_size=4, gradient_accumulation_steps=2)
    train(model, None, some_rows(), settings, tmp_path / "small", objective=Breaking(4, full))  # second pass of step 2
    train(whole, None, some_rows(), settings, tmp_path / "whole")
    np.testing.assert_allclose(
        [line["gradient_norm"] for line in steps_of(tmp_path / "small")],
        [line["gradient_norm"] for line in steps_of(tmp_path / "whole")],
        rtol=1e-4,
    )


def test_a_resumed_run_stays_small(tmp_path: Path) -> None:
    def full(sums: torch.Tensor, batch: Any) -> torch.Tensor:
        raise MemoryError

    with pytest.raises(KeyboardInterrupt):
        train(small_model(), None, some_rows(), settings_of(), tmp_path, Listener(7), objective=Breaking(4, full))
    later = Breaking(0, full)
    summary = train(small_model(), None, some_rows(), settings_of(), tmp_path, objective=later)
    assert later.calls == 2 * 4
    assert len(summary.notes) == 1


def test_no_memory_for_a_single_row_is_told(tmp_path: Path) -> None:
    class Full(MaskedLoss):
        def __call__(self, model: Any, batch: Any) -> torch.Tensor:
            raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(UserError, match="memory ran out at step 1 with a single row at a time"):
        train(small_model(), None, some_rows(), settings_of(), tmp_path, objective=Full())


def test_other_errors_are_not_swallowed(tmp_path: Path) -> None:
    def broken(sums: torch.Tensor, batch: Any) -> torch.Tensor:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        train(small_model(), None, some_rows(), settings_of(), tmp_path, objective=Breaking(2, broken))


def test_bad_rows_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    rows = [*some_rows(), Row(tuple(range(1, 41)), (1.0,) * 40, "express", "mine.jsonl:7")]
    with pytest.raises(UserError, match=r"mine.jsonl:7: 40 tokens, but the model's context holds 32"):
        train(small_model(), None, rows, settings_of(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_more_steps_than_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="max_steps is 11, but the rows fill only 10 steps of 8"):
        train(small_model(), None, some_rows(), settings_of(max_steps=11), tmp_path)
    assert train(small_model(), None, some_rows(), settings_of(max_steps=4), tmp_path).steps == 4


def test_a_place_that_is_not_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="can't be written: "):
        train(small_model(), None, some_rows(), settings_of(), tmp_path / "file" / "run")


def test_too_little_room_is_told_before_work_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(UserError, match="needs room for"):
        train(small_model(), None, some_rows(), settings_of(), tmp_path)


def test_half_precision_weights_are_trained_in_float32_and_that_is_told(tmp_path: Path) -> None:
    model = small_model().to(torch.bfloat16)
    summary = train(model, None, some_rows(), settings_of(), tmp_path)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert "The weights were bfloat16" in summary.notes[0]


def test_a_wholly_frozen_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="all of them frozen"):
        train(small_model().requires_grad_(False), None, some_rows(), settings_of(), tmp_path)


def test_frozen_weights_stay(tmp_path: Path) -> None:
    model = small_model()
    model.model.embed_tokens.requires_grad_(False)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    train(model, None, some_rows(), settings_of(), tmp_path)
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == set(before) - {"model.embed_tokens.weight"}


def test_weights_that_overflow_at_the_end_are_not_saved(tmp_path: Path) -> None:
    def huge(model: nn.Module, settings: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=float("inf"))

    rows = some_rows(4, 4, 0)
    settings = settings_of(learning_rate=1.0, max_grad_norm=0.0)
    with pytest.raises(UserError, match=r"weights must be finite, after the last step \(1\)"):
        train_batches(small_model(), None, MixedBatches(rows, settings), settings, tmp_path, identity="rows", optimizer=huge)
    assert not (tmp_path / "model").exists()


# What a run does by default


def test_every_pass_has_its_share_of_rehearsal(tmp_path: Path) -> None:
    settings = settings_of(per_device_train_batch_size=4, gradient_accumulation_steps=2)
    batches = MixedBatches(some_rows(), settings)
    passes = [step[start : start + 4] for step in batches for start in range(0, len(step), 4)]
    assert {sum(row.source == "rehearsal" for row in one) for one in passes} == {1}


@pytest.mark.parametrize("optim", ["apollo", "apollo_mini", "adamw"])
def test_the_log_says_what_moved_and_what_was_limited(tmp_path: Path, optim: str) -> None:
    arguments = {} if optim == "adamw" else {"norm_limit": 1.0001}
    settings = settings_of(optim=optim, optim_args=arguments, context="frozen", module_logging_steps=4)
    model = small_model()
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    train(model, None, some_rows(), settings, tmp_path)
    steps = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    assert all((step["limited"] is None) == (optim == "adamw") for step in steps)
    if optim != "adamw":
        assert steps[0]["limited"] == 0.0, "the first step has nothing to be held against"
        assert max(step["limited"] for step in steps) > 0
    assert [step["step"] for step in steps if step["update_to_weight"] is not None] == [1, 5, 9, 10]
    assert all(step["tokens_rehearsal"] > 0 for step in steps)
    modules = [json.loads(line) for line in (tmp_path / "modules.jsonl").read_text().splitlines()]
    assert [line["step"] for line in modules] == [1, 5, 9, 10]
    assert {name.partition(".weight")[0] for name in start} == set(modules[0]["modules"])
    assert all(one["update_to_weight"] > 0 for one in modules[0]["modules"].values())


def test_every_step_says_what_it_saw(tmp_path: Path) -> None:
    train(small_model(), None, some_rows(), settings_of(), tmp_path)
    seen = [json.loads(line) for line in (tmp_path / "examples.jsonl").read_text().splitlines()]
    assert sorted(one["from"] for one in seen) == sorted(row.name for row in some_rows())
    steps = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    for step in steps:
        mine = [one["source"] for one in seen if one["step"] == step["step"]]
        assert mine.count("rehearsal") == step["rows_rehearsal"]


def test_an_adapter_is_trained_alone_and_merged(tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    small_model().save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    train(model, None, some_rows(), settings_of(lora={"r": 2}, context="frozen"), tmp_path / "run", base=str(tmp_path / "base"))
    base, tuned = (AutoModelForCausalLM.from_pretrained(tmp_path / folder) for folder in ("base", "run/model"))
    moved = {
        name
        for (name, one), other in zip(base.named_parameters(), tuned.parameters(), strict=True)
        if not torch.equal(one, other)
    }
    assert moved
    assert all("proj" in name for name in moved)
    adapted = PeftModel.from_pretrained(base, str(tmp_path / "run" / "adapter")).merge_and_unload()
    for one, other in zip(adapted.parameters(), tuned.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_an_adapter_that_fits_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the adapter must fit the model"):
        train(small_model(), None, some_rows(), settings_of(lora={"target_modules": ["nothing"]}), tmp_path)


def test_checkpointing_with_a_frozen_context_is_refused_before_work() -> None:
    with pytest.raises(UserError, match="gradient_checkpointing drops the cache that a frozen context needs"):
        settings_of(gradient_checkpointing=True, context="frozen")


def test_checkpointing_with_a_full_context_changes_no_bit(tmp_path: Path) -> None:
    models = [small_model(), small_model()]
    for model, on in zip(models, (False, True), strict=True):
        train(model, None, some_rows(), settings_of(gradient_checkpointing=on), tmp_path / str(on))
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_trackers_get_every_step(tmp_path: Path) -> None:
    """The loss, and of each source its loss and its rows."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="no tensorboard")
    train(small_model(), None, some_rows(), settings_of(report_to=["tensorboard"]), tmp_path / "run")
    (events,) = (tmp_path / "run").rglob("events.out.tfevents.*")
    read = accumulator.EventAccumulator(str(events.parent))
    read.Reload()
    steps = [json.loads(line) for line in (tmp_path / "run" / "steps.jsonl").read_text().splitlines()]
    for name in ("loss", "loss_express", "loss_withhold", "loss_rehearsal", "rows_rehearsal", "tokens_express"):
        found = {point.step: point.value for point in read.Scalars(f"train/{name}")}
        assert found == pytest.approx({step["step"]: step[name] for step in steps}, rel=1e-6), name


@pytest.mark.parametrize("tracker", ["wandb", "trackio", "mlflow"])
def test_trackers_stay_at_home(tmp_path: Path, tracker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip(tracker, reason=f"{tracker} is not installed")
    for name in ("WANDB_MODE", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.chdir(tmp_path)
    asked: list[str] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_, **__: asked.append(host) or [])
    train(small_model(), None, some_rows(), settings_of(report_to=[tracker]), tmp_path / "run")
    assert not asked
    left = {"wandb": "wandb/**/run-*.wandb", "trackio": "trackio/palimpsest.db", "mlflow": "mlruns/**/metrics/loss_express"}
    assert len(list(tmp_path.glob(left[tracker]))) == 1


def test_a_tracker_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.integrations import integration_utils

    pytest.importorskip("tensorboard", reason="no tensorboard")

    def fails(*_: Any, **__: Any) -> None:
        raise OSError("no such server")

    monkeypatch.setattr(integration_utils.TensorBoardCallback, "_init_summary_writer", fails)
    with pytest.raises(UserError, match=r"the tracker 'tensorboard' stopped the training \(OSError: no such server\)"):
        train(small_model(), None, some_rows(), settings_of(report_to=["tensorboard"]), tmp_path / "run")


def test_a_tracker_that_is_not_there_is_told_before_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no tracker 'tensorbord'.*Did you mean 'tensorboard'"):
        train(small_model(), None, some_rows(), settings_of(report_to=["tensorbord"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()
