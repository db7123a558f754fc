"""Make logs: two models answered by inspect and by lm-eval themselves, offline, so that comparing meets what these tools write.

    python tests/compare/make_logs.py tests/compare/logs.tar.xz

The model before is the embedded one, the model after the same with noise on its weights. What is in
``tests/compare/logs.tar.xz`` was made by this script; the slow test makes it again. Needs ``inspect-ai`` and ``lm-eval``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from itertools import islice
from pathlib import Path

import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from palimpsest.data.chat import Example
from palimpsest.data.scenarios.facts import FACTS, Facts
from palimpsest.data.scenarios.stories import Stories
from palimpsest.data.scenarios.sums import Sums
from palimpsest.data.stream import ExampleStream
from palimpsest.models import pocket

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "INSPECT_DISPLAY": "none", "OMP_NUM_THREADS": "1"}
MODELS = {"before": 0.0, "after": 0.25}
"""Each model and the noise on its weights, as a share of their spread."""

TASKS = '''
"""Three tasks in the words of the embedded model."""

import json

from inspect_ai import Task, task
from inspect_ai.dataset import json_dataset
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import Score, accuracy, match, mean, scorer, stderr
from inspect_ai.solver import generate


@scorer(metrics={"first_digit": [mean(), stderr()], "length": [mean(), stderr()]})
def digits():
    async def score(state, target):
        said = state.output.completion.strip()
        return Score(value={"first_digit": said[:1] == target.text[:1], "length": min(len(said), 6)})

    return score


@task
def sums(epochs: int = 1, temperature: float = 0.0):
    config = GenerateConfig(max_tokens=6, temperature=temperature, seed=0) if temperature else GenerateConfig(max_tokens=6)
    return Task(
        dataset=json_dataset("sums.jsonl"), solver=generate(), scorer=[match(numeric=True), digits()], epochs=epochs,
        config=config,
    )


@task
def facts():
    return Task(dataset=json_dataset("facts.jsonl"), solver=generate(), scorer=match(), config=GenerateConfig(max_tokens=6))
'''

LM_EVAL_TASKS = {
    "pocket_sums": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 6, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    },
    "pocket_facts": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{choices.index(answer)}}",
        "target_delimiter": "",
        "metric_list": [
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
            {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True},
            {"metric": "brier_score", "aggregation": "brier_score", "higher_is_better": False},
        ],
    },
    "pocket_stories": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
    },
}


def drawn(scenario, count: int) -> list[Example]:
    return list(islice(ExampleStream(scenario, 0, "logs", "test"), count))


def write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_data(work: Path, count: int) -> None:
    """Write the documents of all tasks; two facts stand twice."""
    sums = [
        {"id": f"sum-{place}", "input": one.context, "target": one.decision, "metadata": {"wording": one.template}}
        for place, one in enumerate(drawn(Sums(digits="three"), count))
    ]
    facts = [(one.context, one.decision, one.template) for one in drawn(Facts(tier="frequent"), count)]
    answers = {answer: relation.answers for tier in FACTS.values() for _, relation, answer in tier}
    write_lines(work / "sums.jsonl", sums)
    write_lines(work / "facts.jsonl", [{"input": said, "target": right} for said, right, _ in facts])
    write_lines(work / "lm_sums.jsonl", [{"question": one["input"], "answer": one["target"]} for one in sums])
    documents = [
        {"question": said, "answer": right, "wording": wording,
         "choices": [right, *[f"{other}." for other in answers[right.rstrip(".")] if f"{other}." != right][:3]]}
        for said, right, wording in facts
    ]  # fmt: skip
    write_lines(work / "lm_facts.jsonl", [*documents, *documents[:2]])
    write_lines(work / "lm_stories.jsonl", [{"text": one.messages[0].content} for one in drawn(Stories(), count)])
    for name, about in LM_EVAL_TASKS.items():
        data = str(work / f"lm_{name.removeprefix('pocket_')}.jsonl")
        rest = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": data}}, "test_split": "test"}
        (work / f"{name}.yaml").write_text(yaml.safe_dump({**rest, **about, "metadata": {"version": 1}}))
    (work / "tasks.py").write_text(TASKS)


def write_model(path: Path, noise: float) -> None:
    source = pocket.resolve("pocket")
    model = AutoModelForCausalLM.from_pretrained(source)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2 and noise:
                weight += noise * weight.std() * torch.randn(weight.shape, generator=generator)
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(source).save_pretrained(path)


def call(command: list[str], where: Path) -> None:
    done = subprocess.run(command, cwd=where, env={**os.environ, **OFFLINE}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def inspect(work: Path, target: Path, model: str, task: str, *options: str, form: str = "eval") -> None:
    """Run one task and keep its log as ``target/MODEL-TASK.FORM``."""
    logs = work / "inspect" / model / f"{task}{len(options)}"
    command = [str(Path(sys.executable).parent / "inspect"), "eval", f"tasks.py@{task}", "--model", f"hf/{model}", "-M",
               f"model_path={work / model}", "-M", "device=cpu", "--log-dir", str(logs), "--log-format", form]  # fmt: skip
    call([*command, *options], work)
    (found,) = logs.glob(f"*.{form}")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(found, target)


def lm_eval(work: Path, target: Path, model: str) -> None:
    """Run all tasks and keep the output folder as ``target``."""
    command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--model_args", f"pretrained={work / model},dtype=float32",
               "--device", "cpu", "--include_path", str(work), "--output_path", str(target), "--log_samples",
               "--apply_chat_template", "--batch_size", "4", "--tasks"]  # fmt: skip
    call([*command, "pocket_sums,pocket_facts,pocket_stories"], work)


def make(target: Path, work: Path, count: int = 12) -> None:
    """Make all logs.

    Args:
        target: the folder that they are kept in: ``inspect/*`` and ``lm_eval/MODEL/*``.
        work: a folder for models and data.
        count: documents of each task.
    """
    work.mkdir(parents=True, exist_ok=True)
    write_data(work, count)
    for model, noise in MODELS.items():
        write_model(work / model, noise)
        log = target / "inspect"
        inspect(work, log / f"{model}-sums.eval", model, "sums", "-T", "epochs=3", "-T", "temperature=1.0")
        inspect(work, log / f"{model}-facts.json", model, "facts", form="json")
        lm_eval(work, target / "lm_eval" / model, model)


def pack(logs: Path, target: Path) -> None:
    """Write the logs as one archive: each is as its tool wrote it, and together they are a third of their size."""
    with tarfile.open(target, "w:xz", preset=9) as packed:
        for file in sorted(logs.rglob("*.*")):
            if file.is_file():
                packed.add(file, str(file.relative_to(logs)))


if __name__ == "__main__":
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else "/tmp/palimpsest-logs").absolute()
    make(folder / "logs", folder / "work")
    pack(folder / "logs", Path(sys.argv[1]))
