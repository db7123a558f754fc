"""Nursery: processes of the command line that are there at once, to be killed, started twice, or run out of disk.

One process imports everything and forks for each command, so that a kill hits work and not the import of torch. Runs as a
program of its own (``python nursery.py``): a line of JSON in starts a command, ``PID`` comes back, and ``PID CODE`` at its end.
"""

from __future__ import annotations

import datetime
import json
import os
import queue
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

INTERRUPTED = 130


@dataclass
class Child:
    """One command that was started."""

    pid: int
    log: Path
    codes: queue.Queue[int]
    started: float = field(default_factory=time.monotonic)
    code: int | None = None
    """Its exit code, or minus the signal that ended it; ``None`` while it is not known to have ended."""

    def wait(self, seconds: float | None = None) -> int | None:
        """Return the exit code, or ``None`` where it has not ended after so many seconds."""
        if self.code is None:
            try:
                self.code = self.codes.get(timeout=seconds) if seconds is None or seconds > 0 else self.codes.get_nowait()
            except queue.Empty:
                return None
        return self.code

    def kill(self) -> bool:
        """End it as a power cut would, and say whether it was still running."""
        self._signal(signal.SIGKILL)
        return self.wait() == -signal.SIGKILL

    def interrupt(self) -> bool:
        """End it as Ctrl-C does, and say whether it was still running."""
        self._signal(signal.SIGINT)
        return self.wait() == INTERRUPTED

    def kill_worker(self) -> bool:
        """End one of its own processes, and say whether there was any."""
        try:
            found = psutil.Process(self.pid).children()
        except psutil.NoSuchProcess:
            return False
        for worker in found[-1:]:
            worker.kill()
        return bool(found)

    def _signal(self, number: int) -> None:
        if self.wait(0) is None:
            os.kill(self.pid, number)

    @property
    def told(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


class Nursery:
    """Starts commands; a context manager that ends those that are left."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"},
        )
        self.born: queue.Queue[int] = queue.Queue()
        self.ends: dict[int, queue.Queue[int]] = {}
        threading.Thread(target=self._listen, daemon=True).start()

    def start(self, *words: object, cache: Path, largest_file: int | None = None, clock: float = 0.0) -> Child:
        """Start ``palimpsest WORDS``.

        Args:
            words: the command line.
            cache: the folder of its cache.
            largest_file: bytes that no file that it writes may pass.
            clock: seconds that its clock is ahead of this machine's.
        """
        self.count += 1
        log = self.folder / f"{self.count}.log"
        order = {
            "words": list(map(str, words)),
            "cache": str(cache),
            "log": str(log),
            "largest_file": largest_file,
            "clock": clock,
        }
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        pid = self.born.get(timeout=120)
        return Child(pid, log, self.ends[pid])

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            pid, *code = map(int, line.split())
            if code:
                self.ends[pid].put(code[0])
            else:
                self.ends[pid] = queue.Queue()
                self.born.put(pid)

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def _become(order: dict[str, Any]) -> None:
    """Carry out one command in a fresh fork; never returns."""
    code = 70
    try:
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(log, stream)
        os.environ["PALIMPSEST_CACHE"] = order["cache"]
        sys.argv = ["palimpsest", *order["words"]]
        sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1) for stream in (1, 2))
        if order["largest_file"] is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (order["largest_file"], resource.RLIM_INFINITY))
        if order["clock"]:
            _set_clock(order["clock"])
        from palimpsest import cli

        code = cli._run()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _set_clock(seconds: float) -> None:
    """Let every module of the package read another time of day. What only goes forward (``monotonic``) stays."""
    ahead, real = datetime.timedelta(seconds=seconds), time.time

    class Moment(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.datetime.now(tz) + ahead

    class Day(datetime.date):
        @classmethod
        def today(cls) -> Any:
            return Moment.now().date()

    time.time, time.time_ns = (lambda: real() + seconds), (lambda: int((real() + seconds) * 1e9))
    for module in [one for name, one in sys.modules.items() if name.partition(".")[0] == "palimpsest"]:
        for name, theirs, ours in (("datetime", datetime.datetime, Moment), ("date", datetime.date, Day)):
            if getattr(module, name, None) is theirs:
                setattr(module, name, ours)


def _serve() -> None:
    """Start what is asked for and tell of every end, in one thread: a fork takes no other thread along."""
    import accelerate  # noqa: F401
    import peft  # noqa: F401
    import transformers  # noqa: F401

    import palimpsest.cli
    import palimpsest.controller.loop
    import palimpsest.cost
    import palimpsest.data.chat_template
    import palimpsest.pipeline
    import palimpsest.report
    import palimpsest.store.provenance  # noqa: F401

    running: set[int] = set()
    orders, answers, listening = os.fdopen(os.dup(0), "rb", buffering=0), os.fdopen(os.dup(1), "w", buffering=1), True
    while listening or running:
        if listening and select.select([orders], [], [], 0.01)[0]:
            line = orders.readline()
            listening = bool(line)
            if line:
                pid = os.fork()
                if pid == 0:
                    _become(json.loads(line))
                running.add(pid)
                answers.write(f"{pid}\n")
            else:
                for pid in running:
                    os.kill(pid, signal.SIGKILL)
        for pid in list(running):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                running.discard(pid)
                answers.write(f"{pid} {os.waitstatus_to_exitcode(status)}\n")


if __name__ == "__main__":
    _serve()
