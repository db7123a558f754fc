"""Kit: small logs in the layout of inspect and of lm-eval, to plant what is wrong with them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def sample(name: object, value: object = "C", *, epoch: int = 1, **more: Any) -> dict[str, Any]:
    scores = {"match": {"value": value}} if value is not None else None
    return {
        "id": name,
        "epoch": epoch,
        "input": f"question {name}?",
        "target": "right",
        "messages": [{"role": "user", "content": f"question {name}?"}, {"role": "assistant", "content": f"{value}!"}],
        "scores": scores,
        "metadata": {},
        **more,
    }


def log(samples: Sequence[dict[str, Any]], *, task: str = "t", model: str = "m", **more: Any) -> dict[str, Any]:
    about = {"task": task, "model": model, "config": {"epochs": 1}, "eval_id": model, "created": "2026-01-01"}
    about |= more.pop("eval", {})
    return {"version": 2, "status": "success", "eval": about, "samples": list(samples), **more}


def write(path: Path, data: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))
    return path


def pack(path: Path, data: dict[str, Any], *, header: bool = True) -> Path:
    """Write a log as ``.eval``; without a header it is one whose evaluation was killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {key: value for key, value in data.items() if key != "samples"}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for one in data["samples"]:
            made.writestr(f"samples/{one['id']}_epoch_{one['epoch']}.json", json.dumps(one))
        made.writestr("_journal/start.json", json.dumps({"version": 2, "eval": about["eval"]}))
        if header:
            made.writestr("header.json", json.dumps(about))
    return path


def document(number: int, *, digest: str | None = None, target: str = "t", prompt: str = "p", **scores: Any) -> dict[str, Any]:
    scores = scores or {"acc": 1.0}
    return {
        "doc_id": number,
        "doc": {"q": f"question {number}", "group": number % 10},
        "target": target,
        "arguments": {"gen_args_0": {"arg_0": f"question {number}"}},
        "filtered_resps": ["answer"],
        "filter": "none",
        "metrics": list(scores),
        "doc_hash": digest or f"hash-{number}",
        "prompt_hash": prompt,
        "target_hash": target,
        **scores,
    }


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
