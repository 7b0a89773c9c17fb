# SPDX-License-Identifier: Apache-2.0
"""Milliseconds: stages by events on the device, totals by the host's clock around whole runs."""

from __future__ import annotations

import math
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from alpamayo_rt.bench.pipeline import Pipeline

STAGES = ("vision", "prefill", "decode_step", "expert_step")
Say = Callable[[str], None]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed."""
    return sorted(values)[max(math.ceil(share * len(values)) - 1, 0)]


@dataclass(frozen=True)
class Figures:
    """What was measured of one workload; milliseconds, one a repetition."""

    totals: list[float]
    end_to_end: list[float]
    stages: dict[str, list[float]]
    peak_gib: float
    reserved_gib: float
    prompt_tokens: int

    def to_json(self) -> dict[str, object]:
        """The fields of a result in the record."""
        end = self.end_to_end
        return {
            "total_ms": _ms(statistics.median(self.totals)),
            "p90_ms": _ms(percentile(self.totals, 0.9)),
            "p99_ms": _ms(percentile(self.totals, 0.99)),
            "end_to_end_ms": _ms(statistics.median(end)),
            "end_to_end_p90_ms": _ms(percentile(end, 0.9)),
            "end_to_end_p99_ms": _ms(percentile(end, 0.99)),
            "stages_ms": {name: _ms(statistics.median(self.stages[name])) for name in STAGES},
            "peak_gib": round(self.peak_gib, 3),
            "reserved_gib": round(self.reserved_gib, 3),
            "n": len(self.totals),
            "prompt_tokens": self.prompt_tokens,
        }


def _ms(value: float) -> float:
    return round(value, 4)


class Marks:
    """Times of the ends of stages: events on the device's stream, or readings of the host's clock."""

    def __init__(self, device: torch.device):
        self._cuda, self._device = device.type == "cuda", device
        self._marks: list[tuple[str, torch.cuda.Event | float]] = []
        self("start")

    def __call__(self, name: str) -> None:
        """The stage `name` ends here."""
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self._device))
            self._marks.append((name, event))
        else:
            self._marks.append((name, time.perf_counter()))

    def milliseconds(self) -> dict[str, float]:
        """Stage → its time since the mark before; waits for the device."""
        if self._cuda:
            torch.cuda.synchronize(self._device)
        out = {}
        for (_, before), (name, after) in zip(self._marks, self._marks[1:], strict=False):
            if isinstance(before, torch.cuda.Event) and isinstance(after, torch.cuda.Event):
                out[name] = before.elapsed_time(after)
            elif isinstance(before, float) and isinstance(after, float):
                out[name] = (after - before) * 1e3
        return out


def rest(synchronize: Callable[[], None], pause_s: float) -> None:
    """Let the device finish, and be idle for at least so long."""
    synchronize()
    time.sleep(pause_s)


def clocked(run: Callable[[], object], synchronize: Callable[[], None], pause_s: float = 0.0) -> float:
    """Milliseconds of one run by the host's clock, the device idle before, at least so long, and after."""
    rest(synchronize, pause_s)
    start = time.perf_counter()
    run()
    synchronize()
    return (time.perf_counter() - start) * 1e3


@torch.inference_mode()
def measure(pipeline: Pipeline, repetitions: int, warm_up: int, say: Say, pause_s: float = 0.0) -> Figures:
    """Time one workload.

    Three loops, each of `repetitions` runs: from patches, from raw frames, and from patches with marks between
    the stages. The totals are therefore measured by themselves and are no sums. The device rests for `pause_s`
    before each.

    Raises:
        EngineError: what ran was not the workload.
    """
    request, engine = pipeline.request, pipeline.engine
    workload, device = request.workload, engine.device
    say("warming up")
    for _ in range(max(warm_up, 1)):
        pipeline.from_frames()
        pipeline.from_patches()
    pipeline.check()
    reset_peak(device)
    say(f"patches to trajectories, {repetitions} runs")
    totals = [clocked(pipeline.from_patches, engine.synchronize, pause_s) for _ in range(repetitions)]
    peak = peak_gib(device)
    say(f"raw frames to trajectories, {repetitions} runs")
    end_to_end = [clocked(pipeline.from_frames, engine.synchronize, pause_s) for _ in range(repetitions)]
    say(f"stages, {repetitions} runs")
    laps = []
    for _ in range(repetitions):
        rest(engine.synchronize, pause_s)
        marks = Marks(device)
        pipeline.from_patches(marks)
        laps.append(marks.milliseconds())
    stages = {
        "vision": [lap["vision"] for lap in laps],
        "prefill": [lap["prefill"] for lap in laps],
        "decode_step": [lap["decode"] / workload.passes for lap in laps],
        "expert_step": [lap["expert"] / workload.steps for lap in laps],
    }
    return Figures(totals, end_to_end, stages, peak, held_mib(device) / 1024, len(request.prompt))


@torch.inference_mode()
def soak(pipeline: Pipeline, requests: int, say: Say) -> dict[str, object]:
    """Consecutive requests: how far the slowest lie from the median, and whether memory grows.

    Growth is the memory after the last request less that after the first tenth of them.
    """
    settled = max(requests // 10, 1)
    times: list[float] = []
    before = 0.0
    for n in range(requests):
        times.append(clocked(pipeline.from_patches, pipeline.engine.synchronize))
        if n + 1 == settled:
            before = held_mib(pipeline.engine.device)
        if (n + 1) % max(requests // 5, 1) == 0:
            say(f"request {n + 1} of {requests}")
    median, p99 = statistics.median(times), percentile(times, 0.99)
    return {
        "n": requests,
        "median_ms": _ms(median),
        "p99_ms": _ms(p99),
        "p99_over_median": round(p99 / median, 4),
        "growth_mib": round(held_mib(pipeline.engine.device) - before, 3),
    }


def reset_peak(device: torch.device) -> None:
    """Let the peak be counted from here, where the device counts one."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_gib(device: torch.device) -> float:
    """The most memory in use since `reset_peak`; on the CPU, of the process since it began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def held_mib(device: torch.device) -> float:
    """Memory that is reserved on a GPU, or used by the process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device) / 2**20
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20
