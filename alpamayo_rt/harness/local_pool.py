# SPDX-License-Identifier: Apache-2.0
"""One worker in this process: clips are made ready by threads while the one before is inferred."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from alpamayo_rt.errors import EngineError
from alpamayo_rt.harness.clip_list import ClipRef
from alpamayo_rt.harness.plan import EvalPlan
from alpamayo_rt.harness.worker import Outcome, Worker, WorkerLost


class LocalPool:
    """The worker of a run that needs only one.

    Args:
        plan: what to do.
        prefetch: clips that are made ready beside the one that is inferred.
        progress: is told what is loaded.
    """

    workers = 1

    def __init__(self, plan: EvalPlan, prefetch: int, progress: Callable[[str], None] | None = None):
        self._worker = Worker(plan, progress=progress)
        self._ahead = 1 + prefetch
        self._threads = ThreadPoolExecutor(self._ahead, thread_name_prefix="data")

    def header(self) -> dict[str, Any]:
        """What `run.json` says about how the answers are made."""
        return self._worker.header()

    def run(self, refs: list[ClipRef]) -> Iterator[Outcome]:
        """Evaluate the clips; no more than `prefetch` + 1 are under way at any time."""
        waiting = iter(refs)
        running: set[Future[Outcome]] = set()
        while True:
            while len(running) < self._ahead and (ref := next(waiting, None)) is not None:
                running.add(self._threads.submit(self._worker.evaluate, ref))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                try:
                    outcome = future.result()
                except WorkerLost as error:
                    raise EngineError(f"{error}; the same command goes on where it was") from None
                yield outcome

    def close(self) -> None:
        """Stop; clips that are under way have no record."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._worker.close()
