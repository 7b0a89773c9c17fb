# SPDX-License-Identifier: Apache-2.0
"""Draws the next batch's images while the present one is trained on, and shows drawn batches again later."""

from __future__ import annotations

import queue
import random
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from alpamayo_rt.demo.render import render
from alpamayo_rt.prompt.images import patchify
from alpamayo_rt.training.examples import FRAMES, Examples, Text, to_device


@dataclass(frozen=True)
class DrawnExamples:
    """Examples on the device, and their images (B · images, 3, height, width) uint8."""

    examples: Examples
    images: torch.Tensor

    @property
    def patches(self) -> torch.Tensor:
        """(B · images, patches, 1536) bfloat16; four times the images' memory, so they are not kept."""
        return patchify((self.images.to(torch.bfloat16) - 127.5) / 127.5)

    def tensors(self) -> list[torch.Tensor]:
        """All of them."""
        found = [self.images]
        for value in vars(self.examples).values():
            parts = vars(value).values() if isinstance(value, Text) else [value]
            found += [part for part in parts if isinstance(part, torch.Tensor)]
        return found


def draw(examples: Examples, device: torch.device) -> DrawnExamples:
    """Draw a batch's images on `device`."""
    batch = len(examples.history_xyz)
    frames = render(examples.scenes, torch.arange(FRAMES).expand(batch, -1).numpy(), device)
    return DrawnExamples(to_device(examples, device), frames.flatten(0, 2))


def drawn(batches: Iterable[Examples], device: torch.device, ahead: int = 2) -> Iterator[DrawnExamples]:
    """The batches with their images; on a GPU a thread draws `ahead` batches on a stream of its own."""
    if device.type != "cuda":
        for examples in batches:
            yield draw(examples, device)
        return
    ready: queue.Queue = queue.Queue(ahead)
    stop = threading.Event()
    stream = torch.cuda.Stream(device)

    def work() -> None:
        try:
            with torch.cuda.stream(stream):
                for examples in batches:
                    done = draw(examples, device)
                    event = torch.cuda.Event()
                    event.record(stream)
                    ready.put((done, event))
                    if stop.is_set():
                        return
        except Exception as error:  # whatever it is, the training loop has to hear of it
            ready.put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, Exception):
                raise item
            done, event = item
            torch.cuda.current_stream(device).wait_event(event)
            # The memory belongs to the drawing stream; it must not be reused there while we still read it.
            for tensor in done.tensors():
                tensor.record_stream(torch.cuda.current_stream(device))
            yield done
    finally:
        stop.set()
        while not ready.empty():
            ready.get_nowait()


def again(fresh: Iterator[DrawnExamples], uses: int, pool: int, seed: int) -> Iterator[DrawnExamples]:
    """Every batch `uses` times: at once, and later at random among about `pool` others.

    Drawing a batch takes longer than a step of training on it.
    """
    rng = random.Random(seed)
    waiting: list[tuple[DrawnExamples, int]] = []
    for batch in fresh:
        yield batch
        if uses == 1:
            continue
        waiting.append((batch, uses - 1))
        if len(waiting) < pool:
            continue
        for _ in range(uses - 1):
            place = rng.randrange(len(waiting))
            old, left = waiting[place]
            if left > 1:
                waiting[place] = (old, left - 1)
            else:
                waiting[place] = waiting[-1]
                waiting.pop()
            yield old
