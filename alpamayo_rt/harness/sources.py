# SPDX-License-Identifier: Apache-2.0
"""`--clips SOURCE`: where clips come from, which they are, and one of them with its truth."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from alpamayo_rt.action.unicycle import yaw_of
from alpamayo_rt.demo import truth as window
from alpamayo_rt.demo.recording import TRUTH_FILE
from alpamayo_rt.demo.world import World
from alpamayo_rt.errors import InputError
from alpamayo_rt.harness.clip_list import ClipRef, read_list
from alpamayo_rt.sample.cameras import DEFAULT_CAMERAS
from alpamayo_rt.sample.clips import DEFAULT_T0_US, ClipDataset
from alpamayo_rt.sample.sample import Sample

HELP = "world-live:SEED:N (N clips drawn in memory), world:ROOT, dataset:ROOT, or a list with --dataset-root"
_LIVE = re.compile(r"world-live:(\d{1,9}):(\d{1,9})")


@dataclass(frozen=True)
class Situation:
    """A clip at its t0 and what then happened.

    `sample` is what the model is given, None where no images were asked for; `history_xyz` (16, 3) and
    `history_rot` (16, 3, 3); `future_xy` (64, 2) metres and `future_heading` (64,) radians, float64, in the
    ego frame at t0; `cause` is why, in the demo world; `branches` are centre lines (n, 2) of which `branch`
    is taken.
    """

    sample: Sample | None
    history_xyz: torch.Tensor
    history_rot: torch.Tensor
    future_xy: np.ndarray
    future_heading: np.ndarray
    cause: str | None = None
    branch: str | None = None
    branches: dict[str, np.ndarray] | None = None


class Source(Protocol):
    """Clips that can be read again and again, in any order and by several threads."""

    def refs(self, limit: int | None = None) -> list[ClipRef]:
        """All clips or the first ones, each with its t0."""
        ...

    def present(self, refs: Sequence[ClipRef]) -> set[str]:
        """The ids of those that are here."""
        ...

    def read(self, ref: ClipRef, with_images: bool = True) -> Situation:
        """Read one; raises InputError where that cannot be done."""
        ...


@dataclass(frozen=True)
class SourceSpec:
    """What the command line says; small enough to be sent to a worker, which opens it there."""

    clips: str
    dataset_root: str | None = None
    cameras: tuple[int, ...] = DEFAULT_CAMERAS

    def identity(self) -> str:
        """What a run holds on to: not how many clips of the demo world, so that more of them go on."""
        return self.clips.rpartition(":")[0] if _LIVE.fullmatch(self.clips) else self.clips

    def open(self) -> Source:
        """Open it.

        Raises:
            InputError: no such source.
            DatasetError: the dataset cannot be opened.
        """
        live = _LIVE.fullmatch(self.clips)
        if live is not None:
            return LiveSource(int(live[1]), int(live[2]))
        kind, _, root = self.clips.partition(":")
        if kind in ("world", "dataset") and root:
            return DatasetSource(root, None, self.cameras)
        if kind.startswith("world-live"):
            raise InputError(f"clips: {self.clips!r}, expected world-live:SEED:N")
        if self.dataset_root is None and Path(self.clips).is_file():
            raise InputError(f"clips: {self.clips} is a list, expected --dataset-root ROOT with it")
        if not Path(self.clips).is_file():
            raise InputError(f"clips: {self.clips!r}, expected {HELP}")
        assert self.dataset_root is not None
        return DatasetSource(self.dataset_root, read_list(self.clips), self.cameras)


class LiveSource:
    """Clips of the demo world, drawn when they are read; on the CPU, so that every engine sees the same
    pixels.
    """

    def __init__(self, seed: int, number: int):
        self.world, self.number = World(seed, "test"), number

    def refs(self, limit: int | None = None) -> list[ClipRef]:
        """Each at its own window and with its own navigation."""
        found = []
        for index in range(self.number if limit is None else min(limit, self.number)):
            step = int(self.world.scene(index).t0)
            found.append(ClipRef(self.world.clip_id(index), step * window.STEP_US))
        return found

    def present(self, refs: Sequence[ClipRef]) -> set[str]:
        """All of them."""
        return {ref.clip_id for ref in refs}

    def read(self, ref: ClipRef, with_images: bool = True) -> Situation:
        """Draw one."""
        index = int(ref.clip_id.rsplit("-", 1)[-1])
        scene = self.world.scene(index)
        step = int(scene.t0) if ref.t0_us is None else ref.t0_us // window.STEP_US
        if with_images:
            sample, truth = self.world.sample(index, step)
            sample = sample.replaced(navigation=ref.nav_text or sample.navigation)
        else:
            sample, truth = None, window.truth(scene, step)
        xyz, rot = window.history(scene, step)
        ahead = truth["junction"]
        reached = ahead is not None and ahead["reaches_branch"]
        return Situation(
            sample,
            torch.from_numpy(xyz).float(),
            torch.from_numpy(rot).float(),
            truth["future_xyz"][:, :2],
            _heading(truth["future_rot"]),
            truth["cause"],
            ahead["branch"] if reached else None,
            ahead["branches"] if reached else None,
        )


class DatasetSource:
    """Clips of a local copy of the dataset, or of the demo world in the same layout.

    Args:
        root: the hub cache.
        listed: which clips, in which order; None for all that are here.
        cameras: that the model is shown, in this order.
    """

    def __init__(
        self, root: str, listed: list[ClipRef] | None = None, cameras: tuple[int, ...] = DEFAULT_CAMERAS
    ):
        self.root, self.dataset, self._listed, self._cameras = root, ClipDataset(root), listed, cameras
        self._here: set[str] | None = None

    def refs(self, limit: int | None = None) -> list[ClipRef]:
        """Of the list, or all; a clip of the demo world knows its own t0, others have the usual one."""
        listed = self._listed
        if listed is None:
            listed = [ClipRef(name) for name in self.dataset.clip_ids(self._cameras)]
        listed = listed[:limit]
        here = self.present(listed)
        return [self._timed(ref, ref.clip_id in here) for ref in listed]

    def present(self, refs: Sequence[ClipRef]) -> set[str]:
        """The ids of those whose cameras and poses are here."""
        if self._here is None:
            self._here = set(self.dataset.clip_ids(self._cameras))
        return {ref.clip_id for ref in refs} & self._here

    def read(self, ref: ClipRef, with_images: bool = True) -> Situation:
        """Read one through the dataset's kit."""
        t0_us = DEFAULT_T0_US if ref.t0_us is None else ref.t0_us
        clip = self.dataset.read(ref.clip_id, t0_us, self._cameras)
        told = self._truth(ref.clip_id)
        now: dict[str, Any] = next((w for w in told["windows"] if w["t_us"] == t0_us), {}) if told else {}
        sample = clip.sample.replaced(navigation=ref.nav_text or now.get("navigation"))
        assert sample.history_xyz is not None
        assert sample.history_rot is not None
        assert clip.future_xyz is not None
        assert clip.future_rot is not None
        return Situation(
            sample,
            sample.history_xyz,
            sample.history_rot,
            clip.future_xyz[:, :2].double().numpy(),
            _heading(clip.future_rot),
            now.get("cause"),
        )

    def _timed(self, ref: ClipRef, here: bool) -> ClipRef:
        if ref.t0_us is not None:
            return ref
        told = self._truth(ref.clip_id) if here else None
        return replace(ref, t0_us=int(told["t0_us"]) if told else DEFAULT_T0_US)

    def _truth(self, clip_id: str) -> dict[str, Any] | None:
        try:
            told = json.loads(self.dataset.read_extra(clip_id, TRUTH_FILE))
        except (InputError, json.JSONDecodeError):
            return None
        return told if isinstance(told, dict) and {"t0_us", "windows"} <= told.keys() else None


def _heading(rot: Any) -> np.ndarray:
    return np.unwrap(yaw_of(torch.as_tensor(rot, dtype=torch.float64)).numpy())
