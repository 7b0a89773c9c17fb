# SPDX-License-Identifier: Apache-2.0
"""A batch of scenes on the renderer's device, and the colours of its weather."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from alpamayo_rt.demo.arrays import ROAD, SceneArrays
from alpamayo_rt.demo.camera import CAMERAS

# Rows: day, dusk, rain. Colours are 0..1.
_SKY_TOP = ((0.36, 0.56, 0.86), (0.22, 0.22, 0.42), (0.55, 0.57, 0.60))
_SKY_LOW = ((0.78, 0.87, 0.95), (0.90, 0.55, 0.38), (0.70, 0.71, 0.73))
_AMBIENT = ((0.68, 0.69, 0.72), (0.42, 0.38, 0.46), (0.62, 0.63, 0.66))
_SUN = ((0.36, 0.34, 0.28), (0.22, 0.12, 0.06), (0.04, 0.04, 0.04))
_HAZE_LENGTH = (400.0, 300.0, 130.0)


@dataclass(frozen=True)
class Weather:
    """Colours per scene, (B, 3) each, and the length (B,) over which haze swallows 63 %."""

    sky_top: Tensor
    sky_low: Tensor
    ambient: Tensor
    sun: Tensor
    haze_length: Tensor
    dim: Tensor  # (B,) bool: lamps are on

    @staticmethod
    def of(light: Tensor) -> Weather:
        """Weather for indices (B,) into `arrays.LIGHTS`."""

        def rows(table: tuple) -> Tensor:
            return torch.tensor(table, dtype=torch.float32, device=light.device)[light]

        return Weather(
            rows(_SKY_TOP), rows(_SKY_LOW), rows(_AMBIENT), rows(_SUN), rows(_HAZE_LENGTH), light > 0
        )


@dataclass(frozen=True)
class SceneTensors:
    """What is needed to draw F frames of B scenes with every camera (C of them)."""

    road: Tensor  # (B, fields)
    line: Tensor  # (B, points, 5)
    field_origin: Tensor  # (B, 2)
    camera_xy: Tensor  # (B, F, C, 2)
    camera_yaw: Tensor  # (B, F, C)
    box_pose: Tensor  # (B, F, N, 3)
    box_size: Tensor  # (B, N, 4)
    box_kind: Tensor  # (B, N)
    box_colour: Tensor  # (B, N, 3)
    box_state: Tensor  # (B, F, N)
    weather: Weather

    @staticmethod
    def of(scenes: SceneArrays, steps: np.ndarray, device: torch.device | str) -> SceneTensors:
        """The frames `steps` (B, F) of stacked `scenes`."""
        rows = np.arange(len(steps))[:, None]
        ego = scenes.ego[rows, steps][:, :, None]  # (B, F, 1, 6)
        mount = np.array([[c.x, c.y, c.yaw] for c in CAMERAS])
        cos, sin = np.cos(ego[..., 2]), np.sin(ego[..., 2])
        # Double precision on the host, so that every device starts from the same camera poses.
        x = ego[..., 0] + cos * mount[:, 0] - sin * mount[:, 1]
        y = ego[..., 1] + sin * mount[:, 0] + cos * mount[:, 1]

        def put(array: np.ndarray) -> Tensor:
            kind = np.int64 if array.dtype.kind == "i" else np.float32
            return torch.from_numpy(np.ascontiguousarray(array, kind)).to(device, non_blocking=True)

        return SceneTensors(
            road=put(scenes.road),
            line=put(scenes.line),
            field_origin=put(scenes.field_origin),
            camera_xy=put(np.stack([x, y], -1)),
            camera_yaw=put(ego[..., 2] + mount[:, 2]),
            box_pose=put(scenes.box_pose[rows, steps]),
            box_size=put(scenes.box_size),
            box_kind=put(scenes.box_kind),
            box_colour=put(scenes.box_colour),
            box_state=put(scenes.box_state[rows, steps]),
            weather=Weather.of(put(scenes.road[:, ROAD["light"]].astype(np.int64))),
        )
