# SPDX-License-Identifier: Apache-2.0
"""Trajectories that go on as the history did: what a model has to be better than.

All are (…, W, 2): x forward and y left in metres in the ego frame at t0, one point each `dt` seconds, the first
at t0 + dt. Speeds never become negative: who brakes to a standstill stays there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from alpamayo_rt.action.unicycle import Unicycle, unwrapped_yaw
from alpamayo_rt.evaluation.metrics import Floats

RECENT = 5  # steps of the history from which its rates are taken


def history_rates(
    unicycle: Unicycle, history_xyz: torch.Tensor, history_rot: torch.Tensor
) -> tuple[float, float, float]:
    """Speed at t0 (m/s, the action space's own), acceleration (m/s²) and turn rate (rad/s) of the last 0.5 s.

    Args:
        unicycle: of the model, for the speed and the time step.
        history_xyz: (16, 3).
        history_rot: (16, 3, 3).
    """
    dt = unicycle.config.dt
    xyz, rot = history_xyz.cpu().double(), history_rot.cpu().double()
    speeds = (xyz[1:, :2] - xyz[:-1, :2]).norm(dim=-1) / dt
    recent = speeds[-RECENT - 1 :]
    yaw = unwrapped_yaw(rot)
    v0 = float(unicycle.initial_speed(xyz, rot))
    return v0, float(recent[-1] - recent[0]) / (RECENT * dt), float(yaw[-1] - yaw[-1 - RECENT]) / (RECENT * dt)


def travelled(v0: float, accel: float, waypoints: int, dt: float) -> Floats:
    """Metres driven (W + 1,) after 0, dt, 2·dt, … at constant acceleration."""
    speed = np.maximum(v0 + accel * dt * np.arange(waypoints + 1), 0.0)
    return np.concatenate([[0.0], np.cumsum((speed[1:] + speed[:-1]) * (dt / 2))])


def constant_rates(v0: float, accel: float, turn_rate: float, waypoints: int = 64, dt: float = 0.1) -> Floats:
    """Constant turn rate and acceleration: (W, 2). With both zero: constant velocity."""
    steps = np.diff(travelled(v0, accel, waypoints, dt))
    heading = turn_rate * dt * (np.arange(waypoints) + 0.5)
    return np.stack([np.cumsum(steps * np.cos(heading)), np.cumsum(steps * np.sin(heading))], -1)


def along_line(line: Floats, v0: float, accel: float, waypoints: int = 64, dt: float = 0.1) -> Floats:
    """Follow a line (n, 2) in the ego frame from the place beside the ego on: (W, 2)."""
    start = int(np.hypot(*line.T).argmin())
    ahead = line[start:] if line[start, 0] > 0 or start == len(line) - 1 else line[start + 1 :]
    path = np.concatenate([np.zeros((1, 2)), ahead])
    place = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(path, axis=0).T))])
    s = travelled(v0, accel, waypoints, dt)[1:]
    return np.stack([np.interp(s, place, path[:, 0]), np.interp(s, place, path[:, 1])], -1)


def fan(
    v0: float,
    turn_rate: float,
    accels: Sequence[float],
    lines: Sequence[Floats] = (),
    waypoints: int = 64,
    dt: float = 0.1,
) -> Floats:
    """The present turn rate at each of the accelerations, and each of `lines` at each of them: (N, W, 2)."""
    members = [constant_rates(v0, a, turn_rate, waypoints, dt) for a in accels]
    members += [along_line(line, v0, a, waypoints, dt) for line in lines for a in accels]
    return np.stack(members)
