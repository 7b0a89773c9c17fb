# SPDX-License-Identifier: Apache-2.0
"""The demo world as its users see it: numbered clips, samples with their truth, batches for training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alpamayo_rt.demo import truth as window
from alpamayo_rt.demo.arrays import CAUSES, FIRST_WINDOW, LAST_WINDOW, STEPS, SceneArrays, stack
from alpamayo_rt.demo.camera import CAMERA_INDICES, CAMERAS
from alpamayo_rt.demo.render import render
from alpamayo_rt.demo.reroute import reroute
from alpamayo_rt.demo.simulate import SPLITS, Drive, simulate_drive
from alpamayo_rt.errors import InputError
from alpamayo_rt.sample.sample import Sample

FRAMES = 4


@dataclass(frozen=True)
class WorldClip:
    """One clip of 10 s: what a writer needs to make a recording of it.

    `timestamps_us` (101,) int64 of frames and poses alike; `ego_xyz` (101, 3) metres and `ego_quat_xyzw`
    (101, 4) in the clip's own world frame; `truth` goes to `world.json`.
    """

    clip_id: str
    scene: SceneArrays
    t0_us: int
    timestamps_us: np.ndarray
    ego_xyz: np.ndarray
    ego_quat_xyzw: np.ndarray
    truth: dict[str, Any]

    def frames(self, device: torch.device | str = "cpu") -> dict[int, np.ndarray]:
        """All frames by camera index, (101, 128, 224, 3) uint8 each; the same pixels as in `World.sample`."""
        images = render(stack([self.scene]), np.arange(STEPS)[None], device)[0]
        frames = images.permute(0, 1, 3, 4, 2).cpu().numpy()
        return {index: np.ascontiguousarray(frames[i]) for i, index in enumerate(CAMERA_INDICES)}

    @property
    def cameras(self) -> dict[int, dict[str, Any]]:
        """Per camera index: name, pinhole intrinsics in pixels, and its place in the ego frame."""
        return {
            c.index: {
                "name": c.name,
                "focal": c.focal,
                "centre": [112.0, c.horizon],
                "xyz": [c.x, c.y, c.z],
                "yaw": c.yaw,
            }
            for c in CAMERAS
        }


@dataclass(frozen=True)
class WorldBatch:
    """B windows: tensors on the chosen device, words in lists."""

    frames: Tensor  # (B, 4 cameras, 4 frames, 3, 128, 224) uint8
    history_xyz: Tensor  # (B, 16, 3) float32
    history_rot: Tensor  # (B, 16, 3, 3)
    future_xyz: Tensor  # (B, 64, 3)
    future_rot: Tensor  # (B, 64, 3, 3)
    cause: Tensor  # (B,) int64, index into `arrays.CAUSES`
    words: list[dict[str, Any]]  # cause, action, reasoning, navigation, questions


def make_batch(
    scenes: Sequence[SceneArrays], t0: Sequence[int] | None = None, device: torch.device | str = "cpu"
) -> WorldBatch:
    """Draw windows of scenes that were simulated elsewhere, at steps `t0` or at each clip's own window."""
    steps = np.array([int(s.t0) for s in scenes] if t0 is None else t0)
    frames = render(stack(scenes), steps[:, None] + np.arange(1 - FRAMES, 1), device)
    past = [window.history(s, int(k)) for s, k in zip(scenes, steps, strict=True)]
    ahead = [window.future(s, int(k)) for s, k in zip(scenes, steps, strict=True)]

    def put(arrays: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(arrays).astype(np.float32)).to(device, non_blocking=True)

    cause = torch.tensor([int(s.cause[k]) for s, k in zip(scenes, steps, strict=True)], device=device)
    return WorldBatch(
        frames=frames,
        history_xyz=put([p[0] for p in past]),
        history_rot=put([p[1] for p in past]),
        future_xyz=put([f[0] for f in ahead]),
        future_rot=put([f[1] for f in ahead]),
        cause=cause,
        words=[window.words(s, int(k)) for s, k in zip(scenes, steps, strict=True)],
    )


@lru_cache(maxsize=64)
def _drive(split: str, seed: int, index: int) -> Drive:
    return simulate_drive(split, seed, index)


class World:
    """Endless numbered clips; the same `seed`, `split` and number always give the same clip.

    Args:
        seed: of the world.
        split: "train" or "test"; part of every random draw, so that the two share no clip.
    """

    causes = CAUSES

    def __init__(self, seed: int = 0, split: str = "test"):
        if split not in SPLITS:
            raise InputError(f"split: {split!r}, expected one of {', '.join(SPLITS)}")
        if seed < 0:
            raise InputError(f"seed: {seed}, expected 0 or more")
        self.seed, self.split = seed, split

    def scene(self, index: int) -> SceneArrays:
        """The simulated arrays of clip `index`."""
        if index < 0:
            raise InputError(f"clip: {index}, expected 0 or more")
        return _drive(self.split, self.seed, index).scene

    def rerouted(self, index: int, branch: str) -> SceneArrays | None:
        """Clip `index`, sent into another branch at its own window; None where that cannot be driven."""
        scene = self.scene(index)
        return reroute(_drive(self.split, self.seed, index), int(scene.t0), branch)

    def clip_id(self, index: int) -> str:
        """The clip's name."""
        return f"world-{self.split}-{self.seed}-{index:06d}"

    def clip(self, index: int) -> WorldClip:
        """The whole clip, its frames drawn on request."""
        scene = self.scene(index)
        quaternion = np.zeros((STEPS, 4))
        quaternion[:, 2] = np.sin(scene.ego[:, 2] / 2)
        quaternion[:, 3] = np.cos(scene.ego[:, 2] / 2)
        return WorldClip(
            clip_id=self.clip_id(index),
            scene=scene,
            t0_us=int(scene.t0) * window.STEP_US,
            timestamps_us=np.arange(STEPS, dtype=np.int64) * window.STEP_US,
            ego_xyz=np.concatenate([scene.ego[:, :2], np.zeros((STEPS, 1))], 1),
            ego_quat_xyzw=quaternion,
            truth=window.clip_truth(scene, self.clip_id(index)),
        )

    def sample(
        self,
        index: int,
        t0: int | None = None,
        device: torch.device | str = "cpu",
        branch: str | None = None,
        with_navigation: bool = True,
    ) -> tuple[Sample, dict[str, Any]]:
        """One window as a `Sample`, and its truth (see `truth.truth`).

        Args:
            index: the clip.
            t0: step (0.1 s each) of the window, 15…36; None for the clip's own window.
            device: where the images are drawn and stay.
            branch: name this branch (left, straight, right) in the navigation instead of the true one.
            with_navigation: False leaves the navigation text out.
        """
        scene = self.scene(index)
        step = int(scene.t0) if t0 is None else t0
        if not FIRST_WINDOW <= step <= LAST_WINDOW:
            raise InputError(f"t0: step {step}, expected {FIRST_WINDOW} to {LAST_WINDOW}")
        frames = render(stack([scene]), np.array([[step - 3, step - 2, step - 1, step]]), device)[0]
        xyz, rot = window.history(scene, step)
        text = window.navigation(scene, step, branch) if with_navigation else None
        sample = Sample(frames, CAMERA_INDICES, xyz, rot, navigation=text)
        return sample, window.truth(scene, step)

    def batch(self, indices: Sequence[int], device: torch.device | str = "cpu") -> WorldBatch:
        """The clips' own windows as one batch of tensors."""
        return make_batch([self.scene(int(i)) for i in indices], device=device)
