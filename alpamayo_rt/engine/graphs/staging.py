# SPDX-License-Identifier: Apache-2.0
"""What the host tells the device at the start of a stage: one block, one copy, and nobody waits for it.

A copy from ordinary memory makes the host wait until all that was launched before has run, and then the device
waits for the host. From pinned memory the copy takes its place in the stream like any other work.
"""

from __future__ import annotations

from math import prod

import torch

ALIGNMENT = 128
"""Bytes; kernels that were compiled for aligned pointers must stay right for every field."""

Field = tuple[tuple[int, ...], torch.dtype]
"""Shape and type."""


class Staging:
    """Named fields that lie in the same places of a block on the host and one on the device.

    On the CPU both are the same block.

    Attributes:
        there: the fields on the device. They never move, so that a graph may know their addresses.
    """

    def __init__(self, device: torch.device, **fields: Field):
        """Zeros on both sides.

        Args:
            device: where `there` is.
            fields: shape and type by name.
        """
        self._device = device
        starts, size = {}, 0
        for name, (shape, dtype) in fields.items():
            starts[name] = size
            size += -(-prod(shape) * dtype.itemsize // ALIGNMENT) * ALIGNMENT
        self._block = torch.zeros(size, dtype=torch.uint8, device=device)
        on_gpu = device.type == "cuda"
        self._pinned = torch.zeros(size, dtype=torch.uint8, pin_memory=True) if on_gpu else self._block

        def views(block: torch.Tensor) -> dict[str, torch.Tensor]:
            return {
                name: block[starts[name] :][: prod(shape) * dtype.itemsize].view(dtype).view(shape)
                for name, (shape, dtype) in fields.items()
            }

        self.there = views(self._block)
        self._here = views(self._pinned)
        self._sent: torch.cuda.Event | None = None

    def here(self) -> dict[str, torch.Tensor]:
        """The fields on the host, to be written; they hold what was written last.

        Waits for the copy before, if that has not run yet: it would send what is written now.
        """
        if self._sent is not None and not self._sent.query():
            self._sent.synchronize()
        return self._here

    def send(self) -> None:
        """Let work that is launched from now on see what was written."""
        if self._device.type != "cuda":
            return
        self._block.copy_(self._pinned, non_blocking=True)
        if self._sent is None:
            self._sent = torch.cuda.Event()
        self._sent.record(torch.cuda.current_stream(self._device))
