# SPDX-License-Identifier: Apache-2.0
"""Past poses as tokens: binned displacements."""

from __future__ import annotations

import torch

from alpamayo_rt.config import HistoryTokensConfig


def history_bins(xyz: torch.Tensor, config: HistoryTokensConfig) -> torch.Tensor:
    """Displacements between consecutive poses, the first one from the origin, as bins.

    Args:
        xyz: (…, poses, 3) metres in the ego frame at t0.
        config: bins and their range.

    Returns:
        (…, poses · 3) int64 in [0, num_bins), x, y, z of each pose together.
    """
    previous = torch.cat([torch.zeros_like(xyz[..., :1, :]), xyz[..., :-1, :]], -2)
    low, high = xyz.new_tensor(config.low), xyz.new_tensor(config.high)
    scaled = (xyz - previous - low) / (high - low) * (config.num_bins - 1)
    # Clamped as floats: integers would overflow first.
    return scaled.round().clamp(0, config.num_bins - 1).long().flatten(-2)
