"""Worker: how is one point of a study carried out in a process of its own?

As a program (``python -m palimpsest.study_runner.worker``) it takes a task a line on standard input and answers with a line of
JSON. When its input ends, because the study ended or was killed, it ends at once: what it had committed stays.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from palimpsest.core.errors import UserError
from palimpsest.store.lock import FolderLock

_PATIENCE = 20.0
"""Seconds that a killed study's worker may take to let go of its folder."""


def perform(task: dict[str, Any]) -> str:
    """Carry out a task by the path of ``palimpsest run``; return why it failed, or nothing where it did not."""
    from palimpsest import api
    from palimpsest.request import Request

    try:
        _take_share()
        os.chdir(task["directory"])
        folder = Path(task["folder"])
        _wait_for(folder)
        api.carry_out(api.plan(Request.read(task["request"], "the run")), folder)
        return ""
    except UserError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _take_share() -> None:
    """Let torch use the threads that are this worker's share, whatever it found when it was imported."""
    import torch

    torch.set_num_threads(int(os.environ.get("PALIMPSEST_THREADS", "1")))


def _wait_for(folder: Path) -> None:
    """Wait for a worker that is about to end because its study was killed."""
    end = time.monotonic() + _PATIENCE
    while (folder / "lock").exists() and time.monotonic() < end:
        try:
            FolderLock(folder / "lock").release()
            return
        except UserError:
            time.sleep(0.2)


def _serve() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tasks: queue.Queue[str] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            tasks.put(line)
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer
    while True:
        problem = perform(json.loads(tasks.get()))
        answers.write(json.dumps({"problem": problem}) + "\n")


if __name__ == "__main__":
    _serve()
