"""Executors: where does a point of a study run?

One protocol, two places: worker processes of this machine, or a Ray cluster (an optional dependency). Both do the same with a
task (``worker.perform``), so that where a point ran changes no number.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from palimpsest.core.errors import UserError, first_line
from palimpsest.core.spec import Spec

_MOST_JOBS = 4
"""Without ``jobs`` no more runs at once: each holds its models in memory."""
_LARGEST = 1024


class Task(Spec):
    """One point to be carried out, as plain data."""

    point: str
    request: dict[str, Any]
    folder: str
    directory: str
    """From which the request's files are looked up."""


class Executor(Protocol):
    """Carries out tasks, ``jobs`` at once; a context manager that leaves nothing running."""

    jobs: int

    def submit(self, task: Task) -> Any:
        """Start a task and return its handle."""
        ...

    def wait(self, handles: Mapping[str, Any]) -> Sequence[str]:
        """Wait until at least one is done, and return the names of those that are."""
        ...

    def problem(self, handle: Any) -> str:
        """Return why a task that is done failed; empty where it did not."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


def executor(name: str, jobs: int | None = None, address: str | None = None) -> Executor:
    """Return an executor.

    Args:
        name: ``"local"`` or ``"ray"``.
        jobs: runs at once; by default as many as there are cores, at most 4.
        address: of a Ray cluster that is there.

    Raises:
        UserError: as ``check_executor``, or there is no cluster at the address.
    """
    check_executor(name, jobs, address)
    count = jobs or jobs_by_default()
    return Ray(count, address) if name == "ray" else Local(count)


def check_executor(name: str, jobs: int | None = None, address: str | None = None) -> None:
    """Check what can be known before any work.

    Raises:
        UserError: there is no such executor, ``jobs`` is below 1, or Ray is not installed.
    """
    if name not in ("local", "ray"):
        raise UserError(f"the executor must be local or ray, found '{name}'")
    if jobs is not None and not 1 <= jobs <= _LARGEST:
        raise UserError(f"jobs must be 1 to {_LARGEST}, found {jobs}")
    if address and name != "ray":
        raise UserError("the address of a Ray cluster goes with --executor ray")
    if name == "ray" and importlib.util.find_spec("ray") is None:
        raise UserError("the executor 'ray' needs the ray package: pip install 'palimpsest-lm[ray]'")


def jobs_by_default() -> int:
    """Return how many runs there are at once where nobody said."""
    return min(cores(), _MOST_JOBS)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment(jobs: int, count: int | None = None) -> dict[str, str]:
    """Return the variables by which each of ``jobs`` workers takes its share of the cores, before it imports torch."""
    threads = str(max(1, (count or cores()) // jobs))
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PALIMPSEST_THREADS")
    return {**dict.fromkeys(names, threads), "TOKENIZERS_PARALLELISM": "false"}


class Local:
    """Worker processes of this machine, each with its share of the threads. A worker that dies costs its task only."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self._pool = ThreadPoolExecutor(jobs, thread_name_prefix="study")
        self._own = threading.local()
        self._workers: list[_Worker] = []

    def submit(self, task: Task) -> Future[str]:
        return self._pool.submit(self._carry_out, task)

    def wait(self, handles: Mapping[str, Future[str]]) -> list[str]:
        wait(handles.values(), return_when=FIRST_COMPLETED)
        return [name for name, future in handles.items() if future.done()]

    def problem(self, handle: Future[str]) -> str:
        return handle.result()

    def _carry_out(self, task: Task) -> str:
        worker = getattr(self._own, "worker", None)
        if worker is None or not worker.alive:
            try:
                worker = self._own.worker = _Worker(environment(self.jobs))
            except OSError as error:
                return f"its process could not be started: {error}"
            self._workers.append(worker)
        return worker.perform(task)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for worker in self._workers:
            worker.end()
        self._pool.shutdown(wait=True, cancel_futures=True)


class _Worker:
    """One process that carries out one task after another; it ends when this one does, however that happens."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "palimpsest.study_runner.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env={**os.environ, **variables, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C goes to this process, which then ends its workers
        )

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def perform(self, task: Task) -> str:
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(task.model_dump_json() + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except OSError:
            answer = ""
        if answer:
            return str(json.loads(answer)["problem"])
        code = self.process.wait()
        return f"its process ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}"

    def end(self) -> None:
        if self.alive:
            self.process.kill()  # nothing finished is lost, so there is nothing to wait for
        self.process.wait()


class Ray:
    """Tasks of a Ray cluster: one that is there, whose machines see the study's folder, or one that is started here.

    Raises:
        UserError: there is no cluster at the address, or none can be started.
    """

    def __init__(self, jobs: int, address: str | None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray  # pyright: ignore[reportMissingImports] (optional)

        from palimpsest.study_runner.worker import perform

        self.jobs, self.ray = jobs, ray
        _refuse_silence(address)
        own = {} if address else {"num_cpus": jobs, "include_dashboard": False}
        variables = {**environment(jobs), "PYTHONPATH": _path()}
        variables |= {name: value for name, value in os.environ.items() if name.startswith(("PALIMPSEST_", "HF_"))}
        variables["PALIMPSEST_THREADS"] = environment(jobs)["PALIMPSEST_THREADS"]
        try:
            ray.init(
                address=address or "local",
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": variables},
                **own,
            )
        except Exception as error:
            where = f"at {address} " if address else ""
            raise UserError(f"the Ray cluster {where}can't be used: {first_line(error)}") from error
        self._perform = ray.remote(num_cpus=1, max_retries=0)(perform)

    def submit(self, task: Task) -> Any:
        return self._perform.remote(task.model_dump(mode="json"))

    def wait(self, handles: Mapping[str, Any]) -> list[str]:
        done, _ = self.ray.wait(list(handles.values()), num_returns=1)
        return [name for name, handle in handles.items() if handle in done]

    def problem(self, handle: Any) -> str:
        try:
            return str(self.ray.get(handle))
        except self.ray.exceptions.RayError as error:
            return f"its Ray worker ended: {first_line(error)}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.ray.shutdown()


def _refuse_silence(address: str | None) -> None:
    """Refuse an address at which nobody listens: Ray itself would try for minutes.

    Raises:
        UserError: a HOST:PORT that can't be reached.
    """
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"the Ray cluster at {address} can't be used: {error}; start it, or leave out the address") from error


def _path() -> str:
    return os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))
