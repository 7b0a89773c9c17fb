# SPDX-License-Identifier: Apache-2.0
"""How long the stages of an inference take."""

from __future__ import annotations

import time
from itertools import pairwise

import torch


class Stopwatch:
    """Milliseconds by stage. On a GPU marks are set in its stream, and nobody waits before the end."""

    def __init__(self, device: torch.device):
        self._device = device
        self._start = time.perf_counter()
        self._marks = [("", self._mark())]

    def _mark(self) -> float | torch.cuda.Event:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def lap(self, stage: str) -> None:
        """Book the time since the last lap on `stage`."""
        self._marks.append((stage, self._mark()))

    def total(self) -> dict[str, float]:
        """All stages and the time since the start; waits for the device."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        spent: dict[str, float] = {}
        for (_, before), (stage, after) in pairwise(self._marks):
            if isinstance(before, float) or isinstance(after, float):
                passed = (after - before) * 1e3  # type: ignore[operator]
            else:
                passed = before.elapsed_time(after)
            spent[stage] = spent.get(stage, 0.0) + passed
        return spent | {"total": (time.perf_counter() - self._start) * 1e3}
