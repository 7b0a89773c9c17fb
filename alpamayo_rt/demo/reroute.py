# SPDX-License-Identifier: Apache-2.0
"""What the driver would have done, told at a window that the way goes into another branch; numpy only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from alpamayo_rt.demo import arrays as A
from alpamayo_rt.demo.driver import drive_on
from alpamayo_rt.demo.labels import label_window
from alpamayo_rt.demo.road import branch_path
from alpamayo_rt.demo.scenario import TURN_COMFORT
from alpamayo_rt.demo.simulate import Drive, constraints_on, speed_targets, touch

_TOO_FAST = 1.3 * TURN_COMFORT  # m/s2 to the side; a turn that needs more is heard of too late


def reroute(drive: Drive, t0: int, branch: str) -> A.SceneArrays | None:
    """The clip whose driver hears at step `t0` that the way goes into another branch, and takes it.

    Up to `t0` it is the same clip, and what else moves does the same after it. Of the windows only the one at
    `t0` is labelled.

    Args:
        drive: of a clip.
        t0: a window's step.
        branch: left, straight or right.

    Returns:
        None where there is no junction, where it is too late for that branch or where somebody is in the way.
    """
    scene, plan = drive.scene, replace(drive.plan, navigation=branch)
    if plan.junction is None:
        return None
    path = branch_path(plan.line, plan.offset, plan.junction, branch)
    s = float(drive.motion.s[t0])
    if np.abs(path.pose(s) - scene.ego[t0, :3]).max() > 0.01:
        return None  # one of the two ways has left the lane already
    constraints = constraints_on(plan, path, speed_targets(plan, path), drive.lead)
    motion = drive_on(drive.motion, t0, plan.wanted, plan.style, constraints)
    pose, curvature = path.pose(motion.s), np.interp(motion.s, path.s, path.curvature)
    sideways = motion.v**2 * np.abs(curvature)
    if motion.s[-1] > path.s[-1] - 20.0 or sideways[t0:].max() > _TOO_FAST:
        return None
    if any(touch(pose, actor) for actor in drive.actors):
        return None
    distance = path.from_main(plan.junction.main_s) - motion.s
    ego = np.concatenate([pose, np.stack([motion.v, motion.a, curvature], -1)], -1)
    cause, action = np.full(A.STEPS, -1), np.full(A.STEPS, -1)
    cause[t0], action[t0] = label_window(plan, constraints, motion, drive.light, distance, t0)
    return replace(
        scene,
        ego=np.concatenate([scene.ego[: t0 + 1], ego[t0 + 1 :]]),
        cause=cause,
        action=action,
        t0=np.array(t0),
        navigation=np.array(A.NAVIGATION.index(branch)),
        junction_distance=distance.astype(np.float32),
    )
