# SPDX-License-Identifier: Apache-2.0
"""Rotary positions: three-component (M-RoPE) for text and expert, two-dimensional for vision."""

from __future__ import annotations

import torch

from alpamayo_rt.config import TextConfig


def inverse_frequencies(dim: int, theta: float, device: torch.device) -> torch.Tensor:
    """θ^(−2j/dim) for j = 0 … dim/2 − 1, float32."""
    exponent = torch.arange(0, dim, 2, dtype=torch.int64, device=device).float() / dim
    return 1.0 / (theta**exponent)


def mrope_tables(config: TextConfig, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Component and frequency of each angle, interleaved (Qwen3-VL): (head_dim/2,) int64 and float32."""
    component = torch.zeros(config.head_dim // 2, dtype=torch.long, device=device)
    for axis in (1, 2):
        component[axis : 3 * config.mrope_section[axis] : 3] = axis
    return component, inverse_frequencies(config.head_dim, config.rope_theta, device)


def mrope_angles(
    positions: torch.Tensor, component: torch.Tensor, frequencies: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines (N, head_dim) float32 of positions (3, N) with the tables of `mrope_tables`."""
    angles = positions.float().index_select(0, component).T * frequencies
    angles = torch.cat([angles, angles], -1)
    return angles.cos(), angles.sin()


def mrope_cos_sin(positions: torch.Tensor, config: TextConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines for three-component positions.

    Args:
        positions: (3, N) integers: time, height, width.
        config: gives head dim, θ and the sections.

    Returns:
        Two (N, head_dim) float32 tensors.
    """
    return mrope_angles(positions, *mrope_tables(config, positions.device))


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate the halves of the last dimension, in float32, and cast back.

    `cos` and `sin` (N, dim) broadcast against x (…, N, dim).
    """
    x32 = x.float()
    first, second = x32.chunk(2, -1)
    return (x32 * cos + torch.cat([-second, first], -1) * sin).to(x.dtype)
