# SPDX-License-Identifier: Apache-2.0
"""The four default views as pinhole cameras that look level, so that columns and rows separate.

A level camera's ray is forward + u·right − v·up: u depends on the column alone and v on the row alone. The
optical centre lies off the middle row instead of the camera being tilted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

WIDTH, HEIGHT = 224, 128


@dataclass(frozen=True)
class Camera:
    """One view: the dataset's number and name, its place in the ego frame (metres, radians), its lens."""

    index: int
    name: str
    x: float
    y: float
    z: float
    yaw: float
    fov: float  # horizontal, radians
    horizon: float  # row of the optical centre, pixels

    @property
    def focal(self) -> float:
        """Focal length in pixels."""
        return WIDTH / 2 / math.tan(self.fov / 2)

    def project(self, ego: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Columns, rows and depths (n,) of world points (n, 3) seen from the ego pose (x, y, heading)."""
        x, y, heading = ego[:3]
        c, s = math.cos(heading), math.sin(heading)
        dx = points[:, 0] - (x + c * self.x - s * self.y)
        dy = points[:, 1] - (y + s * self.x + c * self.y)
        c, s = math.cos(heading + self.yaw), math.sin(heading + self.yaw)
        depth = c * dx + s * dy
        right = s * dx - c * dy
        safe = np.where(np.abs(depth) < 1e-6, 1e-6, depth)
        column = WIDTH / 2 + self.focal * right / safe
        row = self.horizon + self.focal * (self.z - points[:, 2]) / safe
        return column, row, depth

    def sees(self, ego: np.ndarray, point: np.ndarray, size: float, pixels: float) -> bool:
        """Whether something of `size` metres at `point` (3,) is in view and at least `pixels` wide."""
        column, row, depth = self.project(ego, point[None])
        inside = depth[0] > 1.0 and 2 <= column[0] < WIDTH - 2 and 2 <= row[0] < HEIGHT - 2
        return bool(inside and self.focal * size / depth[0] >= pixels)


CAMERAS = (
    Camera(0, "camera_cross_left_120fov", 1.1, 0.75, 1.5, math.radians(60), math.radians(120), 54.0),
    Camera(1, "camera_front_wide_120fov", 1.3, 0.0, 1.5, 0.0, math.radians(120), 54.0),
    Camera(2, "camera_cross_right_120fov", 1.1, -0.75, 1.5, math.radians(-60), math.radians(120), 54.0),
    Camera(6, "camera_front_tele_30fov", 1.3, 0.1, 1.5, 0.0, math.radians(30), 84.0),
)
CAMERA_INDICES = tuple(camera.index for camera in CAMERAS)
