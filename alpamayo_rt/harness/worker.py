# SPDX-License-Identifier: Apache-2.0
"""One worker: a model in a thread of its own, and clips that are made ready by others ahead of their time."""

from __future__ import annotations

import gc
import os
import resource
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from alpamayo_rt.demo.truth import branch_of
from alpamayo_rt.demo.words import cause_of
from alpamayo_rt.errors import AlpamayoError
from alpamayo_rt.evaluation.clip_metrics import clip_metrics
from alpamayo_rt.harness.clip_list import ClipRef
from alpamayo_rt.harness.pictures import thumbnail
from alpamayo_rt.harness.plan import EvalPlan, clip_seed
from alpamayo_rt.harness.predictors import Prediction, Predictor, make_predictor
from alpamayo_rt.harness.sources import Situation

Record = dict[str, Any]


class WorkerLost(RuntimeError):
    """The worker can do no further clip, whatever the clip: its GPU has failed."""


@dataclass(frozen=True)
class Outcome:
    """The record of a clip, and its picture as a JPEG where one is kept."""

    ref: ClipRef
    record: Record
    picture: bytes | None


class Worker:
    """Evaluates clips; `evaluate` is called by as many threads as clips are to be made ready at once.

    Args:
        plan: what to do.
        name: of this worker, for the records.
        progress: is told what is loaded.
    """

    def __init__(self, plan: EvalPlan, name: str = "0", progress: Callable[[str], None] | None = None):
        if plan.threads is not None:
            torch.set_num_threads(plan.threads)
        self.plan, self.name = plan, name
        self._source = plan.source.open()
        # One thread for all that touches the accelerator: captured graphs and library handles belong to
        # threads.
        self._inference = ThreadPoolExecutor(1, thread_name_prefix="inference")
        if torch.cuda.is_initialized():  # by another run in this process, whose peak is not ours
            torch.cuda.reset_peak_memory_stats()
        self._predictor: Predictor = self._inference.submit(make_predictor, plan, progress).result()
        self._done, self._idle_since = 0, time.perf_counter()
        self._lock = threading.Lock()

    def header(self) -> dict[str, Any]:
        """What `run.json` says about how the answers were made."""
        return self._predictor.header()

    def close(self) -> None:
        """Let the thread end."""
        self._inference.shutdown(wait=False, cancel_futures=True)

    def evaluate(self, ref: ClipRef) -> Outcome:
        """Read, answer and measure one clip; what goes wrong with it is in its record.

        Raises:
            WorkerLost: what went wrong would go wrong with every clip.
        """
        seed = clip_seed(ref, self.plan.settings.seed)
        start: Record = {
            "clip_id": ref.clip_id, "t0_us": ref.t0_us, "nav_text": ref.nav_text, "status": "ok", "error": None,
            "seed": seed,
        }  # fmt: skip
        begun = time.perf_counter()
        try:
            situation = self._source.read(ref, with_images=self._predictor.needs_images)
            picture = (
                thumbnail(situation.sample) if self.plan.pictures and situation.sample is not None else None
            )
            ready = self._predictor.prepare(situation)
            data_ms = (time.perf_counter() - begun) * 1e3
            prediction, timed = self._inference.submit(self._predict, ready, seed).result()
            record = start | self._measured(situation, prediction) | timed | {"data_ms": round(data_ms, 3)}
            return Outcome(ref, record, picture)
        except AlpamayoError as error:
            cause = str(error)
        except Exception as error:
            cause = _unforeseen(error)
        return Outcome(ref, start | {"status": "error", "error": cause, "worker": self.name}, None)

    def _predict(self, situation: Situation, seed: int) -> tuple[Prediction, Record]:
        waited = time.perf_counter() - self._idle_since
        try:
            prediction = self._predictor.predict(situation, seed)
        finally:
            self._idle_since = time.perf_counter()
        self._done += 1
        return prediction, {
            "milliseconds": {stage: round(ms, 3) for stage, ms in prediction.milliseconds.items()},
            "wait_ms": round(waited * 1e3, 3),
            "warm_up": self._done <= self.plan.warm_up,
            "memory_gib": _memory(),
            "worker": self.name,
        }

    def _measured(self, situation: Situation, prediction: Prediction) -> Record:
        metrics = clip_metrics(
            prediction.xy, prediction.heading, situation.future_xy, situation.future_heading, self.plan.counts
        )
        metrics |= {name: round(value, 6) for name, value in prediction.metrics.items()}
        named = [cause_of(text) for text in prediction.reasoning]
        if situation.cause is not None and named:
            metrics["cause_right"] = sum(cause == situation.cause for cause in named) / len(named)
        if situation.branches is not None:
            reached = [branch_of(xy, situation.branches) == situation.branch for xy in prediction.xy]
            metrics["branch_right"] = round(sum(reached) / len(reached), 6)
        return {
            "reasoning": prediction.reasoning,
            "stop_reasons": prediction.stop_reasons,
            "true_cause": situation.cause,
            "navigation": None if situation.sample is None else situation.sample.navigation,
            "metrics": metrics,
            "pred_xy": _millimetres(prediction.xy),
            "true_xy": _millimetres(situation.future_xy),
        }


def _millimetres(xy: np.ndarray) -> list[Any]:
    return list(np.round(xy, 3).tolist())


def _memory() -> dict[str, float]:
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    out = {"host": round(kib / 1024**2, 3)}
    if torch.cuda.is_initialized():
        out["gpu"] = round(torch.cuda.max_memory_allocated() / 1024**3, 3)
    return out


def _unforeseen(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [""])[0][:300]
    if isinstance(error, torch.cuda.OutOfMemoryError):
        error.__traceback__ = None  # its frames hold what there was no room for
        gc.collect()
        torch.cuda.empty_cache()
        return f"out of GPU memory: {first}"
    if "CUDA error" in first:
        raise WorkerLost(f"the GPU has failed: {first}") from error
    if os.environ.get("ALPAMAYO_RT_DEBUG"):
        import traceback

        traceback.print_exception(error)
    return f"internal error, {type(error).__name__}: {first}"
