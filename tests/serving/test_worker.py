# SPDX-License-Identifier: Apache-2.0
"""The queue before the model: who is let in, who is given up, and that the end is orderly."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from alpamayo_rt.errors import EngineError, InputError, ModelError
from alpamayo_rt.serving.refusal import Refusal
from alpamayo_rt.serving.worker import State, Worker


def model(broken: bool = False) -> Any:
    def synchronize() -> None:
        if broken:
            raise RuntimeError("device lost")

    return SimpleNamespace(engine=SimpleNamespace(synchronize=synchronize))


def started(waiting: int = 2, load: Callable[[], Any] = model) -> tuple[Worker, list[Exception]]:
    errors: list[Exception] = []
    worker = Worker(waiting, errors.append)
    changed = threading.Event()
    worker.start(load, None, changed.set)
    assert changed.wait(5)
    return worker, errors


def long(release: threading.Event) -> Callable[..., str]:
    """Work that goes on token by token until it is released."""

    def work(model: Any, check: Callable[[int, int], None]) -> str:
        while not release.wait(0.005):
            check(0, 0)
        return "done"

    return work


def refused(call: Callable[[], Any]) -> int:
    with pytest.raises(Refusal) as caught:
        call()
    return caught.value.status


def test_one_runs_some_wait_and_the_others_are_refused() -> None:
    worker, _ = started(waiting=2)
    release = threading.Event()
    slots = [worker.take(10) for _ in range(3)]
    futures = [slot.submit(long(release)) for slot in slots]
    with pytest.raises(Refusal) as caught:
        worker.take(10)
    assert caught.value.status == 429
    assert caught.value.retry_after is not None
    assert caught.value.retry_after >= 1
    release.set()
    assert [future.result(5) for future in futures] == ["done"] * 3
    assert worker.taken == 0
    worker.take(10).give_up()
    assert worker.taken == 0


def test_who_waits_and_is_given_up_frees_the_place_at_once() -> None:
    worker, _ = started(waiting=1)
    release = threading.Event()
    first, second = worker.take(10), worker.take(10)
    running, waiting = first.submit(long(release)), second.submit(long(release))
    while worker._queue.qsize() > 1:
        time.sleep(0.001)
    second.give_up()
    assert worker.taken == 1
    third = worker.take(10).submit(lambda model, check: "third")
    first.give_up()
    assert refused(lambda: running.result(5)) == 499
    assert third.result(5) == "third"
    assert not waiting.done()
    assert worker.taken == 0


def test_deadlines_hold_while_waiting_and_while_running() -> None:
    worker, _ = started()
    release = threading.Event()
    running = worker.take(0.1).submit(long(release))
    waiting = worker.take(0.05).submit(lambda model, check: "late")
    assert refused(lambda: running.result(5)) == 504
    assert refused(lambda: waiting.result(5)) == 504
    assert worker.taken == 0


def test_a_future_that_was_cancelled_is_left_alone() -> None:
    worker, _ = started()
    release = threading.Event()
    worker.take(10).submit(long(release))
    slot = worker.take(10)
    future = slot.submit(lambda model, check: "never")
    assert future.cancel()
    release.set()
    assert worker.take(10).submit(lambda model, check: "next").result(5) == "next"
    assert worker.taken == 0


@pytest.mark.parametrize(
    ("error", "status", "reported"),
    [
        (InputError("history_xyz: no"), 422, False),
        (EngineError("actions: not finite"), 503, False),
        (torch.OutOfMemoryError("big"), 503, False),
        (ZeroDivisionError("secret"), 500, True),
    ],
)
def test_errors_end_one_request_only(error: Exception, status: int, reported: bool) -> None:
    worker, errors = started()

    def work(model: Any, check: Any) -> None:
        raise error

    future = worker.take(10).submit(work)
    with pytest.raises(Refusal) as caught:
        future.result(5)
    assert caught.value.status == status
    assert ("secret" in caught.value.message) is False
    assert errors == ([error] if reported else [])
    assert worker.take(10).submit(lambda model, check: 1).result(5) == 1


def test_a_device_that_is_lost_ends_the_server() -> None:
    worker, _ = started(load=lambda: model(broken=True))

    def work(model: Any, check: Any) -> None:
        raise RuntimeError("CUDA error")

    future = worker.take(10).submit(work)
    assert refused(lambda: future.result(5)) == 500
    assert worker.state is State.FAILED
    assert refused(lambda: worker.take(1)) == 503


def test_stopping_finishes_what_was_taken() -> None:
    worker, _ = started()
    release = threading.Event()
    futures = [worker.take(10).submit(long(release)) for _ in range(3)]
    worker.stop()
    assert refused(lambda: worker.take(1)) == 503
    threading.Timer(0.1, release.set).start()
    worker.join()
    assert [future.result(0) for future in futures] == ["done"] * 3


def test_not_ready_while_loading_and_when_loading_failed() -> None:
    gate = threading.Event()

    def load() -> Any:
        gate.wait(5)
        raise ModelError("no weights")

    worker = Worker(1, lambda error: None)
    changed = threading.Event()
    worker.start(load, None, changed.set)
    assert refused(lambda: worker.take(1)) == 503
    gate.set()
    assert changed.wait(5)
    assert worker.state is State.FAILED
    assert isinstance(worker.failure, ModelError)
    worker.join()
