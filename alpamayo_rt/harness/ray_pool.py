# SPDX-License-Identifier: Apache-2.0
"""Several workers through Ray, here or on other machines: one actor a GPU, or a core where there is none.

Each actor has a bounded number of clips under way, so data is made ready ahead and nothing piles up. An actor
that dies is replaced and its clips are handed out again; since any of them may have killed it, each is then
run with nothing beside it, and one that kills a worker so for the second time is recorded as failed.
"""

from __future__ import annotations

import os
import re
import socket
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from alpamayo_rt.errors import EngineError
from alpamayo_rt.harness.clip_list import ClipRef
from alpamayo_rt.harness.plan import EvalPlan, clip_seed
from alpamayo_rt.harness.worker import Outcome, Worker, WorkerLost

_FATAL = 2  # workers that a clip may take with it, once among others and once alone
_RESTARTS = 10  # replaced workers in a row without a single record between them


class Actor:
    """A worker in a process of its own."""

    def __init__(self, plan: EvalPlan, name: str):
        self._worker = Worker(plan, name)

    def header(self) -> dict[str, Any]:
        """What `run.json` says about how the answers are made."""
        return self._worker.header() | {"pid": os.getpid()}

    def evaluate(self, ref: ClipRef) -> Outcome:
        """One clip; a worker whose GPU has failed leaves, to be replaced."""
        try:
            return self._worker.evaluate(ref)
        except WorkerLost:
            os._exit(1)


@dataclass
class _Seat:
    """The place of one worker: who sits there and what it has under way."""

    name: str
    actor: Any
    running: set[Any] = field(default_factory=set)
    alone: bool = False


