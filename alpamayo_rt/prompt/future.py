# SPDX-License-Identifier: Apache-2.0
"""Actions of a given future as tokens: binned accelerations and curvatures."""

from __future__ import annotations

import torch

from alpamayo_rt.config import FutureTokensConfig


def future_bins(actions: torch.Tensor, config: FutureTokensConfig) -> torch.Tensor:
    """Normalized actions as bins.

    Args:
        actions: (…, W, 2) normalized (acceleration, curvature).
        config: bins and their range.

    Returns:
        (…, W · 2) int64 in [0, num_bins), acceleration and curvature of each waypoint together.
    """
    low, high = actions.new_tensor(config.low), actions.new_tensor(config.high)
    scaled = (actions - low) / (high - low) * (config.num_bins - 1)
    # Clamped as floats: integers would overflow first.
    return scaled.round().clamp(0, config.num_bins - 1).long().flatten(-2)
