"""Examples: do the scripts that the documents point to still run?"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

EXAMPLES = Path(__file__).parents[1] / "examples"
STORIES = Path(__file__).parents[2] / "shared" / "data" / "models" / "stories260K"


def run(*arguments: str | Path, folder: Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_noise_floor(tmp_path: Path) -> None:
    table = run(EXAMPLES / "noise_floor.py", "--seeds", "2", "--dose", "8", folder=tmp_path)
    assert "rehearsal only against base, 2 pairs, dose 8" in table
    assert "| outcome.express_change" in table


@pytest.mark.slow
@pytest.mark.skipif(not STORIES.exists(), reason=f"needs the stories260K model in {STORIES}")
def test_the_rainy_story_can_be_planned(tmp_path: Path) -> None:
    said = run("-m", "palimpsest", "run", EXAMPLES / "rainy_story.yaml", "--model", STORIES, "--dry-run", folder=tmp_path)
    assert "260,032" in said


@pytest.mark.slow
def test_training_table(tmp_path: Path) -> None:
    table = run(EXAMPLES / "training_table.py", "--seeds", "2", "--dose", "8", "--ways", "apollo", folder=tmp_path)
    assert "| apollo, frozen, " in table
    assert "| apollo, full, " in table


@pytest.mark.slow
def test_pretraining_comparison(tmp_path: Path) -> None:
    table = run(EXAMPLES / "pretraining_comparison.py", "--steps", "3", "--seeds", "1", folder=tmp_path)
    assert table.count("| APOLLO, rank d/4 |") == 4
    assert "| SGD with momentum | 0.3 |" in table


@pytest.mark.slow
def test_trace_by_rehearsal(tmp_path: Path) -> None:
    table = run(EXAMPLES / "trace_by_rehearsal.py", "--seeds", "2", "--shares", "0,50", "--dose", "8", folder=tmp_path)
    assert "| 0% | " in table
    assert "| 50% | " in table


@pytest.mark.slow
def test_watch_transcripts(tmp_path: Path) -> None:
    days = ("--days", "4", "--a-day", "4", "--changed", "3", "--dose", "8")
    assert "wrote transcripts/labelled.jsonl: 16 conversations" in run(
        EXAMPLES / "watch_transcripts.py", *days, folder=tmp_path
    )
    said = run("-m", "palimpsest", "watch", "transcripts/labelled.jsonl", "--memory", "memory", folder=tmp_path)
    assert "16 conversations, 16 new answers judged" in said


def test_trl_frozen_context(tmp_path: Path) -> None:
    pytest.importorskip("trl", reason="trl is not installed")
    said = run(EXAMPLES / "trl_frozen_context.py", "--steps", "4", "--report-to", "tensorboard", folder=tmp_path)
    plain, frozen = re.search(r"plain ([\d.]+), frozen ([\d.]+)", said).groups()  # type: ignore[union-attr]
    assert float(frozen) == pytest.approx(float(plain), rel=1e-4)
    assert float(re.search(r"([\d.]+)% of the plain one", said).group(1)) > 1  # type: ignore[union-attr]
    assert float(re.search(r"gradient: (\S+) of its norm away", said).group(1)) < 1e-5  # type: ignore[union-attr]
    assert "going on from step 2, weights differ by 0\n" in said
    assert list((tmp_path / "trl").rglob("events.out.tfevents.*"))


@pytest.mark.parametrize(
    "template",
    [pytest.param(None, marks=pytest.mark.slow), "{% for message in messages %}{{ message['content'] }}{% endfor %}"],
)
def test_trl_frozen_context_needs_a_template_that_marks_answers(tmp_path: Path, template: str | None) -> None:
    pytest.importorskip("trl", reason="trl is not installed")
    script, model = EXAMPLES / "trl_frozen_context.py", tiny.folder(tmp_path / "model", chat_template=template)
    done = subprocess.run(
        [sys.executable, script, "--model", model], cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "a chat template with {% generation %} around the answers is needed" in done.stderr
