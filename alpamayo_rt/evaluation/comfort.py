# SPDX-License-Identifier: Apache-2.0
"""How a trajectory would feel: accelerations, jerk and turning, against limits that others published.

The limits are those of nuPlan's comfort metric (Karnchanachari et al. 2024, "Towards learning-based planning:
the nuPlan benchmark for real-world autonomous driving"), which NAVSIM uses too. Derivatives are taken, as
there, from quadratics fitted through a short window: differences of positions to the millimetre would be noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from alpamayo_rt.evaluation.metrics import Floats

WINDOW = 9  # points of the fitted quadratic, 0.8 s at 10 Hz; nuPlan takes eight


@dataclass(frozen=True)
class Limits:
    """Largest values that count as comfortable; accelerations in m/s², jerk in m/s³, turning in rad."""

    braking: float = -4.05
    accelerating: float = 2.40
    lateral: float = 4.89
    jerk: float = 8.37
    longitudinal_jerk: float = 4.13
    yaw_rate: float = 0.95
    yaw_acceleration: float = 1.93


LIMITS = Limits()


@dataclass(frozen=True)
class Motion:
    """The extremes of each of K trajectories, (K,) each, absolute where a direction means nothing."""

    braking: Floats
    accelerating: Floats
    lateral: Floats
    jerk: Floats
    longitudinal_jerk: Floats
    yaw_rate: Floats
    yaw_acceleration: Floats

    def comfortable(self, limits: Limits = LIMITS) -> np.ndarray:
        """Which trajectories (K,) keep all limits."""
        within = self.braking >= limits.braking
        for name in ("accelerating", "lateral", "jerk", "longitudinal_jerk", "yaw_rate", "yaw_acceleration"):
            within = within & (getattr(self, name) <= getattr(limits, name))
        return within


def derivative(values: Any, dt: float, order: int = 1) -> Floats:
    """Derivative of the given order along the last axis, from a quadratic through `WINDOW` points.

    Near the ends the window is the first or the last one, so that the result has as many points.
    """
    y = np.asarray(values, np.float64)
    return np.asarray(y @ _operator(y.shape[-1], dt, order).T)


@lru_cache(maxsize=32)
def _operator(n: int, dt: float, order: int) -> Floats:
    """The derivative of n points as a matrix (n, n)."""
    window = min(WINDOW, n)
    start = np.clip(np.arange(n) - window // 2, 0, n - window)
    out = np.zeros((n, n))
    for i, first in enumerate(start):
        at = (np.arange(window) - (i - first)) * dt
        out[i, first : first + window] = (
            np.linalg.pinv(np.vander(at, 3, increasing=True))[order] * (1, 1, 2)[order]
        )
    return out


def motion(xy: Any, heading: Any, dt: float = 0.1) -> Motion:
    """The extremes along trajectories.

    Args:
        xy: (K, W, 2 or 3), the first point at t0 + dt; the vehicle starts at the origin, heading 0.
        heading: (K, W) radians.
        dt: seconds between points.
    """
    path = np.asarray(xy, np.float64)[..., :2]
    path = np.concatenate([np.zeros((*path.shape[:-2], 1, 2)), path], -2)
    yaw = np.unwrap(np.concatenate([np.zeros((*path.shape[:-2], 1)), np.asarray(heading, np.float64)], -1))
    along, across = np.stack([np.cos(yaw), np.sin(yaw)], -1), np.stack([-np.sin(yaw), np.cos(yaw)], -1)
    velocity = np.moveaxis(derivative(np.moveaxis(path, -1, 0), dt), 0, -1)
    acceleration = np.moveaxis(derivative(np.moveaxis(velocity, -1, 0), dt), 0, -1)
    jerk = np.moveaxis(derivative(np.moveaxis(acceleration, -1, 0), dt), 0, -1)
    forward = (acceleration * along).sum(-1)
    return Motion(
        braking=forward.min(-1),
        accelerating=forward.max(-1),
        lateral=np.abs((acceleration * across).sum(-1)).max(-1),
        jerk=np.linalg.norm(jerk, axis=-1).max(-1),
        longitudinal_jerk=np.abs((jerk * along).sum(-1)).max(-1),
        yaw_rate=np.abs(derivative(yaw, dt)).max(-1),
        yaw_acceleration=np.abs(derivative(yaw, dt, order=2)).max(-1),
    )
