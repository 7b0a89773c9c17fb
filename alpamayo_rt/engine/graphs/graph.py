# SPDX-License-Identifier: Apache-2.0
"""A piece of work that is launched again and again: a CUDA graph, or plain calls where there is no GPU."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch

Work = TypeVar("Work", bound=Callable[[], None])


class Graphs:
    """Captures work and replays it. All captures share one pool of memory.

    That is safe because graphs never run at the same time, and nothing in the pool outlives a replay: whatever
    one graph hands to another lies in buffers that were allocated outside.
    """

    def __init__(self, device: torch.device, keep: int = 24):
        self._device, self._keep = device, keep
        self._captured: OrderedDict[Hashable, tuple[Any, Callable[[], None]]] = OrderedDict()
        cuda = device.type == "cuda"
        self._pool = torch.cuda.graph_pool_handle() if cuda else None
        # The pool gives memory of one capture to the next on the same stream only, and a stream has its own
        # workspace of cuBLAS.
        self._stream = torch.cuda.Stream(device) if cuda else None

    def get(self, key: Hashable, make: Callable[[], Work]) -> tuple[Work, Callable[[], None]]:
        """Some work and its replay.

        Args:
            key: names the work with everything that its capture freezes.
            make: makes what is captured, when the key is new: a callable, which may hold static inputs. It is
                run twice before it is captured, so that kernels are compiled and libraries have made their
                choices.
        """
        if key not in self._captured:
            while len(self._captured) >= self._keep:
                self._captured.popitem(last=False)
            work = make()
            self._captured[key] = work, self._capture(work)
        self._captured.move_to_end(key)
        return self._captured[key]

    def clear(self) -> None:
        """Forget all captures, because buffers have moved."""
        self._captured.clear()

    def _capture(self, run: Callable[[], None]) -> Callable[[], None]:
        stream = self._stream
        if stream is None:
            return run
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(2):
                run()
        torch.cuda.current_stream(self._device).wait_stream(stream)
        torch.cuda.synchronize(self._device)
        graph = torch.cuda.CUDAGraph()
        # What other threads do meanwhile is no part of the capture, and does not spoil it.
        with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
            run()
        return graph.replay
