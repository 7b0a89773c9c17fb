# SPDX-License-Identifier: Apache-2.0
"""Draws the next batch's images while the present one is trained on."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from alpamayo_rt.demo.render import render
from alpamayo_rt.prompt.images import patchify
from alpamayo_rt.training.examples import FRAMES, Examples, to_device


@dataclass(frozen=True)
class DrawnExamples:
    """Examples on the device, and their images' patches (B · images, patches, 1536) bfloat16."""

    examples: Examples
    patches: torch.Tensor


def draw(examples: Examples, device: torch.device) -> DrawnExamples:
    """Draw a batch's images on `device`."""
    batch = len(examples.history_xyz)
    frames = render(examples.scenes, torch.arange(FRAMES).expand(batch, -1).numpy(), device)
    patches = patchify((frames.flatten(0, 2).to(torch.bfloat16) - 127.5) / 127.5)
    return DrawnExamples(to_device(examples, device), patches)


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
            done.patches.record_stream(torch.cuda.current_stream(device))
            yield done
    finally:
        stop.set()
        while not ready.empty():
            ready.get_nowait()
