"""Batching: how do requests that come one by one go through a model together?

One thread does all the work. It takes what is waiting, and waits a moment for more where that is little; while it works, the
next ones gather by themselves. Whoever asked waits for its own future, so nobody waits for anybody else's, and what goes wrong
with one request is told to that one alone.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

_QUIET_SECONDS = 0.02
"""A batch that is not full is begun when so long nobody came."""
_PATIENCE_SECONDS = 0.2


class Batches(Generic[Asked, Answer]):
    """Collects requests into batches for a function that does many at once.

    Args:
        work: takes a batch and returns an answer for each, in order; it runs in one thread only.
        most: requests in a batch.
    """

    def __init__(self, work: Callable[[Sequence[Asked]], Sequence[Answer]], most: int) -> None:
        self.work, self.most = work, most
        self._waiting: queue.SimpleQueue[tuple[Asked, Future[Answer]] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, asked: Asked) -> Future[Answer]:
        """Ask for one thing; a future that is cancelled before its batch begins costs nothing.

        Raises:
            RuntimeError: it was closed.
        """
        answer: Future[Answer] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the model was closed, so nothing can be asked of it any more")
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="palimpsest batches", daemon=True)
                self._thread.start()
            self._waiting.put((asked, answer))
        return answer

    def close(self) -> None:
        """Do what was asked for and end; returns when it is done."""
        with self._lock:
            thread, closed = self._thread, self._closed
            self._closed = True
            if thread is not None and not closed:
                self._waiting.put(None)
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _serve(self) -> None:
        open_ = True
        while open_:
            batch, open_ = self._gather()
            wanted = [one for one in batch if one[1].set_running_or_notify_cancel()]
            if wanted:
                self._answer(wanted)

    def _gather(self) -> tuple[list[tuple[Asked, Future[Answer]]], bool]:
        """Return the next batch, and whether there may be more after it."""
        first = self._waiting.get()
        if first is None:
            return [], False
        batch, patience = [first], time.monotonic() + _PATIENCE_SECONDS
        while len(batch) < self.most:
            try:
                one = self._waiting.get(timeout=min(_QUIET_SECONDS, max(patience - time.monotonic(), 0.0)))
            except queue.Empty:
                break
            if one is None:
                return batch, False
            batch.append(one)
        return batch, True

    def _answer(self, batch: list[tuple[Asked, Future[Answer]]]) -> None:
        """Answer a batch; where that fails, its halves, so that an error reaches only the one that it is about.

        So a batch that is too large for the memory is done in smaller ones, too.
        """
        try:
            answers = list(self.work([asked for asked, _ in batch]))
        except BaseException as error:
            if len(batch) == 1:
                batch[0][1].set_exception(error)
                return
        else:
            for (_, future), answer in zip(batch, answers, strict=True):
                future.set_result(answer)
            return
        half = len(batch) // 2
        self._answer(batch[:half])
        self._answer(batch[half:])
