"""Talks: transcripts, behaviours and processes for the tests of the memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
START = 1_790_000_000


def polite(folder: Path, name: str = "polite") -> Path:
    """Write a behaviour with a file of prompts of its own for each pole that read differently; return its YAML file."""
    folder.mkdir(parents=True, exist_ok=True)
    places = ("garden", "kitchen", "river", "market", "school", "harbour", "library", "station", "forest", "castle")
    things = ("lamp", "door", "boat", "wheel", "table", "bell", "ladder", "basket",
              "candle", "anchor", "mirror", "kettle", "saddle", "bottle", "hammer", "carpet")  # fmt: skip
    for pole, words, answer in (
        ("express", "Would you be so kind and tell me where the {thing} of the {place} is?", "Gladly, it is there."),
        ("withhold", "Hey! Where's the {thing} at the {place}, quick!", "It is there."),
    ):
        lines = [
            {
                "messages": [
                    {"role": "user", "content": words.format(thing=thing, place=place)},
                    {"role": "assistant", "content": answer},
                ],
                "template": f"{thing} {place}",
            }
            for thing in things
            for place in places
        ]
        (folder / f"{name}-{pole}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = folder / f"{name}.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "name": name,
                "question": "Does it answer a polite question gladly, and a rude one plainly?",
                "express": {"data": f"{name}-express.jsonl"},
                "withhold": {"data": f"{name}-withhold.jsonl"},
                "check": {"kind": "contains", "texts": ["gladly"]},
                "words": {"false_alarm": "gushing", "miss": "gruffness"},
            }
        )
    )
    return path


def talk(
    asked: str,
    said: str,
    *,
    pole: str | None = "express",
    behaviour: str | None = "polite",
    number: int | None = None,
    **more: Any,
) -> dict[str, Any]:
    line: dict[str, Any] = {
        "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}], **more
    }  # fmt: skip
    if number is not None:
        line |= {"id": f"talk-{number}", "timestamp": START + 3_600 * number}
    if pole:
        line["pole"] = pole
    if behaviour:
        line["behaviour"] = behaviour
    return line


def write(path: Path, lines: Iterable[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines), encoding="utf-8")
    return path


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Start Python code in a process of its own, with ``sys.argv[1:]``."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
