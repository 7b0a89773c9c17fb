# SPDX-License-Identifier: Apache-2.0
"""The unicycle action space: (acceleration, curvature) ↔ trajectory in the ego frame at t0."""

from __future__ import annotations

from typing import NamedTuple

import torch

from alpamayo_rt.action.least_squares import difference_gram, fix_first, solve
from alpamayo_rt.config import ActionSpaceConfig


class Start(NamedTuple):
    """Where trajectories start: speed (…) in m/s and height (…) in metres at t0."""

    speed: torch.Tensor
    height: torch.Tensor


class Unicycle:
    """Normalization, integration and its regularized inverse.

    Args:
        config: time step, bounds and least-squares weights.
        mean: (2,) float32: acceleration m/s², curvature 1/m.
        std: (2,) float32.
    """

    def __init__(self, config: ActionSpaceConfig, mean: torch.Tensor, std: torch.Tensor):
        self.config = config
        self.mean, self.std = mean, std

    def denormalize(self, actions: torch.Tensor) -> torch.Tensor:
        """Normalized (…, W, 2) → physical (acceleration m/s², curvature 1/m)."""
        return actions * self.std.to(actions.device) + self.mean.to(actions.device)

    def normalize(self, actions: torch.Tensor) -> torch.Tensor:
        """Physical (…, W, 2) → normalized."""
        return (actions - self.mean.to(actions.device)) / self.std.to(actions.device)

    def initial_speed(self, history_xyz: torch.Tensor, history_rot: torch.Tensor) -> torch.Tensor:
        """Speed (…) in m/s at t0 from poses (…, 16, 3) and rotations (…, 16, 3, 3)."""
        c = self.config
        steps = history_xyz[..., 1:, :2] - history_xyz[..., :-1, :2]
        gram, rhs = self._speed_system(steps, unwrapped_yaw(history_rot))
        return solve(gram, rhs, c.v_ridge)[..., -1]

    def start(self, history_xyz: torch.Tensor, history_rot: torch.Tensor) -> Start:
        """What trajectories take over from poses (…, 16, 3) and rotations (…, 16, 3, 3) of the past."""
        return Start(self.initial_speed(history_xyz, history_rot), history_xyz[..., -1, 2])

    def integrate(
        self, actions: torch.Tensor, history_xyz: torch.Tensor, history_rot: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalized actions → poses.

        Args:
            actions: (…, W, 2).
            history_xyz: (…, 16, 3), broadcast against the actions' leading dimensions.
            history_rot: (…, 16, 3, 3).

        Returns:
            xyz (…, W, 3) and rotations (…, W, 3, 3) in the ego frame at t0.
        """
        return self.integrate_from(self.start(history_xyz, history_rot), actions)

    def integrate_from(self, start: Start, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `integrate`; few operations, because all else is done when the actions arrive."""
        dt = self.config.dt
        accel, curvature = self.denormalize(actions).unbind(-1)
        v0 = start.speed.expand(accel.shape[:-1])[..., None]
        speed = torch.cat([v0, v0 + (accel * dt).cumsum(-1)], -1)
        turn = (curvature * speed[..., :-1]).mul_(dt).cumsum(-1)
        turn += (curvature * accel).mul_(dt**2 / 2).cumsum(-1)
        heading = torch.cat([torch.zeros_like(v0), turn], -1)
        along = torch.stack([heading.cos(), heading.sin()], -2)
        rate = (speed[..., None, :] * along).mul_(dt / 2)
        xyz = rate.new_empty(*accel.shape, 3)
        xyz[..., :2] = (rate[..., :-1].cumsum(-1) + rate[..., 1:].cumsum(-1)).mT
        xyz[..., 2] = start.height[..., None]
        return xyz, _about_z(along[..., 1:].mT)

    def inverse(
        self,
        history_xyz: torch.Tensor,
        history_rot: torch.Tensor,
        future_xyz: torch.Tensor,
        future_rot: torch.Tensor,
    ) -> torch.Tensor:
        """Trajectory → smooth normalized actions (…, W, 2); no exact round trip, by design.

        Args:
            history_xyz: (…, 16, 3); the last pose is the origin of the future.
            history_rot: (…, 16, 3, 3).
            future_xyz: (…, W, 3).
            future_rot: (…, W, 3, 3).
        """
        c = self.config
        heading = self._smooth_heading(unwrapped_yaw(future_rot))
        path = torch.cat([history_xyz[..., -1:, :2], future_xyz[..., :2]], -2)
        v0 = self.initial_speed(history_xyz, history_rot)
        gram, rhs = self._speed_system(path[..., 1:, :] - path[..., :-1, :], heading)
        speed = torch.cat([v0[..., None], solve(*fix_first(gram, rhs, v0), c.v_ridge)], -1)

        n = speed.shape[-1] - 1
        smooth = difference_gram(n, 2, speed) / c.dt**4
        rate = (speed[..., 1:] - speed[..., :-1]) / c.dt
        identity = torch.eye(n, dtype=speed.dtype, device=speed.device)
        accel = solve((identity + c.a_lambda * smooth).expand(*rate.shape, n), rate, c.a_ridge)
        arc = speed[..., :-1] * c.dt + accel * (c.dt**2 / 2)
        turn = heading[..., 1:] - heading[..., :-1]
        gram = torch.diag_embed(arc.square()) + c.kappa_lambda * smooth
        curvature = solve(gram, arc * turn, c.kappa_ridge, raise_ridge=True)
        if c.still_below is not None:
            curvature = curvature.clamp(*c.curvature_bounds)
            still = speed.abs() < c.still_below
            curvature = curvature.masked_fill(still[..., :-1] | still[..., 1:], 0)
        return self.normalize(torch.stack([accel, curvature], -1))

    def within_bounds(self, actions: torch.Tensor) -> torch.Tensor:
        """Which normalized actions (…, W, 2) lie within the bounds, (…, W); nothing is ever clipped."""
        accel, curvature = self.denormalize(actions).unbind(-1)
        a, k = self.config.accel_bounds, self.config.curvature_bounds
        return (accel >= a[0]) & (accel <= a[1]) & (curvature >= k[0]) & (curvature <= k[1])

    def _speed_system(self, steps: torch.Tensor, heading: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Normal equations for speeds whose trapezoids along `heading` (…, n + 1) give `steps` (…, n, 2)."""
        n = steps.shape[-2]
        along = torch.stack([heading.cos(), heading.sin()], -1)
        a = steps.new_zeros(*steps.shape, n + 1)
        rows = torch.arange(n, device=steps.device)
        a[..., rows, :, rows] = along[..., :-1, :].movedim(-2, 0)
        a[..., rows, :, rows + 1] = along[..., 1:, :].movedim(-2, 0)
        a = a.flatten(-3, -2)
        smooth = self.config.v_lambda / self.config.dt**6 * difference_gram(n + 1, 3, steps)
        rhs = (a.mT @ (2 / self.config.dt * steps).flatten(-2)[..., None])[..., 0]
        return a.mT @ a + smooth, rhs

    def _smooth_heading(self, yaw: torch.Tensor) -> torch.Tensor:
        """Yaw (…, W) → smoothed heading (…, W + 1) that starts at 0."""
        c = self.config
        n = yaw.shape[-1]
        data = torch.eye(n + 1, dtype=yaw.dtype, device=yaw.device)
        data[0, 0] = 0
        gram = data + c.theta_lambda / c.dt**6 * difference_gram(n + 1, 3, yaw)
        zero = torch.zeros_like(yaw[..., 0])
        gram, rhs = fix_first(
            gram.expand(*yaw.shape[:-1], n + 1, n + 1), torch.cat([zero[..., None], yaw], -1), zero
        )
        return torch.cat([zero[..., None], solve(gram, rhs, c.theta_ridge)], -1)


def yaw_of(rot: torch.Tensor) -> torch.Tensor:
    """Rotation about z (…) in radians of rotations (…, 3, 3)."""
    return torch.atan2(rot[..., 1, 0], rot[..., 0, 0])


def unwrapped_yaw(rot: torch.Tensor) -> torch.Tensor:
    """Yaw (…, N) without jumps of 2π along the last dimension."""
    yaw = yaw_of(rot)
    step = yaw[..., 1:] - yaw[..., :-1]
    step = torch.atan2(step.sin(), step.cos())
    return torch.cat([yaw[..., :1], yaw[..., :1] + step.cumsum(-1)], -1)


def rotation_about_z(yaw: torch.Tensor) -> torch.Tensor:
    """(…) radians → (…, 3, 3)."""
    return _about_z(torch.stack([yaw.cos(), yaw.sin()], -1))


def _about_z(along: torch.Tensor) -> torch.Tensor:
    """Cosines and sines (…, 2) → rotations (…, 3, 3)."""
    rot = along.new_zeros(*along.shape[:-1], 3, 3)
    rot[..., :2, 0] = along
    rot[..., 0, 1] = -along[..., 1]
    rot[..., 1, 1] = along[..., 0]
    rot[..., 2, 2] = 1
    return rot
