# SPDX-License-Identifier: Apache-2.0
"""Whether the reason for what the driver does can be seen in the images at a clip's own window."""

from __future__ import annotations

import math

import numpy as np

from alpamayo_rt.demo.actors import Actor, BoxList, beside
from alpamayo_rt.demo.camera import CAMERAS, Camera
from alpamayo_rt.demo.road import LANE_WIDTH
from alpamayo_rt.demo.scenario import Plan

SIGN_AHEAD = 7.0  # metres; nearer than that a sign is seen from its edge


def cause_in_view(plan: Plan, ego: np.ndarray, moving: list[Actor], boxes: BoxList) -> bool:
    """Whether some camera at the pose `ego` (3,) shows the cause, large enough and not behind a box."""
    if plan.zone is not None and plan.cause == "speed_zone":
        sign = _signpost(plan)
        ahead = math.cos(ego[2]) * (sign[0] - ego[0]) + math.sin(ego[2]) * (sign[1] - ego[1])
        if ahead < SIGN_AHEAD:
            return False
    targets = _targets(plan, moving)
    return not targets or any(
        camera.sees(ego, point, size, pixels) and _clear(camera, ego, point, boxes, plan.t0)
        for point, size, pixels in targets
        for camera in CAMERAS
    )


def _signpost(plan: Plan) -> np.ndarray:
    assert plan.zone is not None
    return beside(plan.line, plan.zone[0], -plan.lanes_right * LANE_WIDTH - 1.5)


def _targets(plan: Plan, moving: list[Actor]) -> list[tuple[np.ndarray, float, float]]:
    """Places (3,), sizes in metres and least sizes in pixels, of which one must be seen."""

    def at(pose: np.ndarray, height: float) -> np.ndarray:
        return np.array([pose[0], pose[1], height])

    if plan.cause in ("red_light", "green_light"):
        assert plan.junction is not None
        assert plan.stop_s is not None
        far = beside(plan.line, plan.junction.main_s + plan.junction.half_width + 8.0, plan.offset)
        near = beside(plan.line, plan.stop_s + 1.0, -plan.lanes_right * LANE_WIDTH - 1.6)
        height = 5.15 if plan.cause == "red_light" else 3.45
        return [(at(far, height), 0.75, 3.5), (at(near, height - 0.6), 0.75, 3.5)]
    if plan.cause == "speed_zone":
        return [(at(_signpost(plan), 2.5), 1.2, 5.0)]
    if plan.cause == "curve":
        assert plan.curve is not None
        return [(at(beside(plan.line, plan.curve[0] + 6.0, plan.offset), 0.1), LANE_WIDTH, 4.0)]
    if plan.cause in ("pedestrian", "cross_traffic", "lead_braking", "lead_stopped"):
        size, pixels = (0.6, 4.0) if plan.cause == "pedestrian" else (1.9, 5.0)
        # Who decides comes first: the only one, or of the cross traffic the last to clear the way.
        return [(at(moving[0].pose[plan.t0], 0.9), size, pixels)]
    return []


def _clear(camera: Camera, ego: np.ndarray, point: np.ndarray, boxes: BoxList, t0: int) -> bool:
    """Whether no box but the target's own stands between `camera` and `point`."""
    c, s = math.cos(ego[2]), math.sin(ego[2])
    eye = np.array([ego[0] + c * camera.x - s * camera.y, ego[1] + s * camera.x + c * camera.y, camera.z])
    pose, size = boxes.pose[t0, : boxes.used].astype(np.float64), boxes.size[: boxes.used]
    cos, sin = np.cos(pose[:, 2]), np.sin(pose[:, 2])

    def local(p: np.ndarray) -> np.ndarray:
        dx, dy = p[0] - pose[:, 0], p[1] - pose[:, 1]
        return np.stack([cos * dx + sin * dy, -sin * dx + cos * dy, p[2] - size[:, 3] - size[:, 2] / 2], -1)

    start, end, half = local(eye), local(point), size[:, :3] / 2
    step = np.where(np.abs(end - start) < 1e-9, 1e-9, end - start)
    enter = ((-np.sign(step) * half - start) / step).max(-1)
    leave = ((np.sign(step) * half - start) / step).min(-1)
    # The target is a few metres of vehicle or a thin plate: what is entered only just before it is itself.
    own = 1.0 - 4.2 / max(float(np.linalg.norm(point - eye)), 4.3)
    return not bool(((enter <= leave) & (enter > 0.0) & (enter < own)).any())
