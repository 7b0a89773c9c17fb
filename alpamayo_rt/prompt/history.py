# SPDX-License-Identifier: Apache-2.0
"""Past poses as tokens: binned displacements."""

from __future__ import annotations

import torch

from alpamayo_rt.config import HistoryTokensConfig


def history_bins(xyz: torch.Tensor, config: HistoryTokensConfig) -> torch.Tensor:
    """Displacements between consecutive poses as bins; where `from_origin`, that of the first pose too.

    Args:
        xyz: (…, poses, 3) metres in the ego frame at t0.
        config: bins and their range.

    Returns:
        (…, displacements · 3) int64 in [0, num_bins), x, y, z of each together.
    """
    start = torch.zeros_like(xyz[..., :1, :]) if config.from_origin else xyz[..., :0, :]
    steps = torch.cat([start, xyz], -2).diff(dim=-2)
    low, high = xyz.new_tensor(config.low), xyz.new_tensor(config.high)
    scaled = (steps - low) / (high - low) * (config.num_bins - 1)
    # Clamped as floats: integers would overflow first.
    return scaled.round().clamp(0, config.num_bins - 1).long().flatten(-2)
