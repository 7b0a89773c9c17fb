# SPDX-License-Identifier: Apache-2.0
"""Euler integration of the flow from noise to normalized actions."""

from __future__ import annotations

from collections.abc import Callable

import torch

Velocity = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(x (K, W, 2), t ()) → velocity (K, W, 2)."""


def flow_times(steps: int, device: torch.device) -> torch.Tensor:
    """The steps + 1 flow times from 0 to 1, float32."""
    return torch.linspace(0, 1, steps + 1, device=device)


def integrate(noise: torch.Tensor, velocity: Velocity, steps: int) -> torch.Tensor:
    """Follow the velocity from t = 0 to t = 1.

    Args:
        noise: (K, W, 2) float32, x at t = 0.
        velocity: the velocity field.
        steps: number of Euler steps.

    Returns:
        (K, W, 2) float32, normalized actions.
    """
    times = flow_times(steps, noise.device)
    x = noise
    for i in range(steps):
        x = x + (times[i + 1] - times[i]) * velocity(x, times[i])
    return x


def guided(unguided: torch.Tensor, with_navigation: torch.Tensor, weight: float | torch.Tensor) -> torch.Tensor:
    """Classifier-free guidance: the velocity beyond the one with navigation for a weight above 1."""
    return (1 - weight) * unguided + weight * with_navigation


def draw_noise(candidates: int, waypoints: int, seed: int) -> torch.Tensor:
    """Standard normal noise (candidates, waypoints, 2) on the CPU.

    Drawn candidate by candidate, so that a candidate's noise does not depend on how many there are, and on the
    CPU, so that it does not depend on the device.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randn(waypoints, 2, generator=generator) for _ in range(candidates)])
