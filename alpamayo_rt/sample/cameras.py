# SPDX-License-Identifier: Apache-2.0
"""The model's camera numbers and what the dataset calls those cameras: the only place that knows both."""

from __future__ import annotations

from collections.abc import Sequence

from alpamayo_rt.errors import InputError

CAMERA_FEATURES = (
    "camera_cross_left_120fov",
    "camera_front_wide_120fov",
    "camera_cross_right_120fov",
    "camera_rear_left_70fov",
    "camera_rear_tele_30fov",
    "camera_rear_right_70fov",
    "camera_front_tele_30fov",
)
"""The dataset's feature name of camera 0 … 6."""

DEFAULT_CAMERAS = (0, 1, 2, 6)
"""The four cameras that Alpamayo R1 and 1.5 were trained on, in the order of their images."""


def camera_features(camera_indices: Sequence[int]) -> tuple[str, ...]:
    """Name the dataset features of some cameras, in the order given.

    Raises:
        InputError: `camera_indices` is empty, repeats a camera or holds a number outside 0 … 6.
    """
    cameras = [int(camera) for camera in camera_indices]
    if not cameras or len(set(cameras)) != len(cameras):
        raise InputError(f"camera_indices: {cameras}, expected one or more distinct camera numbers")
    for camera in cameras:
        if not 0 <= camera < len(CAMERA_FEATURES):
            raise InputError(
                f"camera_indices: unknown camera {camera}, expected 0 to {len(CAMERA_FEATURES) - 1}"
            )
    return tuple(CAMERA_FEATURES[camera] for camera in cameras)
