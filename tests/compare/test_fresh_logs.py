"""Fresh logs: made now, by the tools that are installed, so that a change of their layout is seen here."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from palimpsest.core.errors import UserError
from palimpsest.evaluations.comparison import carry_out
from palimpsest.evaluations.paired import Options

pytestmark = pytest.mark.slow
make_logs = pytest.importorskip("tests.compare.make_logs")


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for peer in ("inspect_ai", "lm_eval"):
        pytest.importorskip(peer, reason=f"{peer} is not installed: pip install 'palimpsest-lm[inspect,lm-eval]'")
    folder = tmp_path_factory.mktemp("fresh")
    make_logs.make(folder / "logs", folder / "work")
    return folder


@pytest.mark.parametrize("name", ["sums.eval", "facts.json"])
def test_a_log_of_the_installed_inspect(name: str, fresh: Path) -> None:
    from inspect_ai.log import read_eval_log

    paths = [fresh / "logs" / "inspect" / f"{model}-{name}" for model in ("before", "after")]
    found = carry_out(*paths, Options())
    assert not any("itself says" in note for note in found.notes) and not any(one.differing for one in found.matched)
    for side, path in zip(("before", "after"), paths, strict=True):
        log = read_eval_log(str(path))
        assert log.results is not None and log.results.scores
        for score in log.results.scores:
            ours = score.name if score.name == score.scorer else f"{score.scorer}.{score.name}"
            (row,) = (one for one in found.compared if one.metric.name == ours)
            theirs = next(score.metrics[kind].value for kind in ("accuracy", "mean") if kind in score.metrics)
            assert getattr(row, side).value == pytest.approx(theirs, abs=1e-9)


def test_samples_of_the_installed_lm_eval(fresh: Path) -> None:
    sides = [fresh / "logs" / "lm_eval" / model for model in ("before", "after")]
    found = carry_out(*sides, Options())
    assert len(found.compared) == 7 and not any("itself says" in note for note in found.notes)
    assert not any(one.differing for one in found.matched)
    for side, folder in zip(("before", "after"), sides, strict=True):
        theirs = json.loads(next(folder.rglob("results_*.json")).read_text())["results"]
        for row in found.compared:
            value = getattr(row, side).value
            shown = math.exp(value) if row.metric.name.endswith("perplexity") else value
            assert shown == pytest.approx(theirs[row.task][f"{row.metric.name},none"], abs=1e-8)


def test_an_evaluation_that_was_killed(fresh: Path) -> None:
    work, logs = fresh / "work", fresh / "killed"
    command = [str(Path(sys.executable).parent / "inspect"), "eval", "tasks.py@sums", "--model", "hf/before", "-M",
               f"model_path={work / 'before'}", "-M", "device=cpu", "--log-dir", str(logs), "-T", "epochs=400"]  # fmt: skip
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=work, env={**os.environ, **make_logs.OFFLINE}, start_new_session=True, **quiet) as child:
        while child.poll() is None and not any(logs.glob("*.eval")):
            time.sleep(0.2)
        time.sleep(5)
        os.killpg(child.pid, signal.SIGKILL)
    (killed,) = logs.glob("*.eval")
    with pytest.raises(UserError, match=r"its status is 'started'|cut off, or still being written"):
        carry_out(killed, fresh / "logs" / "inspect" / "before-sums.eval", Options())
