# SPDX-License-Identifier: Apache-2.0
"""What is true of a window of a clip: past, future, cause, words, junction."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from alpamayo_rt.demo.arrays import (
    ACTIONS,
    CAUSES,
    FIRST_WINDOW,
    FUTURE,
    HISTORY,
    LAST_WINDOW,
    LIGHTS,
    NAVIGATION,
    ROAD,
    SceneArrays,
)
from alpamayo_rt.demo.words import navigation_text, questions, reasoning

STEP_US = 100_000
EARLY = 15  # steps before the end at which a true future that counts as reaching its branch is there already


def to_ego(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """World points (..., 2) in the frame of the ego pose (x, y, heading)."""
    c, s = math.cos(pose[2]), math.sin(pose[2])
    dx, dy = points[..., 0] - pose[0], points[..., 1] - pose[1]
    return np.stack([c * dx + s * dy, -s * dx + c * dy], -1)


def poses_in_ego(scene: SceneArrays, steps: np.ndarray, t0: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions (n, 3) and rotations (n, 3, 3) at `steps`, in the ego frame at step `t0`."""
    pose = scene.ego[t0]
    xyz = np.zeros((len(steps), 3))
    xyz[:, :2] = to_ego(scene.ego[steps, :2], pose)
    yaw = scene.ego[steps, 2] - pose[2]
    rot = np.zeros((len(steps), 3, 3))
    rot[:, 0, 0] = rot[:, 1, 1] = np.cos(yaw)
    rot[:, 1, 0] = np.sin(yaw)
    rot[:, 0, 1] = -rot[:, 1, 0]
    rot[:, 2, 2] = 1.0
    return xyz, rot


def history(scene: SceneArrays, t0: int) -> tuple[np.ndarray, np.ndarray]:
    """The 16 past poses, the last at `t0`: (16, 3) and (16, 3, 3)."""
    return poses_in_ego(scene, np.arange(t0 - HISTORY + 1, t0 + 1), t0)


def future(scene: SceneArrays, t0: int) -> tuple[np.ndarray, np.ndarray]:
    """The 64 poses after `t0`: (64, 3) and (64, 3, 3)."""
    return poses_in_ego(scene, np.arange(t0 + 1, t0 + FUTURE + 1), t0)


def navigation(scene: SceneArrays, t0: int, branch: str | None = None) -> str | None:
    """The instruction at `t0`, None where no junction is ahead; `branch` asks for another way instead."""
    distance = float(scene.junction_distance[t0])
    if scene.navigation < 0 or not 2.0 < distance < 100.0:
        return None
    return navigation_text(branch or NAVIGATION[int(scene.navigation)], distance, int(scene.word_seed))


def words(scene: SceneArrays, t0: int) -> dict[str, Any]:
    """Cause, action, reasoning, navigation and questions of one window."""
    cause, action = CAUSES[int(scene.cause[t0])], ACTIONS[int(scene.action[t0])]
    on_main = scene.navigation < 0 or scene.junction_distance[t0] > 5.0
    return {
        "t_us": t0 * STEP_US,
        "cause": cause,
        "action": action,
        "reasoning": reasoning(cause, action, int(scene.word_seed)),
        "navigation": navigation(scene, t0),
        "questions": questions(
            int(scene.light_colour[t0]),
            int(scene.lead[t0]),
            int(scene.next_feature[t0]),
            int(scene.lanes) if on_main else None,
            int(scene.word_seed),
        ),
    }


def junction(scene: SceneArrays, t0: int) -> dict[str, Any] | None:
    """The junction ahead: named branch, whether the true future reaches it clearly, and all branches.

    Clearly means that it is in the branch, by `branch_of`, 1.5 s before the end: hidden traits of the driver
    shift the moment by about that much, and nothing in the images could tell who just makes it.
    `branches` maps left, straight, right to centre lines (n, 2) in the ego frame at `t0`, one point a metre,
    from 40 m before the junction's centre to 80 m behind it.
    """
    if scene.navigation < 0:
        return None
    lines = to_ego(scene.branches.astype(np.float64), scene.ego[t0])
    branches = dict(zip(NAVIGATION, lines, strict=True))
    named = NAVIGATION[int(scene.navigation)]
    return {
        "branch": named,
        "distance": float(scene.junction_distance[t0]),
        "reaches_branch": bool(
            scene.junction_distance[t0] > 2.0 and branch_of(future(scene, t0)[0][:-EARLY], branches) == named
        ),
        "branches": branches,
    }


def branch_of(trajectory: np.ndarray, branches: dict[str, np.ndarray]) -> str | None:
    """The branch in which a trajectory (n, 2 or 3) in the ego frame ends.

    None where its end is more than 5 m from every centre line, or not by a metre nearer to one than to the
    others: before the junction the branches are one.
    """
    end = np.asarray(trajectory)[-1, :2]
    distances = {name: float(np.hypot(*(line - end).T).min()) for name, line in branches.items()}
    first, second = sorted(distances.values())[:2]
    if first > 5.0 or second - first < 1.0:
        return None
    return min(distances, key=lambda name: distances[name])


def truth(scene: SceneArrays, t0: int) -> dict[str, Any]:
    """Everything that is true of the window at `t0`; arrays are numpy."""
    xyz, rot = future(scene, t0)
    return {**words(scene, t0), "future_xyz": xyz, "future_rot": rot, "junction": junction(scene, t0)}


def clip_truth(scene: SceneArrays, clip_id: str) -> dict[str, Any]:
    """The JSON that lies beside a written clip: facts of the clip and the words of every window."""
    return {
        "clip_id": clip_id,
        "t0_us": int(scene.t0) * STEP_US,
        "light": LIGHTS[int(scene.road[ROAD["light"]])],
        "lanes": int(scene.lanes),
        "branches": (
            None
            if scene.navigation < 0
            else {n: line.round(3).tolist() for n, line in zip(NAVIGATION, scene.branches, strict=True)}
        ),
        "windows": [words(scene, k) for k in range(FIRST_WINDOW, LAST_WINDOW + 1)],
    }
