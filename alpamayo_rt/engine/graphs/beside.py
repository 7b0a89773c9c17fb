# SPDX-License-Identifier: Apache-2.0
"""Pieces of work side by side: where one has too few blocks left to fill the GPU, another's run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from alpamayo_rt.kernels.products.lanes import lane


class Beside:
    """Streams for pieces of work beside the current one.

    They are the same for all captures, as a pool of memory gives what one capture has freed in a stream to the
    next in the same stream only.
    """

    def __init__(self, device: torch.device):
        self._device, self._streams = device, list[torch.cuda.Stream]()

    def run(self, works: Sequence[Callable[[], None]]) -> None:
        """Run all, in no order; what is launched afterwards waits for all. On the CPU one after the other."""
        if self._device.type != "cuda":
            for work in works:
                work()
            return
        current, others = torch.cuda.current_stream(self._device), self._take(len(works) - 1)
        for stream in others:
            stream.wait_stream(current)
        for number, (work, stream) in enumerate(zip(works, (current, *others), strict=True)):
            with torch.cuda.stream(stream), lane(number):
                work()
        for stream in others:
            current.wait_stream(stream)

    def _take(self, count: int) -> list[torch.cuda.Stream]:
        while len(self._streams) < count:
            self._streams.append(torch.cuda.Stream(self._device))
        return self._streams[:count]
