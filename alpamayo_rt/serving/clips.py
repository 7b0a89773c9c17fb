# SPDX-License-Identifier: Apache-2.0
"""Clips that the page can show: some of the demo world, and those of a local copy of the dataset."""

from __future__ import annotations

import base64
import io
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from alpamayo_rt.demo.arrays import FIRST_WINDOW, LAST_WINDOW
from alpamayo_rt.demo.live import live_clip
from alpamayo_rt.demo.truth import STEP_US
from alpamayo_rt.errors import InputError
from alpamayo_rt.families import CAMERA_NAMES
from alpamayo_rt.sample.sample import Sample
from alpamayo_rt.serving.refusal import Refusal

_KEPT = 3  # windows whose samples are kept; a sample of the dataset has 100 MB
_WIDEST = 640  # pixels of a picture on the page


@dataclass(frozen=True)
class Window:
    """One time of a clip: what the model gets, and what is known besides."""

    sample: Sample
    future: torch.Tensor | None
    facts: dict[str, Any] = field(default_factory=dict)


class ClipShelf:
    """Finds clips by their names on a list; nothing else can be named.

    Args:
        world_seed: of the demo world.
        world_clips: how many of its clips are on the list.
        dataset_root: a local copy of the dataset, or None.

    Raises:
        DatasetError: the dataset cannot be opened.
    """

    def __init__(self, world_seed: int = 0, world_clips: int = 12, dataset_root: Path | None = None):
        self._world = tuple(f"world-live:{world_seed}:{n}" for n in range(world_clips))
        self._dataset: Any = None
        self._recorded: tuple[str, ...] = ()
        if dataset_root is not None:
            from alpamayo_rt.sample.clips import ClipDataset

            self._dataset = ClipDataset(dataset_root)
            self._recorded = self._dataset.clip_ids()
        self._windows: OrderedDict[tuple[str, int], Window] = OrderedDict()
        self._ranges: dict[str, tuple[int, int, int]] = {}
        self._lock = threading.Lock()

    def listed(self) -> list[dict[str, str]]:
        """Names and titles."""
        world = [{"id": n, "title": f"Demo world, clip {n.rpartition(':')[2]}"} for n in self._world]
        return world + [{"id": name, "title": name} for name in self._recorded]

    def span(self, name: str) -> dict[str, Any]:
        """A clip's times: first, last and its own, in µs, and the step between two of them."""
        self.check(name)
        if name not in self._ranges:
            self._ranges[name] = self._span(name)
        first, last, own = self._ranges[name]
        return {"id": name, "first_us": first, "last_us": last, "t0_us": own, "step_us": STEP_US}

    def _span(self, name: str) -> tuple[int, int, int]:
        if name in self._world:
            return FIRST_WINDOW * STEP_US, LAST_WINDOW * STEP_US, live_clip(name).t0_us
        first, last = self._dataset.t0_range_us(name, with_future=False)
        steps = (last - first) // STEP_US
        try:
            known = (self._dataset.t0_range_us(name)[1] - first) // STEP_US
        except InputError:  # too short for a true future
            known = steps
        return first, first + steps * STEP_US, first + min(known, 40) * STEP_US

    def window(self, name: str, t0_us: int) -> Window:
        """Read or draw one time of a clip.

        Raises:
            Refusal: no such clip or time.
        """
        self.check(name)
        key = (name, t0_us)
        with self._lock:
            if key in self._windows:
                self._windows.move_to_end(key)
                return self._windows[key]
            try:
                found = self._read(name, t0_us)
            except InputError as error:
                raise Refusal(422, str(error)) from None
            self._windows[key] = found
            while len(self._windows) > _KEPT:
                self._windows.popitem(last=False)
            return found

    def _read(self, name: str, t0_us: int) -> Window:
        if name in self._world:
            clip = live_clip(name, t0_us)
            sample, truth = clip.world.sample(clip.number, clip.step)
            future = torch.from_numpy(truth["future_xyz"]).float()
            facts = {"navigation": sample.navigation, "cause": truth["cause"], "questions": truth["questions"]}
            return Window(sample, future, facts)
        clip = self._dataset.read(name, t0_us, with_future="if available")
        return Window(clip.sample, clip.future_xyz)

    def check(self, name: str) -> None:
        """Refuse a clip that is not on the list."""
        if name not in self._world and name not in self._recorded:
            raise Refusal(404, f"clip: {name[:80]!r} is not on the list, see /page/clips")


def shown(window: Window, t0_us: int) -> dict[str, Any]:
    """What the page needs to show a window: pictures, past, true future, and what is known besides."""
    sample = window.sample
    assert sample.frames is not None
    past, future = sample.history_xyz, window.future
    return {
        "t0_us": t0_us,
        "images": [
            {"name": CAMERA_NAMES[camera], "src": _picture(frames[-1])}
            for camera, frames in zip(sample.camera_indices, sample.frames, strict=True)
        ],
        "history": None if past is None else past[:, :2].tolist(),
        "future": None if future is None else future[:, :2].tolist(),
        **window.facts,
    }


def _picture(frame: torch.Tensor) -> str:
    image = Image.fromarray(frame.permute(1, 2, 0).contiguous().cpu().numpy())
    image.thumbnail((_WIDEST, _WIDEST))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
