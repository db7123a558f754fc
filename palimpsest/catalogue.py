"""Catalogue: what is there to choose from?

Audits and scenarios are read as text and never imported, so that ``palimpsest list`` is quick.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import yaml

import palimpsest
from palimpsest.core import discover, docstrings
from palimpsest.core.errors import UserError, nearest
from palimpsest.store.runs import RunSummary, list_runs

_PACKAGE = Path(palimpsest.__file__).parent
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def everything(runs: Path) -> dict[str, dict[str, str]]:
    """Return audits, behaviours, scenarios, studies and runs: each name with its question in one line.

    Args:
        runs: the folder that holds the runs (or one run's own folder); it may be missing.
    """
    return {
        "audits": _modules("palimpsest.audits", _PACKAGE / "audits"),
        "behaviours": {file.stem: _question(file) for file in sorted((_PACKAGE / "behaviours").glob("*.yaml"))},
        "scenarios": _modules("palimpsest.data.scenarios", _PACKAGE / "data" / "scenarios"),
        "studies": _modules("palimpsest.studies", _PACKAGE / "studies"),
        "runs": {str(run.path): _told(run) for run in list_runs(runs)},
    }


def sections(name: str) -> dict[str, str]:
    """Return the docstring sections of an audit or a study by title.

    Raises:
        UserError: there is neither of that name.
    """
    kinds = {"audits": "Audit", "studies": "Study"}
    folder = next((one for one in kinds if name in discover.names(f"palimpsest.{one}")), None)
    if folder is None:
        known = [each for one in kinds for each in discover.names(f"palimpsest.{one}")]
        raise UserError(f"there is no audit or study named '{name}'.{nearest(name, known)}")
    found = docstrings.sections(docstrings.class_docstring(_PACKAGE / folder / f"{name}.py", kinds[folder]))
    return {title: " ".join(body.split()) for title, body in found.items()}  # its lines are broken for the source's width


def _modules(package: str, folder: Path) -> dict[str, str]:
    return {name: docstrings.question_of(folder / f"{name}.py") for name in discover.names(package)}


def _told(run: RunSummary) -> str:
    """Return what tells one run from another of the same name: when, with how many examples, on which model, how it ended."""
    parts = [datetime.fromtimestamp(run.path.stat().st_mtime).strftime("%Y-%m-%d %H:%M")]
    try:
        spec = json.loads((run.path / "spec.json").read_bytes())
        if "study" in spec:
            parts += [f"study {spec['study']}", f"{spec['grid']} grid", Path(spec["parameters"]["model"]).name]
        elif (asked := spec["request"])["kind"] == "run":
            parts += [f"dose {asked['behaviour']['dose']}", Path(asked["base"]).name]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # a folder of another version is still listed
    return f"{', '.join(parts)}: {run.headline if run.finished else 'not finished'}"


def _question(file: Path) -> str:
    """Return the question of a behaviour that comes with the package, without validating the rest of it."""
    data = yaml.load(file.read_text(encoding="utf-8"), _LOADER)
    return " ".join(str(data["question"]).split())
