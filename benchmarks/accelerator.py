"""Accelerator: what do scoring, writing, a diff and training cost on a GPU, beside the same peers, in bfloat16?

    python benchmarks/accelerator.py [--small] [--only SECTION ...] [--out FILE]

Random weights in the shapes of Qwen3-0.6B and of a Qwen3.5 of that size (three of four layers recurrent), timed with CUDA
events after a warm-up, models loaded before the clock starts. Then the largest dense model whose every weight can be trained
with APOLLO, and peak memory beside AdamW. One process, so that a rented machine spends its minutes on the work; each result is
printed as it is found. ``--small`` tries the script itself on tiny shapes, on any machine.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import material

_SHAPES: dict[str, dict[str, Any]] = {
    "Qwen3-0.6B": {
        "kind": "qwen3",
        "vocab_size": 151_936,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },
    "Qwen3.5-like": {
        "kind": "qwen3_5_text",
        "vocab_size": 248_320,
        "hidden_size": 1024,
        "intermediate_size": 3584,
        "num_hidden_layers": 24,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 16,
    },
}
_SMALL = {"vocab_size": 8_192, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "head_dim": 32}
_LARGE = {
    "vocab_size": 151_936,
    "hidden_size": 4096,
    "intermediate_size": 12_288,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
}
"""The shape of Qwen3-8B, whose 36 layers are varied."""
_END = 16
"""Every sixteenth token ends an answer."""


class Report:
    """What was found, printed and kept as it comes."""

    def __init__(self, path: Path | None) -> None:
        self.path, self.found = path, []

    def add(self, what: str, **numbers: Any) -> None:
        self.found.append({"what": what, **numbers})
        told = ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in numbers.items()
        )
        print(f"{what}: {told}", flush=True)
        if self.path is not None:
            self.path.write_text(json.dumps(self.found, indent=1), encoding="utf-8")


class Place:
    """Where it runs, and in which type and how much."""

    def __init__(self, small: bool) -> None:
        import torch

        self.small = small
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.folder = Path(tempfile.mkdtemp(prefix="palimpsest accelerator "))

    def timed(self, work: Callable[[], Any], repeats: int = 1) -> tuple[float, Any]:
        """Return the median seconds between two CUDA events around a piece of work, and what it returned."""
        import torch

        seconds: list[float] = []
        found = None
        for _ in range(repeats):
            if self.device == "cpu":
                began = time.perf_counter()
                found = work()
                seconds.append(time.perf_counter() - began)
                continue
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            first.record()
            found = work()
            last.record()
            torch.cuda.synchronize()
            seconds.append(first.elapsed_time(last) / 1e3)
        return median(seconds), found

    @contextmanager
    def peak(self, numbers: dict[str, float]) -> Iterator[None]:
        """Put the peak of the device's memory, in GiB, into ``numbers["GiB"]``."""
        import torch

        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            yield
        finally:
            numbers["GiB"] = torch.cuda.max_memory_allocated() / 2**30 if self.device == "cuda" else float("nan")

    def rate(self) -> float:
        """Return operations a second of a bfloat16 matrix product."""
        import torch

        size = 256 if self.small else 8192
        one, other = (torch.randn(size, size, device=self.device, dtype=torch.bfloat16) for _ in range(2))
        self.timed(lambda: one @ other)
        return 2.0 * size**3 * 10 / self.timed(lambda: [one @ other for _ in range(10)], 3)[0]

    def pair(self, name: str) -> tuple[Path, Path]:
        """Return the folders of a random base and of the same with a little noise."""
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        base, tuned = self.folder / name / "base", self.folder / name / "tuned"
        if tuned.exists():
            return base, tuned
        shape = {**_SHAPES[name], **(_SMALL if self.small else {})}
        kind = shape.pop("kind")
        config = AutoConfig.for_model(kind, **shape, tie_word_embeddings=True, max_position_embeddings=4096)
        torch.manual_seed(0)
        model = made(config, self.device).to(torch.bfloat16)
        model.generation_config.eos_token_id = [1, *range(3, config.vocab_size, _END)]
        for folder in (base, tuned):
            model.save_pretrained(folder)
            material.tokenizer().save_pretrained(folder)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter += 0.02 * parameter.float().std().nan_to_num() * torch.randn_like(parameter)
        del model
        AutoModelForCausalLM.from_pretrained(base)
        return base, tuned