class RayPool:
    """Workers of a run.

    Args:
        plan: what to do.
        workers: how many; None with `cluster`: one for each of its GPUs, or of its cores.
        prefetch: clips that each makes ready beside the one that it infers.
        cluster: address of a running Ray cluster; None starts one here, that ends with this process.
        progress: is told what happens.

    Raises:
        EngineError: Ray is not installed, the cluster cannot be reached, or a worker cannot start.
    """

    def __init__(
        self,
        plan: EvalPlan,
        workers: int | None,
        prefetch: int,
        cluster: str | None,
        progress: Callable[[str], None],
    ):
        self._ray = _start(cluster, workers)
        self._plan, self._ahead, self._say = plan, 1 + prefetch, progress
        self._gpu = _on_gpu(plan, self._ray.cluster_resources().get("GPU", 0))
        if self._gpu:  # Ray shows each worker its own GPU and no other
            self._plan = replace(plan, device="cuda")
        here = int(self._ray.cluster_resources().get("GPU" if self._gpu else "CPU", 0))
        self.workers = here if workers is None else workers
        if self._gpu and self.workers > here:
            self.close()
            raise EngineError(f"--workers: {self.workers}, but {here} GPU(s) are there, expected one a worker")
        try:
            self._seats = [self._seat(str(n)) for n in range(self.workers)]
            headers = [self._ray.get(seat.actor.header.remote()) for seat in self._seats]
        except self._ray.exceptions.RayError as error:
            self.close()
            raise EngineError(f"workers: cannot start ({_cause(error)})") from None
        for header in headers:
            progress(f"worker process {header.pop('pid')} is ready")
        self._header = headers[0]
        if any(header != headers[0] for header in headers):
            self.close()
            raise EngineError(
                "workers: differ in model, device or versions, expected the same on every machine"
            )

    def header(self) -> dict[str, Any]:
        """What `run.json` says about how the answers are made."""
        return self._header

    def run(self, refs: list[ClipRef]) -> Iterator[Outcome]:
        """Evaluate the clips in whatever order they come to an end."""
        fresh, suspects = deque(refs), deque[ClipRef]()
        deaths: dict[ClipRef, int] = {}
        where: dict[Any, tuple[_Seat, ClipRef]] = {}
        lost_in_a_row = 0
        while True:
            for seat in self._seats:
                self._hand_out(seat, fresh, suspects, where)
            if not where:
                return
            done, _ = self._ray.wait(list(where), num_returns=1)
            seat, _ = where[done[0]]
            try:
                outcome = self._ray.get(done[0])
            except self._ray.exceptions.RayActorError as error:
                lost_in_a_row += 1
                if lost_in_a_row > _RESTARTS:
                    raise EngineError(
                        f"workers: {lost_in_a_row} died one after the other ({_cause(error)})"
                    ) from None
                lost = [where.pop(task)[1] for task in list(seat.running)]
                self._say(f"worker {seat.name} died with {len(lost)} clip(s) under way; they are run again")
                for clip in lost:
                    # Among others, the one that it died of cannot be told: only a death alone proves it.
                    deaths[clip] = deaths.get(clip, 0) + (_FATAL if seat.alone and deaths.get(clip) else 1)
                    if deaths[clip] >= _FATAL:
                        yield Outcome(clip, self._failed(clip, seat.name), None)
                    else:
                        suspects.append(clip)
                self._seats[self._seats.index(seat)] = self._seat(seat.name)
                continue
            lost_in_a_row = 0
            where.pop(done[0])
            seat.running.discard(done[0])
            yield outcome

    def close(self) -> None:
        """Stop all workers; clips that are under way have no record."""
        self._ray.shutdown()

    def _hand_out(
        self, seat: _Seat, fresh: deque[ClipRef], suspects: deque[ClipRef], where: dict[Any, Any]
    ) -> None:
        if not seat.running:
            seat.alone = bool(suspects)
        while len(seat.running) < (1 if seat.alone else self._ahead):
            if not (queue := suspects if seat.alone else fresh):
                return
            ref = queue.popleft()
            task = seat.actor.evaluate.remote(ref)
            seat.running.add(task)
            where[task] = (seat, ref)

    def _seat(self, name: str) -> _Seat:
        threads = str(self._plan.threads or "")
        variables = {"OMP_NUM_THREADS": threads} if threads else {}
        remote = self._ray.remote(Actor).options(
            num_gpus=1 if self._gpu else 0,
            num_cpus=1,
            max_concurrency=self._ahead + 1,
            max_restarts=0,
            runtime_env={"env_vars": variables},
        )
        return _Seat(name, remote.remote(self._plan, name))

    def _failed(self, ref: ClipRef, worker: str) -> dict[str, Any]:
        return {
            "clip_id": ref.clip_id, "t0_us": ref.t0_us, "nav_text": ref.nav_text, "status": "error",
            "error": "the worker died twice with this clip, the second time with nothing else under way",
            "seed": clip_seed(ref, self._plan.settings.seed), "worker": worker,
        }  # fmt: skip


def _check_reachable(address: str) -> None:
    """Ray itself waits for minutes for somebody who is not there."""
    host, _, port = address.rpartition(":")
    if address.startswith("ray://") or not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise EngineError(f"--cluster: nobody answers at {address} ({error})") from None


def _start(cluster: str | None, workers: int | None) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise EngineError(
            "--workers, --cluster: need the package ray: pip install 'alpamayo-rt[eval]'"
        ) from None
    if cluster is not None:
        _check_reachable(cluster)
    quiet: dict[str, Any] = {"logging_level": "error", "log_to_driver": False}
    try:
        if cluster is not None:
            ray.init(address=cluster, **quiet)
        else:
            cores = max(workers or 1, os.cpu_count() or 1)
            # Nothing of it is to be reached from other machines.
            ray.init(num_cpus=cores, include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)
    except Exception as error:  # what Ray raises has no common base
        where = "a local cluster" if cluster is None else cluster
        raise EngineError(f"--cluster: {where} cannot be used ({_cause(error)})") from None
    return ray


def _on_gpu(plan: EvalPlan, gpus: float) -> bool:
    if plan.baseline is not None or plan.device == "cpu":
        return False
    return plan.device.startswith("cuda") or gpus >= 1


def _cause(error: BaseException) -> str:
    """The last line that says something: Ray puts a whole traceback into its texts."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line.split(":")[0]]
    said = (errors or lines or [type(error).__name__])[-1]
    # Our own errors are sentences already.
    return re.sub(r"^alpamayo_rt\.errors\.\w+: ", "", said)[:300]
