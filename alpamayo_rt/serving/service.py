# SPDX-License-Identifier: Apache-2.0
"""One request from its place in the queue to its outcome, whichever way it came in."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from starlette.requests import Request

from alpamayo_rt.inference import Model
from alpamayo_rt.result import Result
from alpamayo_rt.serving.body import BodyBudget
from alpamayo_rt.serving.clips import ClipShelf
from alpamayo_rt.serving.dialect import Dialect, dialect_of
from alpamayo_rt.serving.limits import Limits
from alpamayo_rt.serving.metrics import Metrics
from alpamayo_rt.serving.order import OnPart, Order, Outcome, carry_out
from alpamayo_rt.serving.refusal import Refusal
from alpamayo_rt.serving.reply import Watch
from alpamayo_rt.serving.worker import Slot, Worker, too_late

Prepare = Callable[[], Order]
_DEADLINE_HEADER = "x-deadline-ms"


class Service:
    """What all routes share.

    Args:
        worker: owns the model.
        limits: of requests.
        shelf: clips that the page can show.
        served_name: what the model is called; None for the checkpoint's name.
    """

    def __init__(self, worker: Worker, limits: Limits, shelf: ClipShelf, served_name: str | None = None):
        self.worker, self.limits, self.shelf = worker, limits, shelf
        self.metrics = Metrics(worker)
        self.bodies = BodyBudget(limits.all_bodies_bytes)
        self.started = int(time.time())
        self._served_name = served_name
        threads = min(16, os.cpu_count() or 1)
        self.images = ThreadPoolExecutor(threads, "images")  # one image each
        self.prepare = ThreadPoolExecutor(limits.decoded + 1, "prepare")  # one request each
        self._decoded = asyncio.Semaphore(limits.decoded)

    def dialect(self, model: Model) -> Dialect:
        """The interface that the loaded model has."""
        return dialect_of(model.config.family, self._served_name or model.checkpoint.name)

    @asynccontextmanager
    async def place(self, request: Request) -> AsyncIterator[Slot]:
        """A place in the queue.

        Raises:
            Refusal: there is none.
        """
        slot = self.worker.take(self._seconds(request))
        self.metrics.taken.inc()
        try:
            yield slot
        finally:
            slot.give_up()
            self.metrics.finished.inc()

    def _seconds(self, request: Request) -> float:
        wanted = request.headers.get(_DEADLINE_HEADER)
        if wanted is None:
            return self.limits.deadline_seconds
        if not wanted.isdigit() or int(wanted) < 1:
            raise Refusal(422, f"{_DEADLINE_HEADER}: {wanted[:40]!r}, expected a whole number from 1 on")
        return min(self.limits.deadline_seconds, int(wanted) / 1e3)

    async def run(
        self,
        slot: Slot,
        prepare: Prepare,
        watch: Watch,
        on_order: Callable[[Order], None] | None = None,
        on_part: OnPart | None = None,
        on_driven: Callable[[Result], None] | None = None,
    ) -> tuple[Order, Outcome]:
        """Make the order in a thread, run it in the worker's.

        Only a few requests are decoded at a time, so that those that wait hold compressed images.

        Args:
            slot: of the request.
            prepare: decodes and checks; may raise Refusal.
            watch: gets `wait`, `decode`, `queue` and `engine`.
            on_order: is told the order when it is made.
            on_part, on_driven: called in the worker's thread.

        Raises:
            Refusal: of whatever kind.
        """
        left = slot.deadline - time.monotonic()
        try:
            async with asyncio.timeout(max(left, 0.0)), self._decoded:
                watch.lap("wait")
                order = await asyncio.get_running_loop().run_in_executor(self.prepare, prepare)
                watch.lap("decode")
                if on_order is not None:
                    on_order(order)
                future = slot.submit(lambda model, check: carry_out(order, model, check, on_part, on_driven))
                outcome = await asyncio.wrap_future(future)
        except TimeoutError:
            raise too_late() from None
        now = watch.milliseconds
        watch.lap("engine")
        now["queue"] = slot.queue_seconds * 1e3
        now["engine"] -= now["queue"]
        return order, outcome

    def close(self) -> None:
        """End the threads that decode."""
        self.images.shutdown(wait=False, cancel_futures=True)
        self.prepare.shutdown(wait=False, cancel_futures=True)


async def unless_gone(request: Request, work: Awaitable[None]) -> None:
    """Do some work, or give it up when the client goes away.

    Raises:
        Refusal: the client went away; nobody will read it.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Refusal(499, "(client): went away")
        await task
    finally:
        for waiting in (task, gone):
            if not waiting.done():
                waiting.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await waiting


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