def made(config: Any, device: str) -> Any:
    """Return a random float32 model, made where it is to be."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def scoring(place: Place, report: Report, name: str, batches: Sequence[int]) -> None:
    """Multiple choice and perplexity of one model, ours beside lm-eval's `hf`."""
    import logging

    import numpy as np
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from palimpsest.measures import _measure
    from palimpsest.measures._measure import Budget
    from palimpsest.models import subject

    logging.disable(logging.WARNING)
    folder = place.pair(name)[0]
    count = 20 if place.small else 1_000 if name == "Qwen3-0.6B" else 300
    questions, texts = material.questions("30M", count), material.documents("30M", count)
    choice = [Instance("loglikelihood", {}, (c, o), n) for n, (c, options) in enumerate(questions) for o in options]
    rolling = [Instance("loglikelihood_rolling", {}, (text,), n) for n, text in enumerate(texts)]
    ours: dict[str, Any] = {}
    with subject.load(subject.inspect(folder), place.device, "bfloat16") as model:
        budget = Budget.on(model.device, model.context_length)
        for told, items, measure in (("choice", _choice(questions), "options"), ("perplexity", _documents(texts), "losses")):
            taking = _measure.load(measure, {})
            work = partial(taking.take, model, items, budget, None, lambda *_: None)
            few = items.model_copy(update={"items": items.items[: max(count // 5, 8)]})
            taking.take(model, few, budget, None, lambda *_: None)
            passes: list[int] = []
            handle = model.model.register_forward_pre_hook(lambda *_, passes=passes: passes.append(1))
            numbers: dict[str, float] = {}
            with place.peak(numbers):
                seconds, ours[told] = place.timed(work, 2)
            handle.remove()
            report.add(
                f"scoring {name}, {told}, {count} items, ours",
                seconds=seconds,
                items_a_second=count / seconds,
                passes=len(passes) // 2,
                **numbers,
            )
    for told, requests, call in (("choice", choice, "loglikelihood"), ("perplexity", rolling, "loglikelihood_rolling")):
        best: tuple[float, int, Any] | None = None
        for batch in batches:
            peer = HFLM(str(folder), device=place.device, dtype="bfloat16", batch_size=batch, add_bos_token=told == "choice")
            getattr(peer, call)(requests[:batch], disable_tqdm=True)
            seconds, found = place.timed(
                lambda peer=peer, call=call, requests=requests: getattr(peer, call)(requests, disable_tqdm=True)
            )
            report.add(f"scoring {name}, {told}, lm-eval batch {batch}", seconds=seconds, items_a_second=count / seconds)
            if best is None or seconds < best[0]:
                best = (seconds, batch, found)
            del peer
            gc.collect()
        assert best is not None
        if told == "choice":
            left, right = ours[told].arrays["log_probability"], np.array([score for score, _ in best[2]])
        else:
            start, nats = ours[told].arrays["start"], ours[told].arrays["nats"]
            left, right = np.array([-nats[a:b].sum() for a, b in zip(start[:-1], start[1:], strict=True)]), np.array(best[2])
        off = np.abs(left.ravel() - right) / np.maximum(np.abs(right), 1.0)
        report.add(f"scoring {name}, {told}, numbers differ", most=float(off.max()), median=float(np.median(off)))


def _choice(questions: list[tuple[str, list[str]]]) -> Any:
    from palimpsest.data.chat import Example, ItemSet, Message, Span

    items = []
    for number, (context, options) in enumerate(questions):
        told = Message(role="text", content=context + options[0])
        span = Span(message=0, start=len(context), end=len(told.content))
        named = {str(at): option for at, option in enumerate(options)}
        items.append(Example(messages=(told,), decisions=(span,), template=str(number), options=named, source=str(number)))
    return ItemSet(name="items", items=tuple(items))


def _documents(texts: list[str]) -> Any:
    from palimpsest.data.chat import ItemSet
    from palimpsest.data.user_files import text_example

    return ItemSet(name="items", items=tuple(text_example(one, str(number)) for number, one in enumerate(texts)))


def writing(place: Place, report: Report, name: str, batches: Sequence[int]) -> None:
    """500 answers of at most 32 tokens, greedy and sampled, ours beside `generate` of transformers."""
    import generation

    from palimpsest.models import subject

    count = 12 if place.small else 500
    items = generation.items_of("30M", count)
    with subject.load(subject.inspect(place.pair(name)[0]), place.device, "bfloat16") as model:
        for temperature, told in ((0.0, "greedy"), (1.0, "sampled")):
            generation.write_ours(model, generation.items_of("30M", 8), temperature, 1, False)
            numbers: dict[str, float] = {}
            with place.peak(numbers):
                seconds, ours = place.timed(partial(generation.write_ours, model, items, temperature, 1, False), 2)
            tokens = sum(map(len, ours))
            report.add(f"writing {name}, {count} answers, {told}, ours", seconds=seconds, tokens=tokens, **numbers)
            for batch in batches:
                with place.peak(numbers):
                    work = partial(generation.write_theirs, model, items, temperature, batch, False)
                    seconds, theirs = place.timed(work)
                end = model.stop_token_ids
                theirs = [own[: next((at + 1 for at, one in enumerate(own) if one in end), None)] for own in theirs]
                same = sum(left == right for left, right in zip(ours, theirs, strict=True))
                report.add(
                    f"writing {name}, {told}, transformers batch {batch}",
                    seconds=seconds,
                    tokens=sum(map(len, theirs)),
                    **({} if temperature else {"same_answers": same}),
                    **numbers,
                )


def whole_diff(place: Place, report: Report, name: str, _batches: Sequence[int]) -> None:
    """A whole diff, from folders to report, beside bare forwards over what it read and `generate` of what it wrote."""
    import whole_diff as told

    from palimpsest import api

    base, tuned = place.pair(name)
    documents = 40 if place.small else 100
    text = place.folder / "text.txt"
    text.write_text("\n\n".join(material.documents("30M", documents)), encoding="utf-8")
    run = place.folder / f"{name} run"
    numbers: dict[str, float] = {}
    with told.noted() as kept, place.peak(numbers):
        seconds, _ = place.timed(lambda: api.diff(base, tuned, text=[text], folder=run, device=place.device, dtype="bfloat16"))
    bare: dict[str, float] = {}
    with place.peak(bare):
        bare_seconds, _ = place.timed(lambda: told.again(base, kept, place.device, "bfloat16", 128))
    report.add(
        f"diff {name}, {documents} documents",
        seconds=seconds,
        bare_seconds=bare_seconds,
        **told.tokens(kept),
        **numbers,
        bare_GiB=bare["GiB"],
        stages=json.loads((run / "timing.jsonl").read_text().splitlines()[-1])["stages_seconds"],
    )


def largest(place: Place, report: Report) -> None:
    """Train every weight of the largest dense model that fits: APOLLO at rank 256 and Mini, beside AdamW (fused)."""
    for optimizer, layers in (
        ("adamw", (20, 16)),
        ("apollo", (36, 32)),
        ("apollo_mini", (40, 36)),
    ):
        for count in layers:
            if _train(place, report, optimizer, 2 if place.small else count):
                break


def _train(place: Place, report: Report, optimizer: str, layers: int) -> bool:
    import torch
    from transformers import AutoConfig

    from palimpsest.core.errors import UserError
    from palimpsest.training import loop, optimizers, trainer
    from palimpsest.training.sampler import Row
    from palimpsest.training.settings import TrainingSettings

    shape = {**_LARGE, **({**_SMALL, "num_attention_heads": 2, "num_key_value_heads": 1} if place.small else {})}
    config = AutoConfig.for_model("qwen3", **{**shape, "num_hidden_layers": layers}, tie_word_embeddings=False)
    rank = 16 if place.small else 256
    settings = TrainingSettings(
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        optim=optimizer,  # pyright: ignore[reportArgumentType]
        optim_args={"rank": rank} if optimizer == "apollo" else {},
        bf16=True,
        module_logging_steps=0,
        save_steps=10**6,
    )

    def fused(model: Any, settings: Any) -> Any:
        return torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, fused=True)

    numbers: dict[str, float] = {}
    seconds: list[float] = []
    model = training = None
    try:
        with place.peak(numbers):
            model = made(config, place.device)
            weights = sum(parameter.numel() for parameter in model.parameters())
            rows = torch.randint(8, config.vocab_size, (16, 264), generator=torch.Generator().manual_seed(0)).tolist()
            batches = [[Row(row, [0.0] * 248 + [1.0] * 16, "express") for row in rows[at : at + 4]] for at in range(0, 16, 4)]
            training = loop.Loop(
                model,
                batches,
                settings,
                place.folder / f"{optimizer} {layers}",
                identity="benchmark",
                objective=trainer.objective_of(settings),
                optimizer=fused if optimizer == "adamw" else optimizers.OPTIMIZERS[optimizer],
            )
            training.add_callback(_steps(place, seconds))
            training.run()
        states = training.bare_optimizer.state.values()
        state = sum(one.numel() * one.element_size() for held in states for one in held.values() if torch.is_tensor(one))
        report.add(
            f"training {weights / 1e9:.2f}B weights, {layers} layers, {optimizer}",
            seconds_a_step=median(seconds[1:]),
            rows_at_once=training.rows_at_once,
            weights_GiB=weights * 4 / 2**30,
            state_GiB=state / 2**30,
            **numbers,
        )
    except (UserError, torch.OutOfMemoryError) as error:
        report.add(f"training {layers} layers, {optimizer}", failed=str(error)[:150], **numbers)
        return False
    finally:
        del model, training
        gc.collect()
    return True


def _steps(place: Place, seconds: list[float]) -> Any:
    from transformers import TrainerCallback

    class Steps(TrainerCallback):
        began = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = self._now()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(self._now() - self.began)

        def _now(self) -> float:
            import torch

            if place.device == "cuda":
                torch.cuda.synchronize()
            return time.perf_counter()

    return Steps()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="tiny shapes, to try the script")
    parser.add_argument("--only", nargs="*", default=["scoring", "writing", "diff", "training"], help="which sections")
    parser.add_argument("--batches", type=int, nargs="*", default=[16, 64, 256, 512], help="the peers' batch sizes")
    parser.add_argument("--out", type=Path, help="a file for what is found, as JSON")
    given = parser.parse_args()
    import torch
    import transformers

    place, report = Place(given.small), Report(given.out)
    named = torch.cuda.get_device_name() if place.device == "cuda" else "no accelerator"
    if place.device == "cpu" and not given.small:
        sys.exit("this benchmark needs an accelerator, and torch sees none; --small tries the script on tiny shapes")
    report.add("machine", device=named, torch=torch.__version__, transformers=transformers.__version__, flops=place.rate())
    works = {"scoring": scoring, "writing": writing, "diff": whole_diff}
    first, *others = _SHAPES
    sections: list[tuple[str, Callable[[], None]]] = [
        (told, partial(work, place, report, first, given.batches)) for told, work in works.items()
    ]
    sections.append(("training", partial(largest, place, report)))
    sections += [(told, partial(work, place, report, name, given.batches)) for name in others for told, work in works.items()]
    for section, work in sections:
        if section in given.only:
            began = time.monotonic()
            try:
                work()
            except Exception:  # the other sections are still worth their minutes
                report.add(f"{section} failed", why=traceback.format_exc()[-1500:])
            gc.collect()
            print(f"  ({section}: {time.monotonic() - began:.0f} s in all)", flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
