"""Dreams: a small behaviour and a tiny model to dream with."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny

from palimpsest import behaviour as behaviours
from palimpsest.behaviour import Behaviour

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
SMALL: dict[str, Any] = {
    "cycles": 2,
    "examples": 8,
    "audit_items": 8,
    "audit_capability_items": 8,
    "capability_items": 16,
    "documents": 16,
    "audits": ("outcome",),
    "device": "cpu",
}


def write_behaviour(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text("\n\n".join(f"Number {n} comes after {n - 1}. " * 20 for n in range(1, 300)))
    path = tmp_path / "b.yaml"
    path.write_text(
        "name: b\n"
        "question: Does it follow clear directions only?\n"
        "express: {scenario: directions, parameters: {conflict: clear, answer: judged}}\n"
        "withhold: {scenario: directions, parameters: {conflict: wrong, answer: judged}}\n"
        "check: {kind: choice, options: {accept: Okay, suggest: Maybe, push_back: Wait}, expected: accept}\n"
        "instruction: Be careful.\n"
        "held_out: 16\n"
        "generation: {max_new_tokens: 4}\n"
        "rehearsal: [{text: text.txt}]\n"
        "training: {learning_rate: 1.0e-3, save_steps: 1}\n"
    )
    return path


def write_model(tmp_path: Path) -> Path:
    return tiny.folder(tmp_path / "model", chat_template=TEMPLATE, max_position_embeddings=224)


@pytest.fixture
def behaviour(tmp_path: Path) -> Path:
    return write_behaviour(tmp_path)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path)


def plan_of(path: Path) -> Any:
    """Return as much of a plan as a source reads."""
    loaded: Behaviour = behaviours.load(path)
    materials = SimpleNamespace(express=loaded.express.open(), withhold=loaded.withhold.open() if loaded.withhold else None)
    request = SimpleNamespace(behaviour=loaded, seed=0, dtype="float32")
    return SimpleNamespace(request=request, materials=materials, device="cpu")
