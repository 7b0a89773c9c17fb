# SPDX-License-Identifier: Apache-2.0
"""A coarse map from world places to road coordinates, so that a pixel finds its lane by one texture read.

Arc length, lateral offset and heading are smooth near the road, so two metres between samples and bilinear
reading are good to a few centimetres; the paint itself is computed from them exactly, never stored.
"""

from __future__ import annotations

import torch
from torch import Tensor

CELL = 2.0
COLUMNS, ROWS = 200, 160  # 400 m by 320 m


def road_field(line: Tensor, origin: Tensor) -> Tensor:
    """Road coordinates (B, 3, ROWS, COLUMNS): arc length, offset to the left, heading of the nearest place.

    Args:
        line: (B, points, 5) x, y, heading, arc length, curvature of the reference line.
        origin: (B, 2) world place of the map's first cell.
    """
    device = line.device
    x = origin[:, 0, None] + CELL * torch.arange(COLUMNS, device=device)
    y = origin[:, 1, None] + CELL * torch.arange(ROWS, device=device)
    dx = x[:, :, None] - line[:, None, :, 0]  # (B, COLUMNS, points)
    dy = y[:, :, None] - line[:, None, :, 1]
    nearest = torch.empty(len(line), ROWS, COLUMNS, dtype=torch.int64, device=device)
    dx2, dy2 = dx * dx, dy * dy
    # Row blocks keep the distance table small; the result does not depend on their size.
    for start in range(0, ROWS, 16):
        block = dx2[:, None, :, :] + dy2[:, start : start + 16, None, :]
        nearest[:, start : start + 16] = block.argmin(-1)
    picked = torch.gather(line, 1, nearest.flatten(1)[:, :, None].expand(-1, -1, 5))
    px, py, heading, s, curvature = picked.unflatten(1, (ROWS, COLUMNS)).unbind(-1)
    rx, ry = x[:, None, :] - px, y[:, :, None] - py
    cos, sin = torch.cos(heading), torch.sin(heading)
    ahead, left = cos * rx + sin * ry, -sin * rx + cos * ry
    # Second order in the distance to the nearest point: between points the line is an arc.
    bend = (1 - curvature * left).clamp(min=0.3)
    left = left - 0.5 * curvature * ahead * ahead / bend
    near = ahead.clamp(-4.0, 4.0)
    return torch.stack([s + ahead / bend, left, heading + curvature * near / bend], 1)


def read_field(field: Tensor, origin: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Arc length, offset and heading at world places x, y (B, ...)."""
    shape = x.shape
    grid = torch.stack(
        [
            (x.flatten(1) - origin[:, :1]) * (2.0 / (CELL * (COLUMNS - 1))) - 1.0,
            (y.flatten(1) - origin[:, 1:]) * (2.0 / (CELL * (ROWS - 1))) - 1.0,
        ],
        -1,
    )
    out = torch.nn.functional.grid_sample(
        field, grid[:, :, None], mode="bilinear", padding_mode="border", align_corners=True
    )
    s, d, heading = out[..., 0].unbind(1)
    return s.view(shape), d.view(shape), heading.view(shape)
