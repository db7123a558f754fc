"""Seals: a report is drawn from what the run left, or it is told what is not."""

# ruff: noqa: F401, F811  # fixtures are imported by name
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_pipeline import behaviour, model

import palimpsest
from palimpsest import api
from palimpsest.core.errors import UserError

LEFT = (
    "spec.json",
    "record.json",
    "results/0/outcome.json",
    "items/0.jsonl",
    "training/tuned-0/steps.jsonl",
    "training/tuned-0/modules.jsonl",
    "training/tuned-0/training.json",
    "training/tuned-0/examples.jsonl",
    "training/tuned-0/model/model.safetensors",
    "training/tuned-0/model/config.json",
    "training/tuned-0/model/tokenizer.json",
    "training/rehearsal_only-1/model/model.safetensors",
)


def flip(file: Path) -> bytes:
    """Flip a bit in the middle of a file, and return what it held."""
    whole = file.read_bytes()
    raw = bytearray(whole)
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)
    return whole


def named(name: str) -> str:
    return name.rpartition("/")[0] if "/model/" in name else name


def test_whatever_the_run_left_is_checked_when_its_report_is_drawn(behaviour: Path, model: Path, tmp_path: Path) -> None:
    run = palimpsest.run(behaviour, model, folder=tmp_path / "run", audits=("outcome",), device="cpu")
    page = run.report.read_bytes()
    assert api.is_sealed(run.folder) and list(api.altered(run.folder)) == []
    assert api.redraw(run.folder).read_bytes() == page
    places = [*LEFT, *(str(one.relative_to(run.folder)) for one in run.folder.glob("training/rehearsal_only-*/steps.jsonl"))]
    for name in [one for one in places if (run.folder / one).exists()]:
        whole = flip(run.folder / name)
        with pytest.raises(UserError, match=r"is not as the run left it[^-]*\n  - ") as told:
            api.redraw(run.folder)
        assert f"- {named(name)} is not what was written" in str(told.value), name
        assert len(str(told.value).splitlines()) == 2, "nothing else was touched"
        if name == "record.json":
            with pytest.raises(UserError, match=r"record\.json is not what was written"):
                palimpsest.load_report(run.folder)
        (run.folder / name).write_bytes(whole)
    assert set(LEFT[:11]) <= set(places) and all((run.folder / one).exists() for one in LEFT[:11])
    assert api.redraw(run.folder).read_bytes() == page

    flip(run.folder / LEFT[4])
    (run.folder / LEFT[2]).unlink()
    command = [sys.executable, "-m", "palimpsest", "report", str(run.folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 3
    assert (
        f"{LEFT[4]} is not what was written" in done.stderr + done.stdout and f"{LEFT[2]} is gone" in done.stderr + done.stdout
    )
    with pytest.raises(UserError, match=r"was trained, but steps\.jsonl is not what was written"):
        palimpsest.run(behaviour, model, folder=run.folder, audits=("outcome",), device="cpu")
    shutil.rmtree(run.folder / "training" / "tuned-0")
    again = palimpsest.run(behaviour, model, folder=run.folder, audits=("outcome",), device="cpu")
    assert again.report.read_bytes() == page and list(api.altered(run.folder)) == []

    flip(run.folder / LEFT[8])
    with pytest.raises(UserError, match="was trained, but model is not what was written"):
        palimpsest.run(behaviour, model, folder=run.folder, audits=("outcome",), device="cpu")
    shutil.rmtree(run.folder / "training" / "tuned-0" / "model")
    assert api.redraw(run.folder).read_bytes() == page, "a model that was removed as a whole is not missed"

    (run.folder / "seal.json").write_text("{")
    with pytest.raises(UserError, match=r"seal\.json can't be read"):
        api.redraw(run.folder)
    (run.folder / "seal.json").unlink()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "The run has no seal.json" in " ".join(done.stdout.split())


def test_a_seal_says_the_same_however_often_a_run_is_asked_for(behaviour: Path, model: Path, tmp_path: Path) -> None:
    seals = []
    for _ in range(2):
        folder = palimpsest.run(behaviour, model, folder=tmp_path / "run", audits=("outcome",), device="cpu").folder
        seals.append(json.loads((folder / "seal.json").read_text()))
    assert seals[0] == seals[1]
    assert {"training/tuned-0/model"} <= set(seals[0]["models"]) and "report.html" not in seals[0]["files"]
