# SPDX-License-Identifier: Apache-2.0
"""The one typed value that every way into the runtime ends in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from alpamayo_rt.errors import InputError
from alpamayo_rt.tasks import TASK_NAMES

HISTORY_POSES = 16
FUTURE_POSES = 64
STEP_SECONDS = 0.1


@dataclass(frozen=True)
class PreparedImages:
    """Camera images that were resized, normalized and cut into patches elsewhere.

    `pixel_values` (patches, 1536) float, in merge-block order (`prompt.images.patchify`); `image_grid_thw`
    (images, 3) int64: one row (1, patch rows, patch columns) per image, camera-major, oldest first.
    """

    pixel_values: torch.Tensor
    image_grid_thw: torch.Tensor


class Sample:
    """One driving situation: camera frames, where the ego vehicle has been, and what is asked.

    Args:
        frames: (C, T, 3, H, W) uint8, cameras in the order of `camera_indices`, oldest frame first;
            None when `prepared` images are given instead.
        camera_indices: C distinct camera numbers of the dataset (0…6).
        history_xyz: (16, 3) metres in the ego frame at t0 (x forward, y left, z up), 10 Hz, the last at t0.
            May be None for a question. Leading dimensions of one are accepted.
        history_rot: (16, 3, 3) rotations in the same frame.
        navigation: an instruction such as "Turn left in 40m".
        question: a question to answer in words instead of driving.
        prepared: patches instead of `frames`.
        task: one of `tasks.TASK_NAMES`; None: a question is answered and anything else driven.
        ego_future_xyz: (64, 3) metres in the ego frame at t0, t0 + 0.1 … 6.4 s, for auto-labels. Leading
            dimensions of one are accepted.
        ego_future_rot: (64, 3, 3) rotations in the same frame.

    Raises:
        InputError: a shape, type or value is wrong; the sentence names the field.
    """

    def __init__(
        self,
        frames: torch.Tensor | np.ndarray | None,
        camera_indices: Sequence[int] | torch.Tensor | np.ndarray,
        history_xyz: torch.Tensor | np.ndarray | Sequence | None = None,
        history_rot: torch.Tensor | np.ndarray | Sequence | None = None,
        navigation: str | None = None,
        question: str | None = None,
        prepared: PreparedImages | None = None,
        task: str | None = None,
        ego_future_xyz: torch.Tensor | np.ndarray | Sequence | None = None,
        ego_future_rot: torch.Tensor | np.ndarray | Sequence | None = None,
    ):
        self.camera_indices = _camera_indices(camera_indices)
        self.prepared = prepared
        self.frames = None if frames is None else _frames(frames, len(self.camera_indices))
        if (self.frames is None) == (prepared is None):
            raise InputError("frames: give either frames or prepared images, not both and not neither")
        if prepared is not None:
            _check_prepared(prepared, len(self.camera_indices))
        self.history_xyz, self.history_rot = _poses(history_xyz, history_rot, "history", HISTORY_POSES)
        self.ego_future_xyz, self.ego_future_rot = _poses(
            ego_future_xyz, ego_future_rot, "ego_future", FUTURE_POSES
        )
        self.navigation = _text(navigation, "navigation")
        self.question = _text(question, "question")
        if task is not None and task not in TASK_NAMES:
            raise InputError(f"task: {_short(task)}, expected one of {', '.join(TASK_NAMES)}")
        self.task = task

    def replaced(self, **changes: Any) -> Sample:
        """The same sample with some of the constructor's arguments given anew, checked like any other."""
        same = {
            "frames": self.frames,
            "camera_indices": self.camera_indices,
            "history_xyz": self.history_xyz,
            "history_rot": self.history_rot,
            "navigation": self.navigation,
            "question": self.question,
            "prepared": self.prepared,
            "task": self.task,
            "ego_future_xyz": self.ego_future_xyz,
            "ego_future_rot": self.ego_future_rot,
        }
        return Sample(**{**same, **changes})

    @property
    def num_images(self) -> int:
        """Images in all, over cameras and times."""
        if self.frames is not None:
            return self.frames.shape[0] * self.frames.shape[1]
        assert self.prepared is not None
        return len(self.prepared.image_grid_thw)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels; of prepared images those after their resizing (the first one's)."""
        if self.frames is not None:
            return self.frames.shape[3], self.frames.shape[4]
        assert self.prepared is not None
        _, rows, columns = self.prepared.image_grid_thw[0].tolist()
        return 16 * rows, 16 * columns

    @property
    def frames_per_camera(self) -> int:
        """Frames of each camera."""
        return self.num_images // len(self.camera_indices)


def as_array(value: object, field: str) -> torch.Tensor:
    """Make a tensor of whatever holds numbers; the error names `field`."""
    try:
        array = value if isinstance(value, torch.Tensor) else torch.from_numpy(np.array(value))
    except (TypeError, ValueError, OverflowError):
        array = None
    if array is None or array.is_complex():
        raise InputError(f"{field}: expected an array of numbers, got {_short(value)}")
    return array


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _camera_indices(value: object) -> tuple[int, ...]:
    array = as_array(value, "camera_indices")
    if array.ndim != 1 or array.numel() == 0 or array.is_floating_point() or array.dtype == torch.bool:
        raise InputError(f"camera_indices: expected a list of camera numbers, got {_short(value)}")
    cameras = tuple(int(c) for c in array)
    for camera in cameras:
        if not 0 <= camera <= 6:
            raise InputError(f"camera_indices: unknown camera {camera}, expected 0 to 6")
    if len(set(cameras)) != len(cameras):
        raise InputError(f"camera_indices: {list(cameras)} names a camera twice")
    return cameras


def _frames(value: object, cameras: int) -> torch.Tensor:
    frames = as_array(value, "frames")
    if frames.ndim != 5 or frames.shape[2] != 3 or 0 in frames.shape:
        raise InputError(f"frames: shape {tuple(frames.shape)}, expected (cameras, frames, 3, height, width)")
    if frames.dtype != torch.uint8:
        raise InputError(f"frames: type {frames.dtype}, expected uint8")
    if frames.shape[0] != cameras:
        raise InputError(f"frames: {frames.shape[0]} cameras, but camera_indices names {cameras}")
    return frames


def _check_prepared(prepared: PreparedImages, cameras: int) -> None:
    pixels, grid = prepared.pixel_values, prepared.image_grid_thw
    if grid.ndim != 2 or grid.shape[1] != 3 or len(grid) == 0 or grid.is_floating_point():
        raise InputError(f"image_grid_thw: shape {tuple(grid.shape)}, expected (images, 3) integers")
    if bool((grid[:, 0] != 1).any()) or bool((grid[:, 1:] < 2).any()) or bool((grid[:, 1:] % 2).any()):
        raise InputError("image_grid_thw: expected rows (1, patch rows, patch columns), both even")
    if pixels.ndim != 2 or pixels.shape[1] != 1536 or not pixels.is_floating_point():
        raise InputError(f"pixel_values: shape {tuple(pixels.shape)}, expected (patches, 1536) floats")
    patches = int(grid.prod(1).sum())
    if patches != len(pixels):
        raise InputError(f"pixel_values: {len(pixels)} patches, but image_grid_thw describes {patches}")
    if not bool(torch.isfinite(pixels).all()):
        raise InputError("pixel_values: holds a value that is not finite")
    if len(grid) % cameras:
        raise InputError(f"image_grid_thw: {len(grid)} images cannot be divided over {cameras} cameras")


def _finite(value: object, field: str, shape: tuple[int, ...]) -> torch.Tensor:
    array = as_array(value, field)
    original = tuple(array.shape)
    while array.ndim > len(shape) and array.shape[0] == 1:
        array = array[0]
    if tuple(array.shape) != shape:
        raise InputError(f"{field}: shape {original}, expected {shape}")
    array = array.to(torch.float32)
    if not bool(torch.isfinite(array).all()):
        raise InputError(f"{field}: holds a value that is not finite")
    return array


def _poses(xyz: object, rot: object, name: str, count: int) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """(count, 3) positions and (count, 3, 3) rotations, or neither."""
    positions = None if xyz is None else _finite(xyz, f"{name}_xyz", (count, 3))
    rotations = None if rot is None else _rotations(rot, f"{name}_rot", count)
    if (positions is None) != (rotations is None):
        missing = f"{name}_xyz" if positions is None else f"{name}_rot"
        raise InputError(f"{missing}: missing, expected both {name}_xyz and {name}_rot")
    return positions, rotations


def _rotations(value: object, field: str, count: int) -> torch.Tensor:
    rot = _finite(value, field, (count, 3, 3))
    worst = (rot @ rot.transpose(1, 2) - torch.eye(3)).abs().amax().item()
    if worst > 1e-2 or bool((torch.linalg.det(rot) < 0).any()):
        raise InputError(
            f"{field}: not rotations (R·Rᵀ differs from the identity by {worst:.2g}), expected below 0.01"
        )
    return rot


def _text(value: object, field: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise InputError(f"{field}: expected a text, got {_short(value)}")
    if not value.strip():
        raise InputError(f"{field}: empty, expected a text or nothing at all")
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise InputError(f"{field}: {_short(value)} holds half a character, expected Unicode text")
    return value
