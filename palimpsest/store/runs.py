"""Runs: which runs are there, and how did they end?"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RunSummary:
    """One run folder in one line."""

    path: Path
    finished: bool
    kind: str
    """``run``, ``diff`` or what an account is of (``study``); empty as long as it is not finished."""
    title: str
    headline: str
    """What its verdict says first."""


def list_runs(root: Path | str) -> tuple[RunSummary, ...]:
    """Return the runs directly in a folder, and the folder itself if it is one, by path."""
    root = Path(root)
    places = [root, *(sorted(root.iterdir()) if root.is_dir() else ())]
    return tuple(_summary(place) for place in places if (place / "spec.json").is_file())


def _summary(path: Path) -> RunSummary:
    record = _read(path / "record.json") or _read(path / "account.json")
    verdict = record.get("verdict", record)  # an account of several runs has its headline itself
    return RunSummary(
        path=path,
        finished=bool(record) and (path / "report.html").is_file(),
        kind=str(record.get("kind", "")),
        title=str(record.get("title", path.name)),
        headline=str(verdict.get("headline", "")) if isinstance(verdict, dict) else "",
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
