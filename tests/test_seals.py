"""Seals: a report is drawn from what the run left, or it is told what is not."""

# ruff: noqa: F401, F811  # fixtures are imported by name
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_pipeline import behaviour, model

import palimpsest
from palimpsest import api
from palimpsest import behaviour as behaviours
from palimpsest.core.errors import UserError
from palimpsest.core.files import noted
from palimpsest.data.material import Source
from palimpsest.request import Request
from palimpsest.store.run_folder import RunFolder

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


# ---------------------------------------------------------------- what a run reads


def test_the_spec_holds_the_hash_of_every_file_that_is_read(behaviour: Path, model: Path, tmp_path: Path) -> None:
    """So a run is only gone on with as long as they hold the same, whatever they are called."""
    text = tmp_path / "further.txt"
    text.write_text("\n\n".join(f"Paragraph {number} of a text." for number in range(400)))
    ask = {"behaviour": behaviours.load(behaviour), "kind": "run", "base": str(model), "text": (text,), "device": "cpu"}
    request = Request.read({**ask, "audits": ("outcome",)}, "the request")
    planned = api.plan(request)
    read = {Path(name).name: value for name, value in planned.identity["files"].items()}
    own = [behaviour.parent / name for name in read if name != text.name]
    assert len(own) >= 2 and text.name in read
    for file in (*own, text):
        assert read[file.name] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert api.plan(request).identity == planned.identity, "in one process as in two"
    with RunFolder(tmp_path / "run", planned.identity):
        pass
    for file in (*own, text):
        whole = file.read_bytes()
        file.write_bytes(whole + whole[: whole.index(b"\n") + 1])
        with pytest.raises(UserError, match=rf"holds another run[^*]*files\.[^ ]*{file.name}: "):
            RunFolder(tmp_path / "run", api.plan(request).identity)
        file.write_bytes(whole)
    RunFolder(tmp_path / "run", api.plan(request).identity).close()


def test_a_text_that_changes_in_place_before_it_is_drawn_from_is_told(behaviour: Path, model: Path, tmp_path: Path) -> None:
    planned = api.plan(
        Request.read({"kind": "run", "base": str(model), "behaviour": behaviours.load(behaviour), "device": "cpu"}, "it")
    )
    texts = [Path(name) for name in planned.files if name.endswith(".txt")]
    assert texts
    for text in texts:
        stat, raw = text.stat(), text.read_bytes()
        with text.open("r+b") as stream:
            stream.write(raw[:1].swapcase())
        os.utime(text, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with noted(planned.files), pytest.raises(UserError, match="changed while the program ran"):
        planned.materials.text[texts[0].stem].held_out(0, "text", 8)


def test_a_scenario_reads_its_text_again_for_each_plan(tmp_path: Path) -> None:
    """One that kept what it read would have no hash to tell the second time, and would not see what changed."""
    text = tmp_path / "stories.txt"
    for word in ("cat", "dog"):
        text.write_text("\n<|endoftext|>\n".join(f"A {word} came, {n}. It sat. It ate. It left." for n in range(40)))
        with noted() as found:
            material = Source(scenario="documents", parameters={"text": str(text)}).open()
            shown = material.held_out(0, "text", 4)
        assert found == {str(text): hashlib.sha256(text.read_bytes()).hexdigest()}
        assert all(word in example.messages[0].content for example in shown)
