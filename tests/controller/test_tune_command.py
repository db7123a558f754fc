"""`palimpsest tune` as a command: help without torch, a dry run that does nothing, bad input, exit codes."""

# ruff: noqa: F401, F811  # fixtures are imported by name
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_cli import command, python
from test_pipeline import behaviour, model

from palimpsest.store.runs import list_runs


def test_help_imports_nothing_heavy() -> None:
    code = """
import sys
sys.argv = ["palimpsest", "tune", "--help"]
from palimpsest import cli
try:
    cli.main()
except SystemExit as left:
    print([name for name in ("torch", "transformers", "numpy") if name in sys.modules], left.code)
"""
    out, _ = python(code).communicate(timeout=120)
    assert "--budget" in out and out.splitlines()[-1] == "[] 0"


def test_a_search_as_a_command(command: Any, behaviour: Path, model: Path, tmp_path: Path) -> None:
    words = ("tune", behaviour, "--model", model, "--device", "cpu", "--start-dose", 8, "--max-dose", 16, "--folder", "runs/t")
    code, out, _ = command(*words, "--dry-run")
    assert code == 0 and "first attempt: dose 8" in out and "at most: 12 attempts of dose 16" in out
    assert not (tmp_path / "runs").exists()
    code, out, err = command(*words, "--budget", "1 attempt")
    assert code == 2
    assert "Not found in 1 try, at this power; the budget was spent" in out and "report: runs/t/report.html" in out
    assert "decided, begin small" in err and "attempt 1: " in err and "All 1 attempts" in err
    assert [(one.finished, one.headline) for one in list_runs(tmp_path / "runs")] == [
        (True, "Not found in 1 try, at this power; the budget was spent")
    ]
    code, out, _ = command(*words, "--budget", "1 attempt", "--json")
    told = json.loads(out)
    assert code == 2 and told["kind"] == "tune" and told["specification"]["bounds"]["max_dose"] == 16
    assert told["provenance"]["command"][-6:] == ["--budget", "1 attempts", "--start-dose", "8", "--max-dose", "16"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--budget", "much"), "--budget must be like '10 attempts"),
        (("--learning-rate-range", "1e-4"), "must be LOW:HIGH"),
        (("--learning-rate-range", "1e-3:1e-4"), "0 < LOW <= HIGH"),
        (("--max-rehearsal", "1.5"), "max_rehearsal"),
        (("--max-dose", "1"), "max_dose"),
    ],
)
def test_bad_input_is_told_without_a_traceback(
    command: Any, behaviour: Path, model: Path, words: tuple[str, ...], reason: str
) -> None:
    code, out, err = command("tune", behaviour, "--model", model, "--device", "cpu", *words)
    assert code == 3 and reason in err and "Traceback" not in err and not out
