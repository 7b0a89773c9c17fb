# SPDX-License-Identifier: Apache-2.0
"""Which cause decides what the driver does next, and what that is, for every window of a clip."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alpamayo_rt.demo.arrays import ACTIONS, CAUSES, FIRST_WINDOW, FUTURE, LAST_WINDOW, STEPS
from alpamayo_rt.demo.driver import STEP, Constraint, Follow, Motion, SpeedTarget
from alpamayo_rt.demo.scenario import Plan

LOOK_AHEAD = 25  # steps in which a constraint must act to be named
ENOUGH = 0.7  # m/s that it must take off the free road's speed by then


def label_windows(
    plan: Plan,
    constraints: Sequence[Constraint],
    motion: Motion,
    light: np.ndarray,
    junction_distance: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Cause and action indices (STEPS,), -1 outside the windows.

    The cause is the constraint that was binding and took most speed off within the next 2.5 s, among those
    that can be known at the window's time; without one it is the green light ahead, else the free road. A
    light that has just turned green counts before the turn behind it.
    """
    cause = np.full(STEPS, -1)
    action = np.full(STEPS, -1)
    for k in range(FIRST_WINDOW, LAST_WINDOW + 1):
        cause[k], action[k] = label_window(plan, constraints, motion, light, junction_distance, k)
    return cause, action


def label_window(
    plan: Plan,
    constraints: Sequence[Constraint],
    motion: Motion,
    light: np.ndarray,
    junction_distance: np.ndarray,
    k: int,
) -> tuple[int, int]:
    """Cause and action indices of the window at step `k`."""
    name = "free_road"
    most = ENOUGH
    look = slice(k, k + LOOK_AHEAD)
    for i, constraint in enumerate(constraints):
        taken = float(motion.push[look][motion.binding[look] == i].sum()) * STEP
        if taken > most and _known(plan, constraint, k, motion, light):
            name, most = constraint.cause, taken
    started = light[k] == 1 and (motion.v[k] < 1.5 or light[max(k - 6, 0)] == 0)
    ahead = light[k] == 1 and junction_distance[k] < 70.0
    if (name == "free_road" and ahead) or (name == "turn" and started):
        name = "green_light"
    return CAUSES.index(name), ACTIONS.index(_action(plan, name, motion.v[k : k + FUTURE + 1]))


def _known(plan: Plan, constraint: Constraint, k: int, motion: Motion, light: np.ndarray) -> bool:
    if constraint.cause == "red_light":
        return bool(light[k] == 0)
    if isinstance(constraint, Follow):
        return plan.lead_mode == "stopped" or k * STEP >= plan.brake_time
    if isinstance(constraint, SpeedTarget):
        return constraint.begin - motion.s[k] < 60.0
    return True


def _action(plan: Plan, cause: str, v: np.ndarray) -> str:
    turning = plan.navigation in ("left", "right")
    if cause == "turn" or (cause == "green_light" and turning):
        return f"turn_{plan.navigation}"
    if v[:15].max() < 0.4:
        return "wait"
    if v.min() < 0.5 and v[0] > 0.5:
        return "stop"
    if v[:36].min() < v[0] - 1.0 and cause != "green_light":
        return "slow"
    if v[:36].max() > v[0] + 1.0:
        return "accelerate"
    return "keep"
