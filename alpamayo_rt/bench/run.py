# SPDX-License-Identifier: Apache-2.0
"""One run of `alpamayo-rt bench`: every precision, engine and workload that was asked for."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch

from alpamayo_rt.bench.ceilings import Ceilings, Work, measure_ceilings, stage_work
from alpamayo_rt.bench.check import Watched, check, watch
from alpamayo_rt.bench.pipeline import Pipeline
from alpamayo_rt.bench.subject import Subject, open_subject
from alpamayo_rt.bench.timing import Say, measure, soak
from alpamayo_rt.bench.weights import Weights
from alpamayo_rt.bench.workloads import WORKLOADS, Request, Workload, choose_workloads
from alpamayo_rt.engine.base import Engine
from alpamayo_rt.quantization.parts import MAY_NARROW

_COMPARED_RUNS = 3
"""The eager engine takes seconds a run; its median needs no more."""


@dataclass(frozen=True)
class Job:
    """What to time.

    Attributes:
        model, family: a checkpoint, or a family's released sizes; one of the two.
        precisions: one subject each.
        engine: auto, eager or graphs.
        workloads: names; None: all that the engine can run.
        device: where.
        repetitions, warm_up: runs of each loop, and before them.
        candidates, tokens, steps: instead of a workload's own.
        compare: time the eager engine too.
        check: compare what was timed with a float32 pass.
        soak: consecutive requests of the first workload; 0: none.
        seed: of random weights.
        parts: that narrow precisions narrow; None: the language model.
        pause_s: how long the device rests before each run.
    """

    model: str | None
    family: str | None
    precisions: tuple[str, ...]
    engine: str
    workloads: tuple[str, ...] | None
    device: torch.device
    repetitions: int = 20
    warm_up: int = 3
    candidates: int | None = None
    tokens: int | None = None
    steps: int | None = None
    compare: bool = False
    check: bool = True
    soak: int = 0
    seed: int = 0
    parts: tuple[str, ...] | None = None
    pause_s: float = 0.0


def job_ceilings(job: Job, say: Say) -> Ceilings:
    """What the job's device can do."""
    say("copy and matrix products of this device")
    return measure_ceilings(job.device, torch.bfloat16 if job.device.type == "cuda" else torch.float32)


def run_job(job: Job, ceilings: Ceilings, say: Say, keep: Callable[[dict[str, Any]], None]) -> None:
    """Time everything.

    Args:
        job: what.
        ceilings: of its device.
        say: told one line a stage.
        keep: given each result as soon as it is timed; its check is added to it later.

    Raises:
        AlpamayoError: something asked for is not there.
    """
    # A name that is wrong shall not be noticed after minutes.
    choose_workloads(job.workloads, True, job.candidates, job.tokens, job.steps)
    for precision in job.precisions:
        unchecked = _time_precision(job, precision, ceilings, say, keep)
        # What was timed went with that call: the check needs its place.
        _release(job.device)
        if unchecked is not None:
            unchecked.add_check(lambda line: say(f"check: {line}"))
            del unchecked
            _release(job.device)


@dataclass(frozen=True)
class _Unchecked:
    """Results that lack their check, and what it takes; nothing of the network that was timed."""

    results: list[dict[str, Any]]
    watched: Watched
    weights: Weights
    request: Request

    def add_check(self, say: Say) -> None:
        found = check(self.watched, self.weights, self.request, say)
        for result in self.results:
            result["check"] = found


def _time_precision(
    job: Job, precision: str, ceilings: Ceilings, say: Say, keep: Callable[[dict[str, Any]], None]
) -> _Unchecked | None:
    # In a run of several precisions the floating ones have no parts.
    parts = job.parts if precision in MAY_NARROW else None
    subject = open_subject(job.model, job.family, precision, job.device, job.seed, say, parts)
    compared: list[dict[str, Any]] = []
    if job.compare and job.engine != "eager":
        # First: the other one may lay the weights out as it likes.
        eager = subject.engine("eager", job.device)
        names = [name for name in job.workloads or WORKLOADS if not WORKLOADS[name].cached]
        quick = replace(job, repetitions=min(job.repetitions, _COMPARED_RUNS), warm_up=1, soak=0)
        compared = list(_time_engine(quick, subject, eager, names, ceilings, say))
        del eager
        _release(job.device)
    start = time.perf_counter()
    engine = subject.engine(job.engine, job.device)
    first = choose_workloads(job.workloads, engine.reuses_frames, job.candidates, job.tokens, job.steps)[0]
    request = subject.request(first)
    Pipeline(engine, subject.unicycle, request).from_patches()
    ready = time.perf_counter() - start
    say(f"{engine.name} {engine.precision}: first trajectory after {ready:.1f} s")
    results = []
    for result in _time_engine(job, subject, engine, job.workloads, ceilings, say):
        result["first_trajectory_s"] = round(ready, 3)
        results.append(result)
        keep(result)
    if engine.name != "eager":
        for result in compared:
            keep(result)
    if not job.check or subject.weights is None:
        return None
    _release(job.device)
    watched = watch(engine, request, lambda line: say(f"check: {line}"))
    return _Unchecked(results, watched, subject.weights, request)


def _time_engine(
    job: Job,
    subject: Subject,
    engine: Engine,
    names: Iterable[str] | None,
    ceilings: Ceilings,
    say: Say,
) -> Iterable[dict[str, Any]]:
    chosen = choose_workloads(names, engine.reuses_frames, job.candidates, job.tokens, job.steps)
    for workload in chosen:
        title = f"{workload.name} {engine.name} {engine.precision}"
        told = _titled(say, title)
        request = subject.request(workload)
        pipeline = Pipeline(engine, subject.unicycle, request)
        figures = measure(pipeline, job.repetitions, job.warm_up, told, job.pause_s)
        result: dict[str, Any] = {
            "workload": workload.name,
            "family": subject.config.family.model_type,
            "engine": engine.name,
            "precision": engine.precision,
            **figures.to_json(),
            "weights_gib": round(subject.bytes.total / 2**30, 3),
            "settings": _settings(workload, job.pause_s),
            "model": subject.model,
        }
        work = stage_work(subject.bytes, subject.config, request, engine.dtype.itemsize)
        result["achieved"] = _achieved(work, result["stages_ms"], ceilings)
        if job.soak and workload is chosen[0]:
            result["soak"] = soak(pipeline, job.soak, told)
        told(f"{result['total_ms']:.1f} ms, p99 {result['p99_ms']:.1f} ms")
        yield result


def _titled(say: Say, title: str) -> Say:
    return lambda line: say(f"{title}: {line}")


def _settings(workload: Workload, pause_s: float) -> dict[str, Any]:
    return {
        "candidates": workload.candidates,
        "sequences": workload.sequences,
        "tokens": workload.tokens,
        "decode_passes": workload.passes,
        "steps": workload.steps,
        "cached_images": workload.cached,
        "pause_s": pause_s,
    }


def _achieved(work: dict[str, Work], stages: dict[str, float], ceilings: Ceilings) -> dict[str, Any]:
    return {name: done.achieved(stages[name], ceilings) for name, done in work.items()}


def _release(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
