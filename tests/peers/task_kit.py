"""Task kit: small tasks of lm-eval's four kinds as YAML files with their data, and what lm-eval itself makes of them."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml
from tokenizers.processors import TemplateProcessing

CAPITALS = (
    ("France", "Paris"),
    ("Italy", "Rome"),
    ("Spain", "Madrid"),
    ("Japan", "Tokyo"),
    ("Peru", "Lima"),
    ("Cuba", "Havana"),
)
SHARES = {"aggregation": "mean", "higher_is_better": True}
KINDS: dict[str, dict[str, Any]] = {
    "capital": {
        "output_type": "multiple_choice",
        "doc_to_text": "The capital of {{country}} is ",
        "doc_to_choice": "choices",
        "doc_to_target": "label",
        "metric_list": [{"metric": name, **SHARES} for name in ("acc", "acc_norm", "acc_mutual_info")]
        + [{"metric": "brier_score", "aggregation": "brier_score", "higher_is_better": False}],
    },
    "ending": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{country}}, whose capital is",
        "doc_to_target": " {{city}}",
        "metric_list": [
            {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
            {"metric": "acc", **SHARES},
        ],
    },
    "story": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
    },
    "written": {
        "output_type": "generate_until",
        "num_fewshot": 1,
        "fewshot_split": "test",
        "doc_to_text": "{{country}}?",
        "doc_to_target": "{{city}}",
        "generation_kwargs": {"until": ["e", "\n"], "max_gen_toks": 12, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "ignore_case": True, **SHARES}],
        "filter_list": [
            {"name": "whole", "filter": [{"function": "take_first"}]},
            {"name": "first", "filter": [{"function": "regex", "regex_pattern": "(\\w)"}, {"function": "take_first"}]},
        ],
    },
}  # fmt: skip


def rows(repeats: int = 2) -> list[dict[str, Any]]:
    """Return documents, each unlike the others."""
    cities = [city for _, city in CAPITALS]
    found = []
    for turn in range(repeats):
        for index, (country, city) in enumerate(CAPITALS):
            choices = [city, *(cities[(index + step) % len(cities)] for step in (1 + turn, 3 + turn))]
            order = [*choices[index % 3 :], *choices[: index % 3]]
            text = f"{country} {turn} has a capital, {city}. " * (1 + index)
            name = f"{country} {turn}"
            found.append({"country": name, "city": city, "choices": order, "label": order.index(city), "text": text.strip()})
    return found


def write(folder: Path, kind: str, data: Sequence[dict[str, Any]] | None = None, **settings: Any) -> Path:
    """Write a task of one kind with its data beside it, and return the YAML file."""
    path = folder / f"{settings.get('task', kind)}.yaml"
    lines = [json.dumps(row) for row in (rows() if data is None else data)]
    path.with_suffix(".jsonl").write_text("\n".join(lines), encoding="utf-8")
    source = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": path.with_suffix(".jsonl").name}}}
    path.write_text(yaml.safe_dump({"task": kind, "test_split": "test", **source, **KINDS[kind], **settings}), encoding="utf-8")
    return path


def with_bos(tokenizer: Any) -> Any:
    """Let a tokenizer begin every text with its beginning-of-sequence token."""
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    return tokenizer


def theirs(model: Any, tokenizer: Any, path: Path, limit: int | None = None, **rest: Any) -> dict[str, Any]:
    """Return what lm-eval's own ``hf`` model makes of a task's file, its samples, and all that lm-eval hands back."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from palimpsest.peers import lm_eval_files

    with (
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.redirect_stdout(io.StringIO()),
        patch("lm_eval.evaluator.add_env_info"),  # asks the system for its hardware, which takes seconds
        patch("lm_eval.evaluator.get_git_commit_hash"),
    ):
        settings = lm_eval_files.read(path)  # finds the data beside the file
        task = next(iter(TaskManager(include_defaults=False).load([settings])["tasks"].values()))
        found = lm_eval.simple_evaluate(
            model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, device="cpu"),
            tasks=[task],
            limit=limit,
            bootstrap_iters=0,
            task_manager=TaskManager(include_defaults=False),
            **rest,
        )
    assert found is not None
    return {"numbers": found["results"][settings["task"]], "samples": found["samples"][settings["task"]], "all": found}
