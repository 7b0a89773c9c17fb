# SPDX-License-Identifier: Apache-2.0
"""Whether the reason for what the driver does can be seen in the images at a clip's own window."""

from __future__ import annotations

import numpy as np

from alpamayo_rt.demo.actors import Actor, beside
from alpamayo_rt.demo.camera import CAMERAS
from alpamayo_rt.demo.road import LANE_WIDTH
from alpamayo_rt.demo.scenario import Plan


def cause_in_view(plan: Plan, ego: np.ndarray, moving: list[Actor]) -> bool:
    """Whether some camera at the pose `ego` (3,) shows the cause large enough to be recognised."""
    right_edge = -plan.lanes_right * LANE_WIDTH
    if plan.cause in ("red_light", "green_light"):
        assert plan.junction is not None
        assert plan.stop_s is not None
        far = plan.junction.main_s + plan.junction.half_width + 8.0
        height = 5.15 if plan.cause == "red_light" else 3.5
        return _seen(ego, beside(plan.line, far, plan.offset), height, 0.75, 3.5) or _seen(
            ego, beside(plan.line, plan.stop_s + 1.0, right_edge - 1.6), height - 0.6, 0.75, 3.5
        )
    if plan.cause == "speed_zone":
        assert plan.zone is not None
        return _seen(ego, beside(plan.line, plan.zone[0], right_edge - 1.5), 2.5, 1.2, 5.0)
    if plan.cause == "curve":
        assert plan.curve is not None
        return _seen(ego, beside(plan.line, plan.curve[0] + 6.0, plan.offset), 0.0, LANE_WIDTH, 4.0)
    if plan.cause in ("pedestrian", "cross_traffic", "lead_braking", "lead_stopped"):
        size, pixels = (0.6, 4.0) if plan.cause == "pedestrian" else (1.9, 5.0)
        return any(_seen(ego, a.pose[plan.t0], 0.9, size, pixels) for a in moving)
    return True


def _seen(ego: np.ndarray, pose: np.ndarray, height: float, size: float, pixels: float) -> bool:
    point = np.array([pose[0], pose[1], height])
    return any(camera.sees(ego, point, size, pixels) for camera in CAMERAS)
