# SPDX-License-Identifier: Apache-2.0
"""The one thread that owns the model: a bounded queue before it, deadlines, cancellation, an orderly end."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from enum import Enum
from typing import Any

import torch

from alpamayo_rt.engine.base import OnToken
from alpamayo_rt.errors import AlpamayoError, InputError
from alpamayo_rt.inference import Model
from alpamayo_rt.serving.refusal import Refusal

Work = Callable[[Model, OnToken], Any]


class State(Enum):
    """Where a worker stands."""

    LOADING = "loading"
    READY = "ready"
    STOPPING = "stopping"
    FAILED = "failed"


class Gone(Exception):
    """Nobody waits for this request any more."""


class Slot:
    """A place among the requests that the server has taken.

    A request has it from the moment it is taken until its answer is there or nobody wants it any more.
    """

    def __init__(self, worker: Worker, deadline: float):
        self._worker = worker
        self.deadline = deadline
        self.future: Future[Any] = Future()
        self.queue_seconds = 0.0
        self._work: Work | None = None
        self._queued_at = 0.0
        self._held = True
        self._running = False
        self._unwanted = False

    def submit(self, work: Work) -> Future[Any]:
        """Let the worker do `work`; the future gets its result or a `Refusal`."""
        self._work, self._queued_at = work, time.monotonic()
        self._worker.enqueue(self)
        return self.future

    def give_up(self) -> None:
        """Nobody wants the answer: free the place now, or as soon as the engine lets go of it."""
        with self._worker.lock:
            self._unwanted = True
            if not self._running:
                self._work = None
                self._release()

    def _release(self) -> None:
        if self._held:
            self._held = False
            self._worker.taken -= 1

    def run(self, model: Model) -> None:
        """Called by the worker's thread only."""
        with self._worker.lock:
            if self._unwanted or self._work is None or not self.future.set_running_or_notify_cancel():
                self._release()
                return
            self._running, work = True, self._work
            self._work = None
        started = time.monotonic()
        self.queue_seconds = started - self._queued_at
        outcome: Any = None
        error: Exception | None = None
        try:
            self.check()
            outcome = work(model, lambda sequence, token: self.check())
        except Gone:
            error = Refusal(499, "(client): went away")
        except Exception as raised:
            error = self._worker.judge(raised, model)
        with self._worker.lock:
            self._release()
            self._worker.note(time.monotonic() - started)
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(outcome)

    def check(self) -> None:
        """Stop here if nobody waits any more, or it has become too late."""
        if self._unwanted:
            raise Gone
        if time.monotonic() > self.deadline:
            raise too_late()


def too_late() -> Refusal:
    """The deadline has passed."""
    return Refusal(504, "(deadline): passed before the answer was there", retry_after=5)


class Worker:
    """Owns the model; everything that runs on it runs in its thread, one request after the other.

    Args:
        waiting: requests that may wait while one runs.
        report: is told of errors that nobody foresaw.
    """

    def __init__(self, waiting: int, report: Callable[[Exception], None]):
        self.lock = threading.RLock()  # a signal may come while the loop holds it
        self.taken = 0
        self.state = State.LOADING
        self.model: Model | None = None
        self.failure: Exception | None = None
        self._capacity = waiting + 1
        self._report = report
        self._seconds = 1.0  # of a request, smoothed
        self._queue: queue.SimpleQueue[Slot | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self, load: Callable[[], Model], warm_up: Work | None, on_change: Callable[[], None]) -> None:
        """Load in the worker's thread; `on_change` is called there when the state has changed."""
        self._thread = threading.Thread(
            target=self._live, args=(load, warm_up, on_change), name="engine", daemon=True
        )
        self._thread.start()

    def _live(self, load: Callable[[], Model], warm_up: Work | None, on_change: Callable[[], None]) -> None:
        try:
            model = load()
            if warm_up is not None and self.state is State.LOADING:
                warm_up(model, lambda sequence, token: None)
        except Exception as error:
            self.failure, self.state = error, State.FAILED
            on_change()
            return
        self.model = model
        with self.lock:
            if self.state is State.LOADING:
                self.state = State.READY
        on_change()
        while (slot := self._queue.get()) is not None:
            slot.run(model)
            del slot  # the images of a request that is done are not kept for the next
            if self.state is State.FAILED:
                on_change()

    @property
    def waiting(self) -> int:
        """Requests that are taken, the running one not counted."""
        return max(0, self.taken - 1)

    def check_ready(self) -> Model:
        """The model.

        Raises:
            Refusal: it is being loaded, the server stops, or the engine has failed.
        """
        if self.state is State.LOADING:
            raise Refusal(503, "(server): the model is being loaded", retry_after=2)
        if self.state is State.STOPPING:
            raise Refusal(503, "(server): is stopping", retry_after=5)
        if self.state is State.FAILED or self.model is None:
            raise Refusal(503, "(server): the engine has failed")
        return self.model

    def take(self, seconds: float) -> Slot:
        """Take a request that has to be answered within `seconds`.

        Raises:
            Refusal: not ready, or too many are waiting.
        """
        with self.lock:
            self.check_ready()
            if self.taken >= self._capacity:
                wait = max(1, math.ceil(self._seconds * self.taken))
                raise Refusal(429, f"(queue): full, {self.taken} requests were taken before", retry_after=wait)
            self.taken += 1
        return Slot(self, time.monotonic() + seconds)

    def enqueue(self, slot: Slot) -> None:
        """Called by the slot."""
        self._queue.put(slot)

    def note(self, seconds: float) -> None:
        """Remember how long a request took."""
        self._seconds = 0.8 * self._seconds + 0.2 * seconds

    def judge(self, error: Exception, model: Model) -> Refusal:
        """What a client is told of an error."""
        if isinstance(error, Refusal):
            return error
        if isinstance(error, InputError):
            return Refusal(422, str(error))
        if isinstance(error, AlpamayoError):
            return Refusal(503, str(error))
        if isinstance(error, torch.OutOfMemoryError):
            return Refusal(503, "(engine): out of memory; fewer candidates or images need less")
        self._report(error)
        try:
            model.engine.synchronize()
        except Exception as broken:  # a device that is lost does not come back in this process
            self.failure, self.state = broken, State.FAILED
        return Refusal(500, "(server): internal error; its log says more")

    def stop(self) -> None:
        """Take nothing more; what was taken is finished."""
        with self.lock:
            if self.state in (State.LOADING, State.READY):
                self.state = State.STOPPING

    def join(self, hurried: Callable[[], bool] = lambda: False) -> bool:
        """Wait until everything taken is done.

        Args:
            hurried: whether to wait no longer.

        Returns:
            Whether the thread has ended; one that is still loading is not waited for.
        """
        self.stop()
        self._queue.put(None)
        if self._thread is None:
            return True
        while self._thread.is_alive():
            if (self.model is None and self.failure is None) or hurried():
                return False
            self._thread.join(0.1)
        return True
