"""Batching: does everybody get an own answer or an own error, and does nobody wait for ever?"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError, wait

import pytest

from palimpsest.peers.batching import Batches


def test_what_comes_together_is_done_together_and_answered_in_order() -> None:
    sizes: list[int] = []

    def work(batch: Sequence[int]) -> list[int]:
        sizes.append(len(batch))
        return [2 * one for one in batch]

    batches = Batches(work, 8)
    answers = [batches.submit(one) for one in range(20)]
    assert [one.result(10) for one in answers] == [2 * one for one in range(20)]
    assert sizes == [8, 8, 4]
    batches.close()


def test_an_error_reaches_the_one_that_it_is_about() -> None:
    def work(batch: Sequence[int]) -> list[int]:
        if 5 in batch:
            raise ValueError("five")
        return list(batch)

    batches = Batches(work, 16)
    answers = [batches.submit(one) for one in range(10)]
    wait(answers, 10)
    assert [one for one, answer in enumerate(answers) if answer.exception()] == [5]
    assert answers[6].result() == 6


def test_many_threads_at_once() -> None:
    batches: Batches[int, int] = Batches(lambda batch: [one + 1 for one in batch], 7)
    found: dict[int, int] = {}

    def ask(one: int) -> None:
        for turn in range(10):
            found[100 * one + turn] = batches.submit(100 * one + turn).result(30)

    threads = [threading.Thread(target=ask, args=(one,)) for one in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {key: key + 1 for key in found} and len(found) == 160


def test_what_is_cancelled_in_time_is_not_done_and_closing_answers_the_rest() -> None:
    done: list[int] = []

    def work(batch: Sequence[int]) -> list[int]:
        time.sleep(0.1)
        done.extend(batch)
        return list(batch)

    batches = Batches(work, 1)
    first, second, third = (batches.submit(one) for one in range(3))
    assert second.cancel()
    batches.close()
    assert first.result(0) == 0 and third.result(0) == 2 and done == [0, 2]
    with pytest.raises(CancelledError):
        second.result(0)
    with pytest.raises(RuntimeError, match="was closed"):
        batches.submit(4)
    batches.close()
